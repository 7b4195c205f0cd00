"""Scans shared out among runs, and their results joined: nothing missing, nothing twice."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_helpers import batch, journal, results, save_heads
from io_helpers import save_dicom, save_nifti
from pipeline_helpers import save_head, segment

from volad.batch import journal as files
from volad.batch.merge import merge
from volad.batch.shards import pick, shard_of, share_out
from volad.cli import main
from volad.errors import IncompleteError, InputError, UsageError
from volad.io import Scan, find_scans
from volad.io.size import voxel_count
from volad.report.batch import render_index

# Who does what


def test_the_largest_go_first_each_to_the_shard_with_least() -> None:
    assert share_out([5, 8, 1, 4, 7], 2) == [[1, 3, 2], [4, 0]]
    assert share_out([3, 3, 3, 3], 2) == [[0, 2], [1, 3]]
    assert share_out([0, 0, 0, 0], 2) == [[0, 2], [1, 3]]  # of unknown size
    assert share_out([9], 3) == [[0], [], []]


def test_shards_are_level_and_hold_everything_once() -> None:
    sizes = np.random.default_rng(0).lognormal(15, 1, 200).astype(int).tolist()
    shards = share_out(sizes, 8)
    assert sorted(number for shard in shards for number in shard) == list(range(200))
    loads = [sum(sizes[number] for number in shard) for shard in shards]
    assert max(loads) < 1.01 * sum(sizes) / 8
    assert share_out(sizes, 8) == shards


def test_shards_are_by_voxels_and_keep_the_order(tmp_path: Path) -> None:
    for name, side in {"a": 2, "b": 30, "c": 2, "d": 20, "e": 22}.items():
        save_nifti(tmp_path / f"{name}.nii.gz", np.ones((side,) * 3, np.int16), np.eye(4))
    scans = find_scans(tmp_path)
    picked = [[scan.name for scan in pick(scans, 2, index)] for index in range(2)]
    assert picked == [["b"], ["a", "c", "d", "e"]]
    assert pick(scans, 1, 0) == scans
    for count, index in ((2, 2), (2, -1), (0, 0)):
        with pytest.raises(UsageError, match=f"no shard {index} of {count}"):
            pick(scans, count, index)


def test_voxels_are_counted_by_headers(tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16))
    for name in ("x.nii.gz", "x.nii", "x.mha", "x.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert voxel_count(Scan(tmp_path / name, "x")) == 120
    noise = np.random.default_rng(0).integers(-9999, 9999, (60, 60, 60), np.int16)
    cut = save_nifti(tmp_path / "cut.nii.gz", noise, np.eye(4))
    cut.write_bytes(cut.read_bytes()[:-20])  # its header is whole
    assert voxel_count(Scan(cut, "cut")) == 60**3
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("slice", bytes(240))
    assert voxel_count(Scan(tmp_path / "x.zip", "x")) == 120
    series = tmp_path / "series"
    save_dicom(series, np.ones((6, 5, 4), np.int16), np.eye(4))
    assert voxel_count(Scan(series, "series")) == 120
    for name in ("no.nii.gz", "no.mha", "no.zip"):
        (tmp_path / name).write_text("no scan")
        assert voxel_count(Scan(tmp_path / name, "no")) == 0
    assert voxel_count(Scan(tmp_path / "nowhere.nii", "no")) == 0


K8S, ID = "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"
COUNT, LOW, STEP = "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"


@pytest.mark.parametrize(
    ("number", "index", "environ", "expected"),
    [
        (None, None, {}, (1, 0)),
        (None, None, {K8S: "3", ID: "2", COUNT: "8"}, (1, 0)),  # an array may mean anything
        ("8", 3, {}, (8, 3)),
        ("8", 3, {K8S: "5", ID: "6"}, (8, 3)),
        ("8", None, {K8S: "5"}, (8, 5)),
        ("8", None, {ID: "5"}, (8, 5)),
        ("8", None, {ID: "5", COUNT: "8", LOW: "1"}, (8, 4)),
        ("auto", None, {ID: "5", COUNT: "8", LOW: "1"}, (8, 4)),
        ("auto", None, {ID: "30", COUNT: "4", LOW: "10", STEP: "10"}, (4, 2)),
        ("auto", 1, {COUNT: "4"}, (4, 1)),
    ],
)
def test_a_scheduler_says_which_shard(
    number: str | None, index: int | None, environ: dict[str, str], expected: tuple[int, int]
) -> None:
    assert shard_of(number, index, environ) == expected


@pytest.mark.parametrize(
    ("number", "index", "environ", "says"),
    [
        (None, 3, {}, "--shard-index needs --num-shards"),
        ("8", None, {}, "needs --shard-index, or a scheduler"),
        ("auto", None, {K8S: "3"}, "needs SLURM_ARRAY_TASK_COUNT"),
        ("8", None, {ID: "x"}, "SLURM_ARRAY_TASK_ID is no whole number"),
        # Tasks 3 and 5 of eight, submitted again: they are not shards 0 and 2.
        ("8", None, {ID: "3", COUNT: "2", LOW: "3"}, "2 tasks and there are 8 shards"),
    ],
)
def test_what_a_scheduler_leaves_open_is_refused(
    number: str | None, index: int | None, environ: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        shard_of(number, index, environ)


# Joining


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four heads and a file that is none."""
    folder = save_heads(tmp_path_factory.mktemp("scans"), 4)
    (folder / "x.nii.gz").write_text("no scan")
    return folder


@pytest.fixture(scope="module")
def whole(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run over all of them wrote."""
    out = tmp_path_factory.mktemp("whole")
    assert segment(scans, "-o", out, "--json") == 3
    return out


@pytest.fixture(scope="module")
def parts(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three runs over their shards wrote, the last of them by its scheduler's word."""
    out = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        for index in range(3):
            patch.setenv("JOB_COMPLETION_INDEX", str(index))
            assert segment(scans, "-o", out, "--num-shards=3") in (0, 3, 42)
    return out


def test_the_joined_table_is_that_of_one_run(
    whole: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(parts.glob("volad-shard-*-of-3.jsonl"))) == 3
    assert not (parts / "statistics.csv").exists()
    assert main(["merge", str(parts)]) == 3
    assert capsys.readouterr().err == (
        f"volad: {parts}: 1 of 5 scans failed: x; see statistics.csv\n"
    )
    assert results(parts) == results(whole)
    assert sorted(row["name"] for row in journal(parts)) == ["a", "b", "c", "d", "x"]
    table = list(csv.DictReader((parts / "statistics.csv").open()))
    assert [row["Name"] for row in table] == ["a", "b", "c", "d", "x"]


@pytest.fixture
def copy(parts: Path, tmp_path: Path) -> Path:
    """A copy of the shards' folder, without the scan that failed."""
    folder = Path(shutil.copytree(parts, tmp_path / "copy"))
    for path in folder.glob("volad-shard-*.jsonl"):
        lines = [x for x in path.read_text().splitlines() if json.loads(x)["name"] != "x"]
        path.write_text("".join(f"{line}\n" for line in lines))
    files.write_plan(folder, "abcd")
    (folder / "statistics.csv").unlink(missing_ok=True)
    return folder


def test_all_there_and_none_failed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(copy)]) == 0
    assert capsys.readouterr().out == f"{copy / 'statistics.csv'}\n"
    assert [row["name"] for row in merge(copy)] == list("abcd")


@pytest.mark.parametrize("lost", ["journal", "line", "mask"])
def test_what_is_missing_is_named(copy: Path, lost: str) -> None:
    """And no table written, which would pass for the cohort's."""
    path = next(p for p in copy.glob("volad-shard-*.jsonl") if '"name": "b"' in p.read_text())
    names = ["b"]
    if lost == "journal":
        names = [json.loads(line)["name"] for line in path.read_text().splitlines()]
        path.unlink()
    elif lost == "line":
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(x for x in lines if '"name": "b"' not in x) + '{"name": "b", "en')
    else:
        (copy / "b_mask.nii.gz").unlink()
    with pytest.raises(IncompleteError, match=rf"{len(names)} of 4 scans missing: .*b.*--resume"):
        merge(copy)
    assert not (copy / "statistics.csv").exists()


def test_expected_scans_are_those_of_an_input(copy: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="1 of 5 scans missing: x;"):
        merge(copy, [scan.identifier for scan in find_scans(scans)])
    manifest = tmp_path / "two.csv"
    manifest.write_text(f"image\n{scans / 'a.nii.gz'}\n{scans / 'c.nii.gz'}\n")
    assert main(["merge", str(copy), "--expect", str(manifest)]) == 0
    assert len((copy / "statistics.csv").read_text().splitlines()) == 3


def test_the_last_line_of_a_scan_counts(copy: Path) -> None:
    row = files.read(copy)["a"]
    later = {**row, "error": "a.nii.gz: gone", "exit_code": 1, "ended": "2999-01-01"}
    earlier = {**later, "error": "first", "ended": "2000-01-01"}
    (copy / "volad.jsonl").write_text(json.dumps(later) + "\n" + json.dumps(earlier) + "\n")
    with pytest.raises(IncompleteError, match="1 of 4 scans failed: a;"):
        merge(copy)
    assert "a.nii.gz: gone" in (copy / "statistics.csv").read_text()


def test_a_folder_that_no_batch_wrote_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no volad\.jsonl"):
        merge(tmp_path)
    (tmp_path / "volad.jsonl").write_text("")
    with pytest.raises(InputError, match=r"volad-plan\.json: does not exist"):
        merge(tmp_path)
    (tmp_path / "volad-plan.json").write_text("[]")
    with pytest.raises(InputError, match=r"volad-plan\.json: is damaged.*--expect"):
        merge(tmp_path)


def test_a_line_goes_below_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "volad.jsonl"
    row = {"name": "a", "exit_code": 0}
    path.write_text('{"name": "b", "exi')
    files.append(path, row)
    files.append(path, {**row, "name": "c"})
    assert sorted(files.read(tmp_path)) == ["a", "c"]
    assert path.read_text().splitlines()[0] == '{"name": "b", "exi'


# The page


def row(name: str, **given: Any) -> dict[str, Any]:
    found = {"Name": name, "Num_Lesions": 1, "Num_Vox": 1, "Lesion_Volume": 1000.0}
    ended = {"error": "", "exit_code": 0, "flags": [], "scan_scores": {}, "files": {}}
    return {"name": name, **({} if given.get("error") else found), **ended, **given}


def test_what_needs_a_look_comes_first_and_all_is_linked() -> None:
    page = render_index(
        [
            row("small", Lesion_Volume=10.0),
            row("s/large #1", Lesion_Volume=9e4, files={"report": "s/large #1_report.html"}),
            row("flagged", flags=["cut & <short>"], files={"mask": "flagged_mask.nii.gz"}),
            row("failed", error="failed.nii: <damaged>", exit_code=42),
        ]
    )
    places = [page.index(f">{name}<") for name in ("failed", "flagged", "s/large #1", "small")]
    assert places == sorted(places)
    assert 'href="s/large%20%231_report.html"' in page
    assert 'href="flagged_mask.nii.gz"' in page
    assert "4 scans: 1 failed, 1 flagged, 3 with lesions" in page
    assert "cut &amp; &lt;short&gt;" in page
    assert "&lt;damaged&gt;" in page
    assert "<td>90.00</td>" in page
    assert "<script" not in page


def test_a_batch_writes_page_and_table_only_when_asked(scans: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "two.csv"
    manifest.write_text(f"image\n{scans / 'a.nii.gz'}\n{scans / 'b.nii.gz'}\n")
    for stats, report in ((True, False), (False, True)):
        out = tmp_path / f"{stats}"
        batch(manifest, out, stats=stats, report=report).run()
        assert (out / "statistics.csv").exists() == stats
        assert (out / "index.html").exists() == report
    assert 'href="a_report.html"' in (tmp_path / "False" / "index.html").read_text()


def test_one_scan_has_no_table(tmp_path: Path) -> None:
    batch(save_head(tmp_path / "a.nii.gz"), tmp_path / "out").run()
    assert not [p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith("a_")]
