"""Simulated CT as files of whole heads, as a scanner gives them: to calibrate and to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from volad import distributed
from volad.data import Row
from volad.io import SIMULATED, input_sha256, write_new, write_text
from volad.io.table import csv_text
from volad.simulate_ct.head import AIR, head_of
from volad.simulate_ct.look import Look, draw_look
from volad.simulate_ct.scanner import artefacts, blurred, noise_like
from volad.tissues import FAR_MM, Map, Tissues, kept_tissues, load

__all__ = ["NOTE", "scan_of", "write_scans"]

#: The header's `descrip` of every simulated CT.
NOTE = f"{SIMULATED} CT, no patient's scan"
#: Room around the MNI152 grid for skull, scalp and head holder, voxels of 2 mm.
ROOM = 14
PIXEL_MM = 1.0
PADDING = -3024.0


def scan_of(
    tissues: Tissues, random: np.random.Generator, look: Look | None = None
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """One whole-head CT, `(X, Y, Z)` in HU, and its `(4, 4)` affine, voxel to RAS mm.

    The head lies turned and nodding in a holder, the gantry may be tilted, the circle of
    reconstruction may be padded.
    """
    look = look or draw_look(random)
    wide = _with_room(tissues)
    head = head_of(wide, look, random)
    _, y, z = wide.world()
    hu = blurred(_with_holder(head.hu, head.outside_mm, y, look), look, wide.spacing_mm, 0.0)
    hu += artefacts(head, z, y, look, random) * (head.outside_mm < 3)
    affine, shape = _grid(look, random)
    to_head = np.linalg.inv(wide.affine) @ _pose(random) @ affine
    thick = _along_slices(hu, look)
    scan = ndimage.affine_transform(
        thick, to_head[:3, :3], to_head[:3, 3], shape, order=1, cval=AIR
    )
    spacing = np.array([PIXEL_MM, PIXEL_MM, look.slice_mm])
    # As much noise as leaves the look's in a voxel of 2 mm.
    sigma = look.noise * np.sqrt(8 / spacing.prod()) * 1.2
    scan += noise_like(shape, spacing, look, look.slice_mm, sigma, random)
    if random.random() < 0.4:
        scan[_outside_circle(shape)] = PADDING
    return np.round(scan).astype(np.int16), affine


def write_scans(
    rows: Sequence[Row], folder: Path, cache_dir: Path, *, seed: int = 1, workers: int = 0
) -> Path:
    """Simulate a CT of each healthy T1, and write it and a manifest; what is there is kept.

    Args:
        rows: the T1 scans.
        folder: where `images/SUBJECT_simulated_ct.nii.gz` and `manifest.csv` go.
        cache_dir: folder of prepared T1 scans and their tissues.
        seed: of all draws.
        workers: processes that preprocess.

    Returns:
        The path of the manifest: subject, split, image, sha256, and that each is simulated.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    files = kept_tissues(rows, cache_dir, workers)
    jobs = list(zip(rows, files, strict=True))
    for index, (row, file) in enumerate(
        tqdm(jobs, "simulate", unit="scan", disable=distributed.hide_bar())
    ):
        image = f"images/{row.scan.name}_simulated_ct.nii.gz"
        if not (folder / image).exists():
            hu, affine = scan_of(load(file), np.random.default_rng((seed, index)))
            write_new(folder / image, hu, affine, NOTE)
        made = replace(row, image=folder / image, sha256="")
        facts = {"subject": row.subject, "split": row.split, "image": image}
        lines.append({**facts, "sha256": input_sha256(made.scan), "simulated": "yes"})
    write_text(folder / "manifest.csv", csv_text(list(lines[0]), lines))
    return folder / "manifest.csv"


def _with_room(tissues: Tissues) -> Tissues:
    affine = tissues.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(ROOM))
    return Tissues(
        grey=np.pad(tissues.grey, ROOM),
        white=np.pad(tissues.white, ROOM),
        fluid=np.pad(tissues.fluid, ROOM),
        brain=np.pad(tissues.brain, ROOM),
        ventricle_mm=np.pad(tissues.ventricle_mm, ROOM, constant_values=FAR_MM),
        affine=affine,
    )


def _with_holder(hu: Map, outside_mm: Map, y_mm: Map, look: Look) -> Map:
    """A trough of plastic behind the head."""
    skin_mm = look.skull_mm + look.scalp_mm
    trough = (outside_mm > skin_mm + 6) & (outside_mm < skin_mm + 9) & (y_mm < -30)
    return np.where(trough & (hu < -500), np.float32(90), hu)


def _along_slices(hu: Map, look: Look) -> Map:
    sigma = look.slice_mm / np.sqrt(12.0) / 2.0
    return np.asarray(ndimage.gaussian_filter1d(hu, sigma, axis=2, truncate=3), np.float32)


def _pose(random: np.random.Generator) -> NDArray[np.float64]:
    """From the scanner's world to MNI152's: real heads are smaller, and lie turned."""
    turn = Rotation.from_euler("xyz", random.normal(0, (8, 3, 3)), degrees=True).as_matrix()
    out = np.eye(4)
    out[:3, :3] = turn * random.normal(1.09, 0.03, 3)
    out[:3, 3] = random.normal(0, 4, 3)
    return out


def _grid(look: Look, random: np.random.Generator) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    tilt = np.deg2rad(random.uniform(-20, 20)) if random.random() < 0.5 else 0.0
    shape = (200, 230, int(np.ceil(190 / look.slice_mm)))
    affine = np.diag([PIXEL_MM, PIXEL_MM, look.slice_mm, 1.0])
    affine[1, 2] = np.tan(tilt) * look.slice_mm
    affine[:3, 3] = np.array([0.0, -18.0, 5.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def _outside_circle(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    return np.asarray(x**2 + y**2 > 1)
