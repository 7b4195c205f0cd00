"""Surface distances by hand and against MONAI."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.utils import get_mask_edges
from scipy import ndimage
from scipy.spatial import distance

from volad.metrics.surface import SurfaceScores, surface_distances

SHAPE = (20, 20, 20)


def voxels(*places: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    a, b = ndimage.gaussian_filter(random.normal(size=(2, *SHAPE)), (0, 2, 2, 2))
    return a > 0.08, a + b / 2 > 0.08


def test_two_voxels_two_apart() -> None:
    """A voxel's surface is eight equal pieces at its corners.

    Along the axis of 1 mm they lie at ±0.5 of one voxel and at 1.5 and 2.5 mm of the other, so half
    of each surface is 1 mm and half 2 mm from the other.
    """
    found = surface_distances(voxels((5, 6, 7)), voxels((5, 6, 9)), (3, 2, 1), tolerance_mm=1)
    assert found == SurfaceScores(hd95_mm=2, assd_mm=1.5, nsd=0.5)


@pytest.mark.parametrize(("axis", "mm"), [(0, 3.0), (1, 2.0), (2, 1.0)])
def test_distances_are_in_mm_along_each_axis(axis: int, mm: float) -> None:
    """Two voxels one apart share a face: half of each surface is at 0, half one voxel away."""
    other = [5, 6, 7]
    other[axis] += 1
    found = surface_distances(
        voxels((5, 6, 7)), voxels((other[0], other[1], other[2])), (3, 2, 1), tolerance_mm=mm / 2
    )
    assert found == SurfaceScores(hd95_mm=mm, assd_mm=mm / 2, nsd=0.5)


def test_a_tolerance_reaches_to_its_end() -> None:
    a, b = voxels((5, 6, 7)), voxels((5, 6, 8))
    assert surface_distances(a, b, (3, 2, 1), tolerance_mm=1.0).nsd == 1
    assert surface_distances(a, b, (3, 2, 1), tolerance_mm=0.999).nsd == 0.5
    assert surface_distances(a, b, (3, 2, 1), tolerance_mm=0).nsd == 0.5


def test_equal_masks_agree() -> None:
    mask = blobs(0)[0]
    assert surface_distances(mask, mask, (0.5, 0.9, 5), 0) == SurfaceScores(0, 0, 1)


def monai_nsd(
    mask: np.ndarray, lesion: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> float:
    a, b = (torch.from_numpy(one)[None, None] for one in (mask, lesion))
    options = {"include_background": True, "spacing": [float(mm) for mm in spacing]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(compute_surface_dice(a, b, [tolerance], use_subvoxels=True, **options))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 2, 1), (0.5, 0.9, 5.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_nsd_is_monais(seed: int, spacing: tuple[float, ...]) -> None:
    mask, lesion = blobs(seed)
    for tolerance in (0.0, 1.0, 2.0):
        found = surface_distances(mask, lesion, spacing, tolerance).nsd
        assert found == pytest.approx(monai_nsd(mask, lesion, spacing, tolerance), abs=1e-6)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.9, 5.0)])
def test_distances_are_those_of_every_pair_of_pieces_weighed_by_area(
    spacing: tuple[float, ...],
) -> None:
    mask, lesion = blobs(0)
    (near, area), (near_expert, area_expert) = brute_force(mask, lesion, spacing)
    found = surface_distances(mask, lesion, spacing, 1)
    whole = (near @ area + near_expert @ area_expert) / (area.sum() + area_expert.sum())
    assert found.assd_mm == pytest.approx(whole)
    assert found.hd95_mm == pytest.approx(
        max(
            min(d for d in np.unique(n) if a[n <= d].sum() >= 0.95 * a.sum())
            for n, a in ((near, area), (near_expert, area_expert))
        )
    )


def brute_force(
    mask: np.ndarray, lesion: np.ndarray, spacing: tuple[float, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each surface, the distance of each of its pieces to the other, and the piece's area."""
    a, b = (torch.from_numpy(np.pad(one, 1)) for one in (mask, lesion))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        *edges, area, area_expert = get_mask_edges(a, b, crop=False, spacing=list(spacing))
    places, places_expert = (np.argwhere(edge.numpy()) * spacing for edge in edges)
    apart = distance.cdist(places, places_expert)
    return [
        (apart.min(axis=1), area[edges[0]].numpy().astype(float)),
        (apart.min(axis=0), area_expert[edges[1]].numpy().astype(float)),
    ]


def test_order_of_the_masks_does_not_matter() -> None:
    mask, lesion = blobs(2)
    one, other = (
        surface_distances(a, b, (3, 2, 1), 1) for a, b in ((mask, lesion), (lesion, mask))
    )
    assert one.hd95_mm == other.hd95_mm
    assert (one.assd_mm, one.nsd) == pytest.approx((other.assd_mm, other.nsd))


def test_the_worse_direction_counts() -> None:
    """All of the expert's surface is near the mask's, but not the other way round."""
    lesion, mask = voxels((3, 3, 3)), voxels((3, 3, 3), (3, 3, 13))
    assert surface_distances(mask, lesion, (1, 1, 1), 1).hd95_mm > 9
    assert surface_distances(lesion, mask, (1, 1, 1), 1).hd95_mm > 9


def test_a_far_piece_below_5_percent_of_the_area_is_left_out() -> None:
    block = np.zeros(SHAPE, bool)
    block[2:12, 2:12, 2:12] = True  # some 600 mm² of surface; a lone voxel has some 3
    assert surface_distances(block | voxels((18, 18, 18)), block, (1, 1, 1), 1).hd95_mm == 0


def test_the_volumes_edge_is_a_surface_as_elsewhere() -> None:
    inner, outer = voxels((5, 5, 5)), voxels((5, 5, 6))
    corner, beside = voxels((0, 0, 0)), voxels((0, 0, 1))
    expected = surface_distances(inner, outer, (3, 2, 1), 0.5)
    assert surface_distances(corner, beside, (3, 2, 1), 0.5) == expected


@pytest.mark.filterwarnings("error")
def test_empty_masks_have_no_distance() -> None:
    empty, some = voxels(), voxels((1, 2, 3))
    for a, b in ((empty, some), (some, empty), (empty, empty)):
        found = surface_distances(a, b, (1, 1, 1), 1)
        assert all(map(math.isnan, (found.hd95_mm, found.assd_mm, found.nsd)))
    assert surface_distances(some, some, (1, 1, 1), 1).nsd == 1  # without a warning either


def test_unusable_arguments_are_refused() -> None:
    some = voxels((1, 2, 3))
    with pytest.raises(ValueError, match="tolerance_mm"):
        surface_distances(some, some, (1, 1, 1), -1)
    with pytest.raises(ValueError, match="against one of"):
        surface_distances(some, some[:1], (1, 1, 1), 1)
