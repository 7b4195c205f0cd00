"""Brain extraction and alignment of head CT, on a real template and on degraded copies of it.

    python benchmarks/ct_preprocessing.py --template DIR

`DIR` holds `scct_cormack.nii.gz`, the average whole head of 30 older healthy adults in Cormack
units, and `scct_unsmooth_SS_0.01.nii.gz` with its `_Mask`, its brain in HU (Rorden et al.,
NeuroImage 61 (2012)). The head is turned into HU and looked at by a scanner that is tilted, noisy,
coarse, or ends below the vertex; Dice is of the mask found with the template's own, on the scan's
grid. An average head is smoother than any patient's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad.preprocess.align import align
from volad.preprocess.brain import BrainMask

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A head CT in HU and its brain, `(X, Y, Z)` on one grid."""

    hu: Array
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]


def hounsfield(cormack: Array) -> Array:
    """Cormack units to HU: from -100 to 100 HU they are stretched by 10 (Rorden et al. 2012)."""
    highest = float(max(cormack.max(), 3000.0))
    knots = (0.0, 900.0, 2900.0, highest)
    return np.interp(cormack, knots, (-1000.0, -100.0, 100.0, highest - 2800.0)).astype(np.float32)


def read(folder: Path) -> tuple[Head, Head]:
    """The whole head, and the brain alone."""
    whole = nib.load(folder / "scct_cormack.nii.gz")
    alone = nib.load(folder / "scct_unsmooth_SS_0.01.nii.gz")
    mask = nib.load(folder / "scct_unsmooth_SS_0.01_Mask.nii.gz")
    brain = np.asarray(mask.dataobj) > 0
    stripped = Head(np.asarray(alone.dataobj, np.float32), brain, alone.affine)
    hu = hounsfield(whole.get_fdata(dtype=np.float32))
    return Head(hu, _moved(stripped, whole.affine, hu.shape).brain, whole.affine), stripped


def _moved(head: Head, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Head:
    """A head as another grid sees it."""
    step = np.linalg.inv(head.affine) @ affine
    thick = np.abs(step[:3, :3]).max(axis=1)
    sigma = np.sqrt(np.maximum(thick**2 - 1, 0) / 12)
    hu = ndimage.gaussian_filter(head.hu, sigma)
    new = ndimage.affine_transform(hu, step[:3, :3], step[:3, 3], shape, order=1, cval=-1000)
    brain = head.brain.astype(np.float32)
    inside = ndimage.affine_transform(brain, step[:3, :3], step[:3, 3], shape, order=1)
    return Head(new.astype(np.float32), inside > 0.5, affine)


def seen(head: Head, slice_mm: float = 2.0, tilt_deg: float = 0.0, turn_deg: float = 0.0) -> Head:
    """A head from a scanner of 1 mm pixels, its gantry tilted, the head itself turned."""
    shape = (200, 240, round(200 / slice_mm))
    affine = np.diag([1.0, 1.0, slice_mm, 1.0])
    affine[1, 2] = np.tan(np.deg2rad(tilt_deg)) * slice_mm
    affine[:3, 3] = np.array([0.0, -18.0, 10.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    a = np.deg2rad(turn_deg)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    scan = _moved(head, turn @ affine, shape)
    return Head(scan.hu, scan.brain, affine)


def noisy(head: Head, sigma: float = 12.0) -> Head:
    noise = np.random.default_rng(0).normal(0, sigma, head.hu.shape)
    return Head(head.hu + noise.astype(np.float32), head.brain, head.affine)


def cut(head: Head, above_mm: float = 45.0) -> Head:
    top = int(np.linalg.inv(head.affine)[2, :] @ [0, 0, above_mm, 1])
    return Head(head.hu[..., :top], head.brain[..., :top], head.affine)


def padded(head: Head) -> Head:
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in head.hu.shape[:2]), indexing="ij")
    return Head(np.where((x**2 + y**2 > 1)[..., None], -3024, head.hu), head.brain, head.affine)


COPIES: dict[str, Callable[[Head], Head]] = {
    "as it is, 2 mm": lambda head: head,
    "5 mm slices": lambda head: seen(head, 5.0),
    "gantry tilted 20 degrees, 2.5 mm": lambda head: seen(head, 2.5, 20.0),
    "gantry tilted -20 degrees, 5 mm": lambda head: seen(head, 5.0, -20.0),
    "head nods 15 degrees, 2.5 mm": lambda head: seen(head, 2.5, 0.0, 15.0),
    "noise of 12 HU, 2.5 mm": lambda head: noisy(seen(head, 2.5)),
    "noise of 25 HU, 5 mm": lambda head: noisy(seen(head, 5.0), 25.0),
    "vertex cut at 45 mm": lambda head: cut(seen(head, 2.5)),
    "padding of -3024": lambda head: padded(seen(head, 2.5)),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(COPIES), default=list(COPIES))
    args = parser.parse_args()
    whole, stripped = read(args.template)
    print("| copy of the template | brain by | Dice | missed | overlap | fit | alignment | s |")
    print("|---|---|---|---|---|---|---|---|")
    copies = {"brain alone, 1 mm": stripped, **{name: COPIES[name](whole) for name in args.only}}
    for name, head in copies.items():
        print(row(name, head), flush=True)


def row(name: str, head: Head) -> str:
    """A copy's line of the table."""
    began = time.perf_counter()
    image = MetaTensor(torch.from_numpy(np.ascontiguousarray(head.hu))[None], affine=head.affine)
    mask, how = BrainMask("ct")(image)
    found = mask.numpy()[0]
    place = align(image, mask)
    seconds = time.perf_counter() - began
    dice = 2 * (found & head.brain).sum() / (found.sum() + head.brain.sum())
    missed = (head.brain & ~found).sum() / head.brain.sum()
    return (
        f"| {name} | {how} | {dice:.3f} | {missed:.1%} | {place.overlap:.3f} "
        f"| {place.correlation:.3f} | {'doubtful' if place.failed else 'good'} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
