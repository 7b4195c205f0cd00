"""Step 2a for CT: the brain is what has its Hounsfield units inside the skull."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage

from volad.errors import InputError
from volad.preprocess.brain_stripped import largest_component

__all__ = ["CTBrain"]

#: Noise in the fluid and common calcifications leave holes up to about this size in the tissue.
#: The petrous bones are isolated pieces of more, and must stay out of it.
HOLE_ML = 2.0


class CTBrain(Transform):
    """The brain in a head CT with skull: soft tissue in one thick piece inside the bone.

    The range and the smoothing are the paper's. It hands the result to FSL's BET; here, what hangs
    on to the brain by necks thinner than twice `erode_mm` (skin, orbits, muscles) is cut off by an
    erosion, the largest piece is kept and grown back inside the soft tissue.

    Args:
        range_hu: soft tissue.
        sigma_mm: of the Gaussian before the threshold.
        erode_mm: half of the thickness that only the brain has. A lower upper limit of `range_hu`
            for this step would cut thin bone better, and bleeds (60 to 90 HU) with it.
        regrow_mm: how much further than `erode_mm` it grows back, for its corners.

    Source: Muschelli et al., "Validated automatic brain extraction of head CT images",
        NeuroImage 114 (2015).
    """

    def __init__(
        self,
        range_hu: tuple[float, float] = (0.0, 100.0),
        sigma_mm: float = 1.0,
        erode_mm: float = 12.0,
        regrow_mm: float = 3.0,
    ) -> None:
        if not range_hu[0] < range_hu[1]:
            raise ValueError(f"range_hu must ascend, got {range_hu}")
        self.range_hu = tuple(range_hu)
        self.sigma_mm, self.erode_mm, self.regrow_mm = sigma_mm, erode_mm, regrow_mm

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Scan `(1, X, Y, Z)` in HU to bool mask `(1, X, Y, Z)`, same affine."""
        if image.ndim != 4 or image.shape[0] != 1:
            raise ValueError(f"a scan must be (1, X, Y, Z), got {tuple(image.shape)}")
        spacing_mm = np.linalg.norm(np.asarray(image.affine, np.float64)[:3, :3], axis=0)
        tissue = self._tissue(image.numpy()[0], spacing_mm)
        core = _depth_mm(tissue, spacing_mm) > self.erode_mm
        if not core.any():
            raise InputError(
                f"no brain was found: no soft tissue ({self.range_hu[0]:g} to "
                f"{self.range_hu[1]:g} HU) is {2 * self.erode_mm:g} mm thick; check that the scan "
                "is in Hounsfield units, or give a mask with --brain-mask FILE"
            )
        reach_mm = _depth_mm(~largest_component(core), spacing_mm)
        brain = tissue & (reach_mm <= self.erode_mm + self.regrow_mm)
        mask = ndimage.binary_fill_holes(largest_component(brain))
        return MetaTensor(torch.from_numpy(mask)[None], affine=image.affine)

    def _tissue(
        self, hu: NDArray[np.float32], spacing_mm: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        low, high = self.range_hu
        # Clipped so that brain (35 HU) and bone, or brain and fat, meet half way at the limit:
        # then smoothing does not move the edge.
        clipped = np.clip(hu.astype(np.float32), 2 * low - 35, 2 * high - 35)
        smooth = ndimage.gaussian_filter(clipped, self.sigma_mm / spacing_mm)
        tissue = (smooth > low) & (smooth < high)
        holes, _ = ndimage.label(~tissue)
        size_ml = np.bincount(holes.ravel()) * spacing_mm.prod() / 1000
        small = size_ml < HOLE_ML
        small[0] = True  # label 0 is the tissue itself
        return cast("NDArray[np.bool_]", small[holes])


def _depth_mm(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each voxel of `mask` to the nearest voxel outside it, 0 outside."""
    depth = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return cast("NDArray[np.float64]", depth)
