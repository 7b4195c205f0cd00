"""NIfTI in, NIfTI out: values to the float32, geometry to the bit."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from io_helpers import phantom, read, save_nifti, turned, values

from volad.io import find_scans, read_mask, read_volume, write_map, write_mask

LAS = np.diag([-1.0, 1, 1, 1])
PSR = np.array([[0.0, 0, 1, -4], [-2, 0, 0, 7], [0, 3, 0, 9], [0, 0, 0, 1]])
AFFINES = {
    "oblique": turned(),
    "flipped": turned() @ np.diag([-1, 1, -1, 1]),
    "anisotropic": np.diag([0.4, 0.4, 6.5, 1]),
    "LAS": LAS,
    "PSR": PSR,
    "thirds": np.diag([1 / 3, 1 / 7, 2 / 3, 1]),
}
GEOMETRY = ("sform_code", "qform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d")
GEOMETRY += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def assert_same_geometry(ours: Path, scan: Path) -> None:
    """Compare affine, raw qform and sform fields, codes, units and voxel sizes bit for bit."""
    ours_image, scan_image = nib.load(ours), nib.load(scan)
    assert np.array_equal(ours_image.affine, scan_image.affine)
    for field in GEOMETRY:
        assert np.array_equal(ours_image.header[field], scan_image.header[field]), field
    assert np.array_equal(ours_image.header["pixdim"][:4], scan_image.header["pixdim"][:4])
    assert ours_image.shape == scan_image.shape[:3]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_geometry_survives_bit_for_bit(tmp_path: Path, affine: np.ndarray, ending: str) -> None:
    scan = save_nifti(tmp_path / f"scan{ending}", affine=affine)
    volume = read(scan)
    assert np.array_equal(volume.affine, nib.load(scan).affine)
    assert volume.image.affine.dtype == torch.float64
    assert np.array_equal(volume.image.affine.numpy(), volume.affine)
    write_mask(tmp_path / "scan_mask.nii.gz", values(volume) > 100, volume)
    write_map(tmp_path / "scan_score.nii.gz", values(volume) / 7, volume)
    for name in ("scan_mask.nii.gz", "scan_score.nii.gz"):
        assert_same_geometry(tmp_path / name, scan)


@pytest.mark.parametrize("qform_code", [0, 1, 2])
@pytest.mark.parametrize("sform_code", [0, 1, 4])
def test_both_forms_and_their_codes_stay(tmp_path: Path, qform_code: int, sform_code: int) -> None:
    image = nib.Nifti1Image(phantom(), None)
    image.header.set_qform(turned(), qform_code)
    image.header.set_sform(PSR, sform_code)
    scan = tmp_path / "scan.nii.gz"
    image.to_filename(scan)
    volume = read(scan)
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    assert_same_geometry(tmp_path / "out.nii.gz", scan)
    said = " ".join(volume.warnings)
    assert ("disagree" in said) == bool(qform_code and sform_code)
    assert ("both 0" in said) == (qform_code == sform_code == 0)


def test_a_header_field_that_nibabel_would_mend_stays(tmp_path: Path) -> None:
    """A qfac of 0 means 1; tools that read both files must still see one and the same grid."""
    scan = save_nifti(tmp_path / "scan.nii")
    content = bytearray(scan.read_bytes())
    content[76:80] = b"\0\0\0\0"  # pixdim[0]
    scan.write_bytes(content)
    volume = read(scan)
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    written = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert written[76:92] == content[76:92]
    assert written[252:328] == content[252:328]  # qform_code to srow_z
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, volume.affine)


def test_output_header_describes_the_output(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom(), turned())
    header = image.header
    header["cal_min"], header["cal_max"], header["descrip"] = 3, 90, b"patient's name"
    header.set_intent("t test", (10,), "old")
    header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a private note"))
    header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "scan.nii.gz")
    volume = read(tmp_path / "scan.nii.gz")
    write_mask(tmp_path / "out.nii.gz", values(volume) > 20, volume)
    written = nib.load(tmp_path / "out.nii.gz")
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), values(volume) > 20)
    raw = nib.Nifti1Header(
        gzip.decompress((tmp_path / "out.nii.gz").read_bytes())[:348], check=False
    )
    assert (raw["scl_slope"], raw["scl_inter"], raw["cal_min"], raw["cal_max"]) == (1, 0, 0, 0)
    assert raw["intent_code"] == raw["intent_p1"] == 0
    assert raw["intent_name"] == b""
    assert raw["descrip"] == b"volad"
    assert b"private" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    write_map(tmp_path / "map.nii.gz", values(volume) / 3, volume)
    assert nib.load(tmp_path / "map.nii.gz").get_data_dtype() == np.float32
    assert np.array_equal(
        np.asarray(nib.load(tmp_path / "map.nii.gz").dataobj), values(volume) / np.float32(3)
    )


TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_and_byte_order(tmp_path: Path, dtype: str, order: str) -> None:
    data = (phantom(np.int64) % 100).astype(order + dtype)
    image = nib.Nifti1Image(data, turned(), nib.Nifti1Header(endianness=order))
    image.set_data_dtype(data.dtype)
    image.to_filename(tmp_path / "scan.nii")
    assert nib.load(tmp_path / "scan.nii").header.endianness == order
    volume = read(tmp_path / "scan.nii")
    assert volume.image.dtype == torch.float32
    assert np.array_equal(values(volume), data.astype(np.float32))
    write_mask(tmp_path / "out.nii.gz", values(volume) > 50, volume)
    assert_same_geometry(tmp_path / "out.nii.gz", tmp_path / "scan.nii")
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj), data > 50)
    write_map(tmp_path / "map.nii.gz", values(volume), volume)
    assert_same_geometry(tmp_path / "map.nii.gz", tmp_path / "scan.nii")
    assert np.array_equal(nib.load(tmp_path / "map.nii.gz").get_fdata(), data)


@pytest.mark.parametrize("dtype", ["i2", "u1", "i4", "f4"])
def test_scaling_is_rounded_once(tmp_path: Path, dtype: str) -> None:
    image = nib.Nifti1Image((phantom(np.int64) % 128).astype(dtype), turned())
    image.header.set_slope_inter(0.1, -3.3)
    image.to_filename(tmp_path / "scan.nii.gz")
    wanted = nib.load(tmp_path / "scan.nii.gz").get_fdata(dtype=np.float64).astype(np.float32)
    assert wanted.min() < -3
    assert np.array_equal(values(read(tmp_path / "scan.nii.gz")), wanted)


def test_nifti_2_stays_nifti_2(tmp_path: Path) -> None:
    affine = turned()  # float64, which NIfTI-1 could not hold
    nib.Nifti2Image(phantom(), affine).to_filename(tmp_path / "scan.nii.gz")
    volume = read(tmp_path / "scan.nii.gz")
    assert np.array_equal(volume.affine, affine)
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    written = nib.load(tmp_path / "out.nii.gz")
    assert isinstance(written, nib.Nifti2Image)
    assert np.array_equal(written.affine, affine)
    assert np.array_equal(np.asarray(written.dataobj), phantom() > 100)


def test_compression_goes_by_the_bytes_not_the_name(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii")
    shutil.copy(tmp_path / "a.nii", tmp_path / "b.nii.gz")
    (tmp_path / "c.nii").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    for name in ("b.nii.gz", "c.nii"):
        assert np.array_equal(values(read(tmp_path / name)), phantom())


def test_one_volume_of_a_4d_file(tmp_path: Path) -> None:
    data = phantom(shape=(5, 6, 7, 3))
    scan = save_nifti(tmp_path / "scan.nii.gz", data)
    for number in range(3):
        volume = read(scan, volume=number)
        assert np.array_equal(values(volume), data[..., number])
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    assert_same_geometry(tmp_path / "out.nii.gz", scan)
    single = save_nifti(tmp_path / "single.nii.gz", data[..., :1])
    assert np.array_equal(values(read(single)), data[..., 0])


def test_a_volume_tells_its_grid(tmp_path: Path) -> None:
    volume = read(save_nifti(tmp_path / "scan.nii", affine=PSR))
    assert volume.shape == (5, 6, 7)
    assert volume.spacing_mm == (2, 3, 1)
    assert volume.voxel_mm3 == 6
    assert volume.image.shape == (1, 5, 6, 7)
    assert volume.image.is_contiguous()
    volume.image.affine[0, 0] = 99
    assert volume.affine[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 99


def test_lengths_in_other_units_are_warned_of(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom(), turned())
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "scan.nii")
    assert any("micrometre" in warning for warning in read(tmp_path / "scan.nii").warnings)
    assert read(save_nifti(tmp_path / "plain.nii")).warnings == ()


def test_a_mask_on_the_grid_is_read(tmp_path: Path) -> None:
    volume = read(save_nifti(tmp_path / "scan.nii"))
    wanted = phantom() % 3 == 0
    path = save_nifti(tmp_path / "brain.nii.gz", wanted.astype(np.uint8) * 255)
    mask = read_mask(path, volume)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, wanted)
    full = save_nifti(tmp_path / "full.nii.gz", np.ones((5, 6, 7), np.uint8))
    assert read_mask(full, volume).all()


def test_a_finding_knows_its_scan(tmp_path: Path) -> None:
    (scan,) = find_scans(save_nifti(tmp_path / "scan.nii"))
    assert read_volume(scan).scan is scan
