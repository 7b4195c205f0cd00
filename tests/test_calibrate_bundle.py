"""Calibration of bundles: lesions counted in final masks, copies, refusals, the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from pipeline_helpers import (
    bundle_copy,
    files_below,
    healthy_set,
    pipeline,
    ready_bundle,
    save_head,
    segment,
)
from scipy import ndimage

from volad import bundle
from volad.calibrate import Calibration, load_threshold
from volad.calibrate.curves import COUNTED
from volad.calibrate.measure import measure
from volad.calibrate.target import target, trained_on
from volad.cli import main
from volad.errors import UsageError, VoladError
from volad.io import Scan
from volad.pipeline import prepare
from volad.postprocess import DropSmallLesions

Captured = pytest.CaptureFixture[str]
LIGHT = ("--no-report", "--no-stats", "--no-save-score")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten healthy heads that the bundle was not trained on."""
    folder = tmp_path_factory.mktemp("healthy")
    for seed in range(20, 30):
        save_head(folder / f"new{seed}.nii.gz", seed, lesion=False)
    return folder


@pytest.fixture(scope="module")
def calibrated(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle, calibrated on them."""
    root = tmp_path_factory.mktemp("bundles") / "clinic"
    assert main(["calibrate", str(ready_bundle()), "--on", str(healthy), "-o", str(root)]) == 0
    return root


def stored(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "models" / "calibration.json").read_text())
    return found


def smooth_scan(seed: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Smooth noise in an ellipsoid of voxels of 8 mm³, as `Pipeline.score` gives a scan."""
    random = np.random.default_rng(seed)
    place = np.indices((40, 44, 36)) - np.array([20, 22, 18])[:, None, None, None]
    brain = ((place / np.array([18, 20, 16])[:, None, None, None]) ** 2).sum(axis=0) < 1
    score = ndimage.gaussian_filter(random.normal(size=brain.shape), 1.2) * brain
    score = np.maximum(score * 10, 0).astype(np.float32)
    volume = SimpleNamespace(scan=Scan(Path("a.nii.gz"), "a"), sha256="0", voxel_mm3=8.0)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    pred = MetaTensor(torch.from_numpy(score[None]), affine=affine)
    inside = MetaTensor(torch.from_numpy(brain[None]), affine=affine)
    return score, {"volume": volume, "native_brain": inside, "pred": pred}


def lesions_of(score: NDArray[np.float32], threshold: float, voxels: int) -> list[int]:
    """Sizes of what is left above a threshold, in voxels, counted the plain way."""
    labels, count = ndimage.label(score > threshold, structure=np.ones((3, 3, 3)))
    sizes = [int((labels == label).sum()) for label in range(1, count + 1)]
    return [size for size in sizes if size >= voxels]


# Counting


def test_counts_are_those_of_the_final_mask_at_each_threshold() -> None:
    score, sample = smooth_scan(0)
    run: Any = SimpleNamespace(mask_steps=[DropSmallLesions(24.0)])
    found = measure(run, sample)
    sizes = [lesions_of(score, threshold, voxels=3) for threshold in found.tail[COUNTED]]
    assert found.lesions is not None
    assert found.mm3 is not None
    assert found.lesions.tolist() == [len(each) for each in sizes]
    assert found.mm3.tolist() == [8 * sum(each) for each in sizes]
    assert found.lesions.max() > 10
    assert found.brain_mm3 == 8 * float(sample["native_brain"].sum())


def test_a_box_around_the_mask_counts_as_the_whole_scan_does() -> None:
    class Sees(DropSmallLesions):
        """A step that is given the whole sample, since another class might need it."""

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            assert "native_brain" in sample
            return super().__call__(sample)

    class Other:
        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return Sees(24.0)(sample)

    _, sample = smooth_scan(1)
    whole: Any = SimpleNamespace(mask_steps=[Other()])
    boxed: Any = SimpleNamespace(mask_steps=[DropSmallLesions(24.0)])
    a, b = measure(whole, sample), measure(boxed, sample)
    np.testing.assert_array_equal(a.lesions, b.lesions)
    np.testing.assert_array_equal(a.mm3, b.mm3)


def test_what_is_counted_at_25_thresholds_bounds_what_lies_between() -> None:
    """Volume always; the number of lesions, which may peak between two, nearly always."""
    above, cases = 0, 0
    run: Any = SimpleNamespace(mask_steps=[DropSmallLesions(24.0)])
    for seed in range(5):
        score, sample = smooth_scan(seed)
        found = measure(run, sample)
        volume, number = found.curve("false_mm3"), found.curve("false_lesions")
        for threshold in np.linspace(found.tail[COUNTED][-1], score.max(), 40):
            sizes = lesions_of(score, threshold, voxels=3)
            assert 8 * sum(sizes) <= volume.at(threshold)
            above += len(sizes) > number.at(threshold)
            cases += 1
    assert above <= 0.02 * cases


def test_a_scan_without_any_score_counts_nothing() -> None:
    _, sample = smooth_scan(0)
    run: Any = SimpleNamespace(mask_steps=[DropSmallLesions(24.0)])
    found = measure(run, {**sample, "pred": sample["pred"] * 0})
    assert found.lesions is not None
    assert found.lesions.max() == found.tail.max() == 0


def test_the_pipeline_finds_as_many_lesions_as_the_calibration_counted(
    healthy: Path, calibrated: Path
) -> None:
    """Segmented with `--false-lesions N`, the healthy scans hold what the file says they lose."""
    facts = bundle.identity(calibrated, promise={"of": "false_lesions", "rate": 3}).calibration
    run = pipeline(calibrated, promise={"of": "false_lesions", "rate": 3})
    assert run.cut.value == facts["threshold"]
    promised = Calibration.from_json(stored(calibrated))
    for scan in promised.scans[:3]:
        scored = run.score(prepare(run.preprocessing, str(healthy / f"{scan.name}.nii.gz")))
        mask = run.finish(scored).mask
        _, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        assert count <= scan.curve("false_lesions").at(run.cut.value)
        assert 64 * mask.sum() <= scan.curve("false_mm3").at(run.cut.value)


# The command line


def test_calibrate_prints_its_promise_and_how_sure_it_is(
    healthy: Path, tmp_path: Path, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path)
    options = ("--promise=false-mm3", "--at-most=2000", "--cap=4", "--device=cpu")
    assert main(["calibrate", str(root), "--on", str(healthy), *options]) == 0
    said = capsys.readouterr().out
    assert "at most 2000 mm³ of false-positive lesions in a scan's mask" in said
    assert "one scan counts at most 8000 mm³" in said
    assert "10 (3 are the fewest for this promise)" in said
    assert "in 9 of 10 such calibrations the true mean" in said
    found = stored(root)
    assert f"{found['threshold']:.6g}" in said
    assert found["promise"]["of"] == "false_mm3"
    assert len(found["counts"]["lesions"][0]) == len(found["counts"]["mm3"][0]) == 25
    assert all(scan["brain_mm3"] > 0 for scan in found["scans"])
    assert found["mask_steps"] == [{"step": "DropSmallLesions", "min_mm3": 20.0}]


def test_a_promise_for_each_scan(healthy: Path, tmp_path: Path, capsys: Captured) -> None:
    root = bundle_copy(tmp_path)
    options = ("--kind=each", "--at-most=0.005", "--json", "--device=cpu")
    assert main(["calibrate", str(root), "--on", str(healthy), *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["promise"]["kind"] == "each"
    assert told["promise"]["level"] == 0.9
    low, high = told["sureness"]["coverage_between"]
    assert 0.7 < low < 0.9 < high < 1
    assert sum(loss <= 0.005 for loss in Calibration.from_json(stored(root)).losses) >= 9


def test_a_copy_is_a_whole_bundle_and_the_bundle_stays(calibrated: Path, tmp_path: Path) -> None:
    here, there = files_below(ready_bundle()), files_below(calibrated)
    assert set(here) - set(there) == {
        f for f in here if f.startswith("cache/") or "checkpoint" in f
    }
    assert set(there) <= set(here)
    assert len(stored(ready_bundle())["scans"]) == 2
    assert len(stored(calibrated)["scans"]) == 10
    scan = save_head(tmp_path / "head.nii.gz")
    assert segment(scan, "-o", tmp_path / "out", "-b", calibrated, *LIGHT) == 0
    facts = json.loads((tmp_path / "out" / "head_mask.json").read_text())
    assert facts["bundle"]["name"] == "clinic"
    assert facts["threshold"]["value"] == stored(calibrated)["threshold"]
    assert facts["threshold"]["promise"] == stored(calibrated)["promise"]


@pytest.mark.parametrize(
    ("option", "of", "rate"),
    [
        ("--false-lesions=3", "false_lesions", 3),
        ("--false-mm3=900", "false_mm3", 900),
        ("--healthy-fpr=0.02", "voxel_fpr", 0.02),
    ],
)
def test_segment_takes_another_promise_and_the_sidecar_says_which(
    option: str, of: str, rate: float, calibrated: Path, tmp_path: Path
) -> None:
    scan = save_head(tmp_path / "head.nii.gz")
    assert segment(scan, "-o", tmp_path, "-b", calibrated, option, *LIGHT) == 0
    found = json.loads((tmp_path / "head_mask.json").read_text())["threshold"]
    path = calibrated / "models" / "calibration.json"
    assert found["value"] == load_threshold(path, promise={"of": of, "rate": rate})
    assert found["value"] != stored(calibrated)["threshold"]
    assert found["source"] == "calibration"
    assert (found["promise"]["of"], found["promise"]["rate"]) == (of, rate)
    assert "holds exactly for 10 scans" in found["promise"]["guarantee"]


def test_a_promise_on_lesions_is_void_where_smaller_ones_are_kept(
    calibrated: Path, healthy: Path, tmp_path: Path, capsys: Captured
) -> None:
    scan = save_head(tmp_path / "head.nii.gz")
    asked = ("-b", calibrated, "--false-lesions=3", "--min-lesion-mm3=0")
    assert segment(scan, "-o", tmp_path, *asked, *LIGHT) == 2
    assert "--min-lesion-mm3 0; leave it out" in capsys.readouterr().err
    root = tmp_path / "lesions"
    options = ("--promise=false-lesions", "--at-most=3", "-o", str(root), "--device=cpu")
    assert main(["calibrate", str(calibrated), "--on", str(healthy), *options]) == 0
    for size, kept in ((0, False), (100, True)):
        assert segment(scan, "-o", tmp_path, "-b", root, f"--min-lesion-mm3={size}", *LIGHT) == 0
        found = json.loads((tmp_path / "head_mask.json").read_text())["threshold"]
        assert (found["promise"] is not None) is kept


def test_a_threshold_of_ones_own_promises_nothing(calibrated: Path, tmp_path: Path) -> None:
    scan = save_head(tmp_path / "head.nii.gz")
    assert segment(scan, "-o", tmp_path, "-b", calibrated, "--threshold=0.1", *LIGHT) == 0
    found = json.loads((tmp_path / "head_mask.json").read_text())["threshold"]
    assert (found["source"], found["promise"]) == ("user", None)


def test_thresholds_exclude_each_other(calibrated: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        segment("x", "-o", "y", "-b", calibrated, "--false-lesions=2", "--healthy-fpr=0.1")
    assert "not allowed with argument" in capsys.readouterr().err


# Refusals


def refused(capsys: Captured, *arguments: object) -> tuple[int, str]:
    code = main(["calibrate", *map(str, arguments), "--device=cpu"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return code, said


def test_scans_trained_on_and_scans_twice_are_refused(
    healthy: Path, tmp_path: Path, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path)
    before = stored(root)
    assert len(trained_on(root)) == 3
    folder = Path(shutil.copytree(healthy, tmp_path / "scans"))
    shutil.copy(folder / "new20.nii.gz", folder / "renamed.nii.gz")
    code, said = refused(capsys, root, "--on", folder)
    assert code == 42
    assert "renamed.nii.gz: is the same scan as" in said
    shutil.copy(healthy_set() / "scans" / "sub0.nii.gz", folder / "renamed.nii.gz")
    code, said = refused(capsys, root, "--on", folder)
    assert code == 42
    assert "was trained on this scan (train-scans/sub0.nii.gz)" in said
    assert stored(root) == before


def test_too_few_scans_are_refused_before_any_is_scored(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volad.pipeline.Pipeline.score", None)
    root, folder = bundle_copy(tmp_path), tmp_path / "few"
    folder.mkdir()
    for seed in range(5):
        save_head(folder / f"{seed}.nii.gz", 40 + seed, lesion=False)
    assert refused(capsys, root, "--on", folder) == (
        42,
        "volad: 5 healthy subjects are too few for a cap of 10, which takes 9; give scans of more, "
        "or with these --cap 3\n",
    )
    code, said = refused(capsys, root, "--on", folder, "--kind=each")
    assert code == 42
    assert said.endswith("or with these --level 0.83\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--promise=false-mm3"], "needs --at-most"),
        (["--healthy-fpr=0.1", "--at-most=0.2"], "leave --promise and --at-most out"),
        (["--level=0.8"], "--level is for --kind each"),
        (["--kind=each", "--cap=3"], "--cap is for --kind mean"),
        (["--at-most=2"], "must be between 0 and 1, got 2"),
        (["--promise=false-lesions", "--at-most=0"], "at most 0.0 cannot be"),
    ],
)
def test_wrong_promises_are_refused(options: list[str], says: str, capsys: Captured) -> None:
    code, said = refused(capsys, ready_bundle(), "--on", "x", *options)
    assert code == 2
    assert says in said


def test_a_bundle_that_must_not_change_names_the_way_out(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path / "shelf")
    monkeypatch.setattr(bundle, "shelf", lambda: tmp_path / "shelf")
    code, said = refused(capsys, "head_ct_ae", "--on", healthy)
    assert code == 2
    assert "is a shipped bundle" in said
    assert "-o DIR" in said

    def read_only(folder: Path) -> None:
        raise VoladError(f"{folder}: read-only")

    monkeypatch.setattr("volad.calibrate.target.ensure_writable", read_only)
    with pytest.raises(UsageError, match=r"cannot be written to; name a folder .* -o DIR"):
        target(root, None, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="cannot be written to"):
        target(root, root, tmp_path / "shelf")  # named, so only the permission stands against it


def test_a_copy_never_overwrites(healthy: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    code, said = refused(capsys, ready_bundle(), "--on", healthy, "-o", tmp_path / "mine")
    assert (code, "is there already" in said) == (2, True)
    code, said = refused(capsys, ready_bundle(), "--on", healthy, "-o", ready_bundle() / "new")
    assert (code, "lies in the bundle itself" in said) == (2, True)


def test_a_failed_copy_leaves_nothing(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("volad.calibrate.target.shutil.copytree", full)
    code, said = refused(capsys, ready_bundle(), "--on", healthy, "-o", tmp_path / "new")
    assert (code, "No space left on device" in said) == (1, True)
    assert list(tmp_path.iterdir()) == []
