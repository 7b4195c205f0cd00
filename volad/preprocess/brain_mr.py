"""Step 2a for MR: which voxels are brain, by a learned tool that ships with volad."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from volad.errors import InputError
from volad.preprocess.brain_net import load_nets
from volad.preprocess.brain_stripped import largest_component

__all__ = ["MRBrain"]

#: Grids of the two networks, in voxels, as trained: the whole scan, and the box around the brain.
LOCATE, SEGMENT = (128, 128, 128), (256, 256, 256)
#: The box is enlarged by this share of its size on each side.
MARGIN = 0.1
#: Axes are R, A, S in nibabel's notation of orientations.
RAS = np.array([[0, 1], [1, 1], [2, 1]])


class MRBrain(Transform):
    """The brain in an MR scan with skull, found by deepbet: offline, no thresholds to tune.

    Differences from deepbet 1.0.2: scans and probabilities are interpolated linearly rather than
    by nearest neighbour, so that thick slices do not become stairs; the mask is bit for bit the
    same whichever way the scan's axes run.

    Args:
        device: where the networks run.
        threshold: on the probability of brain; lower is more generous.

    Source: see `volad.preprocess.brain_net`.
    """

    def __init__(self, device: str = "cpu", threshold: float = 0.5) -> None:
        self.device = str(device)
        self.threshold = threshold

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Scan `(1, X, Y, Z)` of any intensity unit to bool mask `(1, X, Y, Z)`, same affine."""
        if image.ndim != 4 or image.shape[0] != 1:
            raise ValueError(f"a scan must be (1, X, Y, Z), got {tuple(image.shape)}")
        orientation = io_orientation(np.asarray(image.affine, np.float64))
        scan = apply_orientation(image.numpy()[0], ornt_transform(orientation, RAS))
        ras = torch.from_numpy(np.ascontiguousarray(scan, np.float32)).to(self.device)
        with torch.inference_mode(), _reproducible():
            box, probability = _predict(ras, self.device)
        mask = np.zeros(scan.shape, bool)
        mask[box] = _solid(probability.cpu().numpy() > self.threshold)
        native = apply_orientation(mask, ornt_transform(RAS, orientation))
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(native))[None], affine=image.affine)


def _predict(ras: Tensor, device: str) -> tuple[tuple[slice, ...], Tensor]:
    """Where the brain's box lies in `ras (X, Y, Z)`, and the probability of brain inside it."""
    locate, segment = load_nets(device)
    small = _resize(ras, LOCATE)
    low, high = torch.quantile(small, torch.tensor([0.005, 0.995], device=small.device))
    if not high > low:
        raise InputError("the scan is constant: there is no brain to find")
    found = locate(_normalize(small, low, high))[0, 0].cpu().numpy() > 0.5
    box = _box(largest_component(found), ras.shape)
    inside = ras[box]
    probability = segment(_normalize(_resize(inside, SEGMENT), low, high))[0, 0]
    return box, _resize(probability, tuple(inside.shape))


def _resize(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(array[None, None], shape, mode="trilinear")[0, 0]


def _normalize(array: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`(X, Y, Z)` to `(1, 1, X, Y, Z)` with the mean and deviation that deepbet was trained on."""
    clipped = ((array - low) / (high - low)).clamp(0, 1)
    return (0.226 * (clipped - clipped.mean()) / clipped.std() + 0.449)[None, None]


def _box(found: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a grid of `shape` that holds `found`, which spans the same field of view."""
    slices = []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        # A plane counts from 2 % brain on: a few stray voxels must not stretch the box.
        planes = np.flatnonzero(found.mean(axis=others) > 0.02)
        if not planes.size:
            raise InputError(
                "no brain was found: give a mask with --brain-mask FILE, or check that the scan "
                "is an MR of the head and that its orientation is right"
            )
        scale = size / found.shape[axis]
        start, stop = planes[0] * scale, (planes[-1] + 1) * scale
        margin = MARGIN * (stop - start)
        slices.append(slice(max(0, int(start - margin)), min(size, int(np.ceil(stop + margin)))))
    return tuple(slices)


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component with its holes filled."""
    return cast("NDArray[np.bool_]", ndimage.binary_fill_holes(largest_component(mask)))


def _reproducible() -> AbstractContextManager[None]:
    # TF32 and algorithms picked by timing would give another mask on another day.
    flags = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return cast("AbstractContextManager[None]", flags)
