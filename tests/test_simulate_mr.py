"""MR of any contrast simulated from healthy T1: anatomy, brightness, draws, files."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from pipeline_helpers import save_head, train_arguments, write_training_manifest
from scipy import ndimage
from tissue_helpers import example, example_t1

from volad import api, skeleton, tissues
from volad.cli import main
from volad.data import Row, read_manifest
from volad.io import is_simulated, read_volume, write_new
from volad.preprocess.align import load_template
from volad.preprocess.steps import RobustRange
from volad.simulate_mr import CONTRASTS, Contrast, SimulatedSet, draw_contrast, files, windows
from volad.simulate_mr.files import NOTE, write_scans
from volad.simulate_mr.head import brain_of_head, detail_of, image_of, moved, scanned, smooth_field
from volad.simulate_mr.iron import NUCLEI, iron_of
from volad.simulate_mr.remnants import leave_in, remnants_of


def plain(**levels: float) -> Contrast:
    """A contrast in which nothing varies within a tissue."""
    still = dict.fromkeys(
        ("detail", "grey_varies", "white_varies", "fluid_varies", "rim", "plexus", "iron"), 0.0
    )
    drawn = draw_contrast(np.random.default_rng(0), "flair")
    return replace(drawn, **still, **levels)


@pytest.mark.parametrize("kind", CONTRASTS)
def test_each_kind_has_its_order_of_tissues(kind: str) -> None:
    for seed in range(50):
        one = draw_contrast(np.random.default_rng(seed), kind)
        order = {
            "t1": one.fluid < one.grey < one.white,
            "t2": one.white < one.grey < one.fluid,
            "flair": one.fluid < one.white < one.grey,
            "pd": one.white < one.grey,
            "any": abs(one.grey - one.white) > 0.05,
        }
        assert order[kind]


def test_kinds_are_drawn_as_often_as_said() -> None:
    random = np.random.default_rng(0)
    found = Counter(draw_contrast(random).kind for _ in range(2000))
    for kind, share in CONTRASTS.items():
        assert found[kind] / 2000 == pytest.approx(share, abs=0.04)


def test_each_tissue_has_its_brightness_and_nothing_lies_outside_the_brain() -> None:
    found = example()
    contrast = plain(grey=0.9, white=0.6, fluid=0.2)
    none = np.zeros_like(found.grey)
    image = image_of(found, none, none, contrast, np.random.default_rng(0))
    assert not image[~found.brain].any()
    deep = found.ventricle_mm > 12  # away from where the plexus may hang
    for share, level in ((found.grey, 0.9), (found.white, 0.6), (found.fluid, 0.2)):
        assert image[(share > 0.99) & deep] == pytest.approx(level, abs=0.02)


def test_detail_is_the_deviation_from_three_tissues() -> None:
    found, (t1, _, _) = example(), example_t1()
    levels = 200 * found.grey + 300 * found.white + 60 * found.fluid
    assert np.abs(detail_of(found, levels.astype(np.float32))).max() < 0.05
    spot = np.unravel_index(np.argmax(found.white), found.white.shape)
    changed = levels.astype(np.float32)
    changed[spot] -= 50
    assert detail_of(found, changed)[spot] == pytest.approx(-0.5, abs=0.05)
    assert np.abs(detail_of(found, t1)).max() <= 1


def test_detail_turns_round_where_the_contrast_does() -> None:
    found = example()
    detail = np.where(found.white > 0.9, 0.5, 0).astype(np.float32)
    bright, dark = (
        image_of(
            found,
            detail,
            np.zeros_like(detail),
            replace(plain(grey=0.6, white=1.0), detail=sign),
            np.random.default_rng(0),
        )
        for sign in (1.0, -1.0)
    )
    change = (bright - dark)[detail > 0]
    assert change == pytest.approx(2 * 0.5 * 0.4, abs=1e-3)


def test_the_scanner_blurs_adds_noise_and_leaves_the_background() -> None:
    found = example()
    none = np.zeros_like(found.grey)
    image = image_of(found, none, none, plain(), np.random.default_rng(0))
    made = [scanned(image, found.brain, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert not made[0][~found.brain].any()
    assert np.corrcoef(made[0][found.brain], image[found.brain])[0, 1] > 0.6


def test_iron_is_where_the_deep_nuclei_are_on_both_sides_and_most_in_the_pallidum() -> None:
    template = load_template()
    none = np.zeros_like(template.grey)
    head = tissues.Tissues(none, none, none, none > -1, none, template.affine)
    iron = np.mean([iron_of(head, np.random.default_rng(seed)) for seed in range(12)], axis=0)
    to_voxel = np.linalg.inv(template.affine)

    def at(*mm: float) -> float:
        return float(iron[tuple(np.round(to_voxel @ [*mm, 1])[:3].astype(int))])

    for nucleus in NUCLEI.values():
        x, y, z = nucleus.middle_mm
        assert at(x, y, z) == pytest.approx(nucleus.iron, rel=0.35)
        assert at(-x, y, z) == pytest.approx(at(x, y, z), rel=0.3)
    assert iron.max() == pytest.approx(at(19, -4, -1), rel=0.1)
    for elsewhere in ((10, -20, 8), (0, 30, 10), (30, -60, 30), (25, -20, -15)):
        assert at(*elsewhere) == 0  # thalamus, front, back, hippocampus
    assert 0.002 < (iron > 0.2).mean() < 0.02


def test_iron_darkens_as_much_as_the_contrast_says_and_not_in_t1() -> None:
    found = example()
    none = np.zeros_like(found.grey)
    iron = np.zeros_like(found.grey)
    iron[found.white > 0.9] = 1
    contrast = replace(plain(), iron=0.5)
    with_iron, without = (
        image_of(found, none, there, contrast, np.random.default_rng(0)) for there in (iron, none)
    )
    share = with_iron[iron > 0] / without[iron > 0]
    assert share == pytest.approx(math.exp(-0.5), rel=1e-3)
    assert np.array_equal(with_iron[iron == 0], without[iron == 0])
    assert draw_contrast(np.random.default_rng(0), "t1").iron == 0
    assert max(draw_contrast(np.random.default_rng(n), "t2").iron for n in range(20)) > 0.3


def test_remnants_lie_beside_the_brain_and_sinuses_on_their_courses() -> None:
    found = example()
    drawn = [remnants_of(found, np.random.default_rng(seed)) for seed in range(12)]
    meninges = np.mean([one for _, one in drawn], axis=0)
    assert not meninges[found.brain].any()
    near = ndimage.binary_dilation(found.brain, iterations=4)
    assert not meninges[~near].any()
    assert 0 < meninges[near & ~found.brain].mean() < 0.5
    sinus = np.mean([one for one, _ in drawn], axis=0)
    to_voxel = np.linalg.inv(found.affine)
    for mm in ((0, -25, 79), (0, -97, 28), (42, -84, -19), (-42, -84, -19)):
        assert sinus[tuple(np.round(to_voxel @ [*mm, 1])[:3].astype(int))] > 0.3
    for mm in ((0, -20, 10), (40, 0, 20), (0, 60, -20)):
        assert sinus[tuple(np.round(to_voxel @ [*mm, 1])[:3].astype(int))] == 0


def test_remnants_change_nothing_else_and_belong_to_the_mask() -> None:
    found, (t1, _, _) = example(), example_t1()
    left = remnants_of(found, np.random.default_rng(1))
    filled = np.maximum(*left)
    levels = []
    for seed in range(20):
        image = leave_in(t1, left, np.random.default_rng(seed))
        assert np.array_equal(image[filled == 0], t1[filled == 0])
        levels.append(float(np.median(image[left[0] == 1])) / float(np.quantile(t1[t1 > 0], 0.99)))
    assert min(levels) < 0.2  # blood that flows
    assert max(levels) > 0.6  # blood that hardly does
    sizes = []
    for share in (0.0, 1.0):
        random = np.random.default_rng(3)
        _, brain = windows.draw(found, t1, random, real=False, remnants=share)
        sizes.append(int(brain.sum()))
    assert sizes[1] > 1.005 * sizes[0]


def test_a_warp_moves_each_place_as_far_as_said_and_neighbours_together() -> None:
    """Ramps say where each voxel came from."""
    shape, spacing = (40, 44, 36), 2.0
    ramps = list(np.indices(shape).astype(np.float32))
    still, warped, other = (
        np.stack(moved(ramps, spacing, np.random.default_rng(seed), warp))[:, 8:-8, 8:-8, 8:-8]
        for seed, warp in ((1, 0.0), (1, 3.0), (2, 3.0))
    )
    shift = spacing * (warped - still)
    assert 1.5 < shift.std() < 4.5
    assert np.abs(np.diff(shift, axis=1)).mean() < 0.3 * shift.std()
    assert not np.allclose(warped, other, atol=1.0)


def test_some_scans_are_sharper_than_the_tissues_they_were_made_of() -> None:
    image = example().white * 0.8 + 0.2 * example().brain
    brain = example().brain

    def edges(scan: np.ndarray) -> float:
        return float(np.std(scan - ndimage.gaussian_filter(scan, 1.0)))

    found = [edges(scanned(image, brain, np.random.default_rng(seed))) for seed in range(20)]
    assert min(found) < 0.8 * edges(image)
    assert max(found) > 1.2 * edges(image)


def test_the_scale_of_scans_is_spread_and_their_order_kept() -> None:
    x = torch.linspace(0.05, 1.2, 24).reshape(1, 2, 3, 4)
    x[0, 0, 0, 0] = 0  # outside
    found = [windows._spread(x, np.random.default_rng(seed)) for seed in range(10)]
    for y in found:
        assert torch.equal(y == 0, x == 0)
        assert (y.flatten()[2:] >= y.flatten()[1:-1]).all()
    assert np.std([float(y.max()) for y in found]) > 0.03


def test_masks_differ_from_draw_to_draw_but_stay_in_the_brain() -> None:
    found = example()
    masks = [brain_of_head(found, np.random.default_rng(seed)) for seed in range(8)]
    assert len({int(mask.sum()) for mask in masks}) > 4
    for mask in masks:
        assert not mask[~found.brain].any()
        assert mask.sum() > 0.7 * found.brain.sum()


def test_masks_have_no_holes_below_the_surface() -> None:
    found = example()
    inside = ndimage.binary_erosion(found.brain, iterations=3)
    assert inside.any()
    for seed in range(200):
        assert brain_of_head(found, np.random.default_rng(seed))[inside].all()


def test_a_field_is_smooth_and_of_spread_1() -> None:
    field = smooth_field((60, 60, 60), 10, np.random.default_rng(0))
    assert field.shape == (60, 60, 60)
    assert 0.6 < field.std() < 1.4
    assert np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1] > 0.95


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Five T1 scans that are prepared already."""
    stored, scan = tmp_path / "tissues.npz", tmp_path / "t1.npz"
    tissues._store(example(), stored)
    t1, brain, affine = example_t1()
    np.savez(scan, image=t1[None], brain=brain[None], affine=affine, facts=json.dumps({}))

    def kept(found: list[Row], *_: Any) -> list[Path]:
        return [stored] * len(found)

    def prepared(found: list[Row], *_: Any) -> list[Path]:
        return [scan] * len(found)

    for module in (windows, files):
        monkeypatch.setattr(module, "kept_tissues", kept)
        monkeypatch.setattr(module, "prepared_t1", prepared)
    made = [Row(f"s{n}", "train", tmp_path / f"s{n}.nii.gz", "") for n in range(5)]
    for row in made:
        nib.save(nib.Nifti1Image(t1, affine), row.image)
    return made


class Steps:
    """A preprocessing of which only the scale is used."""

    transforms = (None, RobustRange())


def test_every_epoch_shows_other_windows_and_a_seed_the_same(
    rows: list[Row], tmp_path: Path
) -> None:
    made = SimulatedSet(rows, Steps(), tmp_path)
    assert len(made) == 5
    assert made[0].shape == (1, 40, 48, 44)
    still = made[0]
    made.set_epoch(1, augment=True)
    first = made[0]
    made.set_epoch(2, augment=True)
    assert not np.array_equal(first, made[0])
    made.set_epoch(1, augment=True)
    assert np.array_equal(first, made[0])
    made.set_epoch(7, augment=False)
    assert np.array_equal(made[0], still), "it depends on the epoch before"
    validation = SimulatedSet(rows, Steps(), tmp_path)
    validation.set_epoch(7, augment=False)
    assert np.array_equal(validation[0], still), "validation changes with the epoch"
    assert 0 <= float(first.min()) <= float(first.max()) <= 2


def test_an_epoch_may_hold_several_draws_of_each_scan(rows: list[Row], tmp_path: Path) -> None:
    made = SimulatedSet(rows, Steps(), tmp_path, draws=2)
    assert len(made) == 5
    made.set_epoch(4, augment=True)
    assert len(made) == 10
    assert not np.array_equal(made[0], made[5])
    made.set_epoch(4, augment=False)
    assert len(made) == 5, "validation has one of each"
    patches = SimulatedSet(rows, Steps(), tmp_path, roi=(16, 16, 16), windows_per_scan=3, draws=2)
    patches.set_epoch(4, augment=True)
    assert len(patches) == 30


def test_patches_hold_brain_and_are_the_same_for_a_seed(rows: list[Row], tmp_path: Path) -> None:
    made = SimulatedSet(rows, Steps(), tmp_path, roi=(16, 16, 16), windows_per_scan=3)
    assert len(made) == 5
    made.set_epoch(4, augment=True)
    assert len(made) == 15
    first = [made[i] for i in range(15)]
    assert all(x.shape == (1, 16, 16, 16) and x.any() for x in first)
    assert not np.array_equal(first[0], first[5]), "two patches of one scan"
    made.set_epoch(4, augment=True)
    assert all(np.array_equal(made[i], first[i]) for i in (14, 3, 7)), "in any order"
    made.set_epoch(4, augment=True, whole=True)
    assert len(made) == 5
    assert made[0].shape == (1, 40, 48, 44)


def test_files_say_what_is_simulated_and_every_fourth_scan_is_real(
    rows: list[Row], tmp_path: Path
) -> None:
    manifest = write_scans(rows, tmp_path / "out", tmp_path, seed=2)
    lines = manifest.read_text().splitlines()
    assert lines[0] == "subject,split,image,sha256,contrast,simulated"
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["yes", "yes", "no", "yes", "yes"]
    assert str(rows[2].image.resolve()) in lines[3]
    path = tmp_path / "out" / "images" / "s0_simulated_flair.nii.gz"
    assert bytes(nib.load(path).header["descrip"]).decode().rstrip("\0") == NOTE
    volume = read_volume(replace(rows[0].scan, path=path))
    assert volume.sha256 in lines[1]
    assert (volume.image == 0).float().mean() > 0.3, "a brain without skull"
    before = path.stat().st_mtime_ns
    write_scans(rows, tmp_path / "out", tmp_path, seed=2)
    assert path.stat().st_mtime_ns == before, "made again"
    older = nib.load(path)
    older.header["descrip"] = b"volad: SIMULATED MR, no patient's scan"
    nib.save(older, path)
    write_scans(rows, tmp_path / "out", tmp_path, seed=2)
    assert read_volume(replace(rows[0].scan, path=path)).sha256 == volume.sha256, "not made again"


def test_scans_become_the_contrasts_that_are_asked_for_in_turn(
    rows: list[Row], tmp_path: Path
) -> None:
    manifest = write_scans(rows, tmp_path / "out", tmp_path, kinds=("t2", "pd"))
    found = [row["contrast"] for row in csv.DictReader(manifest.open())]
    assert found == ["t2", "pd", "t2", "pd", "t2"]


def test_each_scan_may_become_every_contrast(rows: list[Row], tmp_path: Path) -> None:
    manifest = write_scans(rows[:2], tmp_path / "out", tmp_path, heads="each")
    made = list(csv.DictReader(manifest.open()))
    assert [row["contrast"] for row in made] == ["flair", "t2", "t1", "pd"] * 2
    assert [row["subject"] for row in made] == ["s0"] * 4 + ["s1"] * 4
    assert [row["simulated"] for row in made] == ["yes", "yes", "no", "yes"] * 2
    assert len({row["sha256"] for row in made}) == 8 - 1  # the T1s of this test are the same


def test_together_the_contrasts_are_channels_of_one_head(rows: list[Row], tmp_path: Path) -> None:
    write_scans(rows[:2], tmp_path / "out", tmp_path, kinds=("t1", "t2", "flair"), heads="channels")
    made = read_manifest(tmp_path / "out/manifest.csv", tmp_path / "out", ("t1", "t2", "flair"))
    for row in made:
        files = [row.image, *(path for _, path, _ in row.channels)]
        t1, t2, flair = (np.asarray(nib.load(file).dataobj) for file in files)
        assert ((t1 > 0) == (t2 > 0)).mean() > 0.99
        inside = ndimage.binary_erosion(t1 > 0, iterations=4)
        # One anatomy: fluid is dark in T1 and bright in T2.
        assert np.corrcoef(t1[inside], t2[inside])[0, 1] < -0.5
        assert not np.array_equal(t1, flair)
    assert made[0].scan.channels != made[1].scan.channels


def test_a_bundle_of_simulated_mr_says_so(tmp_path: Path) -> None:
    arguments = {"features": [8, 16]}
    skeleton.create(tmp_path / "b", "synthetic_anomaly", arguments=arguments, simulate="mr")
    metadata = json.loads((tmp_path / "b/configs/metadata.json").read_text())
    assert metadata["simulated_training_data"]
    assert "SIMULATED MR" in metadata["data_source"]
    train = json.loads((tmp_path / "b/configs/train.json").read_text())
    assert train["train"]["dataset"]["_target_"] == "volad.simulate_mr.SimulatedSet"
    assert train["train"]["dataset"]["roi"] == train["validate"]["dataset"]["roi"] == "@roi"


def test_simulating_is_for_aligned_mr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (("--modality=ct",), ("--space=isotropic",)):
        assert main(train_arguments(tmp_path / "b", "--simulate", "mr", *more)) == 2
        assert "--simulate mr makes whole aligned volumes" in capsys.readouterr().err


def test_a_bundle_that_learned_from_a_simulated_file_says_so(tmp_path: Path) -> None:
    """As plans write them; that of others says nothing of it (`test_bundles`)."""
    heads = [save_head(tmp_path / f"real{seed}.nii.gz", seed, lesion=False) for seed in range(4)]
    made = tmp_path / "made.nii.gz"
    head = nib.load(heads[0])
    write_new(made, np.asarray(head.dataobj), head.affine, NOTE)
    assert [is_simulated(path) for path in (heads[0], made, tmp_path)] == [False, True, False]
    manifest = write_training_manifest(tmp_path, [heads[1], made], heads[2:])
    api.learn("intensity", tmp_path / "b", manifest=manifest, data_dir=tmp_path, modality="ct")
    metadata = json.loads((tmp_path / "b/configs/metadata.json").read_text())
    assert metadata["simulated_training_data"]
    assert "SIMULATED" in metadata["data_source"]
