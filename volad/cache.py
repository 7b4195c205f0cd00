"""Preprocessed scans on disk, so that each is prepared once for all trainings."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from tqdm import tqdm

from volad import __version__, distributed
from volad.errors import worker_died
from volad.io import atomic

if TYPE_CHECKING:
    from volad.data import Row

__all__ = ["fill_cache", "read_cached"]

#: Part of the files' names: goes up when what they hold changes.
LAYOUT = 2


def fill_cache(
    rows: Sequence[Row], preprocessing: Any, cache_dir: Path, settings: Any, workers: int = 0
) -> list[Path]:
    """Preprocess what the cache lacks, up to the intensity scale.

    Args:
        rows: the scans.
        preprocessing: a bundle's preprocessing; its last transform is left out.
        cache_dir: the cache.
        settings: what the preprocessing was built from (`volad.bundle.settings`).
        workers: processes; 0: this one.

    Returns:
        One `.npz` a row with `image (C, *grid)` float32, `brain (1, *grid)` bool, `affine (4, 4)`,
        and `facts`, what the steps measured, as JSON.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    made_by = {"volad": __version__, "layout": LAYOUT, "settings": _before_scale(settings)}
    recipe = json.dumps(made_by, sort_keys=True, default=str).encode()
    hashes = [row.input_sha256 for row in rows]
    names = [hashlib.sha256(sha256.encode() + recipe).hexdigest()[:24] for sha256 in hashes]
    files = [cache_dir / f"{name}.npz" for name in names]
    mine = distributed.share(list(zip(rows, files, strict=True)))
    todo = [(row, file) for row, file in mine if not file.exists()]
    steps = preprocessing.transforms[:-1]
    with tqdm(
        total=len(todo), desc="preprocess", unit="scan", disable=distributed.hide_bar()
    ) as bar:
        for _ in _each(todo, steps, workers):
            bar.update()
    distributed.wait()
    return files


def _each(todo: Sequence[tuple[Row, Path]], steps: Sequence[Any], workers: int) -> Iterator[None]:
    if workers < 1:
        for row, file in todo:
            _preprocess(steps, row, file)
            yield
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = [(row, pool.submit(_preprocess, steps, row, file)) for row, file in todo]
        for row, job in jobs:
            try:
                job.result()
            except BrokenProcessPool as error:
                raise worker_died(row.image) from error
            yield


def _before_scale(settings: Any) -> Any:
    """A preprocessing's settings without those of its last transform."""
    if settings is None:
        return None
    stored = copy.deepcopy(settings)
    stored["preprocessing"]["transforms"] = stored["preprocessing"]["transforms"][:-1]
    return stored


def read_cached(file: Path) -> dict[str, Any]:
    """A sample as it was before the intensity scale, from a file of `fill_cache`."""
    with np.load(file) as stored:
        affine = torch.from_numpy(stored["affine"])
        return {
            "image": MetaTensor(torch.from_numpy(stored["image"]), affine=affine),
            "brain": MetaTensor(torch.from_numpy(stored["brain"]), affine=affine),
            "facts": json.loads(str(stored["facts"])),
            "volume": None,
        }


def _preprocess(steps: Sequence[Any], row: Row, file: Path) -> None:
    sample: Any = {"image": row.scan}
    for step in steps:
        sample = step(sample)
    with atomic(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            image=sample["image"].numpy(),
            brain=sample["brain"].numpy(),
            affine=np.asarray(sample["image"].affine, np.float64),
            facts=json.dumps(sample.get("facts", {})),
        )
