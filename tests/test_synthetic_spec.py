"""What a suite may be, how its files are stored, and the curves that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volad.errors import InputError
from volad.io import Scan, read_volume
from volad.synthetic import DEFAULT, LesionRow, curves, found_labels, read_lesions, read_suite
from volad.synthetic.pack import pack
from volad.synthetic.stored import write_image


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        ([], "an object"),
        ({"contrast": [1]}, "unknown setting 'contrast'"),
        ({"contrasts": []}, "contrasts must not be empty"),
        ({"contrasts": [0]}, "contrast must be from 0.01 to 5"),
        ({"contrasts": ["dark"]}, "no suite of lesions"),
        ({"textures": ["rough"]}, "texture must be one of own, smooth, core, got 'rough'"),
        ({"mass_effects": [1.5]}, "mass_effect must be from 0 to 0.8"),
        ({"edges_mm": [-1]}, "edge_mm must be from 0 to 5"),
        ({"volumes": 0}, "volumes must be a whole number from 1"),
        ({"atrophy": 0}, "atrophy must be from 0.05 to 2"),
        ({"size_bins_mm3": [10, 5]}, "size_bins_mm3 must ascend"),
        ({"lesions": []}, "1 to 255 lesions"),
        ({"lesions": [{"kind": "stroke", "mm3": 1, "tissue": "white"}]}, "mm3 must be from 40"),
        ({"lesions": [{"kind": "lacune", "mm3": 50, "tissue": "home"}]}, "'home' is for strokes"),
        ({"lesions": [{"mm3": 50}]}, "no suite of lesions"),
    ],
)
def test_a_suite_that_cannot_be_is_one_line(suite: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(suite))
    with pytest.raises(InputError) as caught:
        read_suite(path)
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert "\n" not in message


def test_a_suite_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(DEFAULT.to_json()))
    assert read_suite(path) == DEFAULT
    path.write_text("{}")
    assert read_suite(path) == DEFAULT


def test_few_scans_show_every_contrast_and_many_every_combination() -> None:
    recipes = [DEFAULT.recipe(number) for number in range(72)]
    assert {r.contrast for r in recipes[:8]} == set(DEFAULT.contrasts)
    assert {r.contrast for r in recipes[:8] if r.contrast < 0} == {-2.0, -1.0, -0.5, -0.25}
    combinations = {(r.contrast, r.texture, r.mass_effect) for r in recipes}
    assert len(combinations) == 8 * 3 * 2


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [(np.uint8, 18.5, 0.0), (np.int16, 1.0, 0.0), (np.int16, 0.5, -7.0), (np.float32, 1.0, 0.0)],
)
def test_an_image_keeps_the_scans_data_type_and_its_untouched_voxels(
    dtype: type, slope: float, inter: float, tmp_path: Path
) -> None:
    raw = np.random.default_rng(0).integers(0, 255, (6, 5, 4)).astype(dtype)
    image = nib.Nifti1Image(raw, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_slope_inter(slope, inter)
    nib.save(nib.Nifti1Image(raw, image.affine, image.header), tmp_path / "scan.nii.gz")
    volume = read_volume(Scan(tmp_path / "scan.nii.gz", "scan"))
    values = volume.image.numpy()[0].copy()
    kept = values.copy()
    values[0, 0, 0] = 1e9  # beyond what an integer type holds
    write_image(tmp_path / "out.nii.gz", values, volume)
    out = nib.load(tmp_path / "out.nii.gz")
    assert out.get_data_dtype() == np.dtype(dtype)
    again = read_volume(Scan(tmp_path / "out.nii.gz", "out")).image.numpy()[0]
    assert np.array_equal(again.ravel()[1:], kept.ravel()[1:])
    assert again[0, 0, 0] >= kept.max()


def row(label: int, contrast: float, mm3: float, name: str = "a", subject: str = "s") -> LesionRow:
    places = (0.0, 0.0, 0.0)
    size = DEFAULT.size_bin(mm3)
    return LesionRow(
        *(name, label, subject, "stroke", "white", "x", mm3, size, contrast, contrast, "own", 0.0),
        *places,
    )


def test_curves_count_what_a_mask_overlaps() -> None:
    labels = np.zeros((8, 4, 4), np.uint8)
    labels[0], labels[3], labels[6] = 1, 2, 3
    mask = np.zeros(labels.shape, bool)
    mask[0, 0, 0] = mask[5:7] = True
    assert found_labels(labels, mask) == {1, 3}
    score = np.where(mask, 0.7, 0.2)
    assert found_labels(labels, score, threshold=0.5) == {1, 3}
    assert found_labels(labels, score, threshold=0.1) == {1, 2, 3}
    lesions = [
        row(1, -1.0, 50),
        row(2, -1.0, 50),
        row(3, 0.5, 20_000),
        row(1, -1.0, 50, name="b", subject="t"),
        row(1, -2.0, 600, name="c"),  # no result of this one
    ]
    nothing = np.zeros(labels.shape, bool)
    results = iter([("a", mask, labels), ("b", nothing, labels)])
    cells = curves(results, lesions)
    assert [(c.group, c.lesions, c.found, c.subjects) for c in cells] == [
        ((-1.0, "0-100"), 3, 1, 2),
        ((0.5, "10000+"), 1, 1, 1),
    ]
    assert cells[0].sensitivity == pytest.approx(1 / 3)
    low, high = cells[0].interval()
    assert (low, high) == pytest.approx((0.0615, 0.7923), abs=1e-3)  # Wilson's, by hand
    (by_kind,) = curves([("a", mask, labels)], lesions, by=("kind",))
    assert (by_kind.group, by_kind.lesions, by_kind.found) == (("stroke",), 3, 2)


def test_cells_are_in_the_order_of_sizes() -> None:
    labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1)
    lesions = [row(1, 1.0, 20_000), row(2, 1.0, 5), row(3, 1.0, 700)]
    cells = curves([("a", labels > 0, labels)], lesions, by=("size_bin",))
    assert [cell.group[0] for cell in cells] == ["0-100", "500-1000", "10000+"]


def test_results_that_do_not_belong_to_the_suite_are_refused() -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="not a lesioned volume"):
        curves([("z", labels, labels)], [row(1, 1.0, 5)])
    with pytest.raises(ValueError, match="given twice"):
        curves([("a", labels, labels)] * 2, [row(1, 1.0, 5)])
    with pytest.raises(ValueError, match="differ in shape"):
        found_labels(labels, labels[1:])


def test_a_table_of_lesions_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lesions.csv").write_text("name,label\na,one\n")
    with pytest.raises(InputError, match=r"not the lesions\.csv of a suite"):
        read_lesions(tmp_path / "lesions.csv")


def test_packed_outlines_come_back_as_they_were(tmp_path: Path) -> None:
    mask = np.zeros((30, 20, 20), np.uint8)
    mask[2:9, 3:8, 4:10] = 1  # 210 mm³
    mask[20:22, 3:5, 4:6] = 1  # 8 mm³: too small
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (15, -10, -10)
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "one_lesion.nii.gz")
    (tmp_path / "packed.npz").write_bytes(pack(tmp_path))
    with np.load(tmp_path / "packed.npz") as stored:
        assert stored["names"].tolist() == ["one_lesion-1"]
        assert stored["sizes"].tolist() == [[7, 5, 6]]
        assert np.unpackbits(stored["bits"], count=210).all()
        np.testing.assert_allclose(stored["homes_mm"], [[15 - 5.0, -10 + 5.0, -10 + 6.5]])
