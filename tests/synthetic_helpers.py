"""A real healthy head that was studied once, and a flat ball of white matter to reckon with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad.io import Scan, Volume, read_mask, read_volume
from volad.preprocess.align import align
from volad.synthetic.anatomy import Anatomy, study

DATA = Path(__file__).parent / "data"
HEAD = DATA / "IXI646-HH-2653_T1.nii.gz"
#: What the ball's tissues look like: grey matter, white matter, fluid.
LEVELS = (800.0, 1000.0, 300.0)


@cache
def head() -> tuple[Volume, MetaTensor, NDArray[np.float64]]:
    """The scan, its brain mask, and its map to MNI152."""
    volume = read_volume(Scan(HEAD, "head"))
    mask = read_mask(DATA / "IXI646-HH-2653_brain.nii.gz", volume)
    brain = MetaTensor(torch.from_numpy(mask)[None], affine=volume.image.affine)
    return volume, brain, align(volume.image, brain).to_template


@cache
def studied() -> Anatomy:
    """The anatomy of `head`."""
    volume, brain, to_template = head()
    return study(volume.image, brain, to_template)


def ball(radius: int = 20, spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Anatomy:
    """A ball of white matter at the template's origin, without noise, fluid or bias."""
    size = 2 * radius + 9
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -(size // 2) * np.array(spacing_mm)
    away = np.meshgrid(*[np.arange(size) - size // 2] * 3, indexing="ij")
    brain = sum(axis**2 for axis in away) <= radius**2
    depth = ndimage.distance_transform_edt(brain, sampling=spacing_mm).astype(np.float32)
    none = np.zeros(brain.shape, np.float32)
    image = np.where(brain, np.float32(LEVELS[1]), 0).astype(np.float32)
    image[0, 0, 0] = 4000  # as fat outside the brain is: room for bright lesions
    return Anatomy(
        image=image,
        brain=brain,
        box=(slice(0, size),) * 3,
        to_template=affine,
        spacing_mm=np.array(spacing_mm),
        voxel_mm3=float(np.prod(spacing_mm)),
        volume_ratio=1.0,
        grey=none,
        white=brain.astype(np.float32),
        fluid=none,
        levels=LEVELS,
        gain=np.ones(brain.shape, np.float32),
        noise=0.0,
        depth_mm=depth,
        ventricle_mm=np.full(brain.shape, np.inf, np.float32),
    )
