"""Anomalies painted into healthy windows, for methods that learn to find them.

Each is a blob of graded size with a soft edge at a random place of the brain, filled in one of
several ways (`FILLS`). All draws are torch's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from volad.anomalies.draws import uniform
from volad.anomalies.fills import FILLS, Blob
from volad.anomalies.places import anywhere, in_fluid, on_surface

__all__ = ["CHANGE", "FILLS", "Painted", "paint"]

#: Weakest and strongest change of brightness, in units of the image.
CHANGE = (0.12, 0.8)
#: What is changed by less than this somewhere near is no anomaly that can be seen.
VISIBLE = 0.03


@dataclass(frozen=True, eq=False)
class Painted:
    """Windows with anomalies.

    Attributes:
        image: `(B, C, X, Y, Z)`.
        label: `(B, 1, X, Y, Z)` 1.0 where an anomaly fills half of a voxel or more.
        sure: `(B, 1, X, Y, Z)` 1.0 in brain voxels that are clearly anomalous or clearly not.
    """

    image: Tensor
    label: Tensor
    sure: Tensor


def paint(
    x: Tensor,
    likely: Tensor | None = None,
    change: tuple[float, float] = CHANGE,
    layers: float = 0.0,
    spaces: float = 0.0,
    large: float = 0.0,
    rescale: bool = False,
) -> Painted:
    """Paint anomalies into healthy windows `(B, C, X, Y, Z)`, 0 outside the brain, and stay there.

    Foreign-patch interpolation after Tan et al. (MICCAI 2020 workshops), Poisson blending after
    Tan et al., "Detecting outliers with Poisson image interpolation", MICCAI 2021; intensities on
    coarse blobs after Kascenas et al. (MIDL 2022); deformation and texture as Baugh et al., "Many
    tasks make light work", MICCAI 2023, combine such kinds.

    Args:
        x: the windows; one lends the others its tissue.
        likely: `(1, 1, X, Y, Z)`, where lesions are more frequent, weights; None: all the brain.
        change: weakest and strongest change of brightness, in units of the image.
        layers: share of the windows that have collections along the brain's surface, instead, as
            blood outside the brain lies there.
        spaces: share of the windows where the darkest, fluid, has become brighter than tissue, as
            CT shows blood in sulci and cisterns.
        large: share of the windows that have one very large anomaly, as a tumour in its oedema is.
        rescale: scale painted windows anew, as a scan is that is scaled by its own range: a large
            bright lesion then darkens all the rest.
    """
    painted = []
    for index in range(len(x)):
        brain = (x[index] != 0).any(dim=0)
        special = uniform() if layers + spaces + large else 1.0
        if not brain.any():
            blobs: Iterable[Blob] = ()
        elif special < layers:
            blobs = on_surface(brain, change)
        elif special < layers + spaces:
            blobs = in_fluid(x[index], brain, change)
        else:
            case = "one very large" if special < layers + spaces + large else None
            blobs = anywhere(brain, likely, change, case)
        painted.append(_window(x, index, brain, blobs, rescale))
    image, label, sure = (torch.stack(list(part)) for part in zip(*painted, strict=True))
    return Painted(image, label, sure)


def _window(
    x: Tensor, index: int, brain: Tensor, blobs: Iterable[Blob], rescale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One window `(C, X, Y, Z)` with anomalies, its label and where that is sure."""
    own = x[index]
    share = torch.zeros(brain.shape, device=x.device)
    image = own.clone()
    for blob in blobs:
        piece = blob.share * brain[blob.box]
        lender = own.flip(1)
        if len(x) > 1:
            lender = x[(index + int(torch.randint(1, len(x), ()))) % len(x)]
        where = (slice(None), *blob.box)
        image[where] = blob.fill(image[where], lender[where], piece, blob)
        share[blob.box] = torch.maximum(share[blob.box], piece)
    image = torch.where(brain, image.clamp(1e-3, 2.0), 0)
    seen = max_pool3d((image - own).abs().amax(dim=0)[None], 3, 1, 1)[0] > VISIBLE
    if rescale:
        image = torch.where(brain, _rescaled(image, own, brain).clamp(1e-3, 2.0), 0)
    label = (share >= 0.5) & seen
    sure = brain & (label | (share < 0.1) | ~seen)
    return image, label[None].float(), sure[None].float()


def _rescaled(image: Tensor, own: Tensor, brain: Tensor) -> Tensor:
    """`image (C, X, Y, Z)` whose darkest and brightest per cent are where those of `own` were."""
    if not brain.any():
        return image
    ends = torch.tensor([0.01, 0.99], device=image.device)
    now, before = (torch.quantile(values[:, brain].float(), ends, dim=1) for values in (image, own))
    scale = (before[1] - before[0]) / (now[1] - now[0]).clamp(min=1e-3)
    shape = (-1, 1, 1, 1)
    return (image - now[0].view(shape)) * scale.view(shape) + before[0].view(shape)
