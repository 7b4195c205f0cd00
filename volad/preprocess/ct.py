"""Steps for CT alone: Hounsfield units or none, padding, what is no brain at the skull's base."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage

from volad.errors import InputError
from volad.preprocess.align import load_template
from volad.preprocess.brain_stripped import is_stripped
from volad.preprocess.steps import Sample, naming

__all__ = ["CheckHounsfield", "InsideTemplate", "Remark"]

AIR_HU = -1024.0
#: Air, with noise and the blur of small voxels, is below this.
AIRY_HU = -300.0
#: Around a head lies at least this share of air; a scan cropped to the brain has less.
LEAST_AIR = 0.01
#: Brain and skin of any head; scans stored with an offset or as 8-bit pictures have them elsewhere.
SOFT_HU = (0.0, 90.0)
LEAST_SOFT = 0.03
#: Median of a brain that comes without its skull.
BRAIN_HU = (10.0, 60.0)


class CheckHounsfield(Transform):
    """Raise padding to air, and refuse a CT whose values are no Hounsfield units.

    Scanners fill what lies outside the circle of reconstruction with values below any tissue's,
    such as -2000 or -3024; they become -1024. A scan that was saved as a picture (8 bits), or with
    its offset left out, has no air below -300 HU, or its soft tissue elsewhere.
    """

    def __call__(self, sample: Sample) -> Sample:
        image = sample["image"]
        hu = image.numpy()
        with naming(sample["volume"]):
            _check(image)
        padded = float((hu < AIR_HU).mean())
        facts = {**sample["facts"], "ct_padding": padded}
        if not padded:
            return {**sample, "facts": facts}
        raised = torch.from_numpy(np.maximum(hu, np.float32(AIR_HU)))
        return {**sample, "image": MetaTensor(raised, affine=image.affine), "facts": facts}


class InsideTemplate(Transform):
    """Keep of an aligned brain what lies within `margin_mm` of MNI152's.

    By Hounsfield units nothing parts the brain from the soft tissue about the sella, the clivus and
    the foramen magnum: the extraction takes some of it along, where no healthy scan has brain.

    Args:
        margin_mm: room around the template's brain.
    """

    def __init__(self, margin_mm: float = 0.0) -> None:
        if margin_mm < 0:
            raise ValueError(f"margin_mm must be 0 or more, got {margin_mm}")
        self.margin_mm = margin_mm

    def __call__(self, sample: Sample) -> Sample:
        template = load_template()
        spacing = np.linalg.norm(template.affine[:3, :3], axis=0)
        away = ndimage.distance_transform_edt(template.t1 <= 0, sampling=spacing)
        inside = torch.from_numpy(away <= self.margin_mm)[None]
        image, brain = sample["image"], sample["brain"]
        if brain.shape != inside.shape:
            raise ValueError("InsideTemplate comes after AlignToTemplate")
        kept = torch.where(inside, image.as_tensor(), 0)
        return {
            **sample,
            "image": MetaTensor(kept, affine=image.affine),
            "brain": MetaTensor(brain.as_tensor() & inside, affine=brain.affine),
        }


class Remark(Transform):
    """Add a line that every result of the bundle must carry to what the user is told.

    Args:
        text: the line.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "flags": [*sample["flags"], self.text]}


def _check(image: MetaTensor) -> None:
    hu: NDArray[np.float32] = image.numpy()[0]
    if is_stripped(image):
        found = hu[(hu != 0) & (hu > AIRY_HU)]
        middle = float(np.median(found)) if found.size else 0.0
        if not BRAIN_HU[0] <= middle <= BRAIN_HU[1]:
            raise InputError(
                f"is not in Hounsfield units: its brain has {middle:.4g} where it should have "
                f"{BRAIN_HU[0]:g} to {BRAIN_HU[1]:g}; {_WAY_OUT}"
            )
        return
    air = float((hu < AIRY_HU).mean())
    soft = float(((hu > SOFT_HU[0]) & (hu < SOFT_HU[1])).mean())
    if air < LEAST_AIR or soft < LEAST_SOFT:
        raise InputError(
            f"is not in Hounsfield units: {air:.1%} of its voxels are air (below {AIRY_HU:g}) and "
            f"{soft:.1%} soft tissue ({SOFT_HU[0]:g} to {SOFT_HU[1]:g}), values go from "
            f"{hu.min():g} to {hu.max():g}; {_WAY_OUT}"
        )


_WAY_OUT = "export it with its rescale slope and intercept, or give the DICOM series"
