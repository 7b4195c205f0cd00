"""A whole benchmark on small head CTs: two detectors, one of them trained here with two seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from io_helpers import save_nifti
from pipeline_helpers import LESION, grid, head, healthy_set, ready_bundle, save_head

from volad.benchmark import DataSet, Source, read_plan
from volad.benchmark.data import make_ready, make_training
from volad.cli import main
from volad.data import Row, read_manifest
from volad.errors import InputError, UsageError

#: The training of `pipeline_helpers.TRAINING`, short.
PREPARATION = {"modality": "ct", "space": "isotropic", "spacing_mm": 6, "patch": [16, 16, 16]}
TRAINING = {"epochs": 2, "batch": 4, "ema": 0, "amp": False}
ARGUMENTS = {"features": [8, 16], "convs": 1, "code": 4, "residual": "positive"}


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads that bleed and one that does not, with a manifest."""
    folder = tmp_path_factory.mktemp("patients")
    lesion = np.zeros(head(0).shape, np.uint8)
    lesion[LESION] = 1
    save_nifti(folder / "lesion.nii.gz", lesion, grid())
    rows = [("a", 90, True), ("b", 91, True), ("c", 92, False)]
    with (folder / "patients.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["subject", "image", "lesion", "split"])
        for name, seed, sick in rows:
            save_head(folder / f"{name}.nii.gz", seed, lesion=sick)
            table.writerow([name, f"{name}.nii.gz", "lesion.nii.gz" if sick else "", "test"])
        table.writerow(["d", "not_there.nii.gz", "", "other"])
    return folder


def plan_file(folder: Path, patients: Path) -> Path:
    plan = {
        "folders": ["healthy"],
        "training": {"manifest": "{healthy}/manifest.csv", "data_dir": "{healthy}"},
        "detectors": {
            "ready": {"bundle": str(ready_bundle())},
            "new": {
                "method": "ae",
                "arguments": ARGUMENTS,
                "preparation": PREPARATION,
                "training": TRAINING,
                "seeds": [0, 1],
            },
        },
        "data": {"patients": {"manifest": str(patients / "patients.csv"), "split": "test"}},
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def benchmark(plan: Path, out: Path) -> int:
    where = ["--folder", f"healthy={healthy_set()}", "--device=cpu", "--draws=200"]
    return main(["benchmark", str(plan), "-o", str(out), *where])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, patients: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("benchmark")
    plan = plan_file(folder, patients)
    assert benchmark(plan, folder / "out") == 0
    return plan, folder / "out"


def test_every_run_has_a_row_that_names_what_made_it(done: tuple[Path, Path]) -> None:
    out = done[1]
    data = json.loads((out / "benchmark.json").read_text())["data"]["patients"]
    assert [row["run"] for row in data["rows"]] == ["ready", "new-seed0", "new-seed1"]
    for row in data["rows"]:
        made_by = json.loads((out / row["made_by"]).read_text())
        assert made_by["bundle"]["weights_sha256"]
        assert row["seconds_a_scan"] > row["model_seconds_a_scan"] > 0
        assert row["parameters"] > 0
    evaluation = json.loads((out / data["evaluation"]).read_text())
    for row in data["rows"]:
        assert (
            row["metrics"]["dice_mean"]
            == (evaluation["results"][row["run"]]["metrics"]["dice_mean"])
        )


def test_a_trained_detector_beats_one_that_hardly_learned(done: tuple[Path, Path]) -> None:
    data = json.loads((done[1] / "benchmark.json").read_text())["data"]["patients"]
    ready, *new = (row["metrics"]["auprc_pooled"]["value"] for row in data["rows"])
    assert ready > max(new)


def test_seeds_are_summed_up_by_mean_and_range(done: tuple[Path, Path]) -> None:
    data = json.loads((done[1] / "benchmark.json").read_text())["data"]["patients"]
    values = [row["metrics"]["auprc_pooled"]["value"] for row in data["rows"][1:]]
    (seeds,) = data["seeds"]
    assert values[0] != values[1]
    assert seeds["detector"] == "new"
    assert seeds["metrics"]["auprc_pooled"] == {
        "mean": pytest.approx(np.mean(values)),
        "lowest": min(values),
        "highest": max(values),
    }


def test_the_markdown_has_a_line_a_run(done: tuple[Path, Path]) -> None:
    text = (done[1] / "benchmark.md").read_text()
    for run in ("ready", "new-seed0", "new-seed1", "new, 2 seeds"):
        assert f"| {run} |" in text


def test_called_again_it_makes_only_what_is_missing(
    done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = done
    kept = out / "results" / "ready" / "patients" / "a_mask.json"
    gone = out / "results" / "ready" / "patients" / "b_mask.json"
    weights = out / "bundles" / "new-seed0" / "models" / "model.pt"
    before = (kept.stat().st_mtime_ns, weights.stat().st_mtime_ns)
    text = (out / "benchmark.md").read_text()
    gone.unlink()
    assert benchmark(plan, out) == 0
    assert (kept.stat().st_mtime_ns, weights.stat().st_mtime_ns) == before
    assert gone.exists()
    # All but the seconds, of which the new scan has its own.
    rows = [line.rsplit("|", 3)[0] for line in (out / "benchmark.md").read_text().splitlines()]
    assert rows == [line.rsplit("|", 3)[0] for line in text.splitlines()]


def test_results_of_another_threshold_are_made_anew(
    tmp_path: Path, patients: Path, done: tuple[Path, Path]
) -> None:
    out = done[1]
    stamp = out / "results" / "ready" / "patients" / "run.json"
    stored = json.loads(stamp.read_text())
    stored["sha256"]["calibration.json"] = "0" * 64
    stamp.write_text(json.dumps(stored))
    other = out / "results" / "ready" / "patients" / "a_mask.json"
    before = other.stat().st_mtime_ns
    assert benchmark(done[0], out) == 0
    assert other.stat().st_mtime_ns > before
    assert json.loads(stamp.read_text()) != stored


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"detectors": {}}, "at least one"),
        ({"detectors": {"x": {"bundle": "a", "method": "ae"}}}, "either 'bundle' or 'method'"),
        ({"detectors": {"x": {"methd": "ae"}}}, "unknown key 'methd'"),
        ({"detectors": {"x/y": {"bundle": "a"}}}, "folder's name"),
        ({"detectors": {"x": {"method": "aee"}}}, "aee"),
        ({"data": {"d": {}}}, "manifest"),
        ({"data": {"d": {"manifest": "m.csv", "simulate": "pet"}}}, "'mr' or 'ct', got 'pet'"),
        ({"data": {"d": {"manifest": "{nowhere}/a.csv"}}}, "--folder nowhere=DIR"),
        ({"data": {"d": {"manifest": "m.csv", "contrasts": ["t2"]}}}, "of simulated MR"),
        ({"training": {"manifest": "m.csv", "simulate": "mr", "contrasts": ["t3"]}}, "'t3'"),
        ({"training": {"manifest": "m.csv", "simulate": "mr", "channels": ["t9"]}}, "'t9'"),
        ({"data": {"d": {"manifest": "m.csv", "simulate": "ct", "channels": ["a"]}}}, "one chan"),
        (
            {"data": {"d": {"manifest": "m.csv", "channels": ["a", "b"], "synthetic": {}}}},
            "one channel only",
        ),
        (
            {
                "training": {"manifest": "m.csv", "simulate": "mr"},
                "detectors": {"x": {"method": "ae", "preparation": {"simulate": "mr"}}},
            },
            "cannot be simulated again",
        ),
        ({"folders": ["other"]}, "--folder other=DIR"),
    ],
)
def test_a_wrong_plan_is_one_clear_line(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    plan = {
        "training": {"manifest": "m.csv", "data_dir": "d"},
        "detectors": {"x": {"method": "ae"}},
        "data": {"d": {"manifest": "m.csv"}},
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan, **changes}))
    with pytest.raises(UsageError, match=says) as error:
        read_plan(path, {})
    assert "\n" not in str(error.value)


def test_a_missing_scan_is_named(patients: Path, tmp_path: Path) -> None:
    plan = json.loads(plan_file(tmp_path, patients).read_text())
    del plan["data"]["patients"]["split"]
    path = tmp_path / "all.json"
    path.write_text(json.dumps(plan))
    assert benchmark(path, tmp_path / "out") == InputError.exit_code


def test_a_data_set_may_be_simulated_of_healthy_t1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of the chosen split is simulated, and its contrast can be a column of the table."""
    (tmp_path / "t1.csv").write_text("subject,split,image\na,test,a.nii\nb,train,a.nii\n")
    (tmp_path / "a.nii").touch()
    asked = simulated(monkeypatch)
    source = Source(tmp_path / "t1.csv", tmp_path, "mr", contrasts=("flair",))
    data = DataSet("sim", source, "test", by=("contrast",))
    ready = make_ready(data, tmp_path / "data", tmp_path / "cache")
    ((rows, settings),) = asked
    assert [(row.subject, row.image) for row in rows] == [("a", tmp_path / "a.nii")]
    assert settings == {"kinds": ("flair",), "heads": "in turn", "seed": 1}
    assert [scan.name for scan in ready.scans] == ["a"]
    assert "flair" in ready.manifest.read_text()


def test_all_methods_learn_from_the_same_simulated_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other draws than those they are judged on; the test split stays out."""
    lines = ["a,test,a.nii,", "b,train,a.nii,", "c,validation,a.nii,"]
    (tmp_path / "t1.csv").write_text("\n".join(["subject,split,image,sha256", *lines]))
    (tmp_path / "a.nii").touch()
    asked = simulated(monkeypatch)
    source = Source(tmp_path / "t1.csv", tmp_path, "mr", channels=("t1", "t2", "flair"))
    made = make_training(source, tmp_path / "data", tmp_path / "cache")
    ((rows, settings),) = asked
    assert [(row.subject, row.split) for row in rows] == [("b", "train"), ("c", "validation")]
    assert settings == {"kinds": ("t1", "t2", "flair"), "heads": "channels", "seed": 2}
    assert made.simulate is None
    assert made.channels == source.channels
    assert (made.data_dir / "manifest.csv") == made.manifest
    plain = Source(tmp_path / "t1.csv", tmp_path)
    assert make_training(plain, tmp_path / "data", tmp_path / "cache") is plain


def test_methods_may_learn_from_fewer_scans_and_are_calibrated_on_all(tmp_path: Path) -> None:
    lines = ["a,train,a.nii,,a.nii,", "b,train,a.nii,,a.nii,", "c,validation,a.nii,,a.nii"]
    header = "subject,split,image,sha256,t2,t2_sha256"
    (tmp_path / "t1.csv").write_text("\n".join([header, *lines]))
    (tmp_path / "a.nii").touch()
    source = Source(tmp_path / "t1.csv", tmp_path, channels=("t1", "t2"), scans=1)
    made = make_training(source, tmp_path / "data", tmp_path / "cache")
    found = read_manifest(made.manifest, made.data_dir, made.channels)
    assert [(row.subject, row.split) for row in found] == [("a", "train"), ("c", "validation")]
    assert found[0].channels == (("t2", tmp_path / "a.nii", ""),)


def test_scans_of_a_data_set_have_its_channels(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("image,flair\na.nii,b.nii\n")
    (tmp_path / "a.nii").touch()
    data = DataSet("all", Source(tmp_path / "all.csv", tmp_path, channels=("t1", "flair")))
    with pytest.raises(InputError, match=r"b\.nii is not there"):
        make_ready(data, tmp_path / "data", tmp_path / "cache")
    (tmp_path / "b.nii").touch()
    (scan,) = make_ready(data, tmp_path / "data", tmp_path / "cache").scans
    assert (scan.path, scan.channels) == (tmp_path / "a.nii", (("flair", tmp_path / "b.nii"),))
    other = DataSet("all", Source(tmp_path / "all.csv", tmp_path, channels=("t1", "t2")))
    with pytest.raises(InputError, match="no column 't2'"):
        make_ready(other, tmp_path / "data", tmp_path / "cache")


def test_a_data_set_whose_channels_no_detector_has_is_named(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (patients / "patients.csv").read_text().splitlines()
    (patients / "two.csv").write_text(
        "\n".join([text[0] + ",t2", *(f"{line},a.nii.gz" for line in text[1:4])])
    )
    plan = {
        "detectors": {"ready": {"bundle": str(ready_bundle())}},
        "data": {"two": {"manifest": str(patients / "two.csv"), "channels": ["t1", "t2"]}},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert main(["benchmark", str(tmp_path / "plan.json"), "-o", str(tmp_path / "out")]) == 2
    assert "data: two: no detector has its channels (t1, t2)" in capsys.readouterr().err


Asked = list[tuple[list[Row], dict[str, object]]]


def simulated(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is asked of the simulation, which makes one scan whatever it is asked for."""
    asked: Asked = []

    def write_scans(rows: list[Row], folder: Path, _: Path, **settings: object) -> Path:
        asked.append((rows, settings))
        folder.mkdir(parents=True)
        (folder / "a.nii.gz").touch()
        text = "subject,split,image,contrast\na,test,a.nii.gz,flair\n"
        (folder / "manifest.csv").write_text(text)
        return folder / "manifest.csv"

    monkeypatch.setattr("volad.simulate_mr.write_scans", write_scans)
    return asked


@pytest.mark.slow
def test_painted_lesions_get_a_table_by_contrast_and_size(tmp_path: Path) -> None:
    """A real healthy scan, one lesioned volume of it, and the shipped bundle."""
    data = Path(__file__).parent / "data"
    (tmp_path / "healthy.csv").write_text("image,subject\nIXI646-HH-2653_T1.nii.gz,IXI646\n")
    (tmp_path / "suite.json").write_text('{"volumes": 1}')
    plan = {
        "detectors": {"ae": {"bundle": "brain_t1_ae"}},
        "data": {
            "painted": {
                "manifest": "healthy.csv",
                "data_dir": str(data),
                "synthetic": {"suite": "suite.json"},
            }
        },
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    where = ["--device=cpu", "--draws=100", "--no-froc"]
    assert main(["benchmark", str(tmp_path / "plan.json"), "-o", str(tmp_path), *where]) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())["data"]["painted"]
    assert found["synthetic"]
    assert found["scans"] == 3  # as it is, with atrophy, with lesions
    cells = found["by_contrast_and_size"]["ae"]
    with (tmp_path / "data" / "painted" / "lesions.csv").open(newline="") as stream:
        assert sum(cell["lesions"] for cell in cells) == len(list(csv.DictReader(stream)))
    assert sum(cell["found"] for cell in cells) > 0
    text = (tmp_path / "benchmark.md").read_text()
    assert "SYNTHETIC" in text
    assert "| contrast |" in text
