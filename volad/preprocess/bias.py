"""Step 2d: remove the smooth brightness that the receive coil leaves on an MR scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from volad.preprocess.itk_threads import one_thread

__all__ = ["correct_bias"]

#: The field varies over centimetres, so it is fitted on voxels of about this size.
FIT_SPACING_MM = 6.0


def correct_bias(
    image: NDArray[np.float32],
    brain: NDArray[np.bool_],
    spacing_mm: float,
    iterations: tuple[int, ...] = (50, 50, 30),
) -> NDArray[np.float32]:
    """Divide by the field that N4 fits inside the brain; 0 outside it.

    Args:
        image: `(X, Y, Z)` MR intensities.
        brain: `(X, Y, Z)`.
        spacing_mm: isotropic voxel size.
        iterations: at most so many per resolution level of the B-spline.

    Source: Tustison et al., "N4ITK: Improved N3 Bias Correction", IEEE TMI 29 (2010).
    """
    # N4 works on the logarithm: dark and negative voxels (resampling can undershoot) are lifted
    # to a small part of the brain's brightness.
    floor = 0.01 * float(np.median(image[brain]))
    lifted = np.maximum(image, max(floor, 1e-6))
    full, mask = _to_sitk(lifted, spacing_mm), _to_sitk(brain.astype(np.uint8), spacing_mm)
    shrink = max(1, round(FIT_SPACING_MM / spacing_mm))
    with one_thread():
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(list(iterations))
        n4.SetConvergenceThreshold(1e-4)
        n4.Execute(sitk.Shrink(full, [shrink] * 3), sitk.Shrink(mask, [shrink] * 3))
        field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full)).transpose(2, 1, 0)
    # N4's field has any mean; without it intensities would leave the scan's own units.
    field = field - field[brain].mean()
    corrected: NDArray[np.float32] = np.where(brain, image / np.exp(field), 0).astype(np.float32)
    return corrected


def _to_sitk(array: NDArray[np.generic], spacing_mm: float) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing([spacing_mm] * 3)
    return image
