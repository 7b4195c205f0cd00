"""What a healthy head consists of on the MNI152 grid, from its T1: kept, since it takes seconds.

Simulated scans (`volad.simulate_ct`, `volad.simulate_mr`) are made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from volad import distributed
from volad.cache import fill_cache, read_cached
from volad.data import Row
from volad.io import atomic
from volad.preprocess.steps import AlignToTemplate, CorrectBias, ExtractBrain, Load, RobustRange
from volad.synthetic.anatomy import study

__all__ = ["Map", "Tissues", "kept_tissues", "load", "prepared_t1", "tissues_of"]

Map = NDArray[np.float32]
#: Part of the files' names: goes up when what they hold changes.
LAYOUT = 1
#: Far enough from the ventricles for all that is asked of the distance.
FAR_MM = 25.0

#: The T1's way to the MNI152 grid, as a T1 bundle's config has it: the cache is named by it, so
#: that scans prepared for such a bundle serve here too.
_T1 = {
    "preprocessing": {
        "_target_": "monai.transforms.Compose",
        "transforms": [
            {"_target_": "volad.preprocess.steps.Load", "volume": "@volume"},
            {
                "_target_": "volad.preprocess.steps.ExtractBrain",
                "kind": "auto",
                "device": "$str(@device)",
            },
            {"_target_": "volad.preprocess.steps.AlignToTemplate"},
            {"_target_": "volad.preprocess.steps.CorrectBias"},
            {"_target_": "volad.preprocess.steps.RobustRange"},
        ],
    },
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "volume": None,
}


@dataclass(frozen=True, eq=False)
class Tissues:
    """A healthy head on an upright grid in MNI152's world; arrays `(X, Y, Z)`.

    Attributes:
        grey: share of grey matter in each voxel, 0 to 1.
        white: share of white matter.
        fluid: share of cerebrospinal fluid.
        brain: bool, what lies inside the skull.
        ventricle_mm: distance to the lateral and third ventricles, at most `FAR_MM`.
        affine: `(4, 4)`, voxel to MNI152 mm.
    """

    grey: Map
    white: Map
    fluid: Map
    brain: NDArray[np.bool_]
    ventricle_mm: Map
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """`(3,)` distance between voxels."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), np.float64)

    def world(self) -> tuple[Map, Map, Map]:
        """MNI152 x, y and z of every voxel, mm; shapes that broadcast."""
        axes = [
            self.affine[i, i] * np.arange(n, dtype=np.float32) + self.affine[i, 3]
            for i, n in enumerate(self.brain.shape)
        ]
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def tissues_of(image: MetaTensor, brain: MetaTensor) -> Tissues:
    """Part a T1, aligned to MNI152, into tissues (`volad.synthetic.anatomy.study`).

    Args:
        image: `(1, X, Y, Z)` on the MNI152 grid, without bias.
        brain: `(1, X, Y, Z)` bool, on the same grid.

    Raises:
        InputError: white and grey matter cannot be told apart in it.
    """
    found = study(image, brain, np.eye(4))
    inside = ndimage.binary_fill_holes(brain.numpy()[0] > 0)
    maps = []
    for part in (found.grey, found.white, found.fluid):
        whole = np.zeros(inside.shape, np.float32)
        whole[found.box] = part
        maps.append(whole)
    total = np.maximum(sum(maps), 1e-6)
    # What the fit left open inside the skull is fluid.
    grey, white, fluid = (np.where(total > 0.5, part / total, 0) for part in maps)
    fluid = np.where(inside & (total <= 0.5), 1, fluid)
    distance = np.full(inside.shape, FAR_MM, np.float32)
    distance[found.box] = np.minimum(found.ventricle_mm, FAR_MM)
    return Tissues(
        grey=np.asarray(grey * inside, np.float32),
        white=np.asarray(white * inside, np.float32),
        fluid=np.asarray(fluid * inside, np.float32),
        brain=np.asarray(inside, bool),
        ventricle_mm=distance,
        affine=np.asarray(image.affine, np.float64),
    )


def prepared_t1(rows: Sequence[Row], cache_dir: Path, workers: int = 0) -> list[Path]:
    """A file with each T1 on the MNI152 grid, without bias (`volad.cache.read_cached`)."""
    steps = Compose([Load(), ExtractBrain("auto"), AlignToTemplate(), CorrectBias(), RobustRange()])
    return fill_cache(rows, steps, cache_dir, _T1, workers)


def kept_tissues(rows: Sequence[Row], cache_dir: Path, workers: int = 0) -> list[Path]:
    """A file with the tissues of each T1, made where the cache lacks it (`load`)."""
    prepared = prepared_t1(rows, cache_dir, workers)
    files = [file.with_name(f"{file.stem}-tissues{LAYOUT}.npz") for file in prepared]
    mine = distributed.share(list(zip(prepared, files, strict=True)))
    todo = [(source, file) for source, file in mine if not file.exists()]
    for source, file in tqdm(todo, "tissues", unit="scan", disable=distributed.hide_bar()):
        sample = read_cached(source)
        _store(tissues_of(sample["image"], sample["brain"]), file)
    distributed.wait()
    return files


def load(file: Path) -> Tissues:
    """Read what `kept_tissues` wrote."""
    with np.load(file) as stored:
        shares: dict[str, Any] = {
            name: stored[name].astype(np.float32) / 255 for name in ("grey", "white", "fluid")
        }
        return Tissues(
            **shares,
            brain=stored["brain"],
            ventricle_mm=stored["ventricle_mm"].astype(np.float32) / 10,
            affine=stored["affine"],
        )


def _store(tissues: Tissues, file: Path) -> None:
    shares = {
        name: np.round(255 * getattr(tissues, name)).astype(np.uint8)
        for name in ("grey", "white", "fluid")
    }
    with atomic(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            **shares,
            brain=tissues.brain,
            ventricle_mm=np.round(10 * tissues.ventricle_mm).astype(np.uint8),
            affine=tissues.affine,
        )
