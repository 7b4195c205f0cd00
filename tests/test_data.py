"""Manifests that are refused, the cache that is used again, and windows drawn by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from io_helpers import save_nifti
from monai.data import MetaTensor
from monai.transforms import Compose
from phantoms import healthy_brains

from volad.data import Augment, HealthySet, Row, read_split
from volad.errors import InputError
from volad.preprocess.steps import Landmarks, Load, RobustRange


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four scans of 16³ voxels; all but the last are for training."""
    lines = ["subject,split,image,sha256,age"]
    for i, brain in enumerate(healthy_brains(4)):
        file = save_nifti(tmp_path / f"s{i}.nii.gz", 100 * brain[0].numpy(), np.eye(4))
        split = "train" if i < 3 else "validation"
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"s{i},{split},s{i}.nii.gz,{sha256},40")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def rows(folder: Path, split: str = "train") -> list[Row]:
    return read_split(folder / "manifest.csv", folder, split)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "manifest.csv").read_text()
    assert old in text
    (folder / "manifest.csv").write_text(text.replace(old, new))


def test_a_split_is_its_rows_in_order(folder: Path) -> None:
    assert [row.subject for row in rows(folder)] == ["s0", "s1", "s2"]
    (row,) = rows(folder, "validation")
    assert row.image == folder / "s3.nii.gz"
    assert row.scan.path == row.image
    assert row.scan.name == "s3"


def refused(folder: Path, *says: str, split: str = "train") -> None:
    with pytest.raises(InputError) as caught:
        rows(folder, split)
    message = str(caught.value)
    assert "\n" not in message
    assert all(words in message for words in says), message


@pytest.mark.parametrize("column", ["subject", "split", "image", "sha256"])
def test_a_missing_column_is_refused(folder: Path, column: str) -> None:
    edit(folder, f"{column},", f"other_{column},")
    refused(folder, "manifest.csv", "needs the columns", column)


def test_a_subject_in_two_splits_is_refused(folder: Path) -> None:
    edit(folder, "s3,validation", "s0,validation")
    refused(folder, "subject s0 is in the splits train and validation; ")


def test_several_scans_of_a_subject_in_one_split_are_welcome(folder: Path) -> None:
    edit(folder, "s1,train", "s0,train")
    assert [row.subject for row in rows(folder)] == ["s0", "s0", "s2"]


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "s1.nii.gz").unlink()
    refused(folder, "s1.nii.gz", "--data-dir")
    assert len(rows(folder, "validation")) == 1  # of the other split nothing is missing


def test_another_file_under_the_same_name_is_refused(folder: Path) -> None:
    (folder / "s2.nii.gz").write_bytes((folder / "s1.nii.gz").read_bytes())
    refused(folder, "s2.nii.gz", "sha256 differs")


def test_a_split_without_scans_is_refused(folder: Path) -> None:
    refused(folder, "no scan in the split 'test'", split="test")


def test_a_line_that_ends_early_is_refused(folder: Path) -> None:
    with (folder / "manifest.csv").open("a") as stream:
        stream.write("s9,train\n")
    refused(folder, "manifest.csv", "line 6", "image")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_an_unreadable_manifest_is_refused(folder: Path, content: bytes | None) -> None:
    (folder / "manifest.csv").unlink()
    if content is not None:
        (folder / "manifest.csv").write_bytes(content)
    refused(folder, "manifest.csv", "not a readable CSV")


def test_a_manifest_saved_by_a_spreadsheet_is_read(folder: Path) -> None:
    text = (folder / "manifest.csv").read_bytes()
    (folder / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert len(rows(folder)) == 3


class Brain:
    """What is not 0 is brain; counts its calls."""

    calls = 0

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        Brain.calls += 1
        image = sample["image"]
        return {**sample, "brain": MetaTensor(image.as_tensor() > 0, affine=image.affine)}


def healthy(
    folder: Path, scale: Any = None, settings: Any = None, chosen: Sequence[Row] = (), **more: Any
) -> tuple[HealthySet, int]:
    """A set, and how many scans were preprocessed for it."""
    Brain.calls = 0
    preprocessing = Compose([Load(), Brain(), scale or RobustRange()])
    settings = settings or {"preprocessing": {"transforms": ["load", "brain", "scale"]}}
    windows = HealthySet(
        chosen or rows(folder), preprocessing, folder / "cache", settings=settings, **more
    )
    return windows, Brain.calls


def test_windows_are_the_preprocessed_scans(folder: Path) -> None:
    windows, calls = healthy(folder)
    assert calls == len(windows) == 3
    for i, brain in enumerate(healthy_brains(4)[:3]):
        sample = Load()({"image": folder / f"s{i}.nii.gz"})
        expected = RobustRange()(Brain()(sample))["image"].as_tensor()
        assert windows[i].dtype == torch.float32
        torch.testing.assert_close(windows[i], expected, atol=1e-3, rtol=0)
        assert torch.equal(windows[i] == 0, brain == 0)


def test_the_second_time_nothing_is_preprocessed(folder: Path) -> None:
    first, _ = healthy(folder)
    second, calls = healthy(folder)
    assert calls == 0
    assert all(torch.equal(first[i], second[i]) for i in range(3))


def test_a_new_intensity_scale_needs_no_new_cache_and_is_used(folder: Path) -> None:
    first, _ = healthy(folder)
    scale = Landmarks(np.linspace(1.0, 1.5, 13))
    settings = {"preprocessing": {"transforms": ["load", "brain", "another scale"]}}
    second, calls = healthy(folder, scale, settings)
    assert calls == 0
    assert (second[0] > 0.9).sum() > 2 * (first[0] > 0.9).sum()


def test_other_settings_or_another_file_are_preprocessed_anew(folder: Path) -> None:
    healthy(folder)
    _, calls = healthy(folder, settings={"preprocessing": {"transforms": ["load", "x", "scale"]}})
    assert calls == 3
    _, calls = healthy(folder, chosen=[*rows(folder), *rows(folder, "validation")])
    assert calls == 1


def test_scans_without_a_hash_in_the_manifest_are_not_mixed_up(folder: Path) -> None:
    chosen = [Row(row.subject, row.split, row.image, "") for row in rows(folder)]
    windows, calls = healthy(folder, chosen=chosen)
    assert calls == 3
    known, calls = healthy(folder)
    assert calls == 0  # the same files
    assert all(torch.equal(windows[i], known[i]) for i in range(3))


def test_a_killed_preprocessing_leaves_no_half_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(stream: Any, **arrays: Any) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(KeyboardInterrupt):
            healthy(folder)
    assert list((folder / "cache").iterdir()) == []
    _, calls = healthy(folder)
    assert calls == 3


def draws(windows: HealthySet, seed: int, augment: bool = True) -> torch.Tensor:
    windows.set_epoch(seed, augment=augment)
    return torch.stack([windows[i] for i in range(len(windows))])


def test_random_patches_are_drawn_by_the_seed_and_are_pieces_of_their_scan(folder: Path) -> None:
    windows, _ = healthy(folder, roi=(8, 8, 8), windows_per_scan=4)
    assert len(windows) == 12
    first = draws(windows, seed=1)
    assert first.shape == (12, 1, 8, 8, 8)
    assert torch.equal(first, draws(windows, seed=1))
    assert not torch.equal(first, draws(windows, seed=2))
    whole, _ = healthy(folder)
    for i, window in enumerate(first):
        pieces = whole[i % 3][0].unfold(0, 8, 1).unfold(1, 8, 1).unfold(2, 8, 1)
        assert (pieces == window[0]).all(dim=(-1)).all(dim=-1).all(dim=-1).any()


ALL = {"rotate_deg": 10, "scale": 0.1, "shift": 2, "gamma": (0.7, 1.5), "noise": 0.05}


@pytest.mark.parametrize("settings", [{}, {"augment": Augment(**ALL)}, {"roi": (8, 8, 8)}])
def test_windows_carry_no_metadata(folder: Path, settings: dict[str, Any]) -> None:
    """What a method adds up of them would carry it into the weights, which then do not load."""
    windows, _ = healthy(folder, **settings)
    windows.set_epoch(0, augment=True)
    assert type(windows[0]) is torch.Tensor


def test_augmentation_is_drawn_by_the_seed_and_only_where_asked_for(folder: Path) -> None:
    windows, _ = healthy(folder, augment=Augment(**ALL))
    plain = draws(windows, seed=1, augment=False)
    first = draws(windows, seed=1)
    assert torch.equal(first, draws(windows, seed=1))
    assert not torch.equal(first, draws(windows, seed=2))
    assert not torch.equal(first, plain)
    assert torch.equal(plain, draws(windows, seed=2, augment=False))


@pytest.mark.parametrize(
    "settings",
    [{}, {"flip": False, "rotate_deg": 10}, {"gamma": (0.5, 2)}, {"noise": 0.5}, ALL],
)
def test_augmented_brains_are_whole_and_what_is_around_them_is_exactly_0(
    settings: dict[str, Any],
) -> None:
    """Also under noise far larger than it should be: no hole in the brain, no haze around it."""
    augment = Augment(**settings)
    brain = healthy_brains(1)[0]
    filled = (brain != 0).sum()
    for seed in range(20):
        augment.seed(seed)
        out = augment(brain)
        assert out.shape == brain.shape
        assert out.isfinite().all()
        assert (out >= 0).all()
        assert (out[:, 0, 0, 0] == 0).all()  # a corner, outside any brain
        assert 0.6 * filled < (out != 0).sum() < 1.5 * filled
        middle = out[0, 7:9, 7:9, 7:9]
        assert (middle > 0).all()


def test_an_interpolated_rim_is_as_bright_as_the_brain() -> None:
    augment = Augment(flip=False, rotate_deg=20)
    flat = (healthy_brains(1)[0] != 0).float()
    for seed in range(10):
        augment.seed(seed)
        out = augment(flat)
        torch.testing.assert_close(out, (out != 0).float(), atol=1e-4, rtol=0)


def test_flips_mirror_left_and_right_half_of_the_time() -> None:
    augment, brain = Augment(), healthy_brains(1)[0]
    seen = []
    for seed in range(40):
        augment.seed(seed)
        out = augment(brain)
        mirrored = torch.equal(out, brain.flip(1))
        assert mirrored or torch.equal(out, brain)
        seen.append(mirrored)
    assert 10 < sum(seen) < 30


def test_two_channels_are_moved_alike() -> None:
    augment, brain = Augment(rotate_deg=20, shift=2), healthy_brains(1)[0]
    augment.seed(1)
    out = augment(torch.cat([brain, 2 * brain]))
    torch.testing.assert_close(out[1], 2 * out[0])
    assert not torch.equal(out[:1], brain)
