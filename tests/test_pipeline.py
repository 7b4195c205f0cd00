"""One way through: what calibration reads is what masks are cut from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from pipeline_helpers import (
    LESION,
    bundle_copy,
    grid,
    head,
    healthy_set,
    pipeline,
    ready_bundle,
    save_head,
    segment,
    voxels,
)
from scipy import ndimage

from volad import api, bundle
from volad.batch import Batch
from volad.calibrate import load_threshold, tail_of
from volad.calibrate.session import Session, calibrate_together
from volad.errors import VoladError
from volad.io import Scan, find_scans
from volad.methods.intensity import Intensity
from volad.pipeline import Pipeline, Result, prepare
from volad.postprocess import Threshold, ToScan

THRESHOLD = 0.08


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with a lesion."""
    return save_head(tmp_path_factory.mktemp("scan") / "head.nii.gz")


@pytest.fixture(scope="module")
def result(scan: Path) -> Result:
    """What the ready bundle finds in it."""
    return pipeline(ready_bundle(), threshold=THRESHOLD)(str(scan), healthy=True)


def test_every_array_is_on_the_scans_grid(result: Result) -> None:
    for array in (result.mask, result.score, result.healthy, result.brain):
        assert array is not None
        assert array.shape == (40, 48, 44)
    assert (result.mask.dtype, result.brain.dtype) == (bool, bool)
    assert result.score.dtype == np.float32
    assert np.array_equal(result.volume.affine, grid())


def test_the_brain_is_found_and_what_lies_outside_scores_0(result: Result) -> None:
    assert np.array_equal(result.brain, head(90, lesion=True) > -1000)
    assert (result.score[~result.brain] == 0).all()
    assert result.score[result.brain].any()


def test_the_mask_is_the_score_above_the_threshold_without_small_lesions(result: Result) -> None:
    assert result.threshold == THRESHOLD
    labels, count = ndimage.label(result.score > THRESHOLD, structure=np.ones((3, 3, 3)))
    sizes_mm3 = np.bincount(labels.ravel(), minlength=count + 1) * 64
    expected = (sizes_mm3 >= 20)[labels] & (labels > 0)
    assert np.array_equal(result.mask, expected)
    assert result.mask[LESION].mean() > 0.3


def test_the_lesion_scores_highest(result: Result) -> None:
    assert LESION[0].start <= np.unravel_index(result.score.argmax(), result.score.shape)[0]
    assert result.score[LESION].mean() > 3 * result.score[result.brain].mean()


def test_every_stage_is_timed(result: Result) -> None:
    assert list(result.seconds) == [
        *("Load", "CheckHounsfield", "ExtractBrain", "ResampleIsotropic", "Hounsfield"),
        *("ScanCheck", "model", "MedianSmooth", "Rim", "ToScan"),
        *("Threshold", "DropSmallLesions", "healthy"),
    ]
    assert all(value >= 0 for value in result.seconds.values())


def test_the_command_line_runs_the_same_pipeline(
    scan: Path, result: Result, tmp_path: Path
) -> None:
    options = ("--no-report", "--no-stats", "--save-healthy", f"--threshold={THRESHOLD}")
    assert segment(scan, "-o", tmp_path, *options) == 0
    assert np.array_equal(voxels(tmp_path / "head_mask.nii.gz") > 0, result.mask)
    assert np.array_equal(voxels(tmp_path / "head_score.nii.gz"), result.score)
    assert np.array_equal(voxels(tmp_path / "head_healthy.nii.gz"), result.healthy)


def test_calibration_reads_the_scores_that_masks_are_cut_from() -> None:
    stored = bundle._read_json(ready_bundle() / "models" / "calibration.json")
    run = pipeline(ready_bundle(), min_lesion_mm3=0.0)
    assert run.cut.value == stored["threshold"]
    above = []
    for row, name in enumerate(("sub3", "sub4")):
        found = run(str(healthy_set() / "scans" / f"{name}.nii.gz"))
        tail = tail_of(found.score, found.brain)
        np.testing.assert_allclose(tail, stored["tails"]["scores"][row], rtol=1e-5)
        above.append(found.mask.sum() / found.brain.sum())
    # Two scans may lose three quarters of the half per cent promised; stored, a level more.
    assert np.mean(above) == pytest.approx(0.00375, rel=0.07)
    realised = [stored["realised"][key] for key in ("lowest", "highest")]
    assert (sorted(above) <= np.array(realised)).all()
    np.testing.assert_allclose(sorted(above), realised, rtol=0.07)


def test_calibration_calls_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pipeline that scores twice as high is calibrated twice as high."""
    root, really = bundle_copy(tmp_path), Pipeline.score

    def doubled(self: Pipeline, sample: dict[str, Any]) -> dict[str, Any]:
        scored = really(self, sample)
        return {**scored, "pred": scored["pred"] * 2}

    scans = [Scan(healthy_set() / "scans" / f"{n}.nii.gz", n) for n in ("sub3", "sub4")]
    single = api.calibrate(root, scans, rate=0.005, device="cpu").threshold
    monkeypatch.setattr(Pipeline, "score", doubled)
    assert api.calibrate(root, scans, rate=0.005, device="cpu").threshold == (
        pytest.approx(2 * single, rel=1e-5)
    )


def test_together_bundles_are_calibrated_as_alone_and_a_scan_is_prepared_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    roots = [bundle_copy(tmp_path / name) for name in ("a", "b")]
    scans = [Scan(healthy_set() / "scans" / f"{n}.nii.gz", n) for n in ("sub3", "sub4")]
    alone = api.calibrate(roots[0], scans, rate=0.005, device="cpu")
    asked: list[Scan] = []

    def counted(steps: Any, scan: Scan) -> Any:
        asked.append(scan)
        return prepare(steps, scan)

    monkeypatch.setattr("volad.pipeline.prepare", counted)
    promise, device = alone.promise, api.device_setting("cpu")
    sessions = [Session(root, scans, promise, device=device) for root in roots]
    found = calibrate_together(sessions, scans)
    assert [one.threshold for one in found] == [alone.threshold] * 2
    assert asked == scans
    for root in roots:
        assert load_threshold(root / "models" / "calibration.json") == alone.threshold
    # One that prepares scans otherwise gets its own.
    sessions[1].recipe = "another"
    calibrate_together(sessions, scans)
    assert len(asked) == 3 * len(scans)


def test_no_randomness_is_left(scan: Path, result: Result) -> None:
    """The ready bundle has dropout, which must be off."""
    torch.manual_seed(1)
    again = pipeline(ready_bundle(), threshold=THRESHOLD)(str(scan))
    assert np.array_equal(again.score, result.score)


def test_scoring_does_not_change_the_sample(scan: Path) -> None:
    run = pipeline(ready_bundle())
    sample = prepare(run.preprocessing, str(scan))
    first = run.score(sample)["pred"]
    assert "pred" not in sample
    assert torch.equal(run.score(sample)["pred"].as_tensor(), first.as_tensor())


def test_one_pass_gives_what_a_pass_for_each_of_score_and_counterpart_gives(scan: Path) -> None:
    run = pipeline(ready_bundle())
    sample = prepare(run.preprocessing, str(scan))
    window = sample["image"].as_tensor()[None]
    with torch.no_grad():
        score = run.inferer(window, run.network)[0]
        counterpart = run.inferer(window, run.network.reconstruct)[0]
    expected = {**sample, "pred": MetaTensor(score, affine=sample["image"].affine)}
    for step in run.map_steps:
        expected = step(expected)
    found = run.score(sample)
    assert torch.equal(found["pred"].as_tensor(), expected["pred"].as_tensor())
    assert found["healthy"].shape == sample["image"].shape
    torch.testing.assert_close(found["healthy"], counterpart, rtol=0, atol=1e-6)
    assert (counterpart - sample["image"].as_tensor()).abs().max() > 0.1  # it is not the scan


def test_scan_scores_are_the_methods_of_scan_raw_score_and_counterpart(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline(ready_bundle(), scan_check=None)  # which asks for scores that are capped, too
    sample = prepare(run.preprocessing, str(scan))
    x = sample["image"].as_tensor()[None]
    with torch.no_grad():
        score, x_hat = (run.inferer(x, f) for f in (run.network, run.network.reconstruct))
    values = score[x != 0]
    found = run.finish(run.score(sample)).scan_scores
    assert found["mean"] == pytest.approx(float(values.mean()), rel=1e-5)
    assert found["p99"] == pytest.approx(float(np.percentile(values, 99)), rel=0.01)

    given: list[Any] = []
    monkeypatch.setattr(
        run.network, "scan_scores", lambda *args: given.extend(args) or {"parts": [1.0, 2.0]}
    )
    assert run(str(scan)).scan_scores == {"parts": [1.0, 2.0]}
    for argument, expected in zip(given, (x, score, x_hat), strict=True):
        assert torch.equal(argument, expected)


@pytest.mark.parametrize("scores", [{"mean": np.nan}, {"parts": [1.0, np.inf]}])
def test_scan_scores_that_are_not_finite_are_refused(
    scan: Path, monkeypatch: pytest.MonkeyPatch, scores: dict[str, Any]
) -> None:
    run = pipeline(ready_bundle())
    monkeypatch.setattr(run.network, "scan_scores", lambda *_: scores)
    with pytest.raises(VoladError, match=r"head\.nii\.gz: the model gave scores that are not"):
        run(str(scan))


def test_the_report_needs_no_second_pass_of_the_network(scan: Path, tmp_path: Path) -> None:
    run, windows = pipeline(ready_bundle()), 0

    def count(x: torch.Tensor) -> torch.Tensor:
        nonlocal windows
        windows += len(x)
        return x.clone()

    run.inferer(prepare(run.preprocessing, str(scan))["image"].as_tensor()[None], count)
    seen: list[int] = []
    run.network.net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    wanted = {"save_healthy": True, "report": True}
    batch = Batch(run, find_scans(scan), tmp_path, bundle.identity(ready_bundle()), **wanted)
    assert {"healthy", "report"} <= batch.run()[0].files.keys()
    assert sum(seen) == windows > 1


def test_bfloat16_changes_scores_little(scan: Path, result: Result) -> None:
    amp = pipeline(ready_bundle(), threshold=THRESHOLD, amp=True)(str(scan))
    assert not np.array_equal(amp.score, result.score)
    np.testing.assert_allclose(amp.score, result.score, atol=0.02)


def test_a_method_without_a_counterpart_has_none(scan: Path) -> None:
    parts = pipeline(ready_bundle())
    method = Pipeline(
        parts.preprocessing, SimpleInferer(), Intensity(), Compose([ToScan(), Threshold(0.99)])
    )
    found = method(str(scan), healthy=True)
    assert found.healthy is None
    assert "healthy" not in found.seconds
    # A rank: one per cent of the brain's voxels on the model's grid, so about that here.
    assert found.mask.sum() / found.brain.sum() == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("cuts", [0, 2])
def test_postprocessing_needs_one_threshold(cuts: int) -> None:
    steps = Compose([ToScan(), *[Threshold(1)] * cuts])
    with pytest.raises(ValueError, match="exactly one"):
        Pipeline(Compose([]), SimpleInferer(), Intensity(), steps)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(scan: Path, value: float) -> None:
    run = pipeline(ready_bundle())
    with torch.no_grad():
        next(run.network.parameters()).fill_(value)
    with pytest.raises(VoladError, match=r"head\.nii\.gz: the model gave scores that are not"):
        run(str(scan))


def test_a_batch_started_by_monai_fails_loudly(tmp_path: Path) -> None:
    """`monai.bundle run` knows no exit codes, so there a bad scan raises, after all are done."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_text("no scan")
    save_head(tmp_path / "scans" / "b.nii.gz")
    batch = Batch(
        pipeline(ready_bundle()),
        find_scans(tmp_path / "scans"),
        tmp_path / "out",
        bundle.identity(ready_bundle()),
        report=False,
    )
    with pytest.raises(VoladError, match=r"1 of 2 scans failed; .*a\.nii\.gz: is not a NIfTI"):
        batch.run()
    assert (tmp_path / "out" / "b_mask.nii.gz").is_file()
