"""Alignment finds back the affine by which the template itself was moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from volad.preprocess import align as room
from volad.preprocess.align import Alignment, align, load_template

Affine = NDArray[np.float64]


def moved(turn_deg: float, scale: tuple[float, float, float], shift: tuple[float, ...]) -> Affine:
    """Stretched, turned about z and as much about x, then shifted."""
    a = np.deg2rad(turn_deg)
    about_z, about_x = np.eye(4), np.eye(4)
    about_z[:2, :2] = about_x[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    out = about_z @ about_x @ np.diag([*scale, 1.0])
    out[:3, 3] = shift
    return out


def scan(move: Affine, values: NDArray[np.float32]) -> tuple[MetaTensor, MetaTensor]:
    """Values on the template's voxels, and its brain, elsewhere in the world; last axis flipped."""
    template = load_template()
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = values.shape[2] - 1
    brain = np.ascontiguousarray((template.t1 > 0)[..., ::-1])[None]
    image = np.ascontiguousarray(values[..., ::-1])[None]
    affine = move @ template.affine @ flip
    return (
        MetaTensor(torch.from_numpy(image), affine=affine),
        MetaTensor(torch.from_numpy(brain), affine=affine),
    )


def brain_corners() -> NDArray[np.float64]:
    """The corners `(4, 8)` of the box around the template's brain, in mm."""
    template = load_template()
    voxels = np.argwhere(template.t1 > 0)
    box = np.meshgrid(*zip(voxels.min(axis=0), voxels.max(axis=0), strict=True))
    return template.affine @ np.vstack([np.reshape(box, (3, 8)), np.ones(8)])


MOVES = [
    moved(10, (1.08, 0.95, 1.03), (12.0, -7.0, 20.0)),
    moved(-12, (0.9, 0.9, 0.88), (-40.0, 30.0, 60.0)),
]


@pytest.fixture(scope="module", params=range(len(MOVES)))
def case(request: pytest.FixtureRequest) -> tuple[Affine, Alignment]:
    move = MOVES[request.param]
    return move, align(*scan(move, load_template().t1))


def test_the_map_is_found_within_2_mm_at_the_corners_of_the_brain(
    case: tuple[Affine, Alignment],
) -> None:
    move, found = case
    back = found.to_template @ move @ brain_corners()
    assert np.linalg.norm((back - brain_corners())[:3], axis=0).max() < 2


def test_a_good_alignment_says_so(case: tuple[Affine, Alignment]) -> None:
    move, found = case
    assert not found.failed
    assert found.overlap > 0.97
    assert found.correlation > 0.95
    assert found.volume_ratio == pytest.approx(1 / np.linalg.det(move), rel=0.03)


def test_another_contrast_is_aligned_as_well_and_twice_alike() -> None:
    """Inverted intensities, as on T2: fluid bright, white matter dark."""
    template = load_template()
    inverted = np.where(template.t1 > 0, 1.2 - template.t1, 0).astype(np.float32)
    first, second = (align(*scan(MOVES[0], inverted)) for _ in range(2))
    back = first.to_template @ MOVES[0] @ brain_corners()
    assert np.linalg.norm((back - brain_corners())[:3], axis=0).max() < 2
    assert not first.failed
    np.testing.assert_array_equal(first.to_template, second.to_template)
    assert first.correlation == second.correlation


def test_noise_in_the_shape_of_a_brain_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "NODS_DEG", (0.0,))  # the other starts take as long again
    noise = np.random.default_rng(0).random(load_template().t1.shape, np.float32)
    found = align(*scan(np.eye(4), noise))
    assert found.failed
    assert found.correlation < 0.3


@pytest.mark.parametrize("nod_deg", [30.0, -40.0])
def test_a_head_that_nods_far_is_brought_back(nod_deg: float) -> None:
    angle = np.deg2rad(nod_deg)
    nod = np.eye(4)
    nod[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found = align(*scan(nod, load_template().t1))
    corners = brain_corners()
    assert np.abs(found.to_template @ nod @ corners - corners)[:3].max() < 2  # mm
    assert not found.failed


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, False),
        ({"overlap": 0.5}, True),
        ({"correlation": 0.1}, True),
        ({"volume_ratio": 0.3}, True),
        ({"volume_ratio": 3.0}, True),
    ],
)
def test_an_implausible_alignment_has_failed(changes: dict[str, float], failed: bool) -> None:
    good = Alignment(np.eye(4), overlap=0.97, correlation=0.8, volume_ratio=1.2)
    assert replace(good, **changes).failed == failed


def test_the_template_is_the_size_that_bundles_expect() -> None:
    template = load_template()
    assert template.t1.shape == template.grey.shape == template.white.shape == (80, 96, 88)
    np.testing.assert_array_equal(template.affine[:3, :3], 2 * np.eye(3))
    litres = (template.t1 > 0).sum() * 8 / 1e6
    assert 1.6 < litres < 2.1  # MNI152 is larger than most brains
    for part in (template.t1, template.grey, template.white):
        assert part.min() == 0
        assert 0.9 < part.max() <= 1
