"""The command line, in process: what it takes, writes, prints and returns."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from pipeline_helpers import (
    LESION,
    TRAINING,
    Breaks,
    bundle_copy,
    files_below,
    grid,
    head,
    healthy_set,
    ready_bundle,
    save_head,
    segment,
    sha256,
    train_arguments,
    voxels,
)

import volad.methods
from volad import bundle
from volad.cli import main
from volad.io import write
from volad.train import Trainer

Captured = pytest.CaptureFixture[str]
LIGHT = ("--no-report", "--no-stats")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A head with a lesion, `head.nii.gz`."""
    return save_head(tmp_path / "head.nii.gz")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for results that is not there yet."""
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """`--threads` reaches the whole process: set it back."""
    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    yield
    torch.set_num_threads(before)
    if variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = variable


def sidecar(folder: Path, name: str = "head") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}_mask.json").read_text())
    return found


def mask_of(scan: Path, folder: Path, *options: str) -> np.ndarray:
    """The mask that `volad segment` gives with some options."""
    assert segment(scan, "-o", folder, *LIGHT, *options) == 0
    return voxels(folder / "head_mask.nii.gz") > 0


# What is written, and what is printed


def test_a_scan_into_a_folder(scan: Path, out: Path, capfd: Captured) -> None:
    assert segment(scan, "-o", out) == 0
    assert files_below(out) == [
        "head_lesions.csv",
        "head_mask.json",
        "head_mask.nii.gz",
        "head_report.html",
        "head_score.nii.gz",
    ]
    # The mask's path is the result; nothing else is said, by no library either.
    assert capfd.readouterr() == (f"{out / 'head_mask.nii.gz'}\n", "")


def test_nothing_chatters_in_a_process_of_its_own(scan: Path, out: Path) -> None:
    """Warnings that a library gives only once, at its first use, show up here alone."""
    command = [sys.executable, "-m", "volad", "segment", str(scan), "-o", str(out)]
    ran = subprocess.run(
        [*command, "-b", str(ready_bundle()), "--device=cpu"],
        capture_output=True,
        text=True,
        cwd=Path(volad.__file__).parents[1],
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"{out / 'head_mask.nii.gz'}\n"


def test_a_scan_into_a_mask_of_its_own_name(scan: Path, out: Path) -> None:
    assert segment(scan, "-o", out / "deep" / "x_mask.nii.gz") == 0
    assert files_below(out / "deep") == [
        "x_lesions.csv",
        "x_mask.json",
        "x_mask.nii.gz",
        "x_report.html",
        "x_score.nii.gz",
    ]


def test_the_lesion_is_found_on_a_turned_flipped_anisotropic_scan(
    tmp_path: Path, out: Path
) -> None:
    voxel_to_whole = np.array(  # scan axes (i, j, k) are the head's (-z, x, 2y)
        [[0, 1, 0, 0], [0, 0, 2, 0], [-1, 0, 0, 43], [0, 0, 0, 1]], float
    )
    data = head(90, lesion=True)[:, ::2, ::-1].transpose(2, 0, 1)
    image = nib.Nifti1Image(data, grid() @ voxel_to_whole)
    image.set_sform(image.affine, 3)
    image.set_qform(image.affine, 2)
    image.header.set_xyzt_units("mm")
    image.header["cal_max"] = 90
    image.to_filename(tmp_path / "turned.nii.gz")

    assert segment(tmp_path / "turned.nii.gz", "-o", out) == 0

    scan = nib.load(tmp_path / "turned.nii.gz")
    for kind, dtype in (("mask", np.uint8), ("score", np.float32)):
        made = nib.load(out / f"turned_{kind}.nii.gz")
        assert made.shape == data.shape
        assert made.affine.tobytes() == scan.affine.tobytes()
        assert made.get_data_dtype() == dtype
        for field in (
            *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"),
            *("qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
        ):
            assert made.header[field].tobytes() == scan.header[field].tobytes(), field
        assert made.header["cal_max"] == 0
    first = next(csv.DictReader((out / "turned_lesions.csv").open()))
    world = [float(first[f"{axis}_mm"]) for axis in "xyz"]
    i, j, k = (np.linalg.inv(grid()) @ [*world, 1])[:3]
    x, y, z = LESION
    assert x.start <= i <= x.stop
    assert y.start <= j <= y.stop
    assert z.start <= k <= z.stop


def test_a_folder_keeps_its_sub_folders(tmp_path: Path, out: Path, capsys: Captured) -> None:
    for place in ("scans/a.nii.gz", "scans/site1/b.nii", "scans/site1/ses2/a.nii.gz"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save_head(tmp_path / place)
    assert segment(tmp_path / "scans", "-o", out, "--no-report", "--no-save-score") == 0
    written = ["a_mask.nii.gz", "site1/b_mask.nii.gz", "site1/ses2/a_mask.nii.gz"]
    assert [f for f in files_below(out) if f.endswith("mask.nii.gz")] == written
    assert capsys.readouterr().out.split() == [str(out / name) for name in written]
    rows = list(csv.DictReader((out / "statistics.csv").open()))
    assert [row["Name"] for row in rows] == ["a", "site1/b", "site1/ses2/a"]
    for row in rows:
        mask = voxels(out / f"{row['Name']}_mask.nii.gz")
        assert int(row["Num_Vox"]) == mask.sum() > 0
        assert float(row["Lesion_Volume"]) == mask.sum() * 64
        assert (row["flags"], row["error"]) == ("", "")


def test_a_manifest_names_scans_and_their_brain_masks(scan: Path, out: Path) -> None:
    folder = scan.parent
    half = head(90) > -1000
    half[20:] = False
    nib.Nifti1Image(half.astype(np.uint8), grid()).to_filename(folder / "half.nii.gz")
    manifest = folder / "scans.csv"
    manifest.write_text("image,name,brain_mask\nhead.nii.gz,all,\nhead.nii.gz,left,half.nii.gz\n")
    # Half a brain is none of the kind that the bundle knows.
    assert segment(manifest, "-o", out, "--no-report", "--force") == 0
    everywhere, left = (voxels(out / f"{name}_score.nii.gz") for name in ("all", "left"))
    assert everywhere[20:].any()
    assert left[:20].any()
    assert not left[20:].any()
    assert segment(scan, "-o", out, "--brain-mask", folder / "half.nii.gz", "--force") == 0
    assert np.array_equal(voxels(out / "head_score.nii.gz"), left)


def test_json_lines_tell_what_was_done(tmp_path: Path, out: Path, capsys: Captured) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        save_head(tmp_path / "scans" / f"{name}.nii.gz", lesion=name == "b")
    assert segment(tmp_path / "scans", "-o", out, "--json", "--save-healthy") == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["name"] for row in rows] == ["a", "b"]
    for row in rows:
        assert (row["exit_code"], row["error"], row["flags"]) == (0, "", [])
        kinds = {"mask", "score", "healthy", "lesions", "report", "sidecar"}
        assert set(row["files"]) == kinds
        assert all(Path(file).is_file() for file in row["files"].values())
        assert row["Num_Vox"] == voxels(Path(row["files"]["mask"])).sum()
        assert row["scan_scores"].keys() == {"mean", "p99"}
        assert row["scan_scores"] == sidecar(out, row["name"])["scan_scores"]
    assert rows[1]["scan_scores"]["mean"] > rows[0]["scan_scores"]["mean"]
    assert rows[1]["Num_Vox"] > rows[0]["Num_Vox"]


def test_warnings_go_to_stderr_and_quiet_silences_them(
    tmp_path: Path, out: Path, capsys: Captured
) -> None:
    image = nib.Nifti1Image(head(90), grid())
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "lost.nii.gz")
    assert segment(tmp_path / "lost.nii.gz", "-o", out, *LIGHT) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'lost_mask.nii.gz'}\n"
    (line,) = captured.err.splitlines()
    assert line.startswith(f"volad: {tmp_path / 'lost.nii.gz'}: qform and sform codes are both 0")
    assert line.endswith(*sidecar(out, "lost")["flags"])
    assert segment(tmp_path / "lost.nii.gz", "-o", out, *LIGHT, "-q") == 0
    assert capsys.readouterr() == (captured.out, "")


def test_only_what_is_wanted_is_written(scan: Path, out: Path) -> None:
    assert segment(scan, "-o", out, "--no-report", "--no-stats", "--no-save-score") == 0
    assert files_below(out) == ["head_mask.json", "head_mask.nii.gz"]


def test_the_healthy_counterpart_is_in_the_scans_units(scan: Path, out: Path) -> None:
    assert segment(scan, "-o", out, *LIGHT, "--save-healthy") == 0
    healthy, image = voxels(out / "head_healthy.nii.gz"), voxels(scan)
    brain = image > -1000
    assert (healthy[~brain] == 0).all()
    assert abs(healthy[brain].mean() - image[brain].mean()) < 5  # HU
    assert healthy[LESION].mean() < image[LESION].mean() - 10


# Options that change the mask


def test_a_threshold_of_ones_own(scan: Path, out: Path) -> None:
    found = []
    for value in (0.05, 0.1, 0.15):
        mask = mask_of(scan, out, f"--threshold={value}", "--min-lesion-mm3=0")
        assert np.array_equal(mask, voxels(out / "head_score.nii.gz") > value)
        assert sidecar(out)["threshold"]["value"] == value
        found.append(mask)
    high, middle, low = reversed(found)
    assert high.any()
    assert (high <= middle).all()
    assert (middle <= low).all()
    assert high.sum() < middle.sum() < low.sum()


def test_a_healthy_rate_of_ones_own(scan: Path, out: Path) -> None:
    stored = json.loads((ready_bundle() / "models" / "calibration.json").read_text())
    default = mask_of(scan, out)
    assert sidecar(out)["threshold"]["value"] == stored["threshold"]
    strict = mask_of(scan, out, "--healthy-fpr=0.001")
    assert sidecar(out)["threshold"]["value"] > stored["threshold"]
    generous = mask_of(scan, out, "--healthy-fpr=0.05")
    assert sidecar(out)["threshold"]["value"] < stored["threshold"]
    assert strict.sum() < default.sum() < generous.sum()
    # The rate that the bundle was calibrated for gives the bundle's own threshold back.
    assert np.array_equal(mask_of(scan, out, "--healthy-fpr=0.005"), default)


def test_the_sidecar_says_whose_threshold_it_was(scan: Path, out: Path) -> None:
    mask_of(scan, out)
    assert sidecar(out)["threshold"]["source"] == "calibration"
    assert sidecar(out)["threshold"]["calibration"]["promise"]["rate"] == 0.005
    mask_of(scan, out, "--healthy-fpr=0.05")
    assert sidecar(out)["threshold"]["source"] == "calibration"
    assert sidecar(out)["threshold"]["promise"]["rate"] == 0.05
    mask_of(scan, out, "--threshold=0.1")
    assert sidecar(out)["threshold"]["source"] == "user"


def test_small_lesions_are_dropped(scan: Path, out: Path) -> None:
    everything = mask_of(scan, out, "--min-lesion-mm3=0")
    sizes = [int(row["voxels"]) for row in _lesions(scan, out, "--min-lesion-mm3=0")]
    between = 64 * sizes[1] - 1  # the second largest stays, the third goes
    assert sizes[1] > sizes[2]
    assert [int(row["voxels"]) for row in _lesions(scan, out, f"--min-lesion-mm3={between}")] == (
        sizes[:2]
    )
    largest = mask_of(scan, out, f"--min-lesion-mm3={between + 2}")
    assert (largest <= everything).all()
    assert largest.sum() == sizes[0]
    assert not mask_of(scan, out, "--min-lesion-mm3=1000000").any()


def _lesions(scan: Path, out: Path, *options: str) -> list[dict[str, str]]:
    assert segment(scan, "-o", out, "--no-report", *options) == 0
    return list(csv.DictReader((out / "head_lesions.csv").open()))


def test_overlap_reaches_the_windows(scan: Path, out: Path) -> None:
    mask_of(scan, out)
    before = voxels(out / "head_score.nii.gz")
    mask_of(scan, out, "--overlap=0.25")
    after = voxels(out / "head_score.nii.gz")
    assert not np.array_equal(before, after)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


def test_one_volume_of_a_4d_scan(scan: Path, out: Path) -> None:
    both = np.stack([head(1), head(90, lesion=True)], axis=-1)
    nib.Nifti1Image(both, nib.load(scan).affine, nib.load(scan).header).to_filename(
        scan.parent / "both.nii.gz"
    )
    expected = mask_of(scan, out)
    assert segment(scan.parent / "both.nii.gz", "-o", out, "--volume=1", *LIGHT) == 0
    assert np.array_equal(voxels(out / "both_mask.nii.gz") > 0, expected)


# The same again


def test_the_same_scan_gives_the_same_bytes(scan: Path, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        assert segment(scan, "-o", tmp_path / folder, "--no-report") == 0
    for name in ("head_mask.nii.gz", "head_score.nii.gz", "head_lesions.csv"):
        assert sha256(tmp_path / "first" / name) == sha256(tmp_path / "second" / name)


def test_workers_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for seed in range(4):
        save_head(tmp_path / "scans" / f"{seed}.nii.gz", seed)
    (tmp_path / "scans" / "1.nii.gz").write_text("no scan")
    for workers in ("0", "2"):
        options = ("--no-report", "--workers", workers)
        assert segment(tmp_path / "scans", "-o", tmp_path / workers, *options) == 3
    names = files_below(tmp_path / "0")
    assert files_below(tmp_path / "2") == names
    assert len(names) == 3 * 4 + 3  # mask, score, lesions, sidecar; statistics, plan, journal
    for name in names:
        if not name.endswith(("_mask.json", ".jsonl")):  # those tell times
            assert sha256(tmp_path / "0" / name) == sha256(tmp_path / "2" / name), name


def test_threads(scan: Path, out: Path) -> None:
    mask_of(scan, out, "--threads=2")
    assert torch.get_num_threads() == 2
    assert sidecar(out)["threads"] == 2


# Devices


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda", "there are 0 CUDA devices; use --device auto"),
        ("cuda:1", "there are 0 CUDA devices; use --device auto"),
        ("mps", "must be auto, cpu, cuda or cuda:N"),
        ("gpu!", "must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_named_device_that_is_absent_is_an_error(
    scan: Path,
    out: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    says: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert segment(scan, "-o", out, f"--device={device}") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"volad: --device {device}" in captured.err or repr(device) in captured.err
    assert says in captured.err
    assert not out.exists()


def test_auto_falls_back_to_the_cpu(scan: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mask_of(scan, out, "--device=auto")
    assert sidecar(out)["device"] == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_finds_what_the_cpu_finds(scan: Path, tmp_path: Path) -> None:
    cpu = mask_of(scan, tmp_path / "cpu", "--device=cpu")
    gpu = mask_of(scan, tmp_path / "gpu", "--device=cuda")
    assert sidecar(tmp_path / "gpu")["device"] == "cuda"
    assert sidecar(tmp_path / "gpu")["peak_memory"]["device_mib"] > 0
    assert 2 * (cpu & gpu).sum() / (cpu.sum() + gpu.sum()) > 0.99


# Defaults, help and mistakes


def test_holoscan_variables_are_the_defaults(
    scan: Path, out: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLOSCAN_INPUT_PATH", str(scan))
    monkeypatch.setenv("HOLOSCAN_OUTPUT_PATH", str(out))
    assert segment(*LIGHT) == 0
    assert (out / "head_mask.nii.gz").is_file()
    assert segment("-o", out.parent / "other", *LIGHT) == 0
    assert (out.parent / "other" / "head_mask.nii.gz").is_file()
    capsys.readouterr()
    monkeypatch.delenv("HOLOSCAN_OUTPUT_PATH")
    assert segment(*LIGHT) == 2
    assert "with -o" in capsys.readouterr().err


def test_version(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"volad {volad.__version__}\n"


def test_info(capsys: Captured) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["volad"] == volad.__version__
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["bundles"] == bundle.names()
    assert main(["info"]) == 0
    assert f"volad: {volad.__version__}\n" in capsys.readouterr().out


def test_info_on_a_bundle(capsys: Captured) -> None:
    root = ready_bundle()
    assert main(["info", str(root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["method"], facts["modality"]) == ("head_ct_ae", "ae", "ct")
    assert facts["weights_sha256"] == sha256(root / "models" / "model.pt")
    stored = json.loads((root / "models" / "calibration.json").read_text())
    assert facts["calibration"]["threshold"] == stored["threshold"]
    assert main(["info", str(root)]) == 0
    assert "method: ae\n" in capsys.readouterr().out


def test_methods(capsys: Captured) -> None:
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == volad.methods.names()
    assert main(["methods", "ae"]) == 0
    shown = capsys.readouterr().out
    assert "Method: Sato et al." in shown
    assert "bottleneck: " in shown


def test_questions_are_answered_without_torch() -> None:
    asked = [["info"], ["info", str(ready_bundle())], ["methods"], ["methods", "ae"]]
    code = (
        "import sys\nfrom volad.cli import main\n"
        f"assert [main(a) for a in {asked!r}] == [0] * {len(asked)}\n"
        "sys.exit(sorted({'torch', 'monai', 'nibabel', 'SimpleITK'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(volad.__file__).parents[1],
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["segment", "a.nii", "-o", "out", "-b", "head_ct_aa"], "did you mean 'head_ct_ae'?"),
        (["segment", "a.nii", "-o", "out", "-b", "xyz"], "shipped are: head_ct_ae"),
        (["info", "heat_ct_ae"], "did you mean 'head_ct_ae'?"),
        (["methods", "voxel_gausian"], "did you mean 'voxel_gaussian'?"),
        (["methods", "qqq"], "there are: ae, "),
        (["calibrate", "head_ct_ae"], "--on FOLDER"),
        (["calibrate", "head_ct_ae", "--on", "x", "--manifest", "y"], "--on FOLDER"),
        (["calibrate", "head_ct_ae", "--manifest", "y"], "--data-dir"),
        (["segment"], "-o"),
    ],
)
def test_wrong_calls_end_with_2_and_a_way_out(
    arguments: list[str], says: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "shelf", ready_bundle().parent.absolute)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("volad: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err


@pytest.mark.parametrize(
    "option",
    [
        "--threshold=nan",
        "--threshold=inf",
        "--threshold=high",
        "--healthy-fpr=0",
        "--healthy-fpr=1.5",
        "--min-lesion-mm3=-1",
        "--min-lesion-mm3=nan",
        "--overlap=1",
        "--overlap=-0.1",
        "--workers=-1",
        "--threads=0",
        "--volume=-1",
        "--colour=red",
    ],
)
def test_values_that_no_option_takes(scan: Path, out: Path, option: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        segment(scan, "-o", out, option)
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert option.split("=")[0] in captured.err.splitlines()[-1]
    assert not out.exists()


def test_one_mask_path_for_two_scans(tmp_path: Path, out: Path, capsys: Captured) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        save_head(tmp_path / "scans" / f"{name}.nii.gz")
    assert segment(tmp_path / "scans", "-o", out / "x_mask.nii.gz") == 2
    assert "one mask file for 2 scans; name a folder with -o" in capsys.readouterr().err


def test_the_scan_itself_is_never_written_over(scan: Path, capsys: Captured) -> None:
    before = sha256(scan)
    assert segment(scan, "-o", scan) == 2
    assert "is the scan itself" in capsys.readouterr().err
    link = scan.parent / "link.nii.gz"
    link.symlink_to(scan)
    assert segment(link, "-o", scan) == 2
    assert sha256(scan) == before


def test_an_unpacked_mask_is_refused_before_the_work(
    scan: Path, out: Path, capsys: Captured
) -> None:
    assert segment(scan, "-o", out / "x_mask.nii") == 2
    assert "name it x_mask.nii.gz" in capsys.readouterr().err


def test_paths_are_never_taken_for_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bundle's config `$` starts an expression, `@` a reference and `%` another file."""
    monkeypatch.chdir(tmp_path)
    for name in ("$exit(5)", "@device", "%x"):
        folder = Path(name)
        folder.mkdir()
        save_head(folder / "head.nii.gz")
        save_head(Path(f"{name}.nii.gz"))
        assert segment(name, "-o", f"{name}/out", "--no-report") == 0
        assert segment(f"{name}.nii.gz", "-o", f"{name}_mask.nii.gz", *LIGHT) == 0
        assert Path(f"{name}_mask.nii.gz").is_file()
        expected = voxels(tmp_path / name / "out" / "head_mask.nii.gz")
        assert np.array_equal(voxels(tmp_path / f"{name}_mask.nii.gz"), expected)


# Interruption and libraries that fail


def test_interrupted(
    scan: Path, out: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being written is finished; a batch's other endings are in `test_batch.py`."""
    really, sent = write._sync, []

    def interrupt(path: Path) -> None:
        if not sent:  # a file is half written
            sent.append(path)
            os.kill(os.getpid(), signal.SIGINT)
        really(path)

    monkeypatch.setattr(write, "_sync", interrupt)
    # A job that a shell started in the background ignores the signal: take it as at a terminal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert segment(scan, "-o", out, *LIGHT) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == (
        "volad: interrupted; 1 of 1 scans are done, the same command with --resume goes on\n"
    )
    assert files_below(out) == ["head_mask.json", "head_mask.nii.gz", "head_score.nii.gz"]


def test_a_library_that_fails_on_one_scan_does_not_end_the_batch(
    tmp_path: Path, out: Path, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path)
    _insert_step(root, {"_target_": f"{Breaks.__module__}.Breaks", "name": "b"})
    (tmp_path / "scans").mkdir()
    for name in ("a", "b", "c"):
        save_head(tmp_path / "scans" / f"{name}.nii.gz")
    assert segment(tmp_path / "scans", "-o", out, *LIGHT, "-b", root) == 3
    captured = capsys.readouterr()
    assert sorted(captured.out.split()) == [str(out / f"{name}_mask.nii.gz") for name in "ac"]
    (line,) = captured.err.splitlines()
    assert line.startswith(f"volad: {tmp_path / 'scans' / 'b.nii.gz'}: ")
    assert "all samples lie outside" in line


def test_a_worker_that_dies_is_told_and_ends_the_run(
    scan: Path, out: Path, tmp_path: Path, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path)
    _insert_step(root, {"_target_": "pipeline_helpers.Dies"})
    assert segment(scan, "-o", out, "-b", root, "--workers=1") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"volad: {scan}: a worker process died, most likely for lack of memory; "
        "run with fewer --workers\n"
    )
    assert files_below(out) == []


def _insert_step(root: Path, step: dict[str, Any]) -> None:
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["preprocessing"]["transforms"].insert(1, step)
    path.write_text(json.dumps(config))


# Training and calibration


def test_train_makes_a_bundle_that_segments(
    scan: Path, out: Path, tmp_path: Path, capsys: Captured
) -> None:
    """The voxel-wise baseline, aligned to MNI152, from a command line to a mask."""
    root = tmp_path / "gauss"
    options = ("--modality=ct", "--space=mni", "--device=cpu", "--healthy-fpr=0.01")
    assert main(train_arguments(root, *options, method="voxel_gaussian")) == 0
    stored = json.loads((root / "models" / "calibration.json").read_text())
    assert capsys.readouterr().out == (
        f"{root}: threshold {stored['threshold']:.4g} from 2 healthy scans\n"
    )
    assert stored["promise"]["rate"] == 0.01
    assert {s["name"] for s in stored["scans"]} == {"sub3", "sub4"}
    weights = torch.load(root / "models" / "model.pt", weights_only=True)
    assert weights["normal.count"] == 3
    mask = mask_of(scan, out, "-b", str(root))
    assert mask[LESION].mean() > 0.5
    assert sidecar(out)["bundle"]["method"] == "voxel_gaussian"

    assert main(train_arguments(root, *options, method="ae")) == 2
    assert "is a bundle of another network (voxel_gaussian)" in capsys.readouterr().err
    other = ("--set", "floor=0.5")  # the same method, and not the same network
    assert main(train_arguments(root, *options, *other, method="voxel_gaussian")) == 2
    assert "give the arguments it was made with" in capsys.readouterr().err


def test_a_training_that_was_cut_short_goes_on(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, epochs = tmp_path / "head_ct_ae", 0
    run_one = Trainer._save

    def interrupt(self: Trainer, state: Any) -> None:
        nonlocal epochs
        run_one(self, state)
        epochs += 1
        if epochs == 7:
            raise KeyboardInterrupt

    cached = ("--cache-dir", str(ready_bundle() / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", interrupt)
        assert main(train_arguments(root, *TRAINING, *cached)) == 130
    assert not (root / "models" / "model.pt").exists()
    assert main(train_arguments(root, *TRAINING, *cached)) == 0
    whole, resumed = (
        torch.load(r / "models" / "model.pt", weights_only=True) for r in (ready_bundle(), root)
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    calibrated = [(r / "models" / "calibration.json").read_text() for r in (ready_bundle(), root)]
    assert calibrated[0] == calibrated[1]


def test_mr_learns_its_intensity_landmarks(tmp_path: Path) -> None:
    root = tmp_path / "mr"
    options = [o for o in TRAINING if o not in ("--modality=ct", "--spacing-mm=6", "--epochs=30")]
    options += ["--modality=mr", "--spacing-mm=12", "--epochs=1"]
    assert main(train_arguments(root, *options)) == 0
    config = json.loads((root / "configs" / "inference.json").read_text())
    scale = config["preprocessing"]["transforms"][-1]
    assert scale["_target_"] == "volad.preprocess.steps.Landmarks"
    assert scale["landmarks"] == sorted(scale["landmarks"])
    # Learned so that the 5th to 95th percentile spans 0.4 to 1 (Nyúl et al.).
    assert scale["landmarks"][1] == pytest.approx(0.4, abs=1e-4)
    assert scale["landmarks"][-2] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--set", "kernel=5"], "ae has no argument 'kernel'; it has: channels, spatial_dims"),
        (["--set", "loss=l3", "--set", "residual=x"], "residual must be one of"),
        (["--training", "sped=1"], "training has no setting 'sped'"),
        (["--space", "isotropic", "--manifest", "none.csv"], "none.csv"),
    ],
)
def test_a_wrong_training_is_refused_before_it_starts(
    tmp_path: Path, capsys: Captured, option: list[str], says: str
) -> None:
    root = tmp_path / "new"
    assert main(train_arguments(root, "--modality=ct", "--space=isotropic", *option)) in (2, 42)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert not list(root.glob("configs/*"))


def test_voxel_wise_methods_need_aligned_volumes(tmp_path: Path, capsys: Captured) -> None:
    options = ("--space=isotropic", "--modality=ct")
    assert main(train_arguments(tmp_path / "new", *options, method="voxel_gaussian")) == 2
    assert "works on volume windows, not in --space isotropic" in capsys.readouterr().err


def test_a_failed_preparation_leaves_other_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "configs" / "mine.json"
    mine.parent.mkdir()
    mine.write_text("{}")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("volad.api._learn_landmarks", interrupt)
    assert main(train_arguments(tmp_path, "--space=isotropic")) == 130
    left = files_below(tmp_path / "configs")
    assert "mine.json" in left
    assert not {"inference.json", "train.json"} & set(left)


def test_calibrate_sets_the_threshold_anew(
    scan: Path, out: Path, tmp_path: Path, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path)
    before = json.loads((root / "models" / "calibration.json").read_text())
    weights = sha256(root / "models" / "model.pt")
    healthy = tmp_path / "new"
    healthy.mkdir()
    for seed in range(50, 55):
        save_head(healthy / f"{seed}.nii.gz", seed, lesion=False)
    options = ("--healthy-fpr=0.02", "--cap=2", "--json")
    assert main(["calibrate", str(root), "--on", str(healthy), *options]) == 0
    told = json.loads(capsys.readouterr().out)
    after = json.loads((root / "models" / "calibration.json").read_text())
    assert told["threshold"] == after["threshold"] < before["threshold"]
    assert told["promise"]["rate"] == after["promise"]["rate"] == 0.02
    assert told["healthy_scans"] == 5
    assert {s["sha256"] for s in after["scans"]} == {sha256(f) for f in healthy.iterdir()}
    assert sha256(root / "models" / "model.pt") == weights
    mask_of(scan, out, "-b", str(root))
    assert sidecar(out)["threshold"]["value"] == after["threshold"]


def test_calibrate_on_a_split_gives_what_training_gave(tmp_path: Path) -> None:
    root, data = bundle_copy(tmp_path), healthy_set()
    stored = root / "models" / "calibration.json"
    before = stored.read_text()
    stored.unlink()
    where = ["--manifest", str(data / "manifest.csv"), "--data-dir", str(data)]
    options = ["--split=validation", "--healthy-fpr=0.005", "--cap=1.5", "--device=cpu"]
    assert main(["calibrate", str(root), *where, *options]) == 0
    assert stored.read_text() == before


def test_a_calibration_that_fails_changes_nothing(tmp_path: Path, capsys: Captured) -> None:
    root = bundle_copy(tmp_path)
    before = (root / "models" / "calibration.json").read_text()
    healthy = tmp_path / "healthy"
    healthy.mkdir()
    save_head(healthy / "a.nii.gz", 3, lesion=False)
    assert main(["calibrate", str(root), "--on", str(healthy)]) == 42
    assert "at least 2 healthy subjects" in capsys.readouterr().err
    save_head(healthy / "b.nii.gz", 4, lesion=False)
    (healthy / "c.nii.gz").write_text("no scan")
    assert main(["calibrate", str(root), "--on", str(healthy), "--cap=2"]) == 42
    said = capsys.readouterr().err
    assert str(healthy / "c.nii.gz") in said
    assert "leave the scan out" in said
    assert (root / "models" / "calibration.json").read_text() == before


def test_a_bundle_without_calibration_names_both_ways_out(
    scan: Path, out: Path, tmp_path: Path, capsys: Captured
) -> None:
    root = bundle_copy(tmp_path)
    (root / "models" / "calibration.json").unlink()
    assert segment(scan, "-o", out, "-b", root) == 2
    said = capsys.readouterr().err
    assert "volad calibrate" in said
    assert "--threshold" in said
    assert segment(scan, "-o", out, "-b", root, "--threshold=0.1", *LIGHT) == 0
