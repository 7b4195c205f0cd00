"""The lesion table against geometry a person can solve, and the page as a document."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from volad.report.lesions import find_lesions, lesions_csv, summary_row

SPACED = np.diag([3.0, 2.0, 1.0, 1.0])


def two_lesions() -> tuple[np.ndarray, np.ndarray]:
    """A bar of three voxels along i, and two voxels that touch only at a corner."""
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[1:4, 2, 3] = True
    mask[6, 6, 6] = mask[7, 7, 7] = True
    score = np.zeros(mask.shape, dtype=np.float32)
    score[1:4, 2, 3] = [1, 2, 6]
    score[6, 6, 6], score[7, 7, 7] = 8, 4
    return mask, score


def test_two_lesions_measured_by_hand() -> None:
    bar, pair = find_lesions(*two_lesions(), SPACED)
    assert (bar.index, bar.voxels, bar.volume_mm3) == (1, 3, 18.0)
    assert bar.centroid_voxel == (2.0, 2.0, 3.0)
    assert bar.centroid_mm == (6.0, 4.0, 3.0)
    assert (bar.max_score, bar.mean_score) == (6.0, 3.0)
    assert (pair.index, pair.voxels, pair.volume_mm3) == (2, 2, 12.0)
    assert pair.centroid_voxel == (6.5, 6.5, 6.5)
    assert pair.centroid_mm == (19.5, 13.0, 6.5)
    assert (pair.max_score, pair.mean_score) == (8.0, 6.0)


def test_flipped_and_swapped_axes_move_the_world_not_the_volume() -> None:
    # i runs to the left, j downwards, k to the front: x = 90 - 3 i, y = k - 50, z = 70 - 2 j.
    affine = np.array([[-3, 0, 0, 90], [0, 0, 1, -50], [0, -2, 0, 70], [0, 0, 0, 1]], dtype=float)
    bar, _ = find_lesions(*two_lesions(), affine)
    assert bar.centroid_mm == (84.0, -47.0, 66.0)
    assert bar.volume_mm3 == pytest.approx(18)


def test_oblique_affine() -> None:
    # Thirty degrees about z, then 5 mm to the right.
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[cos, -sin, 0, 5], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    bar, _ = find_lesions(*two_lesions(), turn @ SPACED)
    assert bar.centroid_mm == pytest.approx((6 * cos - 4 * sin + 5, 6 * sin + 4 * cos, 3))
    assert bar.volume_mm3 == pytest.approx(18)


def test_ties_are_ordered_by_peak_then_position() -> None:
    mask = np.zeros((9, 3, 3), dtype=bool)
    mask[[0, 4, 8], 1, 1] = True
    score = np.zeros(mask.shape, dtype=np.float32)
    score[[0, 4, 8], 1, 1] = [1, 1, 2]
    lesions = find_lesions(mask, score, np.eye(4))
    assert [lesion.centroid_voxel[0] for lesion in lesions] == [8, 0, 4]


def test_no_lesions() -> None:
    empty = np.zeros((4, 4, 4), dtype=bool)
    lesions = find_lesions(empty, np.zeros(empty.shape, dtype=np.float32), np.eye(4))
    assert lesions == []
    header = "lesion,volume_mm3,voxels,x_mm,y_mm,z_mm,i,j,k,max_score,mean_score\n"
    assert lesions_csv(lesions) == header
    assert summary_row("a", lesions, 0) == {
        "Name": "a",
        "Num_Lesions": 0,
        "Num_Vox": 0,
        "Lesion_Volume": 0,
    }


def test_shapes_that_differ_are_refused() -> None:
    mask, score = two_lesions()
    with pytest.raises(ValueError, match="share one 3D shape"):
        find_lesions(mask, score[:1], np.eye(4))


def test_csv_and_summary_agree_with_the_lesions() -> None:
    mask, score = two_lesions()
    lesions = find_lesions(mask, score, SPACED)
    rows = list(csv.DictReader(io.StringIO(lesions_csv(lesions))))
    assert [row["volume_mm3"] for row in rows] == ["18.00", "12.00"]
    assert [rows[1][key] for key in ("x_mm", "y_mm", "z_mm", "i")] == [
        "19.50",
        "13.00",
        "6.50",
        "6.50",
    ]
    assert summary_row("a", lesions, int(mask.sum()))["Lesion_Volume"] == 30.0
    with pytest.raises(ValueError, match="belong together"):
        summary_row("a", lesions, 4)
