"""Old age in a young head: more fluid where age puts it, and nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from tissue_helpers import example

from volad.ageing import aged, blob


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_head_that_does_not_age_keeps_its_tissues() -> None:
    young = example()
    old = aged(young, 0.0, 0.0, random())
    for name in ("grey", "white", "fluid"):
        np.testing.assert_allclose(getattr(old, name), getattr(young, name), atol=0.05)


@pytest.mark.parametrize(("ventricles_mm", "sulci"), [(4.0, 0.0), (0.0, 1.0), (4.0, 1.0)])
def test_fluid_grows_and_the_rest_gives_way(ventricles_mm: float, sulci: float) -> None:
    young = example()
    old = aged(young, ventricles_mm, sulci, random())
    assert old.fluid.sum() > 1.05 * young.fluid.sum()
    assert old.fluid.max() <= 1
    whole = old.grey + old.white + old.fluid
    solid = young.grey + young.white > 0.05
    np.testing.assert_allclose(whole[young.brain & solid], 1, atol=0.05)
    assert not old.fluid[~young.brain].any()


def test_ventricles_go_out_by_so_many_mm() -> None:
    young = example()
    old = aged(young, 6.0, 0.0, random())
    at_wall = (young.ventricle_mm > 0) & (young.ventricle_mm < 5) & young.brain
    assert at_wall.any()
    assert old.fluid[at_wall].min() > 0.9
    far = (young.ventricle_mm > 12) & young.brain
    assert np.abs(old.fluid - young.fluid)[far].mean() < 0.03  # the horns widen, too
    np.testing.assert_allclose(old.ventricle_mm, np.maximum(young.ventricle_mm - 6, 0))


def test_a_blob_lies_where_it_is_asked_for() -> None:
    found = blob(example(), np.array([24.0, -10, 20]), np.array([6.0, 6, 6]))
    places = np.stack([np.broadcast_to(axis, found.shape) for axis in example().world()])
    middle = (places * found).sum(axis=(1, 2, 3)) / found.sum()
    np.testing.assert_allclose(middle, [24, -10, 20], atol=2)
