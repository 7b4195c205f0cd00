"""The scan check: distances, p-values, fitting, and what it says at the gate of a pipeline."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scan_check_helpers import head, scaled, shipped

from volad import bundle
from volad.errors import InputError, OtherKindError, UsageError
from volad.methods.intensity import Intensity
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample
from volad.scan_check.check import ALPHA, MARGIN, ScanCheck, Usual, load, p_value
from volad.scan_check.fitting import fit, values_of
from volad.scan_check.gate import admit, look_back
from volad.scan_check.measure import kind_of
from volad.scan_check.vary import vary
from volad.scan_check.words import FEATURES

SHIPPED = sorted(p.parents[1].name for p in bundle.shelf().glob("*/configs/inference.json"))


def check(limit: float = 3.0, scans: int = 30) -> ScanCheck:
    """One of two features: usual `white_grey` 0.3 ± 0.1, `noise` 0.02 ± 0.02."""
    usual = {"white_grey": Usual(0.3, 0.1, 0.1), "noise": Usual(0.02, 0.02, 0.02)}
    spread = tuple(np.linspace(0, 1.5, scans).tolist())
    names = tuple({"name": f"s{n}", "sha256": "0"} for n in range(scans))
    return ScanCheck(usual, limit, {"kind": spread, "quality": spread}, names, 100)


# Distances and p-values


def test_p_values_by_hand() -> None:
    assert p_value(5, [1, 2, 3]) == 1 / 4
    assert p_value(2, [1, 2, 3]) == 3 / 4  # a tie counts as being as far out
    assert p_value(2.5, [1, 2, 3]) == 2 / 4
    assert p_value(0, [1, 2, 3]) == 1
    assert p_value(7, []) == 1  # who knows nothing finds nothing odd


@pytest.mark.parametrize("ties", [False, True])
def test_a_healthy_scan_is_rarely_flagged(ties: bool) -> None:
    """Over draws of calibration and new scan, P(p <= k / (n + 1)) is k / (n + 1), or less."""
    random, n, draws = np.random.default_rng(0), 19, 20_000
    drawn = random.exponential(size=(draws, n + 1))
    if ties:
        drawn = np.round(drawn)
    p = np.array([p_value(row[-1], row[:-1].tolist()) for row in drawn])
    assert p.min() == pytest.approx(1 / (n + 1))
    for k in (1, 2, 10, 19):
        rate, bound = float((p <= k / (n + 1) + 1e-12).mean()), k / (n + 1)
        margin = 4 * math.sqrt(bound * (1 - bound) / draws)
        assert rate <= bound + margin
        assert ties or rate >= bound - margin


def test_usual_ranges_have_two_sides_and_a_tolerance() -> None:
    values = np.concatenate([np.linspace(-1, 0, 101), np.linspace(0, 4, 101)])
    usual = Usual.fit(values, tolerance=0.1)
    assert usual.centre == pytest.approx(0, abs=0.01)
    assert (usual.below, usual.above) == (pytest.approx(0.9, abs=0.02), pytest.approx(3.6, abs=0.1))
    assert usual.distance(usual.centre + usual.above) == pytest.approx(1)
    assert usual.distance(usual.centre - 2 * usual.below) == pytest.approx(-2)
    alike = Usual.fit(np.full(3, 0.5), tolerance=0.2)
    assert alike.distance(0.6) == pytest.approx(0.5)


def test_the_oddest_feature_of_a_family_decides() -> None:
    found = {"white_grey": 0.05, "noise": 0.03, "unknown": 1e9}
    kind, quality = (check().judge(found, family) for family in ("kind", "quality"))
    assert (kind.distance, quality.distance) == (pytest.approx(2.5), pytest.approx(0.5))
    assert kind.p == 1 / 31
    assert (kind.unusual, kind.refused) == (True, False)  # unusual, but not beyond the limit
    assert kind.odd == ("white matter is too dark against grey matter (contrast)",)
    assert (quality.unusual, quality.odd) == (False, ())


def test_only_the_kind_refuses() -> None:
    far = {"white_grey": -0.2, "noise": 1.0}
    kind, quality = (check().judge(far, family) for family in ("kind", "quality"))
    assert kind.refused
    assert (quality.refused, quality.unusual) == (False, True)
    facts = check().facts(far, [kind, quality])
    assert facts["verdict"] == "another kind"
    assert check().facts({}, [quality])["verdict"] == "unusual quality"
    assert facts["features"]["white_grey"]["usual"] == pytest.approx([0.2, 0.4])


def test_what_cannot_be_measured_is_not_odd() -> None:
    found = {"white_grey": math.nan, "noise": 0.02}
    kind = check().judge(found, "kind")
    assert (kind.distance, kind.p, kind.refused) == (0, 1, False)
    facts = check().facts(found, [kind])
    assert facts["features"]["white_grey"]["value"] is None
    json.dumps(facts, allow_nan=False)
    assert math.isnan(values_of(facts)["white_grey"])


def test_few_calibration_scans_flag_nothing_and_still_refuse() -> None:
    few = check(scans=5)
    kind = few.judge({"white_grey": -0.2}, "kind")
    assert kind.p == 1 / 6 > ALPHA
    assert (kind.unusual, kind.refused) == (False, True)


def test_a_new_scanner_brings_its_own_scans() -> None:
    found = [{"white_grey": 0.05, "noise": 0.02}, {"white_grey": -0.1, "noise": 0.06}]
    names = [{"name": n, "sha256": n} for n in "ab"]
    new = check().recalibrated(found, names)
    assert new.distances["kind"] == pytest.approx((2.5, 4.0))
    assert new.distances["quality"] == pytest.approx((0.0, 2.0))
    assert [scan["name"] for scan in new.scans] == ["a", "b"]
    assert (new.usual, new.limit) == (check().usual, 3.0)
    assert check().recalibrated(found, names, widen=True).limit == pytest.approx(4.0 * MARGIN)
    assert check(limit=9).recalibrated(found, names, widen=True).limit == 9


def test_json_and_back(tmp_path: Path) -> None:
    file = tmp_path / "scan_check.json"
    file.write_text(json.dumps(check().to_json()))
    assert load(file) == check()
    assert load(tmp_path / "none.json") is None
    for damaged in ("{", "[]", '{"usual": {}}', '{"usual": {"noise": {"centre": 1}}, "limit": 1}'):
        file.write_text(damaged)
        with pytest.raises(UsageError, match="holds no scan check"):
            load(file)


# Fitting


class _Known:
    """A pipeline of `intensity`, as far as fitting needs one."""

    def __init__(self) -> None:
        self.preprocessing = bundle.part(bundle.find("brain_t1_ae"), "preprocessing")
        self.network = Intensity()

    def infer(self, sample: Sample) -> Sample:
        with torch.no_grad():
            pred = self.network(sample["image"].as_tensor()[None])[0]
        return {**sample, "pred": MetaTensor(pred), "healthy": None}


def test_fit_learns_from_train_and_calibrates_with_validation() -> None:
    random = np.random.default_rng(0)
    heads = [vary(head(), random) for _ in range(5)]
    names = [{"name": n, "sha256": n} for n in "ab"]
    pipeline: Any = _Known()
    found = fit(pipeline, heads[:3], heads[3:], names)
    assert found == fit(pipeline, heads[:3], heads[3:], names)
    assert (found.fitted, len(found.distances["kind"]), found.scans) == (3, 2, tuple(names))
    assert {"white_grey", "noise", "score_p99"} <= found.usual.keys()
    every = [found.distance(kind_of(scaled(one)), "kind") for one in heads]
    assert found.limit == pytest.approx(max(3.0, MARGIN * max(every)))
    inverted = head(1000 - 1000 * load_template().t1)
    assert found.judge(kind_of(scaled(inverted)), "kind").refused
    with pytest.raises(InputError, match="healthy scans of the splits"):
        fit(pipeline, heads[:3], [], [])


# At the gate of a pipeline


def test_the_gate_refuses_in_one_line_and_by_force_goes_on() -> None:
    sample = scaled(head(1000 - 1000 * load_template().t1))
    with pytest.raises(OtherKindError) as refused:
        admit(shipped(), sample, force=False)
    said = str(refused.value)
    assert said.startswith("head.nii.gz: is not of the kind that this bundle knows: ")
    assert "(contrast)" in said
    assert "p = 0.032 among 30 of them" in said
    assert "--force" in said
    assert "\n" not in said
    assert refused.value.exit_code == 4
    assert refused.value.facts["verdict"] == "another kind"
    assert refused.value.sample is sample

    found = admit(shipped(), sample, force=True)
    score = torch.zeros(1, *sample["image"].shape[1:])
    added = look_back(shipped(), found, sample, Intensity(), score, None)
    assert added["scan_check"]["forced"] is True
    assert "by force" in added["flags"][0]


def test_unusual_is_flagged_not_refused() -> None:
    sample = scaled(head())
    value = kind_of(sample)["white_grey"]
    near = replace(check(), usual={"white_grey": Usual(value - 0.2, 0.1, 0.1)})
    added = look_back(
        near, admit(near, sample, False), sample, Intensity(), torch.zeros(1, 80, 96, 88), None
    )
    assert added["scan_check"]["verdict"] == "unusual kind"
    assert added["scan_check"]["forced"] is False
    assert len(added["flags"]) == 1
    assert "volad calibrate --on" in added["flags"][0]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles_know_their_kind(name: str) -> None:
    """All but those of simulated scans, which say nothing of what real ones are like."""
    root = bundle.find(name)
    found = load(root / "models" / "scan_check.json")
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    if metadata.get("simulated_training_data"):
        assert found is None
        return
    assert found is not None
    calibrated = json.loads((root / "models" / "calibration.json").read_text())["scans"]
    trained = json.loads((root / "models" / "trained_on.json").read_text())["scans"]
    assert {s["sha256"] for s in found.scans} == {s["sha256"] for s in calibrated}
    assert {len(distances) for distances in found.distances.values()} == {len(calibrated)}
    assert found.fitted == len(trained)
    assert max(found.distances["kind"]) * MARGIN <= found.limit
    assert set(FEATURES) <= found.usual.keys()
    assert {"score_mean", "score_p99"} <= found.usual.keys()
