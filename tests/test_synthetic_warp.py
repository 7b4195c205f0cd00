"""Fields that make room: nothing folds, what grows is taken elsewhere, the surface stands still."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_helpers import ball, head, studied

from volad.synthetic import DEFAULT
from volad.synthetic.anatomy import Anatomy
from volad.synthetic.lesions import place_all
from volad.synthetic.make import atrophy_field, growth_field, with_atrophy, with_lesions
from volad.synthetic.warp import displacement, jacobian, move


def sphere(anatomy: Anatomy, radius: float) -> NDArray[np.float32]:
    size = np.array(anatomy.brain.shape)
    away = np.meshgrid(*[np.arange(n) - n // 2 for n in size], indexing="ij")
    square = sum((axis * mm) ** 2 for axis, mm in zip(away, anatomy.spacing_mm, strict=True))
    return (square <= radius**2).astype(np.float32)


def pushed(share: float) -> tuple[Anatomy, NDArray[np.float32]]:
    """A ball in which a lesion of 12 mm radius pushed tissue away, and the field."""
    anatomy = ball()
    lesion = sphere(anatomy, 12.0)
    give = anatomy.brain * (1 - lesion)
    growth = -np.log1p(-share) * lesion
    return anatomy, displacement(growth, give, anatomy.depth_mm, anatomy.spacing_mm)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_growing_lesion_folds_nothing_and_keeps_the_brains_volume(share: float) -> None:
    anatomy, offsets = pushed(share)
    change = jacobian(offsets)
    assert change.min() > 0
    assert change[anatomy.brain].mean() == pytest.approx(1, abs=0.01)
    # In the lesion's middle tissue takes 1 / (1 - share) of the room that it had.
    middle = sphere(anatomy, 6.0) > 0
    assert change[middle].mean() == pytest.approx(1 - share, abs=0.05)


def test_tissue_is_pushed_outwards_and_keeps_its_volume() -> None:
    anatomy, offsets = pushed(0.5)
    centre = np.array(anatomy.brain.shape) // 2
    at = centre + np.array([8, 0, 0])  # 16 mm from the centre, 4 from the lesion
    assert offsets[0][tuple(at)] < -0.3  # comes from nearer the centre
    shell = sphere(anatomy, 20.0) - sphere(anatomy, 14.0)
    assert move(shell, offsets, order=1).sum() == pytest.approx(shell.sum(), rel=0.06)
    radius = np.linalg.norm(np.argwhere(shell > 0) - centre, axis=1).mean()
    after = move(shell, offsets, order=1)
    weights = after[after > 0]
    later = np.average(np.linalg.norm(np.argwhere(after > 0) - centre, axis=1), weights=weights)
    assert later > radius + 0.2


def test_at_the_surface_and_outside_all_stands_still() -> None:
    anatomy, offsets = pushed(0.5)
    assert np.abs(offsets[:, ~anatomy.brain]).max() < 0.1
    image = np.random.default_rng(0).normal(size=anatomy.brain.shape).astype(np.float32)
    out = move(image, offsets)
    still = np.abs(offsets).max(axis=0) < 0.01
    assert still.any()
    assert np.array_equal(out[still], image[still])
    assert out.min() >= image.min()
    assert out.max() <= image.max()


def test_no_growth_moves_nothing() -> None:
    anatomy = ball()
    none = np.zeros(anatomy.brain.shape, np.float32)
    offsets = displacement(none, anatomy.brain, anatomy.depth_mm, anatomy.spacing_mm)
    assert not offsets.any()
    assert np.array_equal(move(anatomy.image, offsets), anatomy.image)


def test_voxels_of_unequal_edges_are_pushed_alike_in_millimetres() -> None:
    anatomy = ball(radius=20, spacing_mm=(1.5, 1.5, 3.0))
    lesion = sphere(anatomy, 9.0)
    offsets = displacement(
        0.7 * lesion, anatomy.brain * (1 - lesion), anatomy.depth_mm, anatomy.spacing_mm
    )
    x, y, z = np.array(anatomy.brain.shape) // 2
    along_x = 1.5 * offsets[0][x + 8, y, z]
    along_z = 3.0 * offsets[2][x, y, z + 4]
    assert along_x == pytest.approx(along_z, rel=0.15)
    assert jacobian(offsets).min() > 0


def test_the_default_suites_lesions_fold_nothing_in_a_real_head() -> None:
    anatomy = studied()
    placed, _ = place_all(anatomy, DEFAULT.recipe(1), np.random.default_rng(1))
    for share in (0.4, 0.8):
        change = jacobian(growth_field(anatomy, placed, share))
        assert change.min() > 0
        assert change[anatomy.brain].mean() == pytest.approx(1, abs=0.01)


def test_mass_effect_changes_what_lies_around_a_lesion() -> None:
    whole = head()[0].image.numpy()[0]
    pushing, not_pushing = (
        with_lesions(whole, studied(), DEFAULT.recipe(number), np.random.default_rng(5))
        for number in (1, 5)  # mass effects 0.4 and 0
    )
    moved = [((made.image != whole) & (made.labels == 0)).sum() for made in (pushing, not_pushing)]
    assert DEFAULT.recipe(1).mass_effect > DEFAULT.recipe(5).mass_effect == 0
    assert moved[0] > 5 * moved[1]


def test_atrophy_widens_ventricles_and_sulci_and_folds_nothing() -> None:
    anatomy = studied()
    offsets = atrophy_field(anatomy, 1.0)
    assert jacobian(offsets).min() > 0
    ventricles = (anatomy.ventricle_mm == 0).astype(np.float32)
    assert ventricles.sum() > 100
    grown = move(ventricles, offsets, order=1).sum() / ventricles.sum()
    assert 1.5 < grown < 2.1
    fluid = anatomy.fluid * anatomy.brain
    assert move(fluid, offsets, order=1).sum() > 1.08 * fluid.sum()


def test_atrophy_leaves_all_outside_the_brain_as_it_is() -> None:
    volume, brain, _ = head()
    whole = volume.image.numpy()[0]
    image = with_atrophy(whole, studied(), 1.0)
    outside = ~brain.numpy()[0]
    assert np.mean(image[outside] == whole[outside]) > 0.99
    assert np.mean(image != whole) > 0.02
    assert image.min() >= whole.min()
    assert image.max() <= whole.max()
