"""Step 2c: find the affine map from a scan's world to MNI152, and notice when it failed."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from volad.preprocess.itk_threads import one_thread
from volad.preprocess.resample import resample, world_grid

__all__ = ["Alignment", "Template", "align", "load_template"]

#: ITK's world is LPS mm, ours RAS mm: x and y change sign.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Starts, as turns about the left-right axis: a head nods by so much in the scanner.
NODS_DEG = (0.0, 30.0, -30.0)
#: Below these an alignment has failed. They lie between the lowest of 164 healthy T1 heads
#: (0.948 and 0.47) and the highest of headers turned by 90 or 180 degrees (0.86 and 0.32):
#: benchmarks/alignment.py.
MIN_OVERLAP = 0.90
MIN_CORRELATION = 0.38


@dataclass(frozen=True)
class Template:
    """MNI152 on its 2 mm grid.

    Attributes:
        t1: `(80, 96, 88)` brain-extracted T1 average, 0..1.
        grey: `(80, 96, 88)` grey-matter probability, 0..1.
        white: `(80, 96, 88)` white-matter probability, 0..1.
        affine: `(4, 4)` voxel to world, RAS mm.
    """

    t1: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """An affine map from a scan's world to the template's, and how far it can be trusted.

    Attributes:
        to_template: `(4, 4)`, RAS mm to RAS mm.
        overlap: Dice of the aligned brain mask with the template's brain.
        correlation: multiple correlation of the aligned scan with the template's T1, grey and
            white matter, 0..1; unlike a plain correlation it serves any contrast.
        volume_ratio: volume after over volume before.
    """

    to_template: NDArray[np.float64]
    overlap: float
    correlation: float
    volume_ratio: float

    @property
    def stretch(self) -> float:
        """How much more the map enlarges one direction than another: 1 or above."""
        sizes = np.linalg.svd(self.to_template[:3, :3], compute_uv=False)
        return float(sizes[0] / sizes[-1])

    @property
    def failed(self) -> bool:
        """Whether the map is not to be trusted."""
        implausible = not 0.4 < self.volume_ratio < 2.5  # heads of infants to the largest adults
        return self.overlap < MIN_OVERLAP or self.correlation < MIN_CORRELATION or implausible


@lru_cache(maxsize=1)
def load_template() -> Template:
    """The shipped 2 mm MNI152 (ICBM 2009a symmetric; licence beside it)."""

    def load(name: str) -> nib.Nifti1Image:
        packed = (files("volad.preprocess") / "mni152" / f"{name}_2mm.nii.gz").read_bytes()
        return nib.Nifti1Image.from_bytes(gzip.decompress(packed))

    t1, grey, white = (load(name) for name in ("t1", "gm", "wm"))
    maps = [np.asarray(image.dataobj, np.float32) / np.float32(255) for image in (t1, grey, white)]
    return Template(maps[0], maps[1], maps[2], np.asarray(t1.affine, np.float64))


def align(image: MetaTensor, brain: MetaTensor) -> Alignment:
    """Register a scan to MNI152 by mutual information, affine with 12 degrees of freedom.

    The scan starts where the brain's centre of mass lies on the template's, upright as its affine
    says and nodding forward and backward; the best of the three goes on. Deterministic: one thread,
    a fixed seed.

    Args:
        image: `(1, X, Y, Z)`, any contrast.
        brain: `(1, X, Y, Z)` bool, on the same grid.

    Source: Mattes et al., "PET-CT image registration in the chest using free-form deformations",
        IEEE TMI 22 (2003), as in ITK.
    """
    affine = np.asarray(image.affine, np.float64)
    grid, shape = world_grid(brain.numpy()[0] > 0, affine, spacing_mm=2.0, margin_mm=6.0)
    stripped = MetaTensor(
        torch.cat([image.as_tensor() * brain.as_tensor(), brain.as_tensor().float()]), affine=affine
    )
    small = resample(stripped, grid, shape).numpy()
    with one_thread():
        to_template = _search(small[0], small[1], grid)
    return _judge(to_template, small[0], small[1], grid)


def _search(
    scan: NDArray[np.float32], brain: NDArray[np.float32], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Similarity from every start at low resolution, then affine from the best of them."""
    template = load_template()
    fixed, moving = _to_sitk(template.t1, template.affine), _to_sitk(scan, grid)
    middle = sitk.CenteredTransformInitializer(
        _to_sitk((template.t1 > 0).astype(np.float32), template.affine),
        _to_sitk(brain, grid),
        sitk.Euler3DTransform(),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    starts = []
    for nod_deg in NODS_DEG:
        rigid = sitk.Euler3DTransform(middle)
        rigid.SetRotation(float(np.deg2rad(nod_deg)), 0.0, 0.0)
        similar = _copy(rigid, sitk.Similarity3DTransform())
        cost = _register(fixed, moving, similar, shrinks=(4,), sigmas_mm=(4.0,))
        starts.append((cost, abs(nod_deg), nod_deg, similar))
    full = _copy(min(starts, key=lambda start: start[:3])[-1], sitk.AffineTransform(3))
    _register(fixed, moving, full, shrinks=(2, 1), sigmas_mm=(2.0, 0.0))
    return np.linalg.inv(_matrix(full)).astype(np.float64)


def _copy(source: Any, target: Any) -> Any:
    """Start one kind of transform where another one is."""
    target.SetCenter(source.GetCenter())
    target.SetMatrix(source.GetMatrix())
    target.SetTranslation(source.GetTranslation())
    return target


def _register(
    fixed: sitk.Image,
    moving: sitk.Image,
    transform: sitk.Transform,
    shrinks: tuple[int, ...],
    sigmas_mm: tuple[float, ...],
) -> float:
    """Move `transform` (fixed to moving, LPS mm) to the best mutual information, in place.

    Returns:
        the metric at the end; lower is better.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, seed=1)
    method.SetMetricFixedMask(sitk.BinaryDilate(fixed > 0, [3, 3, 3]))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrinks)
    method.SetSmoothingSigmasPerLevel(sigmas_mm)
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(sitk.Cast(fixed, sitk.sitkFloat32), sitk.Cast(moving, sitk.sitkFloat32))
    return float(method.GetMetricValue())


def _judge(
    to_template: NDArray[np.float64],
    scan: NDArray[np.float32],
    brain: NDArray[np.float32],
    grid: NDArray[np.float64],
) -> Alignment:
    template = load_template()
    both = MetaTensor(torch.from_numpy(np.stack([scan, brain])), affine=to_template @ grid)
    moved = resample(both, template.affine, template.t1.shape).numpy()
    inside, known = moved[1] > 0.5, template.t1 > 0
    overlap = 2 * (inside & known).sum() / max(int(inside.sum() + known.sum()), 1)
    rows = inside & known
    if rows.sum() < 1000:  # nothing to fit on
        return Alignment(to_template, float(overlap), 0.0, _volume_ratio(to_template))
    maps = (template.t1, template.grey, template.white)
    design = np.stack([m[rows] for m in maps] + [np.ones(int(rows.sum()))], axis=1)
    target = moved[0][rows].astype(np.float64)
    fit = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    spread = float(target.std() * fit.std())
    correlation = float(((target - target.mean()) * (fit - fit.mean())).mean() / max(spread, 1e-12))
    return Alignment(to_template, float(overlap), correlation, _volume_ratio(to_template))


def _volume_ratio(to_template: NDArray[np.float64]) -> float:
    return float(abs(np.linalg.det(to_template[:3, :3])))


def _matrix(transform: sitk.AffineTransform) -> NDArray[np.float64]:
    """ITK's affine (about a centre, LPS) as one `(4, 4)` RAS matrix."""
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = np.array(transform.GetTranslation()) + centre - linear @ centre
    return LPS @ out @ LPS


def _to_sitk(array: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    """`(X, Y, Z)` on an axis-aligned RAS grid as an ITK image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    lps = LPS @ affine
    spacing = np.abs(np.diag(lps)[:3])
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(np.diag(np.sign(np.diag(lps)[:3])).ravel().tolist())
    return image
