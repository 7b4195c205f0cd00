"""Several scans of one subject say no more of new subjects than one does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_helpers import heavy, stored_scans

from volad.calibrate import KINDS, LEVELS, Calibration, Curve, HealthyScan, Promise, words
from volad.calibrate.subjects import by_subject, merged
from volad.data import Row
from volad.errors import InputError
from volad.io import Scan, find_scans
from volad.io.bids import bids_scans

#: How many scans each subject has.
SCANS = 4


def of(*subjects: str) -> list[Scan]:
    return [Scan(Path(f"{n}.nii"), str(n), subject=name) for n, name in enumerate(subjects)]


def twice(scans: list[HealthyScan], named: bool = True) -> list[HealthyScan]:
    """Each scan and a second one of the same subject, the same to the voxel."""
    return [
        replace(scan, name=f"{scan.name}{n}", subject=scan.name if named else "")
        for scan in scans
        for n in range(2)
    ]


def test_scans_of_one_subject_are_together_and_those_of_nobody_known_alone() -> None:
    assert by_subject(of("a", "b", "a", "", "", "b")) == [[0, 2], [1, 5], [3], [4]]
    assert by_subject([]) == []


@pytest.mark.parametrize("worst", [True, False])
def test_a_subjects_loss_is_that_of_its_scans_at_every_threshold(worst: bool) -> None:
    curves = heavy(3, seed=1)
    found = merged(curves, worst=worst)
    together = max if worst else lambda losses: sum(losses) / 3
    places = [np.linspace(-1, 40, 200), *(curve.scores[::7] for curve in curves)]
    for at in np.concatenate(places):
        expected = together([curve.at(float(at)) for curve in curves])
        assert found.at(float(at)) == pytest.approx(expected, rel=1e-12)
    assert merged(curves[:1], worst=worst) is curves[0]


def family(random: np.random.Generator) -> list[Curve]:
    """Losses of a subject's scans, which are more alike than those of two."""
    size = np.exp(random.normal(0, 1.5))
    sizes = size * np.exp(random.normal(0, 0.5, SCANS))
    values = np.r_[0.0, LEVELS[1:], 1.0]
    return [Curve(-np.log(LEVELS) * each, values) for each in sizes]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_subject_keeps_the_promise_and_would_not_if_scans_were_counted(kind: str) -> None:
    """Of 400 calibrations on 9 subjects each, one new subject."""
    random = np.random.default_rng(0)
    promise = Promise(rate=0.02, kind=kind)
    honest, naive = [], []
    for _ in range(400):
        people = [family(random) for _ in range(9)]
        new = merged(family(random), worst=kind == "each")
        ours = promise.threshold([merged(one, worst=kind == "each") for one in people])
        theirs = promise.threshold([curve for one in people for curve in one])
        honest.append(new.at(ours))
        naive.append(new.at(theirs))
    if kind == "mean":
        kept, broken = (np.minimum(x, promise.bound).mean() for x in (honest, naive))
        assert kept <= promise.rate < broken
    else:
        kept, broken = (np.mean(np.array(x) <= promise.rate) for x in (honest, naive))
        assert broken < promise.level - 0.03 < kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_scan_of_each_subject_changes_nothing(kind: str) -> None:
    once, promise = stored_scans(), Promise(kind=kind)
    alone = Calibration.fit(once, promise)
    found = Calibration.fit(twice(once), promise)
    assert found.threshold == alone.threshold
    assert found.sureness() == alone.sureness()
    realised, before = (one.facts()["realised"] for one in (found, alone))
    assert realised.pop("interval_95_of_mean") == pytest.approx(before.pop("interval_95_of_mean"))
    assert realised == pytest.approx(before)
    said = (found.facts()[key] for key in ("healthy_scans", "healthy_subjects"))
    assert list(said) == [2 * len(once), len(once)]
    assert f"{2 * len(once)} scans of {len(once)} subjects, each of" in words.report(found)
    assert "subjects" not in words.report(alone)
    stored = json.loads(json.dumps(found.to_json()))
    assert Calibration.from_json(stored).to_json() == found.to_json()
    if kind == "mean":
        assert Calibration.fit(twice(once, named=False), promise).threshold < alone.threshold


def test_many_scans_of_few_subjects_are_too_few() -> None:
    few = twice(stored_scans()[:5])
    with pytest.raises(InputError, match="5 healthy subjects are too few for a cap of 10"):
        Calibration.fit(few, Promise())
    assert Calibration.fit(twice(stored_scans()[:9]), Promise()).subjects == 9


def test_a_contrast_has_its_own_threshold_only_of_enough_subjects() -> None:
    scans = twice(stored_scans()[:20])
    named = [replace(one, contrast="t1" if n < 12 else "flair") for n, one in enumerate(scans)]
    assert list(Calibration.fit(named, Promise()).contrasts) == ["flair"]  # 14 subjects, and 6


def test_manifests_bids_and_training_rows_say_whose_scan_it_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii").touch()
    table, datalist = tmp_path / "scans.csv", tmp_path / "scans.json"
    table.write_text("image,subject\na.nii,one\nb.nii,\n")
    datalist.write_text(json.dumps([{"image": "a.nii", "subject": "one"}, {"image": "b.nii"}]))
    for file in (table, datalist):
        assert [scan.subject for scan in find_scans(file)] == ["one", ""]
    assert [scan.subject for scan in find_scans(tmp_path / "a.nii")] == [""]
    assert Row("one", "train", tmp_path / "a.nii", "").scan.subject == "one"
    for session in ("1", "2"):
        folder = tmp_path / "bids" / "sub-01" / f"ses-{session}" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-01_ses-{session}_T1w.nii.gz").touch()
    assert [scan.subject for scan in bids_scans(tmp_path / "bids", "T1w")] == ["sub-01"] * 2
