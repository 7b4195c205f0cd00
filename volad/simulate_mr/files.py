"""Simulated MR as files of brains without skull, as data sets have them: to calibrate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from volad import distributed
from volad.cache import read_cached
from volad.data import Row
from volad.io import SIMULATED, input_sha256, note_of, write_new, write_text
from volad.io.table import csv_text
from volad.simulate_mr.windows import draw
from volad.tissues import Map, Tissues, kept_tissues, load, prepared_t1

__all__ = ["KINDS", "NOTE", "Heads", "write_scans"]

#: Part of the header's note: goes up when simulated scans come out otherwise.
LAYOUT = 2
#: The header's `descrip` of every simulated MR.
NOTE = f"{SIMULATED} MR, no patient's scan (simulation {LAYOUT})"
#: What the scans become, in turn; `any` is of no scanner, so no promise is made for it.
KINDS = ("flair", "t2", "t1", "pd")
#: The one that a scan is already.
REAL = "t1"
#: What becomes of a head: a scan of one of the kinds, in turn; a scan of each; one scan of which
#: they are the channels.
Heads = Literal["in turn", "each", "channels"]


def write_scans(
    rows: Sequence[Row],
    folder: Path,
    cache_dir: Path,
    *,
    kinds: Sequence[str] = KINDS,
    heads: Heads = "in turn",
    seed: int = 1,
    workers: int = 0,
) -> Path:
    """Simulate MRs of healthy T1 scans, and write them and a manifest.

    What this version of the simulation has written there before is kept.

    Args:
        rows: the T1 scans.
        folder: where `images/NAME_simulated_KIND.nii.gz` and `manifest.csv` go.
        cache_dir: folder of prepared T1 scans and their tissues.
        kinds: names in `CONTRASTS`.
        heads: `in turn`: each head becomes a scan of one of `kinds`. `each`: scans of all of them,
            for thresholds of single contrasts. In both those of kind `t1` stay as they are, so that
            a threshold set on them is one for real T1, too. `channels`: one scan, of which they are
            the channels, simulated T1 among them.
        seed: of all draws.
        workers: processes that preprocess.

    Returns:
        The path of the manifest: subject, split, image, sha256, contrast, whether simulated, and
        the further channels' columns.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    jobs = zip(
        rows,
        kept_tissues(rows, cache_dir, workers),
        prepared_t1(rows, cache_dir, workers),
        strict=True,
    )
    lines = []
    bar = tqdm(jobs, "simulate", len(rows), unit="scan", disable=distributed.hide_bar())
    for index, (row, tissues, t1) in enumerate(bar):
        alone = kinds if heads == "each" else [kinds[index % len(kinds)]]
        for mine in [kinds] if heads == "channels" else [[kind] for kind in alone]:
            if heads != "channels" and mine[0] == REAL:
                lines.append(_line(row, str(row.image.resolve()), row, REAL, "no"))
                continue
            images = [f"images/{row.scan.name}_simulated_{kind}.nii.gz" for kind in mine]
            if not all(_is_current(folder / image) for image in images):
                random = np.random.default_rng((seed, index))
                prepared = read_cached(t1)["image"].numpy()[0]
                _write(folder, images, load(tissues), prepared, mine, random)
            made = replace(row, image=folder / images[0], sha256="")
            line = _line(row, images[0], made, "+".join(mine), "yes")
            lines.append(line | dict(zip(mine[1:], images[1:], strict=True)))
    write_text(folder / "manifest.csv", csv_text(list(lines[0]), lines))
    return folder / "manifest.csv"


def _is_current(path: Path) -> bool:
    """Whether this version of the simulation has written the file."""
    return path.exists() and note_of(path) == NOTE


def _write(
    folder: Path,
    images: Sequence[str],
    tissues: Tissues,
    t1: Map,
    kinds: Sequence[str],
    random: np.random.Generator,
) -> None:
    values, _ = draw(tissues, t1, random, real=False, kinds=kinds)
    posed, affine = _posed(values, tissues.affine, random)
    for image, volume in zip(images, posed, strict=True):
        write_new(folder / image, volume, affine, NOTE)


def _line(row: Row, image: str, made: Row, contrast: str, simulated: str) -> dict[str, str]:
    facts = {"subject": row.subject, "split": row.split, "image": image}
    facts |= {"sha256": input_sha256(made.scan), "contrast": contrast}
    return {**facts, "simulated": simulated}


def _posed(
    images: Sequence[Map], affine: NDArray[np.float64], random: np.random.Generator
) -> tuple[list[NDArray[np.int16]], NDArray[np.float64]]:
    """A brain as it lies in a scanner, on a grid of its own: its images and affine to RAS mm."""
    turn = Rotation.from_euler("xyz", random.normal(0, 3, 3), degrees=True).as_matrix()
    pose = np.eye(4)
    pose[:3, :3] = turn * random.normal(1.09, 0.03, 3)  # real heads are smaller than MNI152's
    pose[:3, 3] = random.normal(0, 3, 3)
    spacing = np.array([1.5, 1.5, random.uniform(1.5, 3.5)])
    size = np.array(images[0].shape)
    extent = size * np.linalg.norm(affine[:3, :3], axis=0)
    shape = tuple(int(n) for n in np.ceil(extent / spacing))
    grid = np.diag([*spacing, 1.0])
    middle = affine[:3, :3] @ ((size - 1) / 2) + affine[:3, 3]
    grid[:3, 3] = middle - spacing * (np.array(shape) - 1) / 2
    to_image = np.linalg.inv(affine) @ pose @ grid
    matrix, offset = to_image[:3, :3], to_image[:3, 3]
    moved = [ndimage.affine_transform(one, matrix, offset, shape, order=1) for one in images]
    return [np.round(1000 * one).astype(np.int16) for one in moved], grid
