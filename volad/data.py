"""Training data: manifests of healthy scans with subject-level splits, and windows of them.

A manifest is a CSV with the columns `subject, split, image, sha256` and any others: one row a
scan, the image's path relative to the data folder. It names no lesion mask. Of several channels,
each further one has a column of its own name, and may have one `NAME_sha256`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandFlip,
    RandGaussianNoise,
    RandSpatialCrop,
    SpatialPad,
)
from torch import Tensor

from volad.cache import fill_cache, read_cached
from volad.errors import InputError
from volad.io import Scan, input_sha256
from volad.tensors import plain

__all__ = ["Augment", "HealthySet", "Row", "random_patch", "read_split"]

#: How often a random window is drawn anew that holds no brain, which would teach nothing.
DRAWS = 10
COLUMNS = ("subject", "split", "image", "sha256")


@dataclass(frozen=True)
class Row:
    """One scan of a manifest.

    Attributes:
        subject: who was scanned; a subject is in one split only.
        split: `train`, `validation` or `test`.
        image: path of the file.
        sha256: of the file's bytes; may be empty.
        channels: name, path and sha256 of each further channel's file.
    """

    subject: str
    split: str
    image: Path
    sha256: str
    channels: tuple[tuple[str, Path, str], ...] = ()

    @property
    def scan(self) -> Scan:
        """The scan as `volad.io` reads it."""
        further = tuple((name, path) for name, path, _ in self.channels)
        name = self.image.name.split(".")[0]
        return Scan(self.image, name, channels=further, subject=self.subject)

    @property
    def input_sha256(self) -> str:
        """That of the scan (`volad.io.input_sha256`), by the manifest where that says it."""
        return input_sha256(self.scan) if self.channels or not self.sha256 else self.sha256


def read_manifest(
    path: Path | str, data_dir: Path | str, channels: Sequence[str] = ()
) -> list[Row]:
    """All rows, in order.

    Args:
        path: the manifest.
        data_dir: folder that its paths start at.
        channels: names of the channels, the first that of `image`.

    Raises:
        InputError: a column is missing, a subject is in two splits, or the file is unreadable.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            needed = (*COLUMNS, *channels[1:])
            missing = [c for c in needed if c not in (table.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: a training manifest needs the columns {needed}")
            lines = list(table)
            for number, line in enumerate(lines, start=2):
                if any(line[c] is None for c in needed):
                    raise InputError(f"{path}: line {number} ends before its image and sha256")
                empty = [c for c in channels[1:] if not line[c]]
                if empty:
                    raise InputError(f"{path}: line {number}: no channel {' and '.join(empty)}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV manifest ({error})") from error
    folder = Path(data_dir)
    rows = [
        Row(
            line["subject"],
            line["split"],
            folder / line["image"],
            line["sha256"],
            tuple((c, folder / line[c], line.get(f"{c}_sha256") or "") for c in channels[1:]),
        )
        for line in lines
    ]
    seen: dict[str, str] = {}
    for row in rows:
        if seen.setdefault(row.subject, row.split) != row.split:
            raise InputError(
                f"{path}: subject {row.subject} is in the splits {seen[row.subject]} and "
                f"{row.split}; put all scans of a subject into one"
            )
    return rows


def read_split(
    path: Path | str, data_dir: Path | str, split: str, channels: Sequence[str] = ()
) -> list[Row]:
    """The rows of one split, with every file present and, by its hash, the one that was meant.

    The arguments are those of `read_manifest`.
    """
    rows = [row for row in read_manifest(path, data_dir, channels) if row.split == split]
    if not rows:
        raise InputError(f"{path}: no scan in the split {split!r}")
    for row in rows:
        for file, sha256 in ((row.image, row.sha256), *(one[1:] for one in row.channels)):
            if not file.exists():
                raise InputError(
                    f"{file}: named in {path} but not there; give the folder of the data set "
                    "with --data-dir (data_manifests/README.md says how to obtain it)"
                )
            if sha256 and input_sha256(Scan(file, file.name)) != sha256:
                raise InputError(f"{file}: not the file that {path} means (sha256 differs)")
    return rows


class Augment:
    """Random but healthy variation of windows `(C, *S)`; what is not brain stays exactly 0.

    Args:
        flip: mirror left and right (axis 0) in half of the draws.
        rotate_deg: largest rotation about each axis.
        scale: largest relative change of size along each axis.
        shift: largest shift in voxels along each axis.
        gamma: range of the exponent of the intensities.
        noise: largest standard deviation of added noise.
    """

    def __init__(
        self,
        flip: bool = True,
        rotate_deg: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        gamma: Sequence[float] | None = None,
        noise: float = 0.0,
    ) -> None:
        place: list[Any] = [RandFlip(prob=0.5, spatial_axis=0)] if flip else []
        if rotate_deg or scale or shift:
            place.append(
                RandAffine(
                    prob=0.75,
                    rotate_range=[float(np.deg2rad(rotate_deg))] * 3,
                    scale_range=[scale] * 3,
                    translate_range=[shift] * 3,
                    padding_mode="zeros",
                )
            )
        look: list[Any] = []
        if gamma is not None:
            look.append(RandAdjustContrast(prob=0.5, gamma=tuple(gamma)))
        if noise:
            look.append(RandGaussianNoise(prob=0.5, std=noise))
        self.place, self.look = Compose(place), Compose(look)

    def seed(self, seed: int) -> None:
        """Start the random draws anew."""
        self.place.set_random_state(seed)
        self.look.set_random_state(seed + 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Vary one window `(C, *S)`."""
        brain = (x != 0).any(dim=0, keepdim=True)
        moved = plain(self.place(torch.cat([x, brain.to(x.dtype)])))
        inside = moved[-1:] > 0.5
        # Interpolation mixes air into the rim: divide by the share that is brain.
        y = torch.where(inside, moved[:-1] / moved[-1:].clamp(min=0.5), 0)
        return torch.where(inside, plain(self.look(y)).clamp(min=1e-3), 0)


class HealthySet:
    """Windows of preprocessed healthy scans.

    Each scan is preprocessed once, by the very transforms that inference uses, and kept in a cache
    folder under a name made from the file's hash and the transforms' settings. The last transform,
    the intensity scale, is quick and applied on loading, so that learning a scale costs nothing.

    Args:
        rows: the scans (`read_split`).
        preprocessing: a bundle's preprocessing.
        cache_dir: folder of preprocessed scans.
        settings: what the preprocessing was built from; part of the cache's names.
        roi: spatial shape of random patches, -1 for all of an axis; None: the whole volume.
        windows_per_scan: random patches of each scan in an epoch.
        augment: variation while training; None: none.
        workers: processes that preprocess; 0: in this one.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        preprocessing: Any,
        cache_dir: Path | str,
        *,
        settings: Any = None,
        roi: Sequence[int] | None = None,
        windows_per_scan: int = 1,
        augment: Augment | None = None,
        workers: int = 0,
    ) -> None:
        self.rows = list(rows)
        self.augment = augment
        self.windows_per_scan = windows_per_scan
        self.pad = SpatialPad(list(roi)) if roi is not None else None
        self.crop = RandSpatialCrop(list(roi), random_size=False) if roi is not None else None
        self._augmented = self._whole = False
        files = fill_cache(self.rows, preprocessing, Path(cache_dir), settings, workers)
        scale = preprocessing.transforms[-1]
        self.scans = [_scaled(file, scale) for file in files]

    def __len__(self) -> int:
        return len(self.scans) * (1 if self._whole else self.windows_per_scan)

    def set_epoch(self, seed: int, *, augment: bool, whole: bool = False) -> None:
        """Draw the coming epoch's random windows and augmentation from `seed`.

        With `whole`, the windows are the whole scans, each once.
        """
        self._augmented, self._whole = augment, whole
        if self.crop is not None:
            self.crop.set_random_state(seed)
        if self.augment is not None:
            self.augment.seed(seed)

    def __getitem__(self, index: int) -> Tensor:
        x = self.scans[index % len(self.scans)].float()
        if self.augment is not None and self._augmented:
            x = self.augment(x)
        return x if self._whole else self._window(x)

    def _window(self, x: Tensor) -> Tensor:
        if self.crop is None or self.pad is None:
            return x
        return random_patch(self.crop, self.pad(x))


def random_patch(crop: RandSpatialCrop, x: Tensor) -> Tensor:
    """A random patch of `x (C, *S)`, drawn anew up to `DRAWS` times until it holds brain."""
    for _ in range(DRAWS):
        window = plain(crop(x))
        if window.any():
            break
    return window


def _scaled(file: Path, scale: Any) -> Tensor:
    sample = scale(read_cached(file))
    # Half precision resolves the intensity scale to a thousandth, in half the memory.
    return plain(sample["image"]).half()
