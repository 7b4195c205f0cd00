"""What a scan is described by: the scan check's features, and its image in blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F
from tqdm import tqdm

from volad import bundle
from volad.cache import fill_cache, read_cached
from volad.data import Row
from volad.errors import InputError
from volad.io.guard import one_line
from volad.preprocess.steps import Sample
from volad.scan_check.measure import kind_of, quality_of
from volad.scan_check.words import FEATURES, Feature
from volad.screen.outliers import Features

__all__ = ["WORDS", "Described", "blocks_of", "describe", "features_of"]

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

#: Fewer scans cannot be told from an outlier among them.
ENOUGH = 10
#: Edge of a block in voxels: small against what goes wrong, large against how brains differ.
BLOCK = 4
#: What a scan's own fault raises; of the libraries only this one, as for an image ITK cannot align.
FAILURES = (InputError, RuntimeError)
HANDEDNESS = "handedness"
#: Of every feature: the scan check's, and one that takes a cohort.
WORDS = {
    **FEATURES,
    HANDEDNESS: Feature(
        "kind",
        "orientation",
        0.1,
        "left and right seem to be swapped",
        "its left and right differ oddly much as those of the others do",
    ),
}


@dataclass(frozen=True, eq=False)
class Described:
    """A scan as prepared for training.

    Attributes:
        features: the scan check's, NaN where not measurable.
        blocks: `(C, X, Y, Z)` mean of each block of the prepared image.
        affine: `(4, 4)` of the grid that the blocks are from.
    """

    features: Mapping[str, float]
    blocks: NDArray[np.float32]
    affine: Array


def describe(
    rows: Sequence[Row], root: Path, cache_dir: Path, workers: int = 0
) -> list[Described | str]:
    """Prepare every scan by a bundle's own steps, and measure it.

    Args:
        rows: the scans.
        root: folder of the bundle.
        cache_dir: prepared scans, as trainings of such bundles share them.
        workers: processes that prepare.

    Returns:
        Of each row what was measured, or why it cannot be prepared.

    Raises:
        InputError: there are fewer than `ENOUGH` scans, or fewer could be prepared.
    """
    _require(len(rows), rows, [])  # before an hour's work
    preprocessing = bundle.part(root, "preprocessing")
    recipe = bundle.settings(root, "preprocessing")
    scale = preprocessing.transforms[-1]
    found: list[Described | str] = []
    files = _files(rows, preprocessing, cache_dir, recipe, workers)
    for file in tqdm(files, "measure", len(rows), unit="scan", disable=None):
        if isinstance(file, str):
            found.append(file)
            continue
        try:
            found.append(_measured(scale(read_cached(file))))
        except InputError as error:
            found.append(one_line(error))
    errors = [one for one in found if isinstance(one, str)]
    _require(len(rows) - len(errors), rows, errors)
    return found


def _require(usable: int, rows: Sequence[Row], errors: Sequence[str]) -> None:
    if usable < ENOUGH:
        first = f" (first: {errors[0]})" if errors else ""
        raise InputError(
            f"{usable} of {len(rows)} scans can be screened, which compares them with each other "
            f"and takes {ENOUGH}{first}; name more with --manifest, or another --split"
        )


def _files(
    rows: Sequence[Row], preprocessing: Any, cache_dir: Path, recipe: Any, workers: int
) -> Iterator[Path | str]:
    """The file of each prepared scan, or why there is none."""
    try:
        yield from fill_cache(rows, preprocessing, cache_dir, recipe, workers)
        return
    except FAILURES as error:
        log.info("%s; going on scan by scan", one_line(error))
    for row in rows:
        try:
            yield fill_cache([row], preprocessing, cache_dir, recipe)[0]
        except FAILURES as error:
            yield one_line(error)


def _measured(sample: Sample) -> Described:
    image = sample["image"]
    return Described(
        kind_of(sample) | quality_of(sample),
        F.avg_pool3d(image.as_tensor().float(), BLOCK, ceil_mode=True).numpy(),
        np.asarray(image.affine, np.float64),
    )


def features_of(found: Sequence[Described]) -> Features:
    """The table of all features that every scan has."""
    names = [name for name in found[0].features if all(name in one.features for one in found)]
    values = np.array([[one.features[name] for name in names] for one in found], np.float64)
    blocks = blocks_of(found)
    if blocks is not None and "overlap" in names:  # aligned: left lies opposite right
        values = np.column_stack([values, _handedness(blocks)])
        names.append(HANDEDNESS)
    usable = np.isfinite(values).sum(axis=0) >= ENOUGH
    names = [name for name, use in zip(names, usable, strict=True) if use]
    tolerances = np.array([WORDS[name].tolerance for name in names])
    return Features(names, values[:, usable], tolerances)


def blocks_of(found: Sequence[Described]) -> Array | None:
    """`(N, C, X, Y, Z)`; None where the scans do not share one grid."""
    grids = {(one.blocks.shape, one.affine.round(3).tobytes()) for one in found}
    if len(grids) > 1:
        return None
    return np.stack([one.blocks for one in found]).astype(np.float64)


def _handedness(blocks: Array) -> Array:
    """Whether left and right differ in each scan as they do in most: `(N,)`, -1 to 1.

    By signs, as one lesion or odd gyrus must not outweigh the many small differences that all
    heads share. Swapped sides turn it negative.
    """
    uneven = (blocks - blocks[:, :, ::-1]).reshape(len(blocks), -1)
    typical = np.sign(np.median(uneven, axis=0))
    known = np.count_nonzero(typical)
    agreed = np.sign(uneven) @ typical
    return np.asarray(agreed / known if known else np.full(len(blocks), np.nan))
