"""Head CT as hospitals send it: several series, tilt, slices of several thicknesses, padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from io_helpers import phantom, read, refused, save_dicom, values
from pydicom.uid import CTImageStorage, generate_uid

from volad.errors import InputError
from volad.io import find_scans, input_sha256, read_volume
from volad.io.dicom_series import is_sharp

CT = {"Modality": "CT", "SOPClassUID": CTImageStorage, "ImageType": ["ORIGINAL", "PRIMARY"]}
LPS_RAS = np.diag([-1.0, -1, 1, 1])


def ct_series(folder: Path, slices: int, mm: float, **tags: object) -> str:
    """A CT series of its own in a folder; returns its id."""
    uid = generate_uid()
    affine = np.diag([1.0, 1, mm, 1])
    voxels = phantom(shape=(5, 6, slices))
    save_dicom(folder, voxels, affine, series=uid, **{**CT, "SliceThickness": mm, **tags})
    return uid


def study(folder: Path) -> dict[str, str]:
    """What an emergency head CT consists of."""
    return {
        "thick": ct_series(folder, 9, 5.0, ConvolutionKernel="H31s"),
        "thin": ct_series(folder, 20, 1.0, ConvolutionKernel="H31s", SeriesDescription="thin soft"),
        "bone": ct_series(folder, 24, 0.6, ConvolutionKernel="H60s"),
        "agent": ct_series(folder, 24, 0.6, ConvolutionKernel="H31s", ContrastBolusAgent="iodine"),
        "coronal": ct_series(folder, 24, 0.6, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        "derived": ct_series(folder, 24, 0.6, ImageType=["DERIVED", "SECONDARY", "MPR"]),
        "scout": ct_series(folder, 2, 0.5, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    }


def test_the_thinnest_plain_soft_axial_series_is_taken_and_said(tmp_path: Path) -> None:
    ids = study(tmp_path / "ct")
    (scan,) = find_scans(tmp_path / "ct")
    volume = read_volume(scan)
    assert np.array_equal(values(volume), phantom(shape=(5, 6, 20)))
    assert volume.sha256 == input_sha256(scan)
    (said,) = volume.warnings
    for words in ("of 7 series", ids["thin"], "thin soft", "20 slices", "1 mm", "H31s", "--series"):
        assert words in said


def test_another_series_can_be_asked_for(tmp_path: Path) -> None:
    ids = study(tmp_path / "ct")
    (scan,) = find_scans(tmp_path / "ct", series=ids["thick"])
    volume = read_volume(scan)
    assert volume.shape[2] == 9
    assert volume.warnings == ()


def test_two_alike_are_for_the_user_to_choose_from(tmp_path: Path) -> None:
    one, two = (ct_series(tmp_path / "ct", 10, 1.0) for _ in range(2))
    refused(InputError, find_scans, tmp_path / "ct", says=["2 DICOM series", one, two])


def test_of_equal_slices_the_longer_series_is_taken(tmp_path: Path) -> None:
    ct_series(tmp_path / "ct", 10, 1.0)
    long = ct_series(tmp_path / "ct", 14, 1.0)
    volume = read(tmp_path / "ct")
    assert volume.shape[2] == 14
    assert long in volume.warnings[0]


@pytest.mark.parametrize(
    ("sharp", "names"),
    [
        (True, ["H60s", "H70h", "Hr64f\\3", "BONE", "BONEPLUS", "EDGE", "D", "YD", "FC30", "FC81"]),
        (False, ["H31s", "J40s", "Hc40f", "SOFT", "STANDARD", "UB", "B", "FC21", "FC64", ""]),
    ],
)
def test_kernels(sharp: bool, names: list[str]) -> None:
    assert [is_sharp(name) for name in names] == [sharp] * len(names)


def varied(folder: Path, gaps: list[float], shear: float = 0.0, **tags: object) -> np.ndarray:
    """A series whose value is its height, with the given gaps; returns the heights."""
    heights = np.cumsum([0.0, *gaps])
    uid = generate_uid()
    for number, height in enumerate(heights):
        affine = np.eye(4)
        affine[:3, 3] = (0, shear * height, height)
        voxels = np.full((5, 6, 1), round(10 * height))
        save_dicom(folder / f"{number}", voxels, affine, series=uid, **tags)
        (file,) = (folder / f"{number}").iterdir()
        file.rename(folder / f"{number:02d}.dcm")
        (folder / f"{number}").rmdir()
    return heights


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_parts_of_other_distances_are_read_onto_the_finest(tmp_path: Path, shear: float) -> None:
    heights = varied(tmp_path / "ct", [2.5] * 4 + [5.0] * 3, shear, **CT)
    volume = read(tmp_path / "ct")
    assert volume.shape[2] == 11
    np.testing.assert_allclose(values(volume)[0, 0], 10 * np.linspace(0, heights[-1], 11), atol=1)
    step = (LPS_RAS @ [0, shear * 2.5, 2.5, 0])[:3]
    np.testing.assert_allclose(volume.affine[:3, 2], step, atol=1e-5)
    assert any("2.5 to 5 mm apart" in w and "every 2.5 mm" in w for w in volume.warnings)


def test_a_lost_slice_is_still_refused(tmp_path: Path) -> None:
    varied(tmp_path / "ct", [2.5] * 4 + [5.0] + [2.5] * 4, **CT)
    says = ["5 mm apart", "others are 2.5 mm", "export the whole"]
    refused(InputError, read, tmp_path / "ct", says=says)


def test_mr_of_uneven_slices_is_still_refused(tmp_path: Path) -> None:
    varied(tmp_path / "mr", [2.5] * 4 + [5.0] * 4)
    refused(InputError, read, tmp_path / "mr", says=["missing or uneven"])
