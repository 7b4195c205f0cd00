"""What the scan check measures: of which kind a scan is, and how good it is.

All is measured on the model's grid, where a method sees the scan, and by medians, quantiles and
capped values, so that lesions of some per cent of the brain move little. Intensities are in units
of the scan's own range, the 5th to the 95th percentile of its brain. Of several channels the first
is measured; the method's own scan scores are of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from volad.methods._base import Method
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample
from volad.tensors import brain_of

__all__ = ["kind_of", "quality_of", "reconstruction_of"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Fewer voxels give no median worth having.
ENOUGH = 50
#: Share of the brain whose scores count as they are.
KEPT = 0.9
#: How far from the brain's surface its rim and its inside lie.
RIM_MM, INSIDE_MM = (4.0, 12.0), 20.0


def kind_of(sample: Sample) -> dict[str, float]:
    """Contrast, intensity, coverage and alignment of a preprocessed sample; NaN: not measurable.

    Args:
        sample: with `image`, `brain`, `scale` and `facts` (`volad.preprocess.steps`). What needs
            the template is measured where the sample lies on its grid.
    """
    raw, brain = _in_range(sample)
    shares = np.percentile(raw[brain], (1, 50, 99))
    model = np.percentile(sample["image"].numpy()[0][brain], (5, 50, 95))
    found = {
        "middle": float(shares[1]),
        "dark_tail": float(-shares[0]),
        "bright_tail": float(shares[2] - 1),
        "level": float(model[1]),
        "range": float(model[2] - model[0]),
        "depth_contrast": _depth_contrast(raw, brain, _spacing_mm(sample)),
        **_from_facts(sample["facts"]),
    }
    return {**found, **_against_template(raw, brain)} if _aligned(sample) else found


def quality_of(sample: Sample) -> dict[str, float]:
    """Noise, sharpness, ripples and shading of a preprocessed sample; NaN: not measurable."""
    raw, brain = _in_range(sample)
    inner = ndimage.binary_erosion(brain, iterations=2)
    found = {
        "noise": _noise(raw, inner),
        "sharpness": _sharpness(raw, inner),
        "ripple": _ripple(raw, inner),
    }
    return {**found, "shading": _shading(raw, brain)} if _aligned(sample) else found


def _in_range(sample: Sample) -> tuple[Array, Mask]:
    """The scan in units of its own range, `(X, Y, Z)`, 0 outside the brain, and the brain."""
    brain: Mask = sample["brain"].numpy()[0] > 0
    values = sample["scale"].inverse(sample["image"].numpy()[0][brain])
    low, high = np.percentile(values, (5, 95))
    raw = np.zeros(brain.shape, np.float32)
    raw[brain] = (values - low) / max(float(high - low), 1e-12)
    return raw, brain


def _spacing_mm(sample: Sample) -> list[float]:
    axes = np.asarray(sample["image"].affine, np.float64)[:3, :3]
    return [float(mm) for mm in np.linalg.norm(axes, axis=0)]


def _aligned(sample: Sample) -> bool:
    template = load_template()
    affine = np.asarray(sample["image"].affine, np.float64)
    same = tuple(sample["image"].shape[1:]) == template.t1.shape
    return same and np.allclose(affine, template.affine, atol=1e-3)


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) >= ENOUGH else float("nan")


def _depth_contrast(raw: Array, brain: Mask, spacing_mm: list[float]) -> float:
    """How much brighter the inside of the brain is than its rim: serves where nothing is aligned.

    The padding makes the border of the grid a surface, too.
    """
    depth = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    rim = (depth >= RIM_MM[0]) & (depth < RIM_MM[1])
    return _median(raw[depth >= INSIDE_MM]) - _median(raw[rim])


def _from_facts(facts: Mapping[str, Any]) -> dict[str, float]:
    found = {"brain_ml": float(facts["brain_ml"]), "brain_cut": float(facts["brain_cut"])}
    if "alignment_stretch" in facts:
        found["stretch"] = float(facts["alignment_stretch"])
        found["enlarged"] = float(facts["alignment_volume_ratio"])
    return found


@lru_cache(maxsize=1)
def _tissues() -> dict[str, Mask]:
    """Where the template is fluid, grey and white matter beyond doubt."""
    template = load_template()
    known = template.t1 > 0
    fluid = known & (template.grey + template.white < 0.1)
    return {"fluid": fluid, "grey": template.grey > 0.8, "white": template.white > 0.9}


def _against_template(raw: Array, brain: Mask) -> dict[str, float]:
    template = load_template()
    known = template.t1 > 0
    both = brain & known
    level = {name: _median(raw[where & brain]) for name, where in _tissues().items()}
    near = ndimage.binary_dilation(known, iterations=2)
    values = raw[both].clip(-1, 2).astype(np.float64)
    maps = [m[both].astype(np.float64) for m in (template.t1, template.grey, template.white)]
    return {
        "white_grey": level["white"] - level["grey"],
        "grey_fluid": level["grey"] - level["fluid"],
        "like_t1": _correlation(values, maps[:1]),
        "fit": abs(_correlation(values, maps)),
        "overlap": float(2 * both.sum() / max(int(brain.sum() + known.sum()), 1)),
        "covered": float(both.sum() / known.sum()),
        "outside": float((brain & ~near).sum() / max(int(brain.sum()), 1)),
    }


def _correlation(values: NDArray[np.float64], maps: list[NDArray[np.float64]]) -> float:
    """Multiple correlation of `values (N,)` with `maps`, without the tenth that fits them worst.

    That tenth is where lesions are. With the sign of the first map's coefficient.

    Source: a concentration step of least trimmed squares, Rousseeuw and Van Driessen, "Computing
        LTS regression for large data sets", Data Mining and Knowledge Discovery 12 (2006).
    """
    if len(values) < ENOUGH:
        return float("nan")
    design = np.stack([*maps, np.ones(len(values))], axis=1)
    kept = np.ones(len(values), bool)
    for _ in range(2):
        coefficients = np.linalg.lstsq(design[kept], values[kept], rcond=None)[0]
        off = np.abs(design @ coefficients - values)
        kept = off <= np.quantile(off, KEPT)
    fitted, target = (design @ coefficients)[kept], values[kept]
    if fitted.std() == 0 or target.std() == 0:
        return float("nan")
    return float(np.copysign(np.corrcoef(fitted, target)[0, 1], coefficients[0]))


def _mad(values: Array) -> float:
    """Median absolute deviation as a standard deviation."""
    if len(values) < ENOUGH:
        return float("nan")
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _noise(raw: Array, inner: Mask) -> float:
    """What no smooth structure explains: second differences along all three axes at once.

    Source: Immerkær, "Fast noise variance estimation", CVIU 64 (1996), in 3D and with the MAD.
    """
    rough = raw
    for axis in range(3):
        rough = ndimage.correlate1d(rough, [1.0, -2.0, 1.0], axis)
    return _mad(rough[inner]) / 6**1.5


def _sharpness(raw: Array, inner: Mask) -> float:
    """90th percentile of the gradient's length, a voxel."""
    if inner.sum() < ENOUGH:
        return float("nan")
    squares = [ndimage.correlate1d(raw, [-0.5, 0.0, 0.5], axis) ** 2 for axis in range(3)]
    return float(np.percentile(np.sqrt(sum(squares))[inner], 90))


def _ripple(raw: Array, inner: Mask) -> float:
    """How much rougher one axis is than another, as ghosts and thick slices make it: 1 or above."""
    rough = [_mad(ndimage.correlate1d(raw, [1.0, -2.0, 1.0], axis)[inner]) for axis in range(3)]
    return max(rough) / max(min(rough), 1e-12)


def _shading(raw: Array, brain: Mask) -> float:
    """How uneven the white matter is on a scale of some cm, after bias correction."""
    white = (_tissues()["white"] & brain).astype(np.float32)
    share = ndimage.gaussian_filter(white, 5.0)
    smooth = ndimage.gaussian_filter(raw * white, 5.0) / np.maximum(share, 1e-6)
    return _mad(smooth[(white > 0) & (share > 0.05)])


def reconstruction_of(
    network: Method, x: Tensor, score: Tensor, x_hat: Tensor | None
) -> dict[str, float]:
    """The method's own scan scores, capped so that lesions alone do not raise them; by name.

    The tenth of the brain with the largest scores, and that with the largest difference between
    scan and counterpart, count as much as the next smaller: a brain that the model finds unusual
    as a whole stays so, one with lesions does not.

    Args:
        network: the method.
        x: `(1, C, *S)` the scan on the model's grid, as the others.
        score: `(1, 1, *S)` its score map, not smoothed.
        x_hat: `(1, C, *S)` its healthy counterpart, or None.
    """
    inside = brain_of(x) != 0
    capped = torch.minimum(score, _cap(score[inside]))
    if x_hat is not None:
        off = x_hat - x
        cap = _cap(off.abs()[inside.expand_as(off)])
        x_hat = x + off.clamp(-cap, cap)
    scores = network.scan_scores(x, capped, x_hat)
    return {f"score_{key}": float(v) for key, v in scores.items() if not isinstance(v, list)}


def _cap(values: Tensor) -> Tensor:
    """The value that nine tenths do not exceed."""
    if len(values) == 0:
        return torch.zeros(())
    return values.kthvalue(max(1, int(KEPT * len(values)))).values
