"""NRRD and MetaImage: the same place in the world, in RAS, and a NIfTI header for outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from io_helpers import phantom, read, refused, turned, values

from volad.errors import InputError
from volad.io import find_scans, input_sha256, write_mask

ENDINGS = [".nrrd", ".nhdr", ".mha", ".mhd"]
LPS_RAS = np.diag([-1.0, -1, 1, 1])


def save(path: Path, data: np.ndarray, affine_lps: np.ndarray, *, packed: bool = False) -> Path:
    """Write `(X, Y, Z)` voxels through SimpleITK."""
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(data.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine_lps[:3, 3].tolist())
    sitk.WriteImage(image, path, useCompression=packed)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_values_and_place(tmp_path: Path, ending: str, packed: bool) -> None:
    data, affine = phantom(), turned()
    scan = save(tmp_path / f"scan{ending}", data, affine, packed=packed)
    volume = read(scan)
    assert np.array_equal(values(volume), data)
    assert volume.image.is_contiguous()
    np.testing.assert_allclose(volume.affine, LPS_RAS @ affine, rtol=1e-6, atol=1e-5)
    image, marker = sitk.ReadImage(scan), (1, 4, 2)
    world = np.array(image.TransformIndexToPhysicalPoint(marker)) * (-1, -1, 1)
    np.testing.assert_allclose((volume.affine @ [*marker, 1])[:3], world, atol=1e-4)
    assert values(volume)[marker] == image[marker]
    assert volume.warnings == ()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_mask_lies_on_the_scan(tmp_path: Path, ending: str) -> None:
    scan = save(tmp_path / f"scan{ending}", phantom(np.float32), turned() @ LPS_RAS)
    volume = read(scan)
    write_mask(tmp_path / "out.nii.gz", values(volume) > 100, volume)
    written = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(written.affine, volume.affine)
    assert written.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(written.get_qform(), written.get_sform(), atol=1e-4)
    # Another reader, other conventions: ITK must see both grids in one place.
    mask, image = sitk.ReadImage(tmp_path / "out.nii.gz"), sitk.ReadImage(scan)
    for index in ((0, 0, 0), (4, 5, 6)):
        np.testing.assert_allclose(
            mask.TransformIndexToPhysicalPoint(index),
            image.TransformIndexToPhysicalPoint(index),
            atol=1e-4,
        )


def test_one_volume_of_a_4d_file(tmp_path: Path) -> None:
    data = phantom(np.int16, (5, 6, 7, 3))
    parts = [sitk.GetImageFromArray(data[..., k].T) for k in range(3)]
    for part in parts:
        part.SetSpacing((1, 2, 3))
    scan = tmp_path / "scan.nrrd"
    sitk.WriteImage(sitk.JoinSeries(parts), scan)
    says = ["scan.nrrd", "4D with 3 volumes", "--volume K"]
    refused(InputError, read, scan, says=says)
    for number in range(3):
        volume = read(scan, volume=number)
        assert np.array_equal(values(volume), data[..., number])
        assert volume.spacing_mm == (1, 2, 3)


def test_an_nrrd_without_a_space_is_warned_of(tmp_path: Path) -> None:
    voxels = phantom().T.astype("<i2").tobytes()
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 6 7\nspacings: 1 2 3\n"
    head += b"endian: little\nencoding: raw\n\n"
    (tmp_path / "scan.nrrd").write_bytes(head + voxels)
    volume = read(tmp_path / "scan.nrrd")
    assert np.array_equal(values(volume), phantom())
    assert any("names no space" in warning for warning in volume.warnings)


@pytest.mark.parametrize("ending", ENDINGS)
def test_cut_off_files_are_refused_in_silence(
    tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    scan = save(tmp_path / f"scan{ending}", phantom(), turned())
    data = next(file for file in (tmp_path / "scan.raw", scan) if file.exists())
    data.write_bytes(data.read_bytes()[:-100])
    refused(InputError, read, scan, says=[scan.name, "truncated", "export it again"])
    print("still heard", file=sys.stderr)
    assert capfd.readouterr().err == "still heard\n"


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_in_a_second_file_are_part_of_the_scan(tmp_path: Path, ending: str) -> None:
    (scan,) = find_scans(save(tmp_path / f"scan{ending}", phantom(), turned()))
    before = input_sha256(scan)
    assert read(scan.path).sha256 == before
    data = tmp_path / "scan.raw"
    data.write_bytes(data.read_bytes()[::-1])
    assert input_sha256(scan) != before
    data.unlink()
    refused(InputError, read, scan.path, says=[scan.path.name, "scan.raw", "keep the two"])


def test_voxels_in_many_files_are_refused(tmp_path: Path) -> None:
    scan = save(tmp_path / "scan.mhd", phantom(), turned())
    scan.write_text(scan.read_text().replace("scan.raw", "scan.%03d.raw 1 7 1"))
    refused(InputError, read, scan, says=["scan.mhd", "several files", "convert it"])


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_unfit_contents(tmp_path: Path, ending: str) -> None:
    def written(name: str, image: sitk.Image) -> Path:
        sitk.WriteImage(image, tmp_path / f"{name}{ending}")
        return tmp_path / f"{name}{ending}"

    colour = sitk.GetImageFromArray(np.ones((7, 6, 5, 3), np.uint8), isVector=True)
    refused(InputError, read, written("rgb", colour), says=["rgb", "RGB", "grey"])
    flat = sitk.GetImageFromArray(phantom(shape=(6, 5)))
    refused(InputError, read, written("flat", flat), says=["flat", "2D", "whole 3D"])
    thin = sitk.GetImageFromArray(phantom(shape=(1, 6, 5)))
    refused(InputError, read, written("thin", thin), says=["thin", "5 x 6 x 1"])
    same = sitk.GetImageFromArray(np.ones((7, 6, 5), np.float32))
    refused(InputError, read, written("same", same), says=["same", "every voxel is 1"])
    text = tmp_path / f"text{ending}"
    text.write_text("hello\n" * 99)
    refused(InputError, read, text, says=[text.name, "not what its ending says"])
    text.write_text("")
    refused(InputError, read, text, says=[text.name, "not what its ending says"])
