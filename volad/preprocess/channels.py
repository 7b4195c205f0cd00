"""Step 2, several channels: further images of the patient are brought onto the first one's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from volad.errors import InputError
from volad.io import Scan, Volume, read_volume
from volad.io.digest import combined
from volad.preprocess.resample import resample

__all__ = ["add_channels", "keep_covered"]

#: Share of the brain that a channel may lack before the user must know.
NOTABLE = 0.01
#: With less of the brain in all channels, they are hardly of one patient in one position.
LEAST_COVERED = 0.5


def add_channels(sample: dict[str, Any], channels: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """A loaded sample with further channels, resampled by the headers' affines.

    Nothing is registered: the images must be of one session, or registered before.

    Args:
        sample: with the first channel (`volad.preprocess.steps`).
        channels: name and file of each further one, in order.

    Raises:
        InputError: one is unreadable or unusable.
    """
    volume: Volume = sample["volume"]
    others = {name: read_volume(Scan(path, name)) for name, path in channels}
    moved = {name: _on_grid(other.image, volume) for name, other in others.items()}
    images = [sample["image"].as_tensor(), *(values for values, _ in moved.values())]
    hashes = {name: other.sha256 for name, other in others.items()}
    odd = [f"{name}: {line}" for name, other in others.items() for line in other.warnings]
    return {
        **sample,
        "image": MetaTensor(torch.cat(images), affine=sample["image"].affine),
        "covered": {name: covered for name, (_, covered) in moved.items()},
        "volume": replace(volume, sha256=combined(volume.sha256, hashes)),
        "flags": [*sample["flags"], *odd],
        "facts": {**sample["facts"], "channels": hashes},
    }


def _on_grid(image: MetaTensor, like: Volume) -> tuple[Tensor, Tensor]:
    """An image `(1, X, Y, Z)` on another scan's grid, and where it has data there."""
    ones = torch.ones_like(image.as_tensor())
    both = MetaTensor(torch.cat([image.as_tensor(), ones]), affine=image.affine)
    out = resample(both, np.array(like.affine), like.shape).as_tensor()
    # Between the outermost voxels' centres and their faces, 0 from outside is mixed in.
    inside = out[1:] > 0.5
    return torch.where(inside, out[:1] / out[1:].clamp(min=0.5), 0), inside


def keep_covered(brain: MetaTensor, covered: Mapping[str, Tensor]) -> tuple[MetaTensor, list[str]]:
    """The brain without what some channel does not show, and lines for the user.

    There a channel is darker than any healthy tissue, which would be the surest lesion.

    Args:
        brain: `(1, X, Y, Z)` bool.
        covered: `(1, X, Y, Z)` bool, where each further channel has data, by name.

    Raises:
        InputError: most of the brain is lost.
    """
    whole = kept = brain.as_tensor() > 0
    lacking = []
    for name, inside in covered.items():
        kept = kept & inside
        lost = 1 - float((whole & inside).sum() / whole.sum())
        if lost > NOTABLE:
            lacking.append(f"{name} does not show {lost:.0%} of the brain")
    if kept.sum() < LEAST_COVERED * whole.sum():
        raise InputError(
            f"the channels lie apart ({', '.join(lacking)}); give images of one session, or "
            "register them onto the first"
        )
    flags = [f"{line}: no lesion is looked for there" for line in lacking]
    return MetaTensor(kept, affine=brain.affine), flags
