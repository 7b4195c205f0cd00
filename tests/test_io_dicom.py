"""DICOM series: each slice where the scanner had it, and nothing odd passed on silently."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from io_helpers import phantom, read, refused, save_dicom, turned, values
from pydicom.uid import generate_uid

from volad.errors import InputError, UsageError
from volad.io import find_scans, input_sha256, read_volume, write_mask

LPS_RAS = np.diag([-1.0, -1, 1, 1])
SAGITTAL = np.array([[0.0, 0, 3, 5], [1, 0, 0, 6], [0, -2, 0, 7], [0, 0, 0, 1]])


def zip_of(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"export/{file.relative_to(folder)}")
    return target


@pytest.mark.parametrize("ending", [".dcm", ""])
@pytest.mark.parametrize("affine", [turned(), turned() @ LPS_RAS, np.eye(4), SAGITTAL])
def test_a_marker_is_where_the_scanner_saw_it(
    tmp_path: Path, affine: np.ndarray, ending: str
) -> None:
    voxels, marker = phantom(), (1, 4, 2)
    voxels[marker] = 9999
    save_dicom(tmp_path / "series", voxels, affine, ending=ending)
    volume = read(tmp_path / "series")
    found = np.argwhere(values(volume) == 9999)
    assert len(found) == 1
    world = (LPS_RAS @ affine @ [*marker, 1])[:3]
    np.testing.assert_allclose((volume.affine @ [*found[0], 1])[:3], world, atol=1e-4)
    # Slices go up along the normal; only their order may differ from the phantom's.
    upside_down = np.linalg.det(affine[:3, :3]) < 0
    assert np.array_equal(values(volume), voxels[..., ::-1] if upside_down else voxels)
    assert volume.warnings == ()
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, volume.affine)


def test_each_slice_has_its_own_scaling(tmp_path: Path) -> None:
    files = save_dicom(tmp_path / "series", phantom(), np.eye(4), RescaleSlope=1)
    slice_ = pydicom.dcmread(files[2])
    slice_.RescaleSlope, slice_.RescaleIntercept = "0.5", "-1000"
    slice_.save_as(files[2])
    wanted = phantom(np.float32)
    wanted[..., 2] = wanted[..., 2] * 0.5 - 1000
    assert np.array_equal(values(read(tmp_path / "series")), wanted)


def test_a_zip_is_the_series_in_it(tmp_path: Path) -> None:
    save_dicom(tmp_path / "series", phantom(), turned())
    (tmp_path / "series" / "readme.txt").write_text("from the scanner")
    (tmp_path / "series" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(40))
    target = zip_of(tmp_path / "series", tmp_path / "patient.zip")
    (scan,) = find_scans(target)
    assert scan.name == "patient"
    volume, folder = read_volume(scan), read(tmp_path / "series")
    assert np.array_equal(values(volume), values(folder))
    assert np.array_equal(volume.affine, folder.affine)
    assert volume.sha256 == input_sha256(scan)
    assert volume.sha256 != folder.sha256


def test_bad_zips(tmp_path: Path) -> None:
    text = tmp_path / "text.zip"
    text.write_text("hello")
    refused(InputError, read, text, says=["text.zip", "cannot be unpacked", "make it again"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x" * 500)
    none = zip_of(tmp_path / "notes", tmp_path / "none.zip")
    refused(InputError, read, none, says=["none.zip", "no DICOM series"])
    files = save_dicom(tmp_path / "series", phantom(), turned())
    files[-1].write_bytes(files[-1].read_bytes()[:-20])
    cut = zip_of(tmp_path / "series", tmp_path / "cut.zip")
    refused(InputError, read, cut, says=["cut.zip", "truncated or damaged"])


def test_a_choice_between_series(tmp_path: Path) -> None:
    one, two = generate_uid(), generate_uid()
    save_dicom(tmp_path / "s", phantom(), turned(), series=one)
    save_dicom(tmp_path / "s", phantom()[..., :4], turned(), series=two, SeriesDescription="FLAIR")
    says = ["2 DICOM series", "--series ID", f"{one} (T1 axial, 7 slices)"]
    says.append(f"{two} (FLAIR, 4 slices)")
    refused(InputError, find_scans, tmp_path / "s", says=says)
    (scan,) = find_scans(tmp_path / "s", series=two)
    assert scan.series == two
    volume = read_volume(scan)
    assert np.array_equal(values(volume), phantom()[..., :4])
    assert volume.sha256 == input_sha256(scan)
    refused(InputError, find_scans, tmp_path / "s", "1.2.3", says=["no series 1.2.3", one, two])
    (scan,) = find_scans(zip_of(tmp_path / "s", tmp_path / "s.zip"), series=one)
    assert np.array_equal(values(read_volume(scan)), phantom())
    (scan,) = find_scans(tmp_path / "s.zip")
    refused(InputError, read_volume, scan, says=["s.zip", "2 DICOM series", one, two])


def test_a_series_for_what_is_none(tmp_path: Path) -> None:
    save_dicom(tmp_path / "in" / "series", phantom(), turned())
    refused(UsageError, find_scans, tmp_path / "in", "1.2.3", says=["leave --series out"])


def test_lost_slices_are_refused(tmp_path: Path) -> None:
    files = save_dicom(tmp_path / "series", phantom(), np.eye(4))
    files[3].unlink()
    says = ["series", "slices 3 and 4 are 2 mm apart", "others are 1 mm", "export the whole"]
    refused(InputError, read, tmp_path / "series", says=says)


@pytest.mark.parametrize("number", [0, 3, 6])
def test_a_cut_off_slice_is_refused_in_silence(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """GDCM would drop it, and at either end the scan would just be shorter."""
    files = save_dicom(tmp_path / "series", phantom(), np.eye(4))
    files[number].write_bytes(files[number].read_bytes()[:-30])
    says = ["series", files[number].name, "truncated or damaged", "export the series again"]
    refused(InputError, read, tmp_path / "series", says=says)
    assert capfd.readouterr().err == ""


def test_slices_in_one_place_are_refused(tmp_path: Path) -> None:
    uid = generate_uid()
    files = save_dicom(tmp_path / "series", phantom(), turned(), series=uid)
    save_dicom(tmp_path / "again", phantom() + 1, turned(), series=uid)
    for file in (tmp_path / "again").iterdir():
        shutil.move(file, tmp_path / "series" / f"again-{file.name}")
    assert len(list((tmp_path / "series").iterdir())) == 2 * len(files)
    says = ["series", "several slices in one place", "dcm2niix"]
    refused(InputError, read, tmp_path / "series", says=says)


def test_a_localizer_in_the_series_is_refused(tmp_path: Path) -> None:
    uid = generate_uid()
    save_dicom(tmp_path / "series", phantom(), np.eye(4), series=uid)
    save_dicom(tmp_path / "series", phantom()[..., :2], SAGITTAL, series=uid, ending=".loc")
    refused(InputError, read, tmp_path / "series", says=["series", "slices differ", "leave only"])


def test_a_tilted_gantry_keeps_every_slice_in_place(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, 2] = (0, 0.4, 2)
    save_dicom(tmp_path / "series", phantom(), affine)
    volume = read(tmp_path / "series")
    assert any("gantry was tilted" in warning for warning in volume.warnings)
    np.testing.assert_allclose(volume.affine, LPS_RAS @ affine, atol=1e-6)
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    assert nib.load(tmp_path / "out.nii.gz").header["qform_code"] == 0  # it cannot hold a shear
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, volume.affine)


def test_slightly_uneven_slices_are_warned_of(tmp_path: Path) -> None:
    files = save_dicom(tmp_path / "series", phantom(), np.eye(4))
    slice_ = pydicom.dcmread(files[3])
    slice_.ImagePositionPatient = [0, 0, 3.05]
    slice_.save_as(files[3])
    (warning,) = read(tmp_path / "series").warnings
    assert "not uniform" in warning
    assert "0.05 mm" in warning


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_slices_without_a_place_are_refused(tmp_path: Path, tag: str) -> None:
    save_dicom(tmp_path / "series", phantom(), turned(), **{tag: None})
    refused(InputError, read, tmp_path / "series", says=["series", "lacks tag", "dcm2niix"])


def test_colour_multi_frame_and_single_slices_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((5, 6, 3), np.uint8).tobytes()
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    tags |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": rgb}
    save_dicom(tmp_path / "rgb", phantom(), turned(), **tags)
    refused(InputError, read, tmp_path / "rgb", says=["rgb", "RGB", "grey"])
    frames = phantom(np.uint16).tobytes()
    save_dicom(tmp_path / "multi", phantom(), turned(), NumberOfFrames=7, PixelData=frames)
    refused(InputError, read, tmp_path / "multi", says=["multi", "multi-frame", "dcm2niix"])
    (file,) = save_dicom(tmp_path / "one", phantom()[..., :1], turned())
    refused(InputError, read, tmp_path / "one", says=["one", "2D", "5 x 6 x 1"])
    refused(InputError, find_scans, file, says=[file.name, "give the series' folder"])
    bare = file.rename(tmp_path / "one" / "IM0001")
    refused(InputError, find_scans, bare, says=["IM0001", "give the series' folder"])


def test_objects_without_an_image_do_not_count_as_series(tmp_path: Path) -> None:
    """A structure set beside the slices is a series of its own to DICOM, not to us."""
    save_dicom(tmp_path / "s", phantom(), turned())
    (other,) = save_dicom(tmp_path / "other", phantom()[..., :1], turned())
    plan = pydicom.dcmread(other)
    del plan.PixelData, plan.Rows, plan.Columns, plan.ImagePositionPatient
    plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    plan.Modality = "RTSTRUCT"
    plan.save_as(tmp_path / "s" / "plan.dcm")
    assert np.array_equal(values(read(tmp_path / "s")), phantom())
