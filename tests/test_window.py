"""Windows: what goes in comes out at its place, and overlap means overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from volad.window import build


def volume(*shape: int) -> Tensor:
    """`(1, 1, *shape)`, every voxel another number."""
    return torch.arange(float(torch.Size(shape).numel())).reshape(1, 1, *shape)


class Counted:
    """The identity, keeping the shape of every batch of windows that it is given.

    It returns a copy, as methods do (`test_methods.py`): MONAI weighs in place what it is given.
    """

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.shapes.append(x.shape)
        return x.clone()


SHAPES = [(16, 16, 16), (17, 13, 19), (5, 20, 7), (3, 4, 2)]  # even, odd, smaller than the patch


@pytest.mark.parametrize("shape", SHAPES)
def test_a_volume_goes_through_whole(shape: Sequence[int]) -> None:
    x, network = volume(*shape), Counted()
    assert torch.equal(build("volume")(x, network), x)
    assert network.shapes == [x.shape]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_identity_on_patches_gives_the_volume_back(
    shape: Sequence[int], overlap: float, batch: int
) -> None:
    x, network = volume(*shape), Counted()
    out = build("patch", (8, 6, 8), overlap=overlap, batch=batch)(x, network)
    torch.testing.assert_close(out, x, rtol=1e-5, atol=0)
    assert {s[2:] for s in network.shapes} == {(8, 6, 8)}
    assert max(s[0] for s in network.shapes) <= batch


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_identity_on_slices_gives_the_volume_back(shape: Sequence[int], axis: int) -> None:
    x, network = volume(*shape), Counted()
    torch.testing.assert_close(build("slice", axis=axis)(x, network), x)
    across = [n for i, n in enumerate(shape) if i != axis]
    assert {s[2:] for s in network.shapes} == {tuple(across)}
    assert sum(s[0] for s in network.shapes) == shape[axis]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("overlap", [0, 0.5, 0.75])
def test_the_identity_on_windows_of_slices_gives_the_volume_back(axis: int, overlap: float) -> None:
    x, network = volume(17, 13, 19), Counted()
    out = build("slice", (8, 6), axis=axis, overlap=overlap)(x, network)
    torch.testing.assert_close(out, x, rtol=1e-5, atol=0)
    assert {s[2:] for s in network.shapes} == {(8, 6)}


def test_an_inferer_serves_volumes_of_one_shape_after_another() -> None:
    """The weights that it keeps for a patch are not those of another volume."""
    inferer = build("patch", (8, 8, 8))
    for shape in (*SHAPES, *SHAPES):
        torch.testing.assert_close(inferer(volume(*shape), Counted()), volume(*shape))


@pytest.mark.parametrize(
    ("overlap", "starts"),
    [
        (0, [0, 8, 16, 24]),
        (0.25, [0, 6, 12, 18, 24]),
        (0.5, [0, 4, 8, 12, 16, 20, 24]),
        (0.75, list(range(0, 25, 2))),
    ],
)
def test_overlap_is_the_share_that_the_next_window_covers_again(
    overlap: float, starts: list[int]
) -> None:
    seen: list[int] = []

    def remember(x: Tensor) -> Tensor:
        seen.extend(int(window.min()) for window in x)
        return x.clone()

    along_z = torch.arange(32.0).expand(1, 1, 8, 8, 32)
    build("patch", (8, 8, 8), overlap=overlap, batch=1)(along_z, remember)
    assert seen == starts


def test_several_channels_make_one_score() -> None:
    x = torch.cat([volume(9, 10, 11), volume(9, 10, 11)], dim=1)
    for inferer in (build("volume"), build("patch", (4, 4, 4)), build("slice")):
        out = inferer(x, lambda windows: windows.mean(dim=1, keepdim=True))
        torch.testing.assert_close(out, x[:, :1])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["volume", "patch", "slice", "windows of slices"])
def test_two_maps_of_one_pass_are_those_of_two_passes(kind: str, batch: int) -> None:
    """Bit for bit, with another number of channels each, and the volume stays as it was."""
    x = torch.cat([volume(9, 10, 11), volume(9, 10, 11).flip(2)], dim=1)
    given = x.clone()
    roi = {"patch": (4, 6, 4), "windows of slices": (4, 6)}.get(kind)
    inferer = build(kind.split()[-1].rstrip("s"), roi, batch=batch)

    def one(windows: Tensor) -> Tensor:
        # Not the same at all places of a window, so that the weights matter.
        return windows.cumsum(-1).mean(dim=1, keepdim=True)

    def two(windows: Tensor) -> Tensor:
        return 2 * windows.cumsum(-2)

    first, second = inferer(x, lambda windows: (one(windows), two(windows)))
    assert first.shape == (1, 1, 9, 10, 11)
    assert second.shape == x.shape
    assert torch.equal(first, inferer(x, one))
    assert torch.equal(second, inferer(x, two))
    assert torch.equal(x, given)


def test_overlapping_predictions_are_averaged_with_more_weight_on_the_middle() -> None:
    """Windows that answer 0 and 1 in turn blend; each rules at its own centre."""
    answers = iter([0.0, 1.0])

    def answer(x: Tensor) -> Tensor:
        return torch.full_like(x, next(answers))

    out = build("patch", (8, 8, 8), overlap=0.5, batch=1)(volume(8, 8, 12), answer)[0, 0, 4, 4]
    assert (out[:4] == 0).all()  # the first window alone
    assert (out[8:] == 1).all()  # the second alone
    assert (out[4:8].diff() > 0).all()
    torch.testing.assert_close(out[5] + out[6], torch.tensor(1.0))  # alike from both ends


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .*'slice'.*, got 'slices'"):
        build("slices")
    with pytest.raises(ValueError, match="patch windows need a roi"):
        build("patch")
    for overlap in (-0.1, 0.95, 1.0):
        with pytest.raises(ValueError, match=f"overlap must be from 0 to 0.9, got {overlap}"):
            build("patch", (8, 8, 8), overlap=overlap)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "patch", "roi": (8, 8)}, "must be 3 sizes in voxels"),
        ({"kind": "patch", "roi": (8, 0, 8)}, "must be 3 sizes in voxels"),
        ({"kind": "slice", "roi": (8, 8, 8)}, "must be 2 sizes in voxels"),
        ({"kind": "slice", "axis": 3}, "axis must be 0, 1 or 2, got 3"),
        ({"kind": "slice", "axis": -1}, "axis must be 0, 1 or 2, got -1"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused_when_built(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        build(**settings)
