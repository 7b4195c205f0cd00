"""Simulated CT on the MNI152 grid for training: new patients and scanners for every healthy T1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm import tqdm

from volad import distributed
from volad.data import Row
from volad.preprocess.align import load_template
from volad.simulate_ct.head import head_of
from volad.simulate_ct.look import draw_look
from volad.simulate_ct.scanner import artefacts, blurred, noise_like
from volad.tensors import plain
from volad.tissues import Map, Tissues, kept_tissues, load

__all__ = ["SimulatedSet", "on_grid"]

#: An extraction ends where bone begins (`volad.preprocess.brain_ct`), near the brain's surface.
BONE_HU, EDGE_MM = 100.0, 4.0
#: Centres and radii, MNI152 mm: about the sella, and above the orbits.
BASE_MM = (((0, -4, -34), (18, 16, 12)), ((0, 50, -26), (12, 8, 7)))


def on_grid(tissues: Tissues, random: np.random.Generator) -> tuple[Map, NDArray[np.bool_]]:
    """One CT of a head on the tissues' own grid, `(X, Y, Z)` in HU, and a brain mask as found.

    The head is a little out of place and the mask a little off, as after extraction and alignment.
    """
    look = draw_look(random)
    tissues = _with_base(tissues, random)
    head = head_of(tissues, look, random)
    spacing = tissues.spacing_mm
    _, y, z = tissues.world()
    hu = blurred(head.hu, look, spacing, look.slice_mm)
    hu += artefacts(head, z, y, look, random)
    noise = look.noise * (1 if look.slice_mm >= 4 else np.sqrt(4 / look.slice_mm) ** 0.5)
    matrix, offset = _jitter(tissues, random)
    hu = ndimage.affine_transform(hu, matrix, offset, order=1, mode="nearest")
    outside = ndimage.affine_transform(head.outside_mm, matrix, offset, order=1, mode="nearest")
    hu += noise_like(hu.shape, spacing, look, look.slice_mm, noise, random)
    brain = _found_mask(outside - look.gap_mm, spacing, random)
    bone = (hu > BONE_HU) & (outside > look.gap_mm - EDGE_MM)
    return np.asarray(hu, np.float32), brain & ~bone & _inside_template(tissues)


def _inside_template(tissues: Tissues) -> NDArray[np.bool_]:
    """What `volad.preprocess.ct.InsideTemplate` leaves of a head in MNI152's place."""
    template = load_template()
    there = np.linalg.inv(template.affine) @ tissues.affine
    brain = (template.t1 > 0).astype(np.uint8)
    shape = tissues.brain.shape
    found = ndimage.affine_transform(brain, there[:3, :3], there[:3, 3], shape, order=0)
    return np.asarray(found > 0, bool)


def _with_base(tissues: Tissues, random: np.random.Generator) -> Tissues:
    """In half of the draws, with soft tissue about the sella and the orbits' roof as brain.

    By Hounsfield units nothing parts it from the brain, so an extraction takes it along.
    """
    if random.random() < 0.5:
        return tissues
    x, y, z = tissues.world()
    extra = np.zeros(tissues.brain.shape, bool)
    for centre, radii in BASE_MM:
        middle = np.array(centre) + random.normal(0, 2, 3)
        size = np.array(radii) * random.uniform(0.6, 1.2, 3)
        parts = zip((x, y, z), middle, size, strict=True)
        extra |= np.asarray(sum(((a - c) / r) ** 2 for a, c, r in parts) < 1)
    extra &= ~tissues.brain
    dense = np.where(extra, np.float32(random.uniform(0.8, 1.6)), 0)
    return replace(tissues, grey=tissues.grey + dense, brain=tissues.brain | extra)


def _jitter(
    tissues: Tissues, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far an alignment is off, about the grid's middle: voxels to voxels."""
    turn = Rotation.from_euler("xyz", random.normal(0, 1.2, 3), degrees=True).as_matrix()
    matrix = turn * (1 + random.normal(0, 0.015, 3))
    middle = (np.array(tissues.brain.shape) - 1) / 2
    shift = random.normal(0, 1.2, 3) / tissues.spacing_mm
    return matrix, middle - matrix @ middle + shift


def _found_mask(
    beyond: NDArray[np.floating[Any]], spacing_mm: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.bool_]:
    """The mask that an extraction finds, which ends near the bone, `beyond` 0 mm."""
    rough = ndimage.gaussian_filter(random.standard_normal(beyond.shape), 5.0 / spacing_mm)
    rough *= random.uniform(0.2, 1.2) / max(float(rough.std()), 1e-6)
    return np.asarray(beyond + rough < random.uniform(-2.5, 1.0), bool)


class SimulatedSet:
    """Windows for `volad.train.Trainer`: whole simulated CTs of healthy T1 scans.

    Every T1 gives `draws` CTs, each of another patient's age, densities and scanner. They are drawn
    from the seed and the T1's place in the list alone, so a training that goes on sees the same.

    Args:
        rows: healthy T1 scans with skull (`volad.data.read_split`).
        preprocessing: a CT bundle's; its last step scales Hounsfield units to the model's.
        cache_dir: folder of prepared T1 scans and their tissues.
        draws: CTs a T1. While learning, an epoch shows one of them; else, all are shown.
        seed: of all draws.
        flip: mirror left and right in half of an epoch's windows while learning.
        workers: processes that preprocess.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        preprocessing: Any,
        cache_dir: Path | str,
        *,
        draws: int = 3,
        seed: int = 0,
        flip: bool = True,
        workers: int = 0,
    ) -> None:
        self.rows = list(rows)
        self.draws, self.flip = draws, flip
        self.scale = preprocessing.transforms[-1]
        files = kept_tissues(self.rows, Path(cache_dir), workers)
        self.scans: list[list[Tensor]] = []
        for index, file in enumerate(
            tqdm(files, "simulate", unit="scan", disable=distributed.hide_bar())
        ):
            tissues = load(file)
            self.scans.append([self._window(tissues, (seed, index, draw)) for draw in range(draws)])
        self._learning, self._random = False, np.random.default_rng(0)

    def _window(self, tissues: Tissues, seed: tuple[int, ...]) -> Tensor:
        hu, brain = on_grid(tissues, np.random.default_rng(seed))
        affine = torch.from_numpy(tissues.affine)
        sample = self.scale(
            {
                "image": MetaTensor(torch.from_numpy(hu)[None], affine=affine),
                "brain": MetaTensor(torch.from_numpy(brain)[None], affine=affine),
                "volume": None,
            }
        )
        # Half precision resolves the intensity scale to a thousandth, in half the memory.
        return plain(sample["image"]).half()

    def __len__(self) -> int:
        return len(self.scans) * (1 if self._learning else self.draws)

    def set_epoch(self, seed: int, *, augment: bool, whole: bool = False) -> None:
        """Choose the coming epoch's draws and mirror images from `seed`; windows are whole."""
        self._learning = augment
        self._random = np.random.default_rng(seed)
        self._chosen = self._random.integers(self.draws, size=len(self.scans))
        self._mirrored = self._random.random(len(self.scans)) < (0.5 if self.flip else 0.0)

    def __getitem__(self, index: int) -> Tensor:
        if not self._learning:
            return self.scans[index // self.draws][index % self.draws].float()
        x = self.scans[index][int(self._chosen[index])].float()
        return x.flip(1) if self._mirrored[index] else x
