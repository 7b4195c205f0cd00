"""Step 6: from the network's output on its grid to a lesion mask on the scan's own grid.

The transforms of a bundle's `postprocessing`, each on the sample dictionary of
`volad.preprocess.steps` with `pred` added: the score map `(1, *grid)` as the network gives it.
Up to `Threshold` it stays continuous, so a mask is never interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage

from volad.preprocess.resample import resample
from volad.preprocess.steps import Sample
from volad.thresholds import OTHERWISE, named

__all__ = ["DropSmallLesions", "MedianSmooth", "Rim", "Threshold", "ToScan"]


class MedianSmooth(Transform):
    """Median of a cube around each voxel of the model's grid: lone voxels are noise.

    Args:
        size: edge of the cube in voxels; odd, since an even one shifts the map by half a voxel.
    """

    def __init__(self, size: int = 3) -> None:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size must be odd, got {size}")
        self.size = size

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "pred": _like(sample["pred"], self._filter(sample["pred"]))}

    def _filter(self, pred: MetaTensor) -> NDArray[np.float32]:
        smooth = ndimage.median_filter(pred.numpy()[0], self.size)
        return np.asarray(smooth, np.float32)[None]


class Rim(Transform):
    """Set the score to 0 within `width_mm` of the brain's surface, where extraction errs.

    Measured on the model's grid, so in the template's mm for an aligned bundle.
    """

    def __init__(self, width_mm: float) -> None:
        if width_mm < 0:
            raise ValueError(f"width_mm must be 0 or more, got {width_mm}")
        self.width_mm = width_mm

    def __call__(self, sample: Sample) -> Sample:
        pred, brain = sample["pred"], sample["brain"].numpy()[0] > 0
        spacing = np.linalg.norm(np.asarray(sample["brain"].affine)[:3, :3], axis=0)
        # A border of air, so that a brain cut by the field of view has a surface there too.
        depth = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=spacing)
        inner = depth[1:-1, 1:-1, 1:-1] > self.width_mm
        return {**sample, "pred": _like(pred, pred.numpy() * inner)}


class ToScan(Transform):
    """Bring the continuous score back onto the scan's own grid, in one interpolation.

    Voxels outside the scan's brain mask are 0.
    """

    def __call__(self, sample: Sample) -> Sample:
        volume, brain = sample["volume"], sample["native_brain"]
        score = MetaTensor(sample["pred"].as_tensor(), affine=sample["image"].affine)
        affine = sample["to_model"] @ volume.affine
        out = resample(score, affine, volume.shape, antialias=False).as_tensor()
        back = MetaTensor(out * brain.as_tensor(), affine=torch.tensor(volume.affine))
        return {**sample, "pred": back}


class Threshold(Transform):
    """Call a voxel a lesion where its score is above the threshold; keeps the map as `score`.

    Args:
        value: the threshold; or one for each contrast (`volad.preprocess.contrast`), and
            `otherwise` for scans of any other, which are flagged.
    """

    def __init__(self, value: float | Mapping[str, float]) -> None:
        values = named(value)
        if OTHERWISE not in values or not all(np.isfinite(v) for v in values.values()):
            raise ValueError(f"the threshold must be a finite number, got {value}")
        self.value = float(values.pop(OTHERWISE))
        self.contrasts = {name: float(v) for name, v in values.items()}

    def of(self, sample: Sample) -> float:
        """The threshold of a scan."""
        return self.contrasts.get(sample.get("contrast") or "", self.value)

    def __call__(self, sample: Sample) -> Sample:
        score = sample["pred"]
        mask = MetaTensor(score.as_tensor() > self.of(sample), affine=score.affine)
        cut = {**sample, "score": score, "pred": mask}
        if self.contrasts and sample.get("contrast") not in self.contrasts:
            cut["flags"] = [*sample["flags"], self._unknown(sample.get("contrast"))]
        return cut

    def _unknown(self, contrast: str | None) -> str:
        what = "its contrast is not clear" if contrast is None else f"it looks like {contrast}"
        return (
            f"{what}, and the threshold was set on {', '.join(self.contrasts)}: it promises "
            "nothing here; volad calibrate sets one on healthy scans like this"
        )


class DropSmallLesions(Transform):
    """Clear every 26-connected lesion smaller than `min_mm3`.

    Size is in mm³, not voxels, so one setting serves every voxel spacing.
    """

    def __init__(self, min_mm3: float) -> None:
        if min_mm3 < 0:
            raise ValueError(f"min_mm3 must be 0 or more, got {min_mm3}")
        self.min_mm3 = float(min_mm3)

    def __call__(self, sample: Sample) -> Sample:
        mask = sample["pred"]
        labels, _ = ndimage.label(mask.numpy()[0], structure=np.ones((3, 3, 3)))
        voxel_mm3 = abs(float(np.linalg.det(np.asarray(mask.affine)[:3, :3])))
        # A hair less, since the determinant rounds.
        keep = np.bincount(labels.ravel()) * voxel_mm3 >= self.min_mm3 * (1 - 1e-6)
        keep[0] = False  # label 0 is the background
        return {**sample, "pred": _like(mask, keep[labels][None])}


def _like(image: MetaTensor, array: NDArray[np.generic]) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=image.affine)
