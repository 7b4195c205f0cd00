"""Simulated CT: the values asked for, where they belong; another patient and scanner each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ct_helpers import meta
from pipeline_helpers import train_arguments
from scipy import ndimage
from tissue_helpers import example, pooled

from volad import tissues
from volad.cli import main
from volad.data import Row
from volad.io import read_volume
from volad.preprocess.align import load_template
from volad.preprocess.brain import CTBrain
from volad.preprocess.steps import Hounsfield
from volad.simulate_ct import SimulatedSet, files, windows
from volad.simulate_ct.files import NOTE, scan_of, write_scans
from volad.simulate_ct.head import AIR, head_of
from volad.simulate_ct.look import Look, draw_look
from volad.simulate_ct.scanner import noise_like


def plain() -> Look:
    """A look without lime, noise, blur or artefacts."""
    lime = ("falx_calcified", "choroid_calcified", "pineal_calcified", "basal_calcified")
    age = ("ventricle_growth_mm", "sulcus_growth", "rim_fluid_mm", "fullness")
    nothing = dict.fromkeys((*lime, *age, "membrane", "noise", "streaks", "cupping", "drift"), 0.0)
    fixed = {"grey": 37.0, "white": 28.0, "fluid": 7.0, "grain_mm": 1.5, "gap_mm": 0.5}
    return replace(draw_look(np.random.default_rng(0)), **nothing, **fixed)


def test_the_tissues_of_a_t1_are_its_own() -> None:
    found, template = example(), load_template()
    total = found.grey + found.white + found.fluid
    np.testing.assert_allclose(total[found.brain], 1, atol=1e-3)
    assert not total[~found.brain].any()
    for ours, known in ((found.grey, template.grey), (found.white, template.white)):
        assert np.corrcoef(ours[found.brain], pooled(known)[found.brain])[0, 1] > 0.8


def test_each_tissue_has_its_value_and_lies_inside_skull_and_scalp() -> None:
    found, look = example(), plain()
    head = head_of(found, look, np.random.default_rng(0))
    deep = head.outside_mm < -16
    for share, value in ((found.grey, 37.0), (found.white, 28.0), (found.fluid, 7.0)):
        assert np.median(head.hu[(share > 0.98) & deep]) == pytest.approx(value, abs=1.5)
    assert head.hu[found.brain].max() < 200, "bone inside the brain"
    assert (head.hu[(head.outside_mm > 0.6) & (head.outside_mm < 2)] > 200).all()
    assert (head.hu[head.outside_mm > 60] == AIR).all()


def test_a_full_brain_has_less_fluid_in_its_sulci_and_as_much_in_its_ventricles() -> None:
    found = example()
    empty, full = (
        head_of(found, replace(plain(), fullness=share), np.random.default_rng(0))
        for share in (0.0, 1.0)
    )
    fluid, depth = found.fluid > 0.9, -empty.outside_mm
    sulci, ventricles = fluid & (depth > 3) & (depth < 8), fluid & (found.ventricle_mm < 2)
    assert np.median(full.hu[sulci]) > np.median(empty.hu[sulci]) + 15
    assert np.median(full.hu[ventricles & (depth > 25)]) == pytest.approx(7, abs=2)


def test_fluid_lies_between_a_shrunken_brain_and_the_skull() -> None:
    found = example()
    look = replace(plain(), rim_fluid_mm=8.0)
    _, y, z = np.broadcast_arrays(*found.world())
    before, after = (head_of(found, one, np.random.default_rng(0)) for one in (plain(), look))
    rim = (before.outside_mm > -5) & (before.outside_mm < 0) & (found.fluid < 0.2)
    in_front = rim & (y > 30) & (z > 10)
    assert np.median(after.hu[in_front]) < np.median(before.hu[in_front]) - 10
    behind = rim & (y < -60) & (z < 0)
    assert np.median(after.hu[behind]) == pytest.approx(np.median(before.hu[behind]), abs=1)


def test_arteries_run_at_the_base_of_the_brain() -> None:
    found = example()
    look = replace(plain(), blood=60.0, artery_mm=2.5)
    head = head_of(found, look, np.random.default_rng(0))
    x, y, z = np.broadcast_arrays(*found.world())
    for place in ((24, 4, -16), (-24, 4, -16), (0, -20, -24)):
        near = sum((a - b) ** 2 for a, b in zip((x, y, z), place, strict=True)) < 16
        assert head.hu[near & found.brain].max() > 50


def test_old_age_widens_ventricles_and_sulci() -> None:
    found, young = example(), plain()
    old = replace(young, ventricle_growth_mm=6.0, sulcus_growth=0.8)
    dark = [
        (head_of(found, look, np.random.default_rng(0)).hu[found.brain] < 20).sum()
        for look in (young, old)
    ]
    assert dark[1] > 1.2 * dark[0]


@pytest.mark.parametrize(
    ("name", "near_mm"),
    [("choroid_calcified", (23, -42, 8)), ("pineal_calcified", (0, -29, 3))],
)
def test_lime_lies_where_healthy_adults_have_it(name: str, near_mm: tuple[int, int, int]) -> None:
    found, look = example(), plain()
    without = head_of(found, look, np.random.default_rng(0)).hu
    limed = head_of(found, replace(look, **{name: 200.0}), np.random.default_rng(0)).hu
    gain = np.where(found.brain, limed - without, 0)
    top = found.affine @ [*np.unravel_index(gain.argmax(), gain.shape), 1]
    assert gain.max() > 15
    top[0] = abs(top[0])
    assert np.linalg.norm(top[:3] - near_mm) < 14
    assert (gain > 10).sum() < 0.005 * found.brain.sum()


def test_noise_has_its_strength_and_hangs_together_along_thick_slices() -> None:
    spacing, random = np.array([1.0, 1.0, 1.0]), np.random.default_rng(0)
    noise = noise_like((40, 40, 40), spacing, plain(), 5.0, 3.0, random)
    assert noise.std() == pytest.approx(3.0, rel=1e-3)
    assert np.corrcoef(noise[..., :-1].ravel(), noise[..., 1:].ravel())[0, 1] > 0.7
    thin = noise_like((40, 40, 40), spacing, plain(), 1.0, 3.0, random)
    assert abs(np.corrcoef(thin[..., :-1].ravel(), thin[..., 1:].ravel())[0, 1]) < 0.1
    blocks = thin.reshape(4, 10, 4, 10, 40).mean(axis=(1, 3))
    blurred = ndimage.gaussian_filter(random.standard_normal(thin.shape), (0.75, 0.75, 0))
    clouds = (blurred * 3.0 / blurred.std()).reshape(4, 10, 4, 10, 40).mean(axis=(1, 3))
    assert blocks.std() < 0.7 * clouds.std(), "clouds, not grain"


def test_looks_spread_about_the_published_values() -> None:
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(400)]
    white, grey = (np.array([getattr(one, name) for one in looks]) for name in ("white", "grey"))
    assert 24 < white.mean() < 31
    assert 2 < white.std() < 4.5
    assert (grey - white).min() > 3
    assert 6 < (grey - white).mean() < 10


def test_a_file_is_a_whole_head_whose_brain_can_be_found(tmp_path: Path) -> None:
    look = replace(plain(), noise=0.5, slice_mm=5.0)
    hu, affine = scan_of(example(), np.random.default_rng(3), look)
    assert hu.dtype == np.int16
    assert hu.min() < -900
    assert hu.max() > 300
    mask = CTBrain()(meta(hu.astype(np.float32), affine)).numpy()[0]
    ml = mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert 900 < ml < 1800
    again, _ = scan_of(example(), np.random.default_rng(3), look)
    assert np.array_equal(hu, again)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Two T1 scans whose tissues are at hand."""
    stored = tmp_path / "tissues.npz"
    tissues._store(example(), stored)

    def at_hand(found: list[Row], *_: Any) -> list[Path]:
        return [stored] * len(found)

    monkeypatch.setattr(windows, "kept_tissues", at_hand)
    monkeypatch.setattr(files, "kept_tissues", at_hand)
    return [Row(f"s{n}", "train", tmp_path / f"s{n}.nii.gz", "") for n in range(2)]


def test_tissues_are_kept_as_they_were(rows: list[Row], tmp_path: Path) -> None:
    back = tissues.load(tmp_path / "tissues.npz")
    np.testing.assert_allclose(back.grey, example().grey, atol=1 / 500)
    assert np.array_equal(back.brain, example().brain)
    np.testing.assert_allclose(back.ventricle_mm, example().ventricle_mm, atol=0.06)


class Steps:
    """A preprocessing of which only the scale is used."""

    transforms = (None, Hounsfield((0.0, 80.0)))


def test_a_training_set_shows_other_draws_in_other_epochs(rows: list[Row], tmp_path: Path) -> None:
    made = SimulatedSet(rows, Steps(), tmp_path, draws=3, seed=5)
    assert len(made) == 6
    assert made[0].shape == (1, 40, 48, 44)
    still = [made[i] for i in range(6)]
    assert all(not np.array_equal(still[0], other) for other in still[1:])
    assert all(one.min() >= 0 and one.max() <= 1 for one in still)
    made.set_epoch(1, augment=True)
    assert len(made) == 2
    shown: dict[int, list[float]] = {}
    for epoch in range(4):
        made.set_epoch(epoch, augment=True)
        shown[epoch] = [made[0].sum().item(), made[1].sum().item()]
    assert len({tuple(v) for v in shown.values()}) > 1
    made.set_epoch(2, augment=True)
    assert [made[0].sum().item(), made[1].sum().item()] == shown[2]
    again = SimulatedSet(rows, Steps(), tmp_path, draws=3, seed=5)
    assert np.array_equal(again[4], still[4])


def test_files_say_that_they_are_simulated(rows: list[Row], tmp_path: Path) -> None:
    manifest = write_scans(rows, tmp_path / "out", tmp_path, seed=2)
    text = manifest.read_text()
    assert text.splitlines()[0] == "subject,split,image,sha256,simulated"
    assert text.count(",yes") == 2
    for number in range(2):
        path = tmp_path / "out" / "images" / f"s{number}_simulated_ct.nii.gz"
        header = nib.load(path).header
        assert bytes(header["descrip"]).decode().rstrip("\0") == NOTE
        assert read_volume(replace(rows[0].scan, path=path)).sha256 in text
    before = path.stat().st_mtime_ns
    write_scans(rows, tmp_path / "out", tmp_path, seed=2)
    assert path.stat().st_mtime_ns == before, "made again"


def test_simulating_is_for_aligned_ct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is prepared."""
    for more in (("--modality=mr",), ("--modality=ct", "--space=isotropic")):
        assert main(train_arguments(tmp_path / "b", "--simulate", "ct", *more)) == 2
        assert "--simulate ct makes whole aligned volumes" in capsys.readouterr().err
