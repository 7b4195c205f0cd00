"""A head CT of thin slices at the skull's base and thick ones above, brought onto even slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["evened"]

#: Gaps that differ by less count as one.
ALIKE = 0.1
#: A part of a scan has at least so many gaps of one size; fewer are lost slices.
LEAST_GAPS = 3
#: A wider gap than any protocol's.
WIDEST_MM = 10.5

Pixels = NDArray[np.float32]
Positions = NDArray[np.float64]


def evened(
    pixels: Sequence[Pixels], positions: Positions, normal: NDArray[np.float64]
) -> tuple[list[Pixels], Positions, str] | None:
    """Interpolate between slices where a scan consists of parts with other distances.

    Args:
        pixels: `(X, Y)` of each slice, in order along `normal`.
        positions: `(N, 3)` mm, of the slices' first voxels.
        normal: `(3,)`, of length 1, across the slices.

    Returns:
        New slices at the finest distance there is, their positions, and a line for the user; None
        where the slices are even already, or uneven in a way that means lost ones.
    """
    heights = positions @ normal
    gaps = np.diff(heights)
    runs = _runs(gaps)
    if len(runs) < 2 or min(len(run) for run in runs) < LEAST_GAPS or gaps.max() > WIDEST_MM:
        return None
    steps = np.diff(positions, axis=0) / gaps[:, None]
    if np.abs(steps - steps[0]).max() > 0.01:  # the gantry's tilt changed on the way
        return None
    fine = min(float(np.median(run)) for run in runs)
    count = round((heights[-1] - heights[0]) / fine) + 1
    at = np.linspace(heights[0], heights[-1], count)
    below = np.clip(np.searchsorted(heights, at, side="right") - 1, 0, len(gaps) - 1)
    share = (at - heights[below]) / gaps[below]
    stack = [
        np.asarray((1 - s) * pixels[i] + s * pixels[i + 1], np.float32)
        for i, s in zip(below, share, strict=True)
    ]
    moved = positions[below] + share[:, None] * (positions[below + 1] - positions[below])
    distance = (heights[-1] - heights[0]) / (count - 1)
    warning = (
        f"slices lie {gaps.min():.3g} to {gaps.max():.3g} mm apart: read onto even ones every "
        f"{distance:.3g} mm, interpolated in between; results are on these"
    )
    return stack, moved, warning


def _runs(gaps: NDArray[np.float64]) -> list[list[float]]:
    """Neighbouring gaps that are alike, together."""
    runs: list[list[float]] = []
    for gap in gaps.tolist():
        if runs and abs(gap - runs[-1][0]) <= ALIKE * runs[-1][0]:
            runs[-1].append(gap)
        else:
            runs.append([gap])
    return runs
