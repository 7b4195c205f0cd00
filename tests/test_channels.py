"""Several channels, T1, T2 and FLAIR of one patient, from the manifest to the mask."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from batch_helpers import batch
from io_helpers import phantom, refused, save_dicom, save_nifti, turned
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from pipeline_helpers import LESION, grid, sha256, shared, voxels

from volad import bundle, skeleton
from volad.cli import main
from volad.data import read_split
from volad.errors import InputError, UsageError
from volad.io import Scan, find_scans, input_sha256, read_volume
from volad.io.digest import combined
from volad.outputs import Outputs
from volad.preprocess import steps
from volad.preprocess.align import Alignment, load_template
from volad.preprocess.channels import keep_covered
from volad.preprocess.steps import (
    AlignToTemplate,
    CorrectBias,
    ExtractBrain,
    Load,
    ResampleIsotropic,
    RobustRange,
)

NAMES = ("t1", "t2", "flair")
TRAINING = [
    *("--space=isotropic", "--spacing-mm=6", "--patch", "16", "16", "16", "--epochs=15"),
    *("--batch=4", "--lr=0.003", "--ema=0", "--no-amp", "--device=cpu", "--channels=t1,t2,flair"),
    *("--set", "features=[8,16]", "--set", "convs=1", "--set", "code=4", "--healthy-fpr=0.005"),
]


@pytest.fixture(autouse=True, scope="module")
def _no_shading() -> Iterator[None]:
    """The phantoms have no bias field; N4 would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "correct_bias", lambda image, brain, _: np.where(brain, image, 0))
        yield


# Patients: three contrasts of MNI152's tissues without skull, each on a grid of its own


def coarse(name: str) -> NDArray[np.float32]:
    """A tissue map of the template, `(40, 48, 44)` voxels of 4 mm."""
    array: NDArray[np.float32] = getattr(load_template(), name)
    return array.reshape(40, 2, 48, 2, 44, 2).mean(axis=(1, 3, 5))


def contrasts(seed: int, *, lesion: bool) -> dict[str, NDArray[np.float32]]:
    """T1, T2 and FLAIR of a subject; a lesion shows on FLAIR alone."""
    random = np.random.default_rng(seed)
    grey, white = coarse("grey"), coarse("white")
    inside = coarse("t1") > 0.1
    found = {
        "t1": 200 + 400 * grey + 600 * white,
        "t2": 900 - 400 * grey - 600 * white,
        "flair": 200 + 500 * grey + 400 * white,
    }
    if lesion:
        found["flair"][LESION] += 600
    noisy = {name: one * random.normal(1, 0.02, one.shape) for name, one in found.items()}
    return {name: np.where(inside, one, 0).astype(np.float32) for name, one in noisy.items()}


def save_patient(folder: Path, name: str, seed: int, *, lesion: bool = False) -> dict[str, Path]:
    """Write `NAME_t1.nii.gz` and the others; T2 is mirrored in memory, FLAIR has a margin."""
    folder.mkdir(parents=True, exist_ok=True)
    made, affine = contrasts(seed, lesion=lesion), grid()
    mirrored, wider = affine.copy(), affine.copy()
    mirrored[:, 0] *= -1
    mirrored[:3, 3] += affine[:3, 0] * (made["t2"].shape[0] - 1)
    wider[:3, 3] -= affine[:3, :3] @ (3, 2, 1)
    flair = np.pad(made["flair"], ((3, 0), (2, 0), (1, 0)))
    images = {
        "t1": (made["t1"], affine),
        "t2": (made["t2"][::-1].copy(), mirrored),
        "flair": (flair, wider),
    }
    return {
        key: save_nifti(folder / f"{name}_{key}.nii.gz", array, where)
        for key, (array, where) in images.items()
    }


def write_table(path: Path, columns: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


@cache
def study() -> Path:
    """A folder with `manifest.csv` to train by: two subjects to train on, two to validate on."""
    folder = shared() / "channels"
    rows: list[list[object]] = []
    for seed in range(4):
        files = save_patient(folder, f"s{seed}", seed)
        images = [files[name].name for name in NAMES]
        hashes = [sha256(files["t1"]), sha256(files["t2"])]
        rows.append([f"s{seed}", "train" if seed < 2 else "validation", *images, *hashes])
    columns = ["subject", "split", "image", "t2", "flair", "sha256", "t2_sha256"]
    write_table(folder / "manifest.csv", columns, rows)
    return folder


def train(root: Path, *more: str) -> int:
    where = ["--manifest", str(study() / "manifest.csv"), "--data-dir", str(study())]
    with redirect_stdout(io.StringIO()):
        return main(["train", "ae", "-o", str(root), *where, *TRAINING, *more])


@cache
def three_channels() -> Path:
    """A trained and calibrated autoencoder of three channels."""
    root = shared() / "several" / "brain_channels_ae"  # not beside the bundle that others list
    assert train(root) == 0
    return root


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scans.csv` of two patients, the first with a lesion."""
    folder = tmp_path_factory.mktemp("patients")
    for name, seed in (("a", 90), ("b", 91)):
        save_patient(folder, name, seed, lesion=name == "a")
    rows: list[list[object]] = [
        [name, *(f"{name}_{one}.nii.gz" for one in NAMES)] for name in ("a", "b")
    ]
    write_table(folder / "scans.csv", ["name", "image", "t2", "flair"], rows)
    return folder


def patient(folder: Path, name: str = "a", **changed: Path) -> Scan:
    files = {one: folder / f"{name}_{one}.nii.gz" for one in NAMES} | changed
    return Scan(files["t1"], name, channels=(("t2", files["t2"]), ("flair", files["flair"])))


# From manifest to mask


@pytest.mark.slow
def test_a_lesion_that_one_channel_shows_is_found_on_the_first_ones_grid(
    patients: Path, tmp_path: Path
) -> None:
    found = batch(patients / "scans.csv", tmp_path, three_channels(), save_healthy=True).run()
    assert [outcome.name for outcome in found] == ["a", "b"]
    mask, score = voxels(tmp_path / "a_mask.nii.gz"), voxels(tmp_path / "a_score.nii.gz")
    assert mask.shape == (40, 48, 44)
    np.testing.assert_allclose(nib.load(tmp_path / "a_mask.nii.gz").affine, grid())
    inside = np.zeros(mask.shape, bool)
    inside[LESION] = True
    assert mask[inside].mean() > 0.5
    assert mask[~inside].mean() < 0.01
    healthy = voxels(tmp_path / "b_score.nii.gz")
    assert score[inside].mean() > 5 * healthy[inside].mean()
    t1 = voxels(patients / "a_t1.nii.gz")
    brain = score != 0
    shown = voxels(tmp_path / "a_healthy.nii.gz")
    assert np.corrcoef(shown[brain], t1[brain])[0, 1] > 0.5  # T2 has the opposite sign
    facts = json.loads((tmp_path / "a_mask.json").read_text())
    assert facts["Sources"] == ["a_t1.nii.gz", "a_t2.nii.gz", "a_flair.nii.gz"]
    assert facts["input"]["sha256"] == input_sha256(patient(patients))
    hashes = {name: sha256(patients / f"a_{name}.nii.gz") for name in NAMES[1:]}
    assert facts["preprocessing"]["channels"] == hashes


@pytest.mark.slow
def test_the_command_line_takes_the_same_channels(patients: Path, tmp_path: Path) -> None:
    batch(patients / "scans.csv", tmp_path / "many", three_channels()).run()
    files = [f"--channel={name}={patients / f'a_{name}.nii.gz'}" for name in ("flair", "t2")]
    call = ["segment", str(patients / "a_t1.nii.gz"), "-o", str(tmp_path / "a.nii.gz"), *files]
    assert main([*call, "-b", str(three_channels()), "--device=cpu", "--no-report"]) == 0
    expected = voxels(tmp_path / "many" / "a_score.nii.gz")
    np.testing.assert_array_equal(voxels(tmp_path / "a_score.nii.gz"), expected)


@pytest.mark.slow
def test_what_the_bundle_says_of_its_channels() -> None:
    root = three_channels()
    assert bundle.channels(root) == NAMES
    assert bundle.network_def(root)["channels"] == 3
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 3
    assert image["channel_def"] == {"0": "t1", "1": "t2", "2": "flair"}
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 1
    learned = json.loads((root / "models" / "trained_on.json").read_text())["scans"]
    rows = read_split(study() / "manifest.csv", study(), "train", NAMES)
    assert [one["sha256"] for one in learned] == [input_sha256(row.scan) for row in rows]


@pytest.mark.slow
def test_a_bundle_goes_on_with_its_own_channels_only(capsys: pytest.CaptureFixture[str]) -> None:
    root = three_channels()
    weights = sha256(root / "models" / "model.pt")
    assert train(root, "--channels=t1,flair,t2") == 2
    assert "give the arguments it was made with, --channels too" in capsys.readouterr().err
    assert sha256(root / "models" / "model.pt") == weights


@pytest.mark.slow
def test_resume_notices_every_channel(patients: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(patients, tmp_path / "copy"))

    def again() -> list[bool]:
        run = batch(copy / "scans.csv", tmp_path / "out", three_channels(), resume=True)
        return [outcome.resumed for outcome in run.run()]

    assert again() == [False, False]
    assert again() == [True, True]
    save_nifti(copy / "b_flair.nii.gz", contrasts(7, lesion=False)["flair"], grid())
    assert again() == [True, False]
    (copy / "a_t2.nii.gz").rename(copy / "x.nii.gz")
    (copy / "a_flair.nii.gz").rename(copy / "a_t2.nii.gz")
    (copy / "x.nii.gz").rename(copy / "a_flair.nii.gz")
    assert again() == [False, True]


@pytest.mark.slow
def test_calibration_takes_manifests_with_the_channels(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(three_channels(), tmp_path / "copy"))
    quiet = redirect_stdout(io.StringIO())
    with quiet:
        new = ["--on", str(patients / "scans.csv"), "--cap=1.5"]
        assert main(["calibrate", str(root), *new]) == 0
    stored = json.loads((root / "models" / "calibration.json").read_text())
    found = [scan["sha256"] for scan in stored["scans"]]
    assert found == [input_sha256(patient(patients, name)) for name in ("a", "b")]
    split = ["--manifest", str(study() / "manifest.csv"), "--data-dir", str(study())]
    with quiet:  # the scans trained on are known by all their channels
        assert main(["calibrate", str(root), *split, "--split=train", "--cap=1.5"]) == 42
    assert "the bundle was trained on this scan" in capsys.readouterr().err


# Finding


def test_manifests_name_the_channels_in_the_bundles_order(patients: Path) -> None:
    expected = [patient(patients, name) for name in ("a", "b")]
    assert find_scans(patients / "scans.csv", channels=NAMES) == expected
    rows = [
        {"image": str(scan.path), "name": scan.name, **dict(scan.channels)} for scan in expected
    ]
    (patients / "scans.json").write_text(json.dumps(rows, default=str))
    assert find_scans(patients / "scans.json", channels=NAMES) == expected
    plain = [replace(scan, channels=()) for scan in expected]
    assert find_scans(patients / "scans.csv") == plain  # columns nobody asked for, as any other


def test_a_channel_may_be_a_series(tmp_path: Path) -> None:
    save_nifti(tmp_path / "t1.nii")
    save_dicom(tmp_path / "t2", phantom(), turned())
    files = {"t2": tmp_path / "t2"}
    (scan,) = find_scans(tmp_path / "t1.nii", channels=("t1", "t2"), channel_files=files)
    assert scan.channels == (("t2", tmp_path / "t2"),)
    assert Load(channels=("t1", "t2"))({"image": scan})["image"].shape == (2, *phantom().shape)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("image,t2\na.nii,a.nii\n", ["line 2: no channel flair,", "columns image, t2, flair"]),
        ("image,t2,flair\na.nii,a.nii,a.nii\nb.nii,,b.nii\n", ["line 3: no channel t2,"]),
        ("image,t2,flair\na.nii,gone.nii,a.nii\n", ["line 2", "gone.nii: does not exist"]),
        ("image,t2,flair\na.nii,list.csv,a.nii\n", ["line 2", "list.csv: unknown ending"]),
    ],
)
def test_a_manifest_that_lacks_a_channel(tmp_path: Path, table: str, says: list[str]) -> None:
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text(table)

    def find() -> object:
        return find_scans(tmp_path / "list.csv", channels=NAMES)

    refused(InputError, find, says=["list.csv: ", *says])


def test_what_has_no_channels_does_not_go_with_a_bundle_of_several(patients: Path) -> None:
    """A scan by itself, or a folder, in which it is not said what belongs together: one line."""
    for path in (patients, patients / "a_t1.nii.gz"):
        with pytest.raises(InputError) as caught:
            find_scans(path, channels=NAMES)
        assert str(caught.value) == (
            f"{path}: no channel t2 and flair, this bundle takes t1 (the scan itself), t2, flair; "
            "give --channel t2=FILE, or a manifest with columns image, t2, flair"
        )


def test_channels_of_one_scan_do_not_go_with_a_folder_or_another_bundle(patients: Path) -> None:
    t1, t2 = patients / "a_t1.nii.gz", patients / "a_t2.nii.gz"

    def find(path: Path, channels: tuple[str, ...] | None, **files: Path) -> object:
        return find_scans(path, channels=channels, channel_files=files)

    with pytest.raises(UsageError, match="one t2 for 6 scans; name each scan's in a manifest"):
        find(patients, NAMES, t2=t2)
    with pytest.raises(InputError, match="no channel flair"):
        find(t1, NAMES, t2=t2)
    with pytest.raises(InputError, match=r"channel 'pd', this bundle takes t1 .*; leave it out"):
        find(t1, NAMES, t2=t2, flair=t2, pd=t2)
    with pytest.raises(InputError, match="'t2', this bundle takes one channel; leave it out"):
        find(t1, None, t2=t2)


def test_a_bundle_of_one_channel_refuses_more(patients: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="channel 't2', this bundle takes one channel"):
        Load()({"image": patient(patients)})
    call = ["segment", str(patients / "a_t1.nii.gz"), "-o", str(tmp_path), "--device=cpu"]
    t2 = f"--channel=t2={patients / 'a_t2.nii.gz'}"
    create(tmp_path / "bundle", channels=())
    call += ["-b", str(tmp_path / "bundle")]
    assert main([*call, t2]) == 42
    with pytest.raises(SystemExit) as caught:
        main([*call, "--channel=t2="])
    assert caught.value.code == 2


def test_a_mask_never_takes_a_channels_place(patients: Path) -> None:
    with pytest.raises(UsageError, match="is the scan itself"):
        Outputs(patients / "a_flair.nii.gz").check([patient(patients)])


# The hash


def test_the_hash_is_of_every_channel_and_of_which_is_which(tmp_path: Path) -> None:
    files = [save_nifti(tmp_path / f"{n}.nii", phantom() + n) for n in range(4)]
    one, two, three, other = files
    plain = Scan(one, "x")

    def of(**channels: Path) -> str:
        return input_sha256(replace(plain, channels=tuple(channels.items())))

    assert of() == sha256(one)
    whole = of(t2=two, flair=three)
    assert whole == of(flair=three, t2=two)
    changed = [of(t2=other, flair=three), of(t2=two, flair=other), of(t2=three, flair=two)]
    assert len({whole, of(), of(t2=two), *changed}) == 6
    assert combined(sha256(one), {"t2": sha256(two), "flair": sha256(three)}) == whole


# Reading


def ramp(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """3x - 2y + z + 1000 at every voxel's place in the world, mm."""
    places = np.tensordot(affine[:3, :3], np.indices(shape), axes=1)
    places += affine[:3, 3][:, None, None, None]
    return (np.tensordot([3.0, -2.0, 1.0], places, axes=1) + 1000).astype(np.float32)


REFERENCE = np.diag([1.0, 1.0, 1.0, 1.0])
SHAPE = (12, 10, 8)


def load(folder: Path, second: NDArray[np.float32], affine: NDArray[np.float64]) -> dict[str, Any]:
    """A sample whose first channel counts its voxels, and whose second has a grid of its own."""
    first = save_nifti(folder / "t1.nii", phantom(np.float32, SHAPE), REFERENCE)
    other = save_nifti(folder / "t2.nii", second, affine)
    scan = Scan(first, "x", channels=(("t2", other),))
    return Load(channels=("t1", "t2"))({"image": scan})


def test_a_channel_comes_onto_the_firsts_grid_by_the_headers(tmp_path: Path) -> None:
    """A plane of intensities stays one wherever the second grid lies: turned, finer along z."""
    affine = turned((0.9, 1.0, 0.7))
    affine[:3, 3] = np.array([5.5, 4.5, 3.5]) - affine[:3, :3] @ (20, 20, 25)
    sample = load(tmp_path, ramp((40, 40, 50), affine), affine)
    image = sample["image"].numpy()
    np.testing.assert_array_equal(image[0], phantom(np.float32, SHAPE))
    np.testing.assert_allclose(image[1], ramp(SHAPE, REFERENCE), rtol=0, atol=0.01)
    np.testing.assert_array_equal(sample["image"].affine, REFERENCE)
    assert sample["covered"]["t2"].all()
    assert sample["volume"].image.shape == (1, *SHAPE)
    assert sample["volume"].sha256 == input_sha256(sample["volume"].scan)
    assert sample["flags"] == []


def test_between_the_last_centre_and_the_voxels_face_a_channel_has_data(tmp_path: Path) -> None:
    """Slices of 4 mm, their centres at z = 2 and 6: all above z = 0 is covered, and by 70 or 71."""
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[2, 3] = 2.0
    sample = load(tmp_path, np.full((12, 10, 2), 70, np.float32) + phantom(shape=(1, 1, 2)), affine)
    covered = sample["covered"]["t2"].numpy()[0]
    assert covered[:, :, 1:].all()
    image = sample["image"].numpy()[1]
    np.testing.assert_allclose(image[0, 0, 1:], [70, 70, 70.25, 70.5, 70.75, 71, 71], atol=1e-4)
    affine[2, 3] = 6.0
    sample = load(tmp_path, np.full((12, 10, 2), 70, np.float32) + phantom(shape=(1, 1, 2)), affine)
    covered = sample["covered"]["t2"].numpy()[0]
    assert not covered[:, :, :4].any()  # the first slice's face is at z = 4
    assert covered[:, :, 5:].all()
    assert (sample["image"].numpy()[1][~covered] == 0).all()


def test_a_channel_is_checked_as_a_scan_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t2\.nii: every voxel is 0"):
        load(tmp_path, np.zeros(SHAPE, np.float32), REFERENCE)
    with pytest.raises(InputError, match="no channel t2"):
        Load(channels=("t1", "t2"))({"image": read_volume(Scan(tmp_path / "t1.nii", "x"))})
    image = nib.Nifti1Image(phantom(np.float32, SHAPE), REFERENCE)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "t2.nii")
    scan = Scan(tmp_path / "t1.nii", "x", channels=(("t2", tmp_path / "t2.nii"),))
    (flag,) = Load(channels=("t1", "t2"))({"image": scan})["flags"]
    assert flag.startswith("t2: qform and sform codes are both 0")


# The brain


def covered_to(part: float) -> torch.Tensor:
    inside = torch.zeros((1, 100, 4, 5), dtype=torch.bool)
    inside[:, : round(100 * part)] = True
    return inside


def test_the_brain_is_where_all_channels_are() -> None:
    brain = MetaTensor(torch.ones((1, 100, 4, 5)))
    whole, flags = keep_covered(brain, {})
    assert whole.all()
    assert flags == []
    kept, flags = keep_covered(brain, {"t2": covered_to(0.99), "flair": covered_to(0.8)})
    assert torch.equal(kept.as_tensor(), covered_to(0.8))
    assert flags == ["flair does not show 20% of the brain: no lesion is looked for there"]
    apart = {"t2": covered_to(0.6), "flair": ~covered_to(0.3)}
    with pytest.raises(InputError, match=r"t2 does not show 40% .*, flair does not show 30%"):
        keep_covered(brain, apart)


def test_the_brain_is_found_in_the_first_channel(patients: Path, tmp_path: Path) -> None:
    """And what another lacks is flagged: here FLAIR ends within the brain."""
    scan = patient(patients)
    one = Compose([Load(), ExtractBrain()])({"image": replace(scan, channels=())})
    several = Compose([Load(channels=NAMES), ExtractBrain()])({"image": scan})
    assert torch.equal(one["brain"].as_tensor(), several["brain"].as_tensor())
    assert several["flags"] == one["flags"]
    assert "covered" not in several
    image = nib.load(dict(scan.channels)["flair"])  # begins 3 voxels before the first one's grid
    cut = save_nifti(tmp_path / "cut.nii.gz", np.asarray(image.dataobj)[:28], image.affine)
    lacking = patient(patients, flair=cut)
    out = Compose([Load(channels=NAMES), ExtractBrain()])({"image": lacking})
    assert "flair does not show" in out["flags"][-1]
    assert not out["brain"][0, 25:].any()
    assert torch.equal(out["brain"][0, :25], one["brain"][0, :25])


def test_every_channel_is_scaled_on_its_own(patients: Path) -> None:
    way = [Load(channels=NAMES), ExtractBrain(), ResampleIsotropic(6.0), RobustRange()]
    out = Compose(way)({"image": patient(patients, "b")})
    inside = out["brain"].numpy()[0]
    assert out["image"].shape[0] == 3
    for channel in out["image"].numpy():
        np.testing.assert_allclose(np.percentile(channel[inside], [1, 99]), [0.1, 1], atol=0.02)
        assert (channel[inside] > 0).all()
        assert (channel[~inside] == 0).all()
    t1, t2, _ = out["image"].numpy()[:, inside]
    assert np.corrcoef(t1, t2)[0, 1] < -0.8  # T2 was mirrored in memory and lies right
    back = out["scale"].inverse(t1)
    assert 200 < np.median(back) < 900  # the first channel's unit


def test_every_channel_is_corrected_on_its_own(
    monkeypatch: pytest.MonkeyPatch, patients: Path
) -> None:
    monkeypatch.setattr(steps, "correct_bias", lambda image, brain, _: image / image[brain].mean())
    way = [Load(channels=NAMES), ExtractBrain(), ResampleIsotropic(6.0), CorrectBias()]
    out = Compose(way)({"image": patient(patients)})
    inside = out["brain"].numpy()[0]
    np.testing.assert_allclose(out["image"].numpy()[:, inside].mean(axis=1), 1, rtol=1e-3)


def test_alignment_is_by_the_first_channel(monkeypatch: pytest.MonkeyPatch, patients: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def align(image: MetaTensor, brain: MetaTensor) -> Alignment:
        seen.append(tuple(image.shape))
        return Alignment(np.eye(4), overlap=0.95, correlation=0.9, volume_ratio=1.0)

    monkeypatch.setattr(steps, "align", align)
    way = [Load(channels=NAMES), ExtractBrain(), AlignToTemplate()]
    out = Compose(way)({"image": patient(patients)})
    assert seen == [(1, 40, 48, 44)]
    assert out["image"].shape == (3, *load_template().t1.shape)


# Training manifests and new bundles


def test_a_training_row_is_of_all_its_channels(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study(), tmp_path / "copy"))

    def rows() -> Any:
        return read_split(copy / "manifest.csv", copy, "train", NAMES)

    row = rows()[0]
    assert row.scan.channels == (("t2", copy / "s0_t2.nii.gz"), ("flair", copy / "s0_flair.nii.gz"))
    before = row.input_sha256
    assert before == input_sha256(row.scan) != row.sha256
    plain = read_split(copy / "manifest.csv", copy, "train")[0]
    assert plain.input_sha256 == plain.sha256 == sha256(copy / "s0_t1.nii.gz")
    shutil.copy(copy / "s1_flair.nii.gz", copy / "s0_flair.nii.gz")
    assert rows()[0].input_sha256 != before
    shutil.copy(copy / "s1_t2.nii.gz", copy / "s0_t2.nii.gz")
    with pytest.raises(InputError, match=r"s0_t2\.nii\.gz: not the file .* \(sha256 differs\)"):
        rows()
    (copy / "s0_t2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"s0_t2\.nii\.gz: named in .* but not there"):
        rows()
    text = (copy / "manifest.csv").read_text()
    (copy / "manifest.csv").write_text(text.replace("s1_flair.nii.gz", ""))
    with pytest.raises(InputError, match=r"line 3: no channel flair"):
        rows()
    (copy / "manifest.csv").write_text(text.replace("flair,", "swi,"))
    with pytest.raises(InputError, match=r"needs the columns .*'flair'"):
        rows()


def create(root: Path, method: str = "ae", **settings: Any) -> None:
    given = {"arguments": {}, "channels": NAMES, "space": "isotropic", **settings}
    skeleton.create(root, method, **given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"modality": "ct"}, "--channels are of real MR"),
        ({"simulate": "mr", "space": "mni"}, "--channels are of real MR"),
        ({"channels": ["t1"]}, "two or more different names"),
        ({"channels": ["t1", "t1"]}, "two or more different names"),
        ({"channels": ["t1", "image"]}, "none of subject, split, image"),
        ({"channels": ["t1", "t 2"]}, "got 't1,t 2'"),
        ({"arguments": {"channels": 2}}, "channels=2 for 3; name them with --channels"),
        ({"arguments": {"channels": 2}, "channels": []}, "channels=2 for 1; name them"),
    ],
)
def test_channels_that_make_no_bundle(tmp_path: Path, settings: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        create(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_counts_no_channels_is_not_told_of_them(tmp_path: Path) -> None:
    create(tmp_path, "intensity", space="mni")
    assert "channels" not in bundle.network_def(tmp_path)
    assert bundle.channels(tmp_path) == NAMES


def test_a_bundle_of_one_channel_is_written_as_ever(tmp_path: Path) -> None:
    """Its preprocessing's settings are part of the names of cached scans."""
    create(tmp_path, channels=())
    load = {"_target_": "volad.preprocess.steps.Load", "volume": "@volume"}
    assert bundle.settings(tmp_path, "preprocessing")["preprocessing"]["transforms"][0] == load
    for name in ("inference", "train"):
        assert "channel" not in (tmp_path / "configs" / f"{name}.json").read_text()
    assert bundle.channels(tmp_path) == ()
