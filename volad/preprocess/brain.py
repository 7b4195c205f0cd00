"""Step 2a: which voxels are brain, whatever the scan: MR or CT, with skull or without."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray

from volad.errors import InputError
from volad.preprocess.brain_ct import CTBrain
from volad.preprocess.brain_mr import MRBrain
from volad.preprocess.brain_stripped import brain_mask_from_stripped, is_stripped, volume_ml

__all__ = [
    "BrainMask",
    "CTBrain",
    "Kind",
    "MRBrain",
    "brain_mask_from_stripped",
    "brain_mask_warning",
    "cut_share",
    "is_stripped",
]

Kind = Literal["auto", "mr", "ct", "given"]
#: A mask outside these is no brain: newborns have some 350 ml, the largest adults with their fluid
#: under 2200 ml.
PLAUSIBLE_ML = (250.0, 2500.0)
#: Below this an adult's brain is not whole.
WHOLE_ML = 800.0
#: A given mask may mean a part of the brain, and a small field of view holds only a part.
PART_ML = 20.0
#: Where a face of the volume has this share of the brain's largest section, the brain goes on
#: beyond it. The end of the brain stem has some 0.04.
CUT_SHARE = 0.1


class BrainMask(Transform):
    """Find the brain by the way that suits the scan, and refuse a mask that cannot be one.

    Args:
        kind: `auto` for MR with or without skull, `mr` for MR with skull, `ct` for CT in Hounsfield
            units with or without skull, `given` where a mask must come with the scan.
        device: where the network for MR runs.
    """

    def __init__(self, kind: Kind = "auto", device: str = "cpu") -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        self.kind = kind
        self.mr, self.ct = MRBrain(device), CTBrain()

    def __call__(
        self, image: MetaTensor, given: MetaTensor | None = None
    ) -> tuple[MetaTensor, str]:
        """Bool mask `(1, X, Y, Z)` of a scan `(1, X, Y, Z)`, and how it was found.

        Args:
            image: MR in any unit, or CT in Hounsfield units.
            given: a mask on the same grid; it wins over every other way.

        Returns:
            the mask, and `given`, `stripped`, `deepbet` or `ct-hu`.

        Raises:
            InputError: no brain was found, or the mask's volume is not that of a brain.
        """
        mask, how = self._find(image, given)
        _check_volume(mask, how)
        return mask, how

    def _find(self, image: MetaTensor, given: MetaTensor | None) -> tuple[MetaTensor, str]:
        if given is not None:
            return _as_mask(given, image), "given"
        if self.kind == "given":
            raise InputError("this bundle needs a brain mask: give one with --brain-mask FILE")
        if self.kind in ("auto", "ct") and is_stripped(image):
            return brain_mask_from_stripped(image), "stripped"
        return (self.ct(image), "ct-hu") if self.kind == "ct" else (self.mr(image), "deepbet")


def brain_mask_warning(mask: MetaTensor) -> str | None:
    """A line for the user where a mask `(1, X, Y, Z)` may be right and still deserves a look."""
    brain = mask.numpy()[0] > 0
    found_ml = volume_ml(brain, mask)
    if _is_cut(brain):
        return (
            f"the field of view cuts the brain ({found_ml:.0f} ml are inside): what lies near the "
            "cut is less reliable"
        )
    if found_ml < WHOLE_ML:
        return f"the brain mask holds only {found_ml:.0f} ml: check it in the report"
    return None


def _as_mask(given: MetaTensor, image: MetaTensor) -> MetaTensor:
    if given.shape != image.shape:
        raise InputError(
            f"the brain mask must be on the scan's grid, {tuple(image.shape[1:])}, and is "
            f"{tuple(given.shape[1:])}: resample it to the scan"
        )
    return MetaTensor(given.as_tensor() > 0, affine=image.affine)


def _check_volume(mask: MetaTensor, how: str) -> None:
    brain = mask.numpy()[0] > 0
    found_ml = volume_ml(brain, mask)
    low, high = PLAUSIBLE_ML
    if how == "given" or _is_cut(brain):
        low = PART_ML
    if not low <= found_ml <= high:
        raise InputError(
            f"the brain mask ({how}) holds {found_ml:.0f} ml where {low:.0f} to {high:.0f} are "
            "plausible: check the scan's voxel size, or give a mask with --brain-mask FILE"
        )


def cut_share(brain: NDArray[np.bool_]) -> float:
    """The largest section of `brain (X, Y, Z)` on a face, over the largest inside on that axis."""
    shares = [0.0]
    for axis in range(3):
        sections = brain.sum(axis=tuple(a for a in range(3) if a != axis))
        if sections.any():
            shares.append(float(max(sections[0], sections[-1]) / sections.max()))
    return max(shares)


def _is_cut(brain: NDArray[np.bool_]) -> bool:
    """Whether `brain (X, Y, Z)` goes on beyond a face of the field of view."""
    return cut_share(brain) > CUT_SHARE
