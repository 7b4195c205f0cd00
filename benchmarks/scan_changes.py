"""What can be wrong with a scan, done to real ones: for `benchmarks/scan_check.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from scipy import ndimage

from volad.io import Volume
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample

__all__ = ["CHANGES", "Levels"]

Array = NDArray[Any]
#: Another scan of one, its grey levels and grid, and chance.
Change = Callable[[Volume, "Levels", np.random.Generator], Volume]
#: The same for its voxels `(X, Y, Z)` alone.
Voxels = Callable[[Array, "Levels", np.random.Generator], Array]
#: Share of the axis of slices that a cut field of view lacks.
CUT = 0.3


@dataclass(frozen=True)
class Levels:
    """Medians of an untouched scan's tissues, its 99th percentile, and its grid.

    Attributes:
        fluid: of cerebrospinal fluid.
        grey: of grey matter.
        white: of white matter.
        top: 99th percentile of the brain.
        axes: which way the voxel axes run, as `("P", "S", "R")`.
        spacing_mm: of the voxels.
    """

    fluid: float
    grey: float
    white: float
    top: float
    axes: tuple[str, ...]
    spacing_mm: tuple[float, ...]

    def axis(self, direction: str) -> int:
        """The voxel axis that runs along `R`, `A` or `S`, or against it."""
        pairs = {"R": "RL", "A": "AP", "S": "SI"}
        return next(i for i, code in enumerate(self.axes) if code in pairs[direction])

    @classmethod
    def of(cls, sample: Sample, volume: Volume) -> Levels:
        """From a scan and what the whole preprocessing made of it."""
        template = load_template()
        brain = sample["brain"].numpy()[0] > 0
        raw = sample["scale"].inverse(sample["image"].numpy()[0])
        fluid = (template.t1 > 0) & (template.grey + template.white < 0.1)
        tissues = (fluid, template.grey > 0.8, template.white > 0.9)
        medians = [float(np.median(raw[where & brain])) for where in tissues]
        axes = aff2axcodes(np.asarray(volume.image.affine))
        return cls(*medians, float(np.percentile(raw[brain], 99)), axes, volume.spacing_mm)


def _with(volume: Volume, array: Array, affine: Array | None = None) -> Volume:
    affine = volume.affine if affine is None else affine
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]
    image = MetaTensor(tensor, affine=torch.from_numpy(np.array(affine)))
    return replace(volume, image=image)


def _voxels(change: Voxels) -> Change:
    """The same place, other grey values."""
    return lambda volume, levels, random: _with(
        volume, change(volume.image.numpy()[0].astype(np.float64), levels, random)
    )


def _mapped(fluid: float, grey: float, white: float) -> Voxels:
    """Another contrast by the tissues' grey levels: those of T1 go to these shares of the top."""

    def change(x: Array, levels: Levels, _: np.random.Generator) -> Array:
        knots = [0, levels.fluid, levels.grey, levels.white, 1.5 * levels.top]
        return np.interp(x, knots, np.array([0, fluid, grey, white, white]) * levels.top)

    return change


def _cut(direction: str, *, end: bool) -> Change:
    """Leave 30 % of the slices off at one end."""

    def change(volume: Volume, levels: Levels, _: np.random.Generator) -> Volume:
        axis = levels.axis(direction)
        size = volume.shape[axis]
        off = round(CUT * size)
        first = 0 if end == (levels.axes[axis] == direction) else off
        affine = np.array(volume.affine)
        affine[:3, 3] += first * affine[:3, axis]
        array = np.take(volume.image.numpy()[0], range(first, first + size - off), axis)
        return _with(volume, array, affine)

    return change


def _flip(direction: str) -> Voxels:
    return lambda x, levels, _: np.flip(x, levels.axis(direction))


def _noise(share: float) -> Voxels:
    """Rician noise; `share` of the brain's 99th percentile."""

    def change(x: Array, levels: Levels, random: np.random.Generator) -> Array:
        sigma = share * levels.top
        real, imaginary = random.normal(0, sigma, (2, *x.shape))
        return np.hypot(x + real, imaginary)

    return change


def _motion(shift_mm: float, lines: float) -> Voxels:
    """A share of the lines of k-space taken when the head was elsewhere: ghosts along that axis."""

    def change(x: Array, levels: Levels, random: np.random.Generator) -> Array:
        axis = levels.axis("A")
        space = np.fft.fftn(x)
        frequency = np.fft.fftfreq(x.shape[axis])
        moved = (random.random(x.shape[axis]) < lines) & (np.abs(frequency) > 0.02)
        shift = shift_mm / levels.spacing_mm[axis]
        phase = np.where(moved, np.exp(-2j * np.pi * frequency * shift), 1)
        shape = [1, 1, 1]
        shape[axis] = len(phase)
        return np.abs(np.fft.ifftn(space * phase.reshape(shape)))

    return change


def _blur(fwhm_mm: float) -> Voxels:
    return lambda x, levels, _: ndimage.gaussian_filter(
        x, [fwhm_mm / 2.355 / mm for mm in levels.spacing_mm]
    )


def _bias(share: float) -> Voxels:
    """A smooth field between 1 - `share` and 1 + `share`."""

    def change(x: Array, _: Levels, random: np.random.Generator) -> Array:
        coarse = random.uniform(-1, 1, (3, 3, 3))
        zoom = [size / 3 for size in x.shape]
        field = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
        return np.asarray(x * (1 + share * field.clip(-1, 1)))

    return change


CHANGES: dict[str, Change] = {
    "T2-like contrast": _voxels(_mapped(1.0, 0.55, 0.35)),
    "FLAIR-like contrast": _voxels(_mapped(0.15, 0.75, 0.6)),
    "PD-like contrast": _voxels(_mapped(0.9, 0.85, 0.7)),
    "top 30 % of the field of view missing": _cut("S", end=True),
    "bottom 30 % missing": _cut("S", end=False),
    "left 30 % missing": _cut("R", end=False),
    "left and right flipped": _voxels(_flip("R")),
    "front and back flipped": _voxels(_flip("A")),
    "upside down": _voxels(_flip("S")),
    "noise 3 %": _voxels(_noise(0.03)),
    "noise 6 %": _voxels(_noise(0.06)),
    "noise 12 %": _voxels(_noise(0.12)),
    "motion 4 mm, 20 % of lines": _voxels(_motion(4, 0.2)),
    "motion 8 mm, 40 % of lines": _voxels(_motion(8, 0.4)),
    "blur 3 mm": _voxels(_blur(3)),
    "blur 5 mm": _voxels(_blur(5)),
    "bias field 30 %": _voxels(_bias(0.3)),
    "bias field 60 %": _voxels(_bias(0.6)),
}
