"""Outlines of lesions: those of real strokes (`soop/`, licence beside it), and ellipsoids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Pose", "Shape", "ellipsoid", "library", "library_sha256", "shares"]

#: Samples a voxel's edge, at most, to find the share of it that a lesion fills.
FINEST = 4


@dataclass(frozen=True, eq=False)
class Shape:
    """The outline of a lesion.

    Attributes:
        name: where it is from.
        mask: `(X, Y, Z)` bool, axes R, A, S.
        spacing_mm: edge of its voxels.
        home_mm: `(3,)` its centre of mass in MNI152.
    """

    name: str
    mask: NDArray[np.bool_]
    spacing_mm: float
    home_mm: NDArray[np.float64]

    @property
    def mm3(self) -> float:
        """Its volume as it is."""
        return float(self.mask.sum()) * self.spacing_mm**3


@dataclass(frozen=True, eq=False)
class Pose:
    """A shape put into the template's space.

    Attributes:
        shape: the outline.
        centre_mm: `(3,)` where its centre of mass goes, MNI152 mm.
        linear: `(3, 3)` rotation, mirror and scale about it.
    """

    shape: Shape
    centre_mm: NDArray[np.float64]
    linear: NDArray[np.float64]

    def affine(self) -> NDArray[np.float64]:
        """`(4, 4)`, voxels of the shape to MNI152 mm."""
        middle = np.array(ndimage.center_of_mass(self.shape.mask))
        out = np.eye(4)
        out[:3, :3] = self.linear * self.shape.spacing_mm
        out[:3, 3] = self.centre_mm - out[:3, :3] @ middle
        return out


@lru_cache(maxsize=1)
def library() -> tuple[Shape, ...]:
    """The outlines of real strokes, by size, each one connected lesion in voxels of 1 mm."""
    with np.load(BytesIO(_packed())) as stored:
        bits, sizes, homes, names = (stored[k] for k in ("bits", "sizes", "homes_mm", "names"))
    shapes, start = [], 0
    for size, home, name in zip(sizes.astype(int), homes, names, strict=True):
        count = int(size.prod())
        end = start + (count + 7) // 8
        mask = np.unpackbits(bits[start:end], count=count).astype(bool).reshape(size)
        shapes.append(Shape(str(name), mask, 1.0, home.astype(np.float64)))
        start = end
    return tuple(sorted(shapes, key=lambda shape: (shape.mm3, shape.name)))


def library_sha256() -> str:
    """The hash of the library's file, for records."""
    return hashlib.sha256(_packed()).hexdigest()


def ellipsoid(name: str, radii_mm: NDArray[np.float64], spacing_mm: float = 0.5) -> Shape:
    """An ellipsoid with half axes `radii_mm (3,)`."""
    half = np.ceil(radii_mm / spacing_mm).astype(int)
    axes = [np.arange(-n, n + 1) * spacing_mm / r for n, r in zip(half, radii_mm, strict=True)]
    square = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    return Shape(name, np.asarray(square <= 1), spacing_mm, np.zeros(3))


def shares(
    pose: Pose, to_template: NDArray[np.float64], grid: tuple[int, ...], edge_mm: float
) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
    """How much of each voxel a lesion fills, 0 to 1, and in which part of the grid.

    Args:
        pose: the shape and where it goes.
        to_template: `(4, 4)`, voxels of the scan to MNI152 mm.
        grid: shape of the scan.
        edge_mm: standard deviation of the outline's own blur.
    """
    scale = float(abs(np.linalg.det(pose.linear)) ** (1 / 3))
    # Half a voxel at the least: the mask's staircase is its grid's, not the lesion's.
    sigma = max(edge_mm / (pose.shape.spacing_mm * scale), 0.5)
    pad = int(np.ceil(3 * sigma)) + 1
    soft: NDArray[np.float32] = ndimage.gaussian_filter(
        np.pad(pose.shape.mask, pad).astype(np.float32), sigma
    )
    affine = pose.affine()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(pad))
    to_shape = np.linalg.inv(affine) @ to_template  # voxels of the scan to voxels of `soft`
    box = _box(np.linalg.inv(to_shape).astype(np.float64), soft.shape, grid)
    extent = tuple(s.stop - s.start for s in box)
    if 0 in extent:
        return box, np.zeros(extent, np.float32)
    start = np.array([s.start for s in box], np.float64)
    finer = np.linalg.norm(to_shape[:3, :3], axis=0)
    counts = np.clip(np.ceil(finer), 1, FINEST).astype(int)
    total = np.zeros(extent, np.float32)
    for at in np.ndindex(*counts):
        shift = (np.array(at) + 0.5) / counts - 0.5
        offset = to_shape[:3, :3] @ (start + shift) + to_shape[:3, 3]
        total += ndimage.affine_transform(soft, to_shape[:3, :3], offset, extent, order=1)
    return box, np.clip(total / counts.prod(), 0, 1).astype(np.float32)


def _box(
    to_scan: NDArray[np.float64], size: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[slice, ...]:
    """The part of the scan's grid that the voxels of a shape can reach."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size])).reshape(3, -1)
    reached = to_scan[:3, :3] @ corners + to_scan[:3, 3:]
    low = np.clip(np.floor(reached.min(axis=1)) - 1, 0, grid).astype(int)
    high = np.clip(np.ceil(reached.max(axis=1)) + 2, low, grid).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


@lru_cache(maxsize=1)
def _packed() -> bytes:
    return (files("volad.synthetic") / "soop" / "shapes.npz").read_bytes()
