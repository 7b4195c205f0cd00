"""CT from the scanner's values to a brain mask: padding, units, holder, tilt, cut vertex."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ct_helpers import RADII_MM, dice, grid_affine, grid_shape, head_in_hu, meta
from numpy.typing import NDArray
from scipy import ndimage

from volad import bundle, skeleton
from volad.errors import InputError
from volad.io import find_scans, read_volume
from volad.preprocess.align import load_template
from volad.preprocess.brain import BrainMask, CTBrain
from volad.preprocess.ct import CheckHounsfield, InsideTemplate, Remark
from volad.preprocess.steps import ExtractBrain, Load


def sample_of(folder: Path, hu: NDArray[Any], affine: NDArray[np.float64]) -> dict[str, Any]:
    path = folder / "head.nii.gz"
    nib.save(nib.Nifti1Image(hu, affine), path)
    (scan,) = find_scans(path)
    return Load()({"image": read_volume(scan)})


def whole_head(**more: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    affine = grid_affine((3.0, 3.0, 3.0))
    hu, brain = head_in_hu(affine, grid_shape((3.0, 3.0, 3.0)), **more)
    return hu, brain, affine


@pytest.mark.parametrize("padding", [-2000.0, -3024.0])
def test_padding_becomes_air_and_nothing_else_changes(tmp_path: Path, padding: float) -> None:
    hu, brain, affine = whole_head()
    hu[:4] = padding
    out = CheckHounsfield()(sample_of(tmp_path, hu, affine))
    values = out["image"].numpy()[0]
    assert (values[:4] == -1024).all()
    assert np.array_equal(values[4:], np.maximum(hu[4:], -1024))
    assert 0 < out["facts"]["ct_padding"] < 0.2
    assert dice(ExtractBrain("ct")(out)["brain"].numpy()[0], brain) > 0.95


@pytest.mark.parametrize("stored", ["8 bits", "offset left out", "scaled to 0..1"])
def test_values_that_are_no_hounsfield_units_are_refused(tmp_path: Path, stored: str) -> None:
    hu, _, affine = whole_head()
    wrong = {
        "8 bits": np.clip((hu + 20) * 255 / 200, 0, 255).astype(np.uint8),
        "offset left out": np.maximum(hu + 1024, 0).astype(np.uint16),
        "scaled to 0..1": ((hu + 1100) / 3000).astype(np.float32),
    }[stored]
    with pytest.raises(InputError, match=r"head\.nii\.gz: is not in Hounsfield units.*rescale"):
        CheckHounsfield()(sample_of(tmp_path, wrong, affine))


@pytest.mark.parametrize(("factor", "fine"), [(1.0, True), (20.0, False)])
def test_a_stripped_brain_is_judged_by_its_own_values(
    tmp_path: Path, factor: float, fine: bool
) -> None:
    hu, brain, affine = whole_head(holder=False)
    sample = sample_of(tmp_path, np.where(brain, factor * hu, 0).astype(np.float32), affine)
    if fine:
        assert np.array_equal(CheckHounsfield()(sample)["image"], sample["image"])
    else:
        with pytest.raises(InputError, match="its brain has"):
            CheckHounsfield()(sample)


@pytest.mark.parametrize(
    ("spacing_mm", "tilt_deg"), [((2.0, 2.0, 5.0), 0.0), ((2.0, 2.0, 5.0), 20.0), ((2, 2, 2), -18)]
)
def test_holder_table_tilt_and_thick_slices(
    spacing_mm: tuple[float, float, float], tilt_deg: float
) -> None:
    affine = grid_affine(spacing_mm, tilt_deg)
    hu, brain = head_in_hu(affine, grid_shape(spacing_mm))
    mask = CTBrain()(meta(hu, affine)).numpy()[0]
    assert dice(mask, brain) > 0.94
    assert mask[hu > 300].mean() < 0.001


def test_a_cut_vertex_is_no_reason_to_lose_the_brain() -> None:
    affine = grid_affine((3.0, 3.0, 3.0))
    hu, brain = head_in_hu(affine, grid_shape((3.0, 3.0, 3.0)))
    top = round((0.6 * RADII_MM[2] - affine[2, 3]) / 3)
    hu, brain = hu[..., :top], brain[..., :top]
    mask, how = BrainMask("ct")(meta(hu, affine))
    assert how == "ct-hu"
    assert dice(mask.numpy()[0], brain) > 0.94


def test_what_lies_beside_the_templates_brain_is_left_out() -> None:
    template = load_template()
    everywhere = np.ones(template.t1.shape, bool)
    sample = {
        "image": meta(np.full(everywhere.shape, 35, np.float32), template.affine),
        "brain": meta(everywhere, template.affine),
    }
    known = template.t1 > 0
    out = InsideTemplate()(sample)
    assert np.array_equal(out["brain"].numpy()[0], known)
    assert np.array_equal(out["image"].numpy()[0], np.where(known, 35, 0))
    wider = InsideTemplate(margin_mm=4.0)(sample)["brain"].numpy()[0]
    assert (wider & known).sum() == known.sum() < wider.sum()
    ball = ndimage.generate_binary_structure(3, 1)
    assert not (wider & ~ndimage.binary_dilation(known, ball, iterations=4)).any()


def test_a_remark_joins_what_the_user_is_told() -> None:
    assert Remark("simulated")({"flags": ["tilted"]})["flags"] == ["tilted", "simulated"]


def test_a_bundle_from_simulated_scans_says_so_with_every_result(tmp_path: Path) -> None:
    skeleton.create(tmp_path / "b", "ae", arguments={}, modality="ct", simulate="ct")
    said = [
        flag
        for step in bundle.part(tmp_path / "b", "preprocessing").transforms
        if isinstance(step, Remark)
        for flag in step({"flags": []})["flags"]
    ]
    assert len(said) == 1
    assert "SIMULATED" in said[0]
    metadata = json.loads((tmp_path / "b" / "configs" / "metadata.json").read_text())
    assert metadata["simulated_training_data"] is True
    assert "SIMULATED" in metadata["data_source"]
