"""Preprocessing from file to the model's grid: a ball of brain in a larger head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from io_helpers import refused, save_nifti, turned
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray

from volad.errors import InputError
from volad.io import Scan, find_scans, read_volume
from volad.postprocess import ToScan
from volad.preprocess import steps
from volad.preprocess.align import Alignment, load_template
from volad.preprocess.intensity import learn_landmarks
from volad.preprocess.steps import (
    AlignToTemplate,
    CorrectBias,
    ExtractBrain,
    Hounsfield,
    Landmarks,
    Load,
    ResampleIsotropic,
    RobustRange,
)

RADIUS_MM = 30.0
SHAPE = (80, 70, 34)
AFFINE = turned((0.9, 1.1, 2.3)) @ np.diag([1.0, -1.0, 1.0, 1.0])  # oblique, left-handed, thick
CENTRE = (38, 36, 16)  # of the brain, in voxels


def distance_mm() -> NDArray[np.float64]:
    """Of every voxel of the scan from the brain's centre."""
    apart = np.indices(SHAPE).reshape(3, -1) - np.reshape(CENTRE, (3, 1))
    return np.linalg.norm(AFFINE[:3, :3] @ apart, axis=0).reshape(SHAPE)


def head() -> NDArray[np.float32]:
    """Brain of 300 with a core of 500 and noise; skull of 900 and air of 0 around it."""
    away = distance_mm()
    noise = 10 * np.random.default_rng(0).normal(size=SHAPE)
    brain = np.where(away < 12, 500, 300) + noise
    return np.where(away < RADIUS_MM, brain, np.where(away < 36, 900, 0)).astype(np.float32)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    folder = tmp_path_factory.mktemp("scan")
    image = save_nifti(folder / "head.nii.gz", head(), AFFINE)
    inside = (distance_mm() < RADIUS_MM).astype(np.uint8)
    mask = save_nifti(folder / "brain.nii.gz", inside, AFFINE)
    (found,) = find_scans(image, brain_mask=mask)
    return found


@pytest.fixture(scope="module")
def extracted(scan: Scan) -> dict[str, Any]:
    out: dict[str, Any] = Compose([Load(), ExtractBrain("given")])({"image": scan})
    return out


def test_a_path_a_scan_and_a_volume_load_alike(scan: Scan) -> None:
    for source in (scan.path, str(scan.path), scan, read_volume(scan)):
        sample = Load()({"image": source})
        np.testing.assert_array_equal(sample["image"][0], head())
        np.testing.assert_array_equal(sample["to_model"], np.eye(4))
        assert sample["volume"].scan.path == scan.path
        assert sample["flags"] == []


def test_a_folder_of_scans_is_refused_where_one_is_asked_for(scan: Scan) -> None:
    with pytest.raises(InputError, match="2 scans found where one is asked for"):
        Load()({"image": scan.path.parent})


def test_the_given_mask_is_the_brain(extracted: dict[str, Any]) -> None:
    np.testing.assert_array_equal(extracted["brain"][0], distance_mm() < RADIUS_MM)
    np.testing.assert_array_equal(extracted["native_brain"][0], distance_mm() < RADIUS_MM)
    assert extracted["facts"]["brain_extraction"] == "given"
    assert extracted["facts"]["brain_ml"] == pytest.approx(4 / 3 * np.pi * 3**3, rel=0.02)
    assert "113 ml" in extracted["flags"][0]  # a grown brain has ten times that


def test_without_the_mask_it_was_promised_a_scan_is_refused_by_name(scan: Scan) -> None:
    sample = Load()({"image": scan.path})
    with pytest.raises(InputError, match=r"head\.nii\.gz: .*--brain-mask") as caught:
        ExtractBrain("given")(sample)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def isotropic(extracted: dict[str, Any]) -> dict[str, Any]:
    return ResampleIsotropic(spacing_mm=2.0, margin_mm=6.0)(extracted)


def test_the_isotropic_grid_is_upright_around_the_brain(isotropic: dict[str, Any]) -> None:
    image, brain = isotropic["image"], isotropic["brain"]
    np.testing.assert_array_equal(np.asarray(image.affine)[:3, :3], 2 * np.eye(3))
    np.testing.assert_array_equal(image.affine, brain.affine)
    assert image.shape == brain.shape
    inside = np.argwhere(np.asarray(brain[0]))
    assert (2 * inside.min(axis=0) >= 6).all()  # the margin in mm
    assert (2 * (np.array(brain.shape[1:]) - 1 - inside.max(axis=0)) >= 6).all()
    assert brain.dtype == torch.bool
    assert 8e-3 * brain.sum() == pytest.approx(isotropic["facts"]["brain_ml"], rel=0.03)
    centre = inside.mean(axis=0)
    world = np.asarray(image.affine) @ [*centre, 1]
    np.testing.assert_allclose(world, AFFINE @ [*CENTRE, 1], atol=0.3)


def test_the_brains_rim_is_as_bright_as_the_brain_and_the_skull_is_gone(
    isotropic: dict[str, Any],
) -> None:
    values = isotropic["image"][0][isotropic["brain"][0]].numpy()
    assert values.min() > 250
    assert values.max() < 550
    assert (isotropic["image"][0][~isotropic["brain"][0]] == 0).all()


@pytest.mark.parametrize(
    "scale", [RobustRange(), Landmarks(learn_landmarks([head()[distance_mm() < RADIUS_MM]]))]
)
def test_brain_voxels_are_never_0_and_all_others_are(isotropic: dict[str, Any], scale: Any) -> None:
    out = Compose([CorrectBias(), scale])(isotropic)
    inside = out["brain"][0]
    values = out["image"][0][inside]
    assert values.min() > 0
    assert values.max() <= 2
    assert (out["image"][0][~inside] == 0).all()
    assert out["image"].dtype == torch.float32
    assert 0.1 < values.median() < 1.1


def test_the_robust_range_maps_percentiles_onto_0_1_and_1(isotropic: dict[str, Any]) -> None:
    out = RobustRange()(isotropic)
    values = out["image"][0][out["brain"][0]].numpy()
    np.testing.assert_allclose(np.percentile(values, [1, 99]), [0.1, 1.0], atol=0.01)


def test_the_scale_leads_back_to_the_scans_own_unit(isotropic: dict[str, Any]) -> None:
    out = RobustRange()(isotropic)
    inside = out["brain"][0]
    back = out["scale"].inverse(out["image"][0][inside].numpy())
    np.testing.assert_allclose(back, isotropic["image"][0][inside], rtol=1e-3)


def sample_of(values: list[float], brain: list[bool]) -> dict[str, Any]:
    return {
        "image": MetaTensor(torch.tensor(values).reshape(1, -1, 1, 1)),
        "brain": MetaTensor(torch.tensor(brain).reshape(1, -1, 1, 1)),
        "volume": None,
    }


def test_the_hounsfield_window_by_hand() -> None:
    values = [-1000.0, 0.0, 40.0, 80.0, 1500.0, 40.0]
    out = Hounsfield((0, 80))(sample_of(values, [True] * 5 + [False]))
    np.testing.assert_allclose(out["image"].flatten(), [0.1, 0.1, 0.55, 1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="window_hu must ascend"):
        Hounsfield((80, 0))


def test_a_voxel_that_maps_to_0_or_below_is_lifted() -> None:
    values = [0.0, *range(1, 101), -50.0]
    out = Landmarks([0.0] + [i / 12 for i in range(1, 13)])(sample_of(values, [True] * 102))
    assert out["image"].min() == pytest.approx(1e-3)


def test_a_brain_of_one_value_is_refused_by_the_scans_name(extracted: dict[str, Any]) -> None:
    flat = MetaTensor(torch.ones_like(extracted["image"]), affine=AFFINE)
    refused(
        InputError,
        RobustRange(),
        {**extracted, "image": flat},
        says=["head.nii.gz: ", "--brain-mask"],
    )


def test_a_point_of_the_models_grid_goes_back_to_its_voxel(isotropic: dict[str, Any]) -> None:
    """All the way: the bright core is where the scan has it."""
    scaled = Compose([CorrectBias(), RobustRange()])(isotropic)
    back = ToScan()({**scaled, "pred": scaled["image"]})["pred"][0].numpy()
    assert back.shape == SHAPE
    found = np.argwhere(back > 0.75).mean(axis=0)
    np.testing.assert_allclose(found, CENTRE, atol=0.3)
    assert (back[distance_mm() >= RADIUS_MM] == 0).all()


def test_an_aligned_scan_lies_on_the_template_and_knows_its_way_back(
    monkeypatch: pytest.MonkeyPatch, extracted: dict[str, Any]
) -> None:
    move = np.diag([1.3, 1.3, 1.3, 1.0])  # takes the brain's centre to the template's origin
    move[:3, 3] = -1.3 * (AFFINE @ [*CENTRE, 1])[:3]
    found = Alignment(move, overlap=0.95, correlation=0.9, volume_ratio=2.2)
    monkeypatch.setattr(steps, "align", lambda image, brain: found)
    out = AlignToTemplate()(extracted)
    template = load_template()
    assert out["image"].shape == out["brain"].shape == (1, *template.t1.shape)
    np.testing.assert_array_equal(out["image"].affine, template.affine)
    centre = np.argwhere(np.asarray(out["brain"][0])).mean(axis=0)
    np.testing.assert_allclose((template.affine @ [*centre, 1])[:3], 0, atol=0.5)
    np.testing.assert_array_equal(out["to_model"], move)
    assert out["flags"] == extracted["flags"]
    assert out["facts"]["alignment_overlap"] == 0.95
    back = ToScan()({**out, "pred": out["image"]})["pred"][0].numpy()
    np.testing.assert_allclose(np.argwhere(back > 450).mean(axis=0), CENTRE, atol=0.3)


def test_a_failed_alignment_is_flagged_and_the_scan_goes_on(
    monkeypatch: pytest.MonkeyPatch, extracted: dict[str, Any]
) -> None:
    found = Alignment(np.eye(4), overlap=0.41, correlation=0.12, volume_ratio=1.0)
    monkeypatch.setattr(steps, "align", lambda image, brain: found)
    out = AlignToTemplate()(extracted)
    assert "doubtful (overlap 0.41, fit 0.12)" in out["flags"][-1]
    assert "\n" not in out["flags"][-1]


def test_steps_leave_the_sample_before_them_as_it_was(extracted: dict[str, Any]) -> None:
    keys, before = set(extracted), extracted["image"].clone()
    Compose([ResampleIsotropic(3.0), CorrectBias(), RobustRange()])(extracted)
    assert set(extracted) == keys
    assert torch.equal(extracted["image"], before)


def test_files_are_not_changed(scan: Scan, tmp_path: Path) -> None:
    before = scan.path.read_bytes()
    Compose([Load(), ExtractBrain("given"), ResampleIsotropic(3.0), RobustRange()])({"image": scan})
    assert scan.path.read_bytes() == before
