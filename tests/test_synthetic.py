"""Painted lesions: where they are, how they look, and that they are what was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from synthetic_helpers import LEVELS, ball, head, studied

from volad.errors import InputError
from volad.preprocess.align import load_template
from volad.synthetic import DEFAULT, Lesion, Made, Recipe, make
from volad.synthetic.anatomy import study
from volad.synthetic.make import with_lesions
from volad.synthetic.shapes import Pose, ellipsoid, library, shares
from volad.synthetic.spec import TEXTURES

SPREAD = LEVELS[1] - LEVELS[0]
STROKE = Lesion("stroke", 4000.0, "white")


def painted(recipe: Recipe, seed: int = 0) -> Made:
    return with_lesions(ball().image, ball(), recipe, np.random.default_rng(seed))


def recipe(contrast: float = -1.0, texture: str = "own", mass_effect: float = 0.0) -> Recipe:
    return Recipe(contrast, texture, mass_effect, 0.8, (STROKE,))


def on_head(number: int) -> Made:
    volume, _, _ = head()
    random = np.random.default_rng(number)
    return with_lesions(volume.image.numpy()[0], studied(), DEFAULT.recipe(number), random)


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["own", "smooth-pushed", "core"])
def made(request: pytest.FixtureRequest) -> Made:
    """Volumes of the default suite."""
    return on_head(request.param)


@pytest.mark.parametrize("contrast", [-2.0, -0.25, 0.5, 1.0])
def test_inside_a_lesion_the_contrast_is_the_one_asked_for(contrast: float) -> None:
    found = painted(recipe(contrast))
    core = ndimage.binary_erosion(found.labels > 0, iterations=2)
    assert core.sum() > 5
    change = found.image[core] - LEVELS[1]
    wanted = contrast * SPREAD
    np.testing.assert_allclose(change, wanted, atol=0.05 * abs(wanted))


def test_a_lesion_stays_within_the_scans_own_values() -> None:
    dim = ball().image.clip(max=LEVELS[1] + 0.5 * SPREAD)
    found = with_lesions(dim, replace(ball(), image=dim), recipe(2.0), np.random.default_rng(0))
    assert found.image.max() == dim.max()
    (lesion,) = found.lesions
    assert lesion.contrast == pytest.approx(0.5, abs=0.05)  # and the record says so


@pytest.mark.parametrize("texture", TEXTURES)
def test_partial_volume_alone_makes_a_contrast_less(texture: str) -> None:
    (lesion,) = painted(recipe(-1.0, texture)).lesions
    assert -1.1 < lesion.contrast < -0.8


def test_textures_differ_as_they_say() -> None:
    values = {}
    for texture in TEXTURES:
        found = painted(recipe(-1.0, texture))
        core = ndimage.binary_erosion(found.labels > 0)
        values[texture] = (found.image[core] - LEVELS[1]) / SPREAD
    assert values["own"].std() < 0.1  # only the blurred rim
    assert values["smooth"].std() > 0.12
    found = painted(recipe(-1.0, "core"))
    depth = ndimage.distance_transform_edt(found.labels > 0)
    change = -(found.image - LEVELS[1]) / SPREAD
    assert change[depth == depth.max()].mean() > 1.5 * change[(depth > 1) & (depth < 2)].mean()


def test_a_lesion_has_the_volume_asked_for() -> None:
    (lesion,) = painted(recipe()).lesions
    assert lesion.mm3 == pytest.approx(STROKE.mm3, rel=0.1)
    assert lesion.lesion == STROKE


def test_outside_the_lesions_no_voxel_changes() -> None:
    found = painted(recipe())
    far = ndimage.distance_transform_edt(found.labels == 0) > 4
    assert np.array_equal(found.image[far], ball().image[far])
    assert not np.array_equal(found.image, ball().image)


def test_lesions_lie_in_the_brain_apart_and_in_one_piece_each(made: Made) -> None:
    _, brain, _ = head()
    assert not (made.labels.astype(bool) & ~brain.numpy()[0]).any()
    touch = np.ones((3, 3, 3))
    assert ndimage.label(made.labels > 0, touch)[1] == len(made.lesions)
    for lesion in made.lesions:
        one = made.labels == lesion.label
        assert ndimage.label(one, touch)[1] == 1
        assert one.sum() * head()[0].voxel_mm3 == pytest.approx(lesion.mm3)
        np.testing.assert_allclose(ndimage.center_of_mass(one), lesion.centre, atol=1e-6)


def test_the_default_recipe_finds_places_for_nearly_all(made: Made) -> None:
    assert len(made.lesions) + len(made.left_out) == len(DEFAULT.lesions)
    assert len(made.left_out) <= 1
    for lesion in made.lesions:
        assert 0.3 * lesion.lesion.mm3 < lesion.mm3 < 1.5 * lesion.lesion.mm3


def test_lesions_go_into_their_tissue(made: Made) -> None:
    anatomy = studied()
    labels = made.labels[anatomy.box]
    for lesion in made.lesions:
        mask = labels == lesion.label
        assert anatomy.fluid[mask].mean() < 0.35
        if lesion.lesion.tissue == "white":
            assert anatomy.white[mask].mean() > 0.7
        if lesion.lesion.tissue == "periventricular":
            assert anatomy.ventricle_mm[mask].min() < 12


def test_the_same_draws_make_the_same_volume_and_others_another() -> None:
    first, again, other = painted(recipe()), painted(recipe()), painted(recipe(), seed=1)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_make_studies_the_scan_itself() -> None:
    volume, brain, to_template = head()
    found = make(volume.image, brain, to_template, recipe(), np.random.default_rng(3))
    image = volume.image.numpy()[0]
    assert found.image.shape == found.labels.shape == image.shape
    mask = found.labels > 0
    (lesion,) = found.lesions
    gain = np.ones(image.shape, np.float32)
    gain[studied().box] = studied().gain
    change = (found.image - image)[mask] / (studied().spread * gain[mask])
    assert change.mean() == pytest.approx(lesion.contrast, rel=1e-3)


def test_what_finds_no_place_is_left_out_and_said() -> None:
    small = ball(radius=8)
    huge = Recipe(-1.0, "own", 0.0, 0.8, (Lesion("stroke", 100_000.0, "anywhere"),))
    found = with_lesions(small.image, small, huge, np.random.default_rng(0))
    assert found.lesions == ()
    assert found.left_out == huge.lesions
    assert np.array_equal(found.image, small.image)


def test_tissues_are_found_in_any_contrast() -> None:
    template = load_template()
    inside = template.t1 > 0
    most = np.argmax([template.grey, template.white, 1 - template.grey - template.white], axis=0)
    noise = np.random.default_rng(0).normal(0, 4, inside.shape)
    for grey, white, water in ((100, 160, 30), (120, 80, 250)):
        values = np.choose(most, [grey, white, water]) + noise
        image = MetaTensor(
            torch.from_numpy(np.where(inside, values, 0).astype(np.float32))[None],
            affine=template.affine,
        )
        brain = MetaTensor(torch.from_numpy(inside)[None], affine=template.affine)
        found = study(image, brain, np.eye(4))
        np.testing.assert_allclose(found.levels, (grey, white, water), rtol=0.05)
        assert found.noise == pytest.approx(4, rel=0.1)
        for share, tissue in ((found.grey, 0), (found.white, 1), (found.fluid, 2)):
            there = (most == tissue)[found.box] & found.brain
            assert share[there].mean() > 0.9


def test_a_brain_off_the_template_is_refused() -> None:
    volume, brain, to_template = head()
    away = to_template.copy()
    away[0, 3] += 1000
    with pytest.raises(InputError, match="does not lie on MNI152"):
        study(volume.image, brain, away)


def test_the_library_holds_real_outlines_of_many_sizes() -> None:
    sizes = [shape.mm3 for shape in library()]
    assert len(sizes) == 770
    assert sizes == sorted(sizes)
    assert sizes[0] >= 100
    assert sizes[-1] <= 60_000
    left = sum(shape.home_mm[0] < 0 for shape in library()) / len(sizes)
    assert 0.3 < left < 0.7  # strokes know no side


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 4.0), (-1.5, 2.0, 1.0)])
def test_shares_of_voxels_add_up_to_the_volume(spacing: tuple[float, float, float]) -> None:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -30 * np.array(spacing)
    radii = np.array([9.0, 7.0, 6.0])
    pose = Pose(ellipsoid("one", radii), np.array([1.3, -0.4, 2.2]), np.eye(3))
    box, share = shares(pose, affine, (60, 60, 60), edge_mm=0.8)
    mm3 = float(share.sum()) * float(np.abs(np.prod(spacing)))
    assert mm3 == pytest.approx(4 / 3 * np.pi * radii.prod(), rel=0.03)
    at = np.array(ndimage.center_of_mass(share)) + [s.start for s in box]
    np.testing.assert_allclose(affine[:3, :3] @ at + affine[:3, 3], pose.centre_mm, atol=0.1)
