"""What the scan check measures, on the template as a head and on real scans."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scan_check_helpers import head, scaled, shipped
from scipy import ndimage

from volad import bundle
from volad.io import Scan
from volad.methods._base import Method, Stage
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample
from volad.scan_check.measure import kind_of, quality_of, reconstruction_of
from volad.scan_check.vary import vary
from volad.scan_check.words import FEATURES

DATA = Path(__file__).parent / "data"


def test_features_do_not_depend_on_the_scans_unit() -> None:
    template = load_template()
    one = kind_of(scaled(head()))
    other = kind_of(scaled(head(500 + 3 * (1000 * template.t1))))
    for name in ("white_grey", "grey_fluid", "depth_contrast", "like_t1", "overlap", "covered"):
        assert other[name] == pytest.approx(one[name], abs=0.02), name
    assert one["like_t1"] > 0.9
    assert (one["overlap"], one["covered"], one["outside"]) == (1, 1, 0)


def test_every_feature_has_words_and_a_family() -> None:
    sample = scaled(head())
    found = {"kind": kind_of(sample), "quality": quality_of(sample)}
    for family, values in found.items():
        assert all(math.isfinite(value) for value in values.values())
        assert {FEATURES[name].family for name in values} == {family}
    assert set(FEATURES) == {name for values in found.values() for name in values}


def test_quality_sees_noise_blur_ripples_and_shading() -> None:
    template = load_template()
    random, t1 = np.random.default_rng(1), 1000 * template.t1
    known = quality_of(scaled(head()))
    ramp = np.linspace(0.4, 1.6, t1.shape[0])[:, None, None]
    ripples = 100 * (np.arange(t1.shape[1]) % 2)[None, :, None]
    changed = {
        "noise": t1 + random.normal(0, 60, t1.shape),
        "shading": t1 * ramp,
        "ripple": t1 + ripples,
        "sharpness": ndimage.gaussian_filter(t1, 4.0),
    }
    for name, image in changed.items():
        found = quality_of(scaled(head(image)))[name]
        away = found / known[name]
        assert away < 0.8 if name == "sharpness" else away > 2, (name, away)
    low, high = np.percentile(t1[template.t1 > 0], (5, 95))
    assert known["noise"] == pytest.approx(10 / (high - low), rel=0.25)  # as `head` adds


def test_where_nothing_is_aligned_the_rest_is_measured() -> None:
    sample = scaled(head())
    sample["image"] = MetaTensor(sample["image"].as_tensor()[:, 2:], affine=sample["image"].affine)
    sample["brain"] = MetaTensor(sample["brain"].as_tensor()[:, 2:], affine=sample["brain"].affine)
    sample["facts"] = {"brain_ml": 1400.0, "brain_cut": 0.0}
    found = kind_of(sample) | quality_of(sample)
    missing = {"white_grey", "grey_fluid", "like_t1", "fit", "overlap", "covered", "outside"}
    assert set(FEATURES) - set(found) == missing | {"stretch", "enlarged", "shading"}
    assert found["depth_contrast"] == pytest.approx(
        kind_of(scaled(head()))["depth_contrast"], abs=0.05
    )


class _Plain(Method):
    """Scores intensity itself, and has the scan scores of every method."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    def stages(self) -> list[Stage]:
        return []


def test_scan_scores_are_capped_so_that_lesions_do_not_count() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 1, 10, 10, 10) + 0.1
    score = torch.rand(1, 1, 10, 10, 10)
    lesion = score.clone()
    lesion[..., :5, :5, :2] += 100  # 5 % of the brain
    plain, hurt = (reconstruction_of(_Plain(), x, s, None) for s in (score, lesion))
    assert plain.keys() == {"score_mean", "score_p99"}
    assert plain["score_p99"] == pytest.approx(0.9, abs=0.03)  # the cap
    assert hurt["score_p99"] == pytest.approx(plain["score_p99"], abs=0.06)
    assert hurt["score_mean"] == pytest.approx(plain["score_mean"], abs=0.06)
    shifted = reconstruction_of(_Plain(), x, score + 1, None)
    assert shifted["score_mean"] == pytest.approx(plain["score_mean"] + 1, abs=1e-5)
    nothing = reconstruction_of(_Plain(), torch.zeros_like(x), score, None)
    assert nothing == {"score_mean": 0, "score_p99": 0}


def test_a_counterpart_is_capped_likewise() -> None:
    seen = []

    class Sees(_Plain):
        def scan_scores(self, x: Any, score: Any, x_hat: Any) -> Any:
            seen.append(x_hat - x)
            return {"off": float((x_hat - x).abs().max()), "parts": [1.0]}

    x = torch.full((1, 1, 10, 10, 10), 0.5)
    x_hat = x + 0.1
    x_hat[..., 0, 0, :5] -= 0.5  # lesions
    found = reconstruction_of(Sees(), x, torch.zeros_like(x), x_hat)
    assert found == {"score_off": pytest.approx(0.1, abs=1e-6)}
    assert seen[0].min() < 0  # their sign stays


def test_variation_is_mild_random_and_seeded() -> None:
    sample = head()
    first, again = (vary(sample, np.random.default_rng(3)) for _ in range(2))
    other = vary(sample, np.random.default_rng(4))
    assert torch.equal(first["image"].as_tensor(), again["image"].as_tensor())
    assert not torch.equal(first["image"].as_tensor(), other["image"].as_tensor())
    outside = ~first["brain"].numpy()
    assert (first["image"].numpy()[outside] == 0).all()
    for seed in range(4):
        found = kind_of(scaled(vary(sample, np.random.default_rng(seed))))
        assert found["white_grey"] > 0.1  # of no other contrast
        assert found["like_t1"] > 0.7


# Real scans and the shipped bundles


@cache
def real(name: str) -> Sample:
    """A real scan, preprocessed up to the intensity scale."""
    sample: Sample = {"image": Scan(DATA / name, name.split(".")[0])}
    for step in bundle.part(bundle.find("brain_t1_ae"), "preprocessing").transforms[:-1]:
        sample = step(sample)
    return sample


def changed(sample: Sample, image: NDArray[Any], brain: NDArray[np.bool_] | None = None) -> Sample:
    brain = sample["brain"].numpy()[0] if brain is None else brain
    affine = sample["image"].affine
    inside = np.where(brain, image, 0).astype(np.float32)
    return {
        **sample,
        "image": MetaTensor(torch.from_numpy(inside)[None], affine=affine),
        "brain": MetaTensor(torch.from_numpy(brain)[None], affine=affine),
    }


HEALTHY, PATIENT = "IXI646-HH-2653_T1.nii.gz", "open_ms_patient26_T1.nii.gz"


@pytest.mark.parametrize("name", [HEALTHY, PATIENT])
def test_a_t1_passes_whoever_made_it(name: str) -> None:
    found = shipped().judge(kind_of(scaled(real(name))), "kind")
    assert found.distance < shipped().limit / 2
    assert not found.refused


def test_lesions_alone_do_not_trip_it() -> None:
    """Some 100 ml of dark lesions in the white matter, at fluid's intensity."""
    sample = real(HEALTHY)
    image, brain = sample["image"].numpy()[0], sample["brain"].numpy()[0]
    random, dark = np.random.default_rng(0), float(np.percentile(image[brain], 5))
    seeds = np.zeros(brain.shape, bool)
    places = np.argwhere((load_template().white > 0.6) & brain)
    seeds[tuple(random.choice(places, 25).T)] = True
    lesion = ndimage.binary_dilation(seeds, iterations=7) & brain
    assert 80 < lesion.sum() * 0.008 < 130
    hurt = kind_of(scaled(changed(sample, np.where(lesion, dark, image))))
    before, after = (shipped().judge(f, "kind") for f in (kind_of(scaled(sample)), hurt))
    assert not after.refused
    assert after.distance < max(1.5, before.distance + 0.8)


def test_another_contrast_is_refused() -> None:
    sample = real(HEALTHY)
    image, brain = sample["image"].numpy()[0], sample["brain"].numpy()[0]
    found = shipped().judge(kind_of(scaled(changed(sample, image[brain].max() - image))), "kind")
    assert found.refused
    assert any("(contrast)" in words for words in found.odd)


def test_a_cut_brain_and_one_with_its_skull_are_refused() -> None:
    sample = real(HEALTHY)
    image, brain = sample["image"].numpy()[0], sample["brain"].numpy()[0]
    cut = brain.copy()
    cut[..., 55:] = False
    found = shipped().judge(kind_of(scaled(changed(sample, image, cut))), "kind")
    assert found.refused
    assert any("(coverage)" in words for words in found.odd)
    wide = ndimage.binary_dilation(brain, iterations=6)
    filled = np.where(brain, image, np.median(image[brain]) / 2)
    found = shipped().judge(kind_of(scaled(changed(sample, filled, wide))), "kind")
    assert found.refused
    assert any("mask" in words for words in found.odd)
