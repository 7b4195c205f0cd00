"""`--resume` is not to be fooled: it skips a scan only where nothing at all has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_helpers import batch, journal, results, save_heads
from io_helpers import save_nifti
from pipeline_helpers import bundle_copy, grid, head, pipeline, ready_bundle, save_head

from volad import bundle
from volad.batch.lock import take
from volad.batch.resume import lock_path
from volad.errors import OtherKindError
from volad.io import find_scans
from volad.outputs import Outcome, Outputs
from volad.pipeline import Pipeline
from volad.provenance import describe, digest, parameters, scan_parameters

BRAIN = head(90) > -1000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    """A folder with `scans/a.nii.gz`, its `brain.nii.gz`, and `out`, and what the run returned."""
    folder = tmp_path_factory.mktemp("made")
    save_heads(folder / "scans", 2)
    save_nifti(folder / "brain.nii.gz", BRAIN.astype(np.uint8), grid())
    manifest = folder / "manifest.csv"
    manifest.write_text("image,brain_mask\nscans/a.nii.gz,brain.nii.gz\nscans/b.nii.gz,\n")
    return folder, batch(manifest, folder / "out", report=True).run()


@pytest.fixture
def copy(made: tuple[Path, list[Outcome]], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made[0], tmp_path / "copy"))


def again(folder: Path, root: Path | None = None, **settings: Any) -> dict[str, bool]:
    """Which scans a second run with `--resume` leaves out."""
    settings = {"resume": True, "report": True, **settings}
    done = batch(folder / "manifest.csv", folder / "out", root, **settings).run()
    return {outcome.name: outcome.resumed for outcome in done}


def test_what_is_whole_is_left_out_and_still_told(
    made: tuple[Path, list[Outcome]], copy: Path
) -> None:
    before = results(copy / "out")
    times = {path: path.stat().st_mtime_ns for path in (copy / "out").glob("[ab]_*")}
    run = batch(copy / "manifest.csv", copy / "out", resume=True, report=True)
    found = run.run()
    assert all(outcome.resumed for outcome in found)
    assert [outcome.row() for outcome in found] == [outcome.row() for outcome in made[1]]
    assert [list(outcome.files) for outcome in found] == [list(one.files) for one in made[1]]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert results(copy / "out") == before
    assert [row["resumed"] for row in journal(copy / "out")] == [False, False, True, True]


def test_without_resume_everything_is_done_again(copy: Path) -> None:
    assert again(copy, resume=False) == {"a": False, "b": False}


def flip(path: Path) -> None:
    """Change the last byte, and neither size nor time."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change a sidecar's entries."""

    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("out/a_mask.nii.gz", flip),
        ("out/a_mask.nii.gz", Path.unlink),
        ("out/a_score.nii.gz", truncate),
        ("out/a_lesions.csv", truncate),
        ("out/a_report.html", flip),
        ("out/a_mask.json", Path.unlink),
        ("out/a_mask.json", truncate),
        ("out/a_mask.json", lambda path: path.write_text("[]")),
        ("out/a_mask.json", edit(outputs={})),
        ("out/a_mask.json", edit(lesions={"count": 0, "voxels": 0, "mm3": 0})),
        ("out/a_mask.json", edit(parameters=None)),
        ("out/a_mask.json", edit(input={"sha256": "0" * 64})),
        ("scans/a.nii.gz", lambda path: save_head(path, 7)),
        ("brain.nii.gz", lambda path: save_nifti(path, BRAIN.astype(np.uint8) * 2, grid())),
    ],
)
def test_a_file_that_changed(copy: Path, name: str, change: Callable[[Path], object]) -> None:
    """Only its scan is done again, and is then as it would have been."""
    change(copy / name)
    assert again(copy) == {"a": False, "b": True}
    assert again(copy) == {"a": True, "b": True}
    expected = copy / "expected"
    batch(copy / "manifest.csv", expected, report=True).run()
    assert results(copy / "out") == results(expected)


def test_another_scan_behind_a_name(copy: Path) -> None:
    (copy / "manifest.csv").write_text("name,image\na,scans/b.nii.gz\nb,scans/a.nii.gz\n")
    assert again(copy) == {"a": False, "b": False}


# Settings: looked at without running anything


def known(run: Any) -> list[bool]:
    """Which scans a batch would leave out."""
    run._begin()
    return [run._earlier(scan) is not None for scan in run.scans]


def would_skip(folder: Path, root: Path | None = None, **settings: Any) -> list[bool]:
    settings = {"resume": True, "report": True, **settings}
    return known(batch(folder / "manifest.csv", folder / "out", root, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.5},
        {"min_lesion_mm3": 21.0},
        {"healthy_fpr": 0.004},
        {"amp": True},
        {"volume": 0},
        {"report": False},
        {"stats": False},
        {"save_score": False},
        {"save_healthy": True},
        {"save_brain": True},
        {"inferer::overlap": 0.25},
        {"force": True},
    ],
)
def test_a_setting_that_changed(made: tuple[Path, list[Outcome]], settings: Any) -> None:
    assert would_skip(made[0]) == [True, True]
    assert would_skip(made[0], **settings) == [False, False]


@pytest.mark.parametrize(
    ("part", "step", "settings"),
    [
        ("preprocessing", "Hounsfield", {"window_hu": [0.0, 81.0]}),
        ("postprocessing", "Rim", {"width_mm": 2.5}),
    ],
)
def test_a_step_that_changed(
    made: tuple[Path, list[Outcome]], part: str, step: str, settings: Any
) -> None:
    steps = bundle.settings(ready_bundle(), part)[part]["transforms"]
    number = next(n for n, one in enumerate(steps) if one["_target_"].endswith(f".{step}"))
    changed = {f"{part}::transforms::{number}::{key}": value for key, value in settings.items()}
    assert would_skip(made[0], **changed) == [False, False]


@pytest.mark.parametrize("settings", [{"workers": 3}, {"device": "$torch.device('cpu')"}])
def test_a_setting_that_changes_no_result(made: tuple[Path, list[Outcome]], settings: Any) -> None:
    assert would_skip(made[0], **settings) == [True, True]


def test_weights_that_changed(made: tuple[Path, list[Outcome]], tmp_path: Path) -> None:
    root = bundle_copy(tmp_path)
    assert would_skip(made[0], root) == [True, True]  # wherever it lies
    weights = torch.load(root / "models" / "model.pt", weights_only=True)
    key = next(key for key, value in weights.items() if value.is_floating_point())
    weights[key].flatten()[0] += 1e-6
    torch.save(weights, root / "models" / "model.pt")
    assert would_skip(made[0], root) == [False, False]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("configs/metadata.json", '"version": "0.1.0"', '"version": "0.1.1"'),
        ("models/calibration.json", '"healthy_scans": 2', '"healthy_scans": 3'),
    ],
)
def test_a_bundle_that_changed(
    made: tuple[Path, list[Outcome]], tmp_path: Path, name: str, before: str, after: str
) -> None:
    root = bundle_copy(tmp_path)
    text = (root / name).read_text()
    assert before in text
    (root / name).write_text(text.replace(before, after))
    assert would_skip(made[0], root) == [False, False]


def test_another_release_of_volad(
    made: tuple[Path, list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volad.__version__", "99.0")
    assert would_skip(made[0]) == [False, False]


def test_a_refusal_is_a_result_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan check's answer is the same as long as nothing changed; no old mask may stand by."""
    scans = save_heads(tmp_path / "scans", 2)
    assert [o.error for o in batch(scans, tmp_path / "out").run()] == ["", ""]

    def refuse(self: Pipeline, sample: Any) -> Any:
        facts = {"verdict": "refused", "features": {}}
        raise OtherKindError("a.nii.gz: is not of the kind", facts, sample)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "infer", refuse)
        first = batch(scans, tmp_path / "out").run(check=False)
    assert [(o.exit_code, list(o.files)) for o in first] == [(4, ["sidecar"])] * 2
    second = batch(scans, tmp_path / "out", resume=True).run(check=False)
    assert [o.resumed for o in second] == [True, True]
    assert [o.row() for o in second] == [o.row() for o in first]
    (tmp_path / "out" / "a_mask.nii.gz").write_text("an old mask")
    assert [o.resumed for o in batch(scans, tmp_path / "out", resume=True).run(check=False)] == [
        False,
        True,
    ]


# The description of settings


class Settings:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


def test_a_description_tells_all_that_differs() -> None:
    network = torch.nn.Conv1d(1, 1, 1)
    with torch.no_grad():
        for one in network.parameters():
            one.zero_()

    def settings(**changed: Any) -> Settings:
        inner = Settings(size=3, name="x", where=Path("a"), ratio=0.5, none=None)
        values = {"inner": inner, "array": np.arange(3), "network": network, "order": [1, 2]}
        return Settings(**{**values, **changed})

    same = digest(describe(settings()))
    assert digest(describe(settings())) == same
    assert digest(describe(settings(array=torch.arange(3)))) == same
    others = [
        settings(inner=Settings(size=4, name="x", where=Path("a"), ratio=0.5, none=None)),
        settings(inner=Settings(size=3, name="x", where=Path("a"), ratio=0.5, none=0)),
        settings(array=np.arange(3) + 1),
        settings(array=np.arange(3).astype(np.float32)),
        settings(array=np.arange(3)[None]),
        settings(order=[2, 1]),
        settings(network=torch.nn.Conv1d(1, 1, 1, padding=1)),
        settings(network=torch.nn.Conv1d(1, 1, 1)),
        settings(extra=float("inf")),
        settings(extra=float("nan")),
    ]
    assert len({same, *(digest(describe(other)) for other in others)}) == len(others) + 1


def test_a_description_can_be_of_anything() -> None:
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    values = [itself, {1, 2}, print, lambda: 0, b"x", np.float32(1), torch.float32, torch.Size([1])]
    assert json.dumps(describe([*values, np.random.RandomState(), np.array([{}])]))
    assert describe([torch.device("cuda", 1), "cuda:2", "cuda"]) == ["cuda", "cuda", "cuda"]


def test_parameters_are_those_of_one_scan(tmp_path: Path) -> None:
    run, identity = pipeline(ready_bundle()), bundle.identity(ready_bundle())
    common = parameters(run, identity, Outputs(tmp_path).wanted())
    plain = find_scans(save_head(tmp_path / "a.nii.gz"))[0]
    mask = save_nifti(tmp_path / "m.nii.gz", BRAIN.astype(np.uint8), grid())
    masked = find_scans(tmp_path / "a.nii.gz", brain_mask=mask)[0]
    hashes = {scan_parameters(common, scan)["sha256"] for scan in (plain, masked)}
    assert len(hashes) == 2
    assert json.loads(json.dumps(scan_parameters(common, plain))) == scan_parameters(common, plain)


# What a killed process leaves


def test_a_dead_runs_temporary_files_are_cleared(copy: Path) -> None:
    """Its lock tells of them; those of scans without one may be another living process's."""
    out = copy / "out"
    scans = {scan.name: scan for scan in find_scans(copy / "manifest.csv")}
    dead = [".a_score.nii.gz.99-ab.tmp.nii.gz", ".a_mask.json.99-cd.tmp.json"]
    once = [".statistics.csv.99-ab.tmp.csv", ".volad.99-ef.tmp", ".volad-plan.json.99-a.tmp.json"]
    for name in (*dead, *once, ".b_score.nii.gz.99-ab.tmp.nii.gz"):
        (out / name).write_text("half")
    lock_path(Outputs(out), scans["a"]).touch()
    (out / ".volad.lock").touch()
    assert again(copy) == {"a": True, "b": True}
    assert [path.name for path in out.glob(".*")] == [".b_score.nii.gz.99-ab.tmp.nii.gz"]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    first = take(path)
    assert first is not None
    assert not first.left_over
    assert take(path) is None
    first.release()
    assert not path.exists()
    path.touch()  # as a process leaves it that was killed
    second = take(path, wait=True)
    assert second is not None
    assert second.left_over
    second.release()
    assert not path.exists()
