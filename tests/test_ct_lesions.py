"""Painted bleeding and infarcts: the right place, size, value, and nothing else changed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from ct_helpers import grid_affine, grid_shape, head_in_hu
from scipy import ndimage

from volad.errors import VoladError
from volad.synthetic.ct import BLEEDS, CT_KINDS, CTLesion, CTScan, paint_ct

SPACING = (3.0, 3.0, 3.0)


@cache
def scan() -> CTScan:
    """A head whose brain is an ellipsoid of 35 HU with a ventricle and a sulcus of fluid."""
    affine = grid_affine(SPACING)
    hu, brain = head_in_hu(affine, grid_shape(SPACING), holder=False)
    y = affine[1, 1] * np.arange(hu.shape[1]) + affine[1, 3]
    hu[brain & (np.abs(y - 10) < 3.5)[None, :, None]] = 5
    return CTScan(hu, brain, affine, affine)


def painted(kind: str, hu: float, ml: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return paint_ct(scan(), CTLesion(kind, hu, ml), np.random.default_rng(seed))


@pytest.mark.parametrize("kind", CT_KINDS)
@pytest.mark.parametrize("ml", [5.0, 20.0])
def test_a_lesion_has_its_size_and_value_and_leaves_the_rest_alone(kind: str, ml: float) -> None:
    hu = -8.0 if kind == "infarct" else 70.0
    image, mask = painted(kind, hu, ml)
    # Thin layers on voxels of 3 mm fill few of them by half.
    assert 0.4 * ml < mask.sum() * scan().voxel_ml < 1.8 * ml
    change = image - scan().hu
    core = ndimage.binary_erosion(mask) if kind in ("intraparenchymal", "infarct") else mask
    if kind == "infarct":
        assert change[core].mean() == pytest.approx(hu, abs=1.5)
    else:
        assert image[core].mean() == pytest.approx(hu, abs=14)
        assert image[core].mean() > 50
    assert not change[~scan().brain].any()
    far = ~ndimage.binary_dilation(mask, iterations=4)
    if kind not in ("subarachnoid", "subdural"):  # whose thin ends fill no voxel by half
        assert np.abs(change[far]).max() < 5
    again, _ = painted(kind, hu, ml)
    assert np.array_equal(image, again)
    other, _ = painted(kind, hu, ml, seed=1)
    assert not np.array_equal(image, other)


def test_each_kind_lies_where_it_should() -> None:
    depth = ndimage.distance_transform_edt(scan().brain, sampling=SPACING)
    x = scan().affine[0, 0] * np.arange(scan().hu.shape[0]) + scan().affine[0, 3]
    for seed in range(3):
        places = {kind: painted(kind, 70.0, 10.0, seed)[1] for kind in BLEEDS}
        for kind in ("epidural", "subdural"):
            sides = np.unique(np.sign(x[np.argwhere(places[kind])[:, 0]]))
            assert len(sides) == 1, "it crosses the midline"
            assert depth[places[kind]].min() <= 3.1, "it does not reach the skull"
        # A lens is thick and short, a crescent thin and long.
        assert depth[places["epidural"]].max() > 1.5 * depth[places["subdural"]].max()
        lengths = {k: np.ptp(np.argwhere(places[k]), axis=0).max() for k in places}
        assert lengths["subdural"] > 1.3 * lengths["epidural"]
        assert depth[places["intraparenchymal"]].mean() > 12
        assert scan().hu[places["subarachnoid"]].mean() < 12, "blood outside the fluid"


def test_sizes_and_values_that_cannot_be() -> None:
    for kind, hu, ml in (
        ("stroke", 70, 5),
        ("epidural", -8, 5),
        ("infarct", 70, 5),
        ("epidural", 70, 0),
    ):
        with pytest.raises(ValueError, match="must be"):
            CTLesion(kind, hu, ml)
    with pytest.raises(VoladError, match=r"no place for 120 ml of subarachnoid"):
        painted("subarachnoid", 70.0, 120.0)
