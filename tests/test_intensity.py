"""Intensity scales: landmarks, their inverse, and the coil's field that N4 takes away."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from volad.errors import InputError
from volad.preprocess.bias import correct_bias
from volad.preprocess.intensity import PERCENTILES, Scale, landmarks_of, learn_landmarks

Values = NDArray[np.float32]


def tissue(seed: int = 0, count: int = 20_000) -> Values:
    """Fluid, grey and white matter of a scan in its own unit."""
    random = np.random.default_rng(seed)
    means = random.choice([100.0, 250.0, 350.0], count, p=[0.15, 0.45, 0.4])
    return (means + 25 * random.normal(size=count)).astype(np.float32)


def test_a_scale_by_hand() -> None:
    scale = Scale(source=(10, 20, 40), target=(0, 1, 2))
    values = np.array([10, 15, 20, 30, 40, 0, 60], np.float32)
    # Outside it goes on with the mean slope, 2 over 30.
    np.testing.assert_allclose(scale(values), [0, 0.5, 1, 1.5, 2, -2 / 3, 2 + 4 / 3], rtol=1e-6)
    assert scale(values).dtype == np.float32


def test_the_inverse_brings_values_back_also_beyond_the_ends() -> None:
    scale = Scale(landmarks_of(tissue()), learn_landmarks([tissue(1), tissue(2)]))
    values = np.linspace(-500, 1500, 300, dtype=np.float32)
    np.testing.assert_allclose(scale.inverse(scale(values)), values, rtol=1e-3, atol=0.1)


def test_a_scale_does_not_change_the_order_of_voxels() -> None:
    scale = Scale(landmarks_of(tissue()), learn_landmarks([tissue(1)]))
    assert (np.diff(scale(np.sort(tissue()))) >= 0).all()


def test_the_landmarks_are_the_percentiles() -> None:
    values = np.arange(0, 101, dtype=np.float32)
    np.testing.assert_allclose(landmarks_of(values), PERCENTILES)


def test_every_scans_percentiles_land_on_the_standard_ones() -> None:
    standard = learn_landmarks([tissue(seed) for seed in range(4)])
    other = 3 * tissue(9) ** 1.1 + 40  # another scanner
    mapped = Scale(landmarks_of(other), standard)(other)
    np.testing.assert_allclose(np.percentile(mapped, PERCENTILES), standard, atol=1e-3)


def test_scans_that_differ_in_unit_alone_become_equal() -> None:
    standard = learn_landmarks([tissue(1), tissue(2)])
    values = tissue()
    one, two = (Scale(landmarks_of(v), standard)(v) for v in (values, 7 * values + 30))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_learned_landmarks_span_0_4_to_1_and_ascend() -> None:
    standard = learn_landmarks([tissue(seed) for seed in range(3)])
    assert standard[PERCENTILES.index(5)] == pytest.approx(0.4)
    assert standard[PERCENTILES.index(95)] == pytest.approx(1.0)
    assert (np.diff(standard) > 0).all()


def test_a_coarsely_quantised_scan_still_has_a_scale() -> None:
    """Six grey levels: many percentiles are equal."""
    values = np.round(tissue() / 80).astype(np.float32)
    knots = landmarks_of(values)
    assert (np.diff(knots) > 0).all()
    mapped = Scale(knots, learn_landmarks([tissue(1)]))(np.unique(values))
    assert np.isfinite(mapped).all()
    assert (np.diff(mapped) > 0).all()
    inner = mapped[1:-1]  # the ends, beyond the 1st and 99th percentile, are clipped later
    assert 0.3 < inner.min() < inner.max() < 1.1


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_a_brain_of_one_value_is_refused(share: float) -> None:
    values = tissue()
    values[: int(share * len(values))] = 5
    with pytest.raises(InputError, match="more than half of the brain has one and the same"):
        landmarks_of(values)


def head(spacing_mm: float) -> tuple[Values, NDArray[np.bool_], Values]:
    """A ball of two tissues `(X, Y, Z)` of 100 mm, where it is, and a coil's field over it."""
    size = round(110 / spacing_mm)
    place = (np.indices((size,) * 3) - (size - 1) / 2) * spacing_mm
    radius = np.linalg.norm(place, axis=0)
    shells = np.where((radius // 12) % 2 == 0, 1.0, 0.7)
    noise = 1 + 0.03 * np.random.default_rng(0).normal(size=radius.shape)
    field = np.exp(place[0] / 120 - (place[2] / 90) ** 2)
    return (500 * shells * noise).astype(np.float32), radius < 50, field.astype(np.float32)


def unevenness(image: Values, brain: NDArray[np.bool_]) -> float:
    """Spread of the ratio to the true image, relative to its mean."""
    return float(image[brain].std() / image[brain].mean())


def test_a_coils_field_is_flattened_and_outside_the_brain_is_0() -> None:
    true, brain, field = head(2.0)
    corrected = correct_bias(true * field, brain, 2.0)
    before, after = unevenness(field, brain), unevenness(corrected / true, brain)
    assert before > 0.15
    assert after < 0.3 * before
    assert (corrected[~brain] == 0).all()
    assert corrected.dtype == np.float32


def test_a_scan_without_a_field_stays_as_it_is() -> None:
    true, brain, _ = head(3.0)
    assert unevenness(correct_bias(true, brain, 3.0) / true, brain) < 0.04


def test_bias_correction_keeps_the_unit_of_the_scan() -> None:
    true, brain, field = head(4.0)
    image = (5000 * true * field).astype(np.float32)
    ratio = correct_bias(image, brain, 3.0)[brain] / image[brain]
    np.testing.assert_allclose(np.exp(np.log(ratio).mean()), 1, rtol=1e-3)


def test_bias_correction_is_the_same_from_run_to_run_and_bears_dark_voxels() -> None:
    true, brain, field = head(4.0)
    image = true * field
    image[::7, ::5] = -20  # resampling undershoots
    one, two = (correct_bias(image, brain, 3.0) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert np.isfinite(one).all()
