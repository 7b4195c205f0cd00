"""Step 3b: which contrast an MR scan has, told from how bright its tissues are.

Neither file names nor headers say it reliably, and a threshold that holds for one contrast is too
high or too low for another (`volad.calibrate`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage

from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample

__all__ = ["CONTRASTS", "Brightness", "NameContrast", "brightness_of"]

#: What a scan may be like.
CONTRASTS = ("t1", "t2", "flair", "pd")
#: MNI152's probability from which a voxel is taken for grey matter, white matter, fluid.
SURE = (0.8, 0.9, 0.7)
#: How far below the brain's surface, voxels: skull and membranes have other brightness.
BELOW = 2
#: Fewest voxels of a tissue that tell its brightness.
FEWEST = 50
#: Limits between the contrasts, as shares of the brain's range of intensity: they lie in the gaps
#: between healthy T1 (IXI) and simulated T2, FLAIR and PD, so far as those have gaps.
WHITE_BRIGHTER, FLUID_BRIGHTER = 0.1, 0.1
#: Likewise, how far fluid is below grey and below white matter in FLAIR.
FLUID_DARKER = (0.25, 0.1)


@dataclass(frozen=True)
class Brightness:
    """Median brightness of each tissue, 0 at the brain's 1st and 1 at its 99th percentile.

    Attributes:
        grey: of grey matter.
        white: of white matter.
        fluid: of cerebrospinal fluid.
    """

    grey: float
    white: float
    fluid: float

    @property
    def contrast(self) -> str:
        """The name in `CONTRASTS` of the sequence that has tissues in this order.

        White matter is the brightest tissue in T1 only. Of the others fluid is the brightest in
        T2, the darkest in FLAIR, and near the rest in PD.
        """
        if self.white - self.grey > WHITE_BRIGHTER:
            return "t1"
        if self.fluid - self.grey > FLUID_BRIGHTER:
            return "t2"
        below = (self.grey - self.fluid, self.white - self.fluid)
        return "flair" if all(np.greater(below, FLUID_DARKER)) else "pd"


def brightness_of(image: NDArray[np.float32], brain: NDArray[np.bool_]) -> Brightness | None:
    """The brightness of the tissues of a scan on MNI152's 2 mm grid.

    Args:
        image: `(80, 96, 88)`, in any unit.
        brain: likewise.

    Returns:
        None where the brain holds too little of a tissue.
    """
    template = load_template()
    inner = ndimage.binary_erosion(brain, iterations=BELOW)
    maps = (template.grey, template.white, 1 - template.grey - template.white)
    places = [inner & (share > sure) for share, sure in zip(maps, SURE, strict=True)]
    if min(int(place.sum()) for place in places) < FEWEST:
        return None
    low, high = np.percentile(image[brain], [1, 99])
    spread = max(float(high - low), 1e-6)
    # Medians: a lesion, even a large one, is the lesser part of a tissue.
    return Brightness(*(float((np.median(image[place]) - low) / spread) for place in places))


class NameContrast(Transform):
    """Add `contrast`, a name in `CONTRASTS`, of a scan on MNI152's grid; None where unknown."""

    def __call__(self, sample: Sample) -> Sample:
        found = brightness_of(sample["image"].numpy()[0], sample["brain"].numpy()[0] > 0)
        name = found.contrast if found is not None else None
        told = {} if found is None else {k: round(v, 3) for k, v in asdict(found).items()}
        facts = {**sample["facts"], "contrast": {"like": name, "tissues": told}}
        return {**sample, "contrast": name, "facts": facts}
