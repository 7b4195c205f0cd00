"""Simulated MR on the MNI152 grid for training: another contrast in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandSpatialCrop
from torch import Tensor

from volad.ageing import aged
from volad.cache import read_cached
from volad.data import Row, random_patch
from volad.simulate_mr.contrast import draw_contrast
from volad.simulate_mr.head import brain_of_head, detail_of, image_of, moved, scanned
from volad.simulate_mr.iron import iron_of
from volad.simulate_mr.remnants import leave_in, remnants_of
from volad.tensors import plain
from volad.tissues import Map, Tissues, kept_tissues, load, prepared_t1

__all__ = ["SimulatedSet"]

#: What the darkest per cent of a brain is scaled to; the brightest is 1.
LOW = 0.1


class SimulatedSet:
    """Windows for `volad.train.Trainer`: simulated MRs of healthy T1 scans, whole or patches.

    A scan is drawn when it is first asked for, from the epoch's seed and its index: no two epochs
    show the same contrasts, and a training that goes on sees what it would have seen.

    Args:
        rows: healthy T1 scans (`volad.data.read_split`).
        preprocessing: a bundle's; its last step scales intensities to the model's.
        cache_dir: folder of prepared T1 scans and their tissues.
        roi: spatial shape of random patches that hold brain; None: whole volumes.
        windows_per_scan: patches of each simulated scan in an epoch of training.
        draws: simulated scans of each T1 in an epoch of training.
        real: share of the scans that stay the T1 that they are.
        remnants: share of the scans with sinuses and meninges that brain extraction left in.
        warp_mm: spread of a smooth warp, which makes other anatomies of the same heads.
        seed: of the draws outside training.
        flip: mirror left and right in half of an epoch's windows while learning.
        workers: processes that preprocess.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        preprocessing: Any,
        cache_dir: Path | str,
        *,
        roi: Sequence[int] | None = None,
        windows_per_scan: int = 1,
        draws: int = 1,
        real: float = 0.15,
        remnants: float = 0.0,
        warp_mm: float = 0.0,
        seed: int = 1,
        flip: bool = True,
        workers: int = 0,
    ) -> None:
        self.rows = list(rows)
        self.scale = preprocessing.transforms[-1]
        self.crop = RandSpatialCrop(list(roi), random_size=False) if roi is not None else None
        self.windows_per_scan = windows_per_scan if roi is not None else 1
        self.draws = draws
        self.real, self.seed, self.flip = real, seed, flip
        self.remnants, self.warp_mm = remnants, warp_mm
        self.tissues = kept_tissues(self.rows, Path(cache_dir), workers)
        self.scans = prepared_t1(self.rows, Path(cache_dir), workers)
        self._learning = self._whole = False
        self._epoch = seed
        self._drawn: dict[int, Tensor] = {}

    def __len__(self) -> int:
        once = self._whole or not self._learning
        return self._simulated * (1 if once else self.windows_per_scan)

    @property
    def _simulated(self) -> int:
        """Simulated scans in the epoch."""
        return len(self.rows) * (self.draws if self._learning else 1)

    def set_epoch(self, seed: int, *, augment: bool, whole: bool = False) -> None:
        """Draw the coming epoch's windows from `seed`; with `whole`, they are whole volumes."""
        if augment or self._learning:  # what is drawn outside training stays the same
            self._drawn.clear()
        self._learning, self._whole = augment, whole
        self._epoch = seed if augment else self.seed

    def __getitem__(self, index: int) -> Tensor:
        scan = index % self._simulated
        if scan not in self._drawn:
            # Half precision resolves the intensity scale to a thousandth, in half the memory.
            self._drawn[scan] = self._scan(scan).half()
        x = self._drawn[scan].float()
        return x if self.crop is None or self._whole else self._patch(self.crop, x, index)

    def _patch(self, crop: RandSpatialCrop, x: Tensor, index: int) -> Tensor:
        crop.set_random_state(int(np.random.default_rng((self._epoch, index, 1)).integers(2**31)))
        return random_patch(crop, x)

    def _scan(self, index: int) -> Tensor:
        random = np.random.default_rng((self._epoch, index))
        row = index % len(self.rows)
        tissues = load(self.tissues[row])
        t1 = read_cached(self.scans[row])["image"].numpy()[0]
        real = random.random() < self.real
        (image,), brain = draw(
            tissues, t1, random, real=real, remnants=self.remnants, warp_mm=self.warp_mm
        )
        affine = torch.from_numpy(tissues.affine)
        sample = self.scale(
            {
                "image": MetaTensor(torch.from_numpy(image)[None], affine=affine),
                "brain": MetaTensor(torch.from_numpy(brain)[None], affine=affine),
                "volume": None,
            }
        )
        x = _spread(plain(sample["image"]), random)
        return x.flip(1) if self._learning and self.flip and random.random() < 0.5 else x


def _spread(x: Tensor, random: np.random.Generator) -> Tensor:
    """A scaled scan `(1, X, Y, Z)` whose darkest and brightest per cent lie a little elsewhere.

    Real masks hold more or less of vessels and membranes, which are the darkest and the brightest.
    """
    low, high = random.uniform(0.06, 0.28), random.uniform(0.85, 1.1)
    return torch.where(x != 0, (low + (x - LOW) * (high - low) / (1 - LOW)).clamp(min=1e-3), 0)


def draw(
    tissues: Tissues,
    t1: Map,
    random: np.random.Generator,
    *,
    real: bool,
    kinds: Sequence[str | None] = (None,),
    remnants: float = 0.0,
    warp_mm: float = 0.0,
) -> tuple[list[Map], Any]:
    """MRs `(X, Y, Z)` of one brain, and their brain mask: simulated, or the T1 with new noise.

    Args:
        tissues: of the T1.
        t1: `(X, Y, Z)` the prepared T1, without bias.
        random: of all draws.
        real: keep the T1's contrast as it is, in one image.
        kinds: the contrast of each image, a name in `CONTRASTS`; None: any.
        remnants: how likely there are some.
        warp_mm: see `moved`.
    """
    images = [t1]
    if not real:
        detail = detail_of(tissues, t1)
        # Squares: most brains are not old.
        tissues = aged(tissues, 4 * random.random() ** 2, random.random() ** 2, random)
        iron = iron_of(tissues, random)
        contrasts = [draw_contrast(random, kind) for kind in kinds]
        images = [image_of(tissues, detail, iron, contrast, random) for contrast in contrasts]
    mask = brain_of_head(tissues, random).astype(np.float32)
    if remnants and random.random() < remnants:
        left = remnants_of(tissues, random)
        images = [leave_in(image, left, random) for image in images]
        mask = np.maximum(mask, np.maximum(*left))
    *images, mask = moved([*images, mask], float(tissues.spacing_mm[0]), random, warp_mm)
    brain = mask > 0.5
    return [scanned(image, brain, random) for image in images], brain
