"""Slabs: every slice is predicted, from the right neighbours, and never from itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from volad.slab import SlabInferer


def ramp(shape: Sequence[int], axis: int, channels: int = 1) -> Tensor:
    """`(2, channels, *shape)` that rises evenly along an axis, otherwise at every place."""
    random = torch.Generator().manual_seed(0)
    flat = [1 if d == axis else n for d, n in enumerate(shape)]
    start, slope = torch.rand(2, 2, channels, *flat, generator=random).double()
    along = [-1 if d == axis else 1 for d in range(3)]
    return start + slope * torch.arange(shape[axis]).view(along)


def extrapolate(slab: SlabInferer, known: Tensor) -> Tensor:
    """Go on as the last two known slices do: right wherever a volume rises evenly."""
    last, before = known[:, slab.n_in - 1 :: slab.n_in], known[:, slab.n_in - 2 :: slab.n_in]
    ahead = torch.arange(slab.n_out) + slab.offset - slab.n_in + 1
    found = last[:, :, None] + (last - before)[:, :, None] * ahead.view(1, 1, -1, 1, 1)
    return found.flatten(1, 2)


SHAPES = [(16, 16, 16), (17, 13, 19), (6, 21, 7)]
every_axis = pytest.mark.parametrize("axis", [0, 1, 2])


@pytest.mark.parametrize("shape", SHAPES)
@every_axis
@pytest.mark.parametrize(("n_in", "n_out", "offset"), [(3, 3, None), (2, 1, 3), (2, 3, 2)])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("stride", "batch"), [(1, 3), (None, 4)])
def test_a_network_that_predicts_right_gives_the_volume_back(
    shape: Sequence[int],
    axis: int,
    n_in: int,
    n_out: int,
    offset: int | None,
    both: bool,
    stride: int | None,
    batch: int,
) -> None:
    """Edge slices and odd sizes too, and every channel for itself."""
    slab = SlabInferer(
        n_in, n_out, offset, axis=axis, both=both, stride=stride or n_out, batch=batch
    )
    x = ramp(shape, axis, channels=2)
    out = slab(x, lambda known: extrapolate(slab, known))
    torch.testing.assert_close(out, x.float(), rtol=1e-5, atol=1e-5)


@every_axis
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("stride", [1, 3])
def test_no_slice_takes_part_in_its_own_prediction(axis: int, both: bool, stride: int) -> None:
    slab = SlabInferer(axis=axis, both=both, stride=stride)
    x = ramp((11, 11, 11), axis)

    def network(known: Tensor) -> Tensor:
        return known.mean(dim=1, keepdim=True).expand_as(known)

    before = slab(x, network)
    for place in range(11):
        changed = x.clone()
        changed.select(2 + axis, place).add_(torch.rand(2, 1, 11, 11))
        after = slab(changed, network)
        assert torch.equal(after.select(2 + axis, place), before.select(2 + axis, place))
        # Going forward alone, nothing follows from the last slices.
        assert not both or not torch.equal(after, before)


@pytest.mark.parametrize(
    ("both", "expected"), [(True, [2, 5 / 3, 4 / 3, 1]), (False, [2, 0, 0.5, 1])]
)
def test_predictions_that_overlap_are_averaged(both: bool, expected: list[float]) -> None:
    """Four slices 0, 1, 2, 3, of which each predicts the next two to be like itself.

    Forward: slice 1 from 0; slice 2 from 0 and 1; slice 3 from 1. Back: slice 2 from 3; slice 1
    from 3 and 2; slice 0 from 2.
    """
    slab = SlabInferer(1, 2, both=both)
    x = torch.arange(4.0).view(1, 1, 1, 1, 4)
    torch.testing.assert_close(slab(x, slab.nearest).flatten(), torch.tensor(expected))


@pytest.mark.parametrize("slices", [1, 2, 5])
@every_axis
def test_a_volume_thinner_than_a_slab_is_predicted_too(slices: int, axis: int) -> None:
    slab = SlabInferer(axis=axis)
    shape = [7, 7, 7]
    shape[axis] = slices
    x = torch.full((1, 1, *shape), 0.5)
    torch.testing.assert_close(slab(x, slab.nearest), x)


def test_known_slices_come_in_the_order_in_which_they_lead_up() -> None:
    seen: list[list[float]] = []

    def network(known: Tensor) -> Tensor:
        seen.extend(known[:, :, 0, 0].tolist())
        return known

    SlabInferer(batch=2)(torch.arange(7.0).expand(1, 1, 2, 2, 7), network)
    assert seen == [[0, 1, 2], [1, 2, 3], [6, 5, 4], [5, 4, 3]]


def test_one_way_walks_back_only_for_the_slices_that_nothing_lies_in_front_of() -> None:
    counts = []
    for both in (True, False):
        calls: list[int] = []

        def network(known: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(len(known))
            return known

        SlabInferer(both=both, batch=1)(torch.rand(1, 1, 2, 2, 30), network)
        counts.append(len(calls))
    assert counts == [2 * 25, 25 + 3]


@every_axis
def test_slabs_are_split_as_the_walk_does(axis: int) -> None:
    slab = SlabInferer(2, 1, 3, axis=axis)
    x = ramp((9, 8, 7), axis, channels=2).narrow(2 + axis, 0, slab.depth)
    known, unknown = slab.split(x)
    sizes = [n for d, n in enumerate((9, 8, 7)) if d != axis]
    assert known.shape == (2, 4, *sizes)
    assert unknown.shape == (2, 2, *sizes)
    for channel in range(2):
        for place in range(2):
            assert torch.equal(known[:, 2 * channel + place], x[:, channel].select(1 + axis, place))
        assert torch.equal(unknown[:, channel], x[:, channel].select(1 + axis, 3))


def test_memory_holds_one_batch_of_slabs() -> None:
    sizes: list[int] = []

    def network(known: Tensor) -> Tensor:
        sizes.append(len(known))
        return known

    SlabInferer(batch=4)(torch.rand(1, 1, 4, 4, 30), network)
    assert max(sizes) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_in": 0}, "must be 1 or more"),
        ({"offset": 2}, "offset must be at least n_in"),
        ({"stride": 4}, "stride must be 1 to n_out"),
        ({"stride": 0}, "stride must be 1 to n_out"),
        ({"axis": 3}, "axis must be 0, 1 or 2"),
        ({"axis": -1}, "axis must be 0, 1 or 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlabInferer(**settings)  # type: ignore[arg-type]


def test_a_network_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gave \(8, 1, 4, 4\), not \(8, 3, 4, 4\)"):
        SlabInferer()(torch.rand(1, 1, 4, 4, 30), lambda known: known[:, :1])


def test_slabs_of_another_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="slabs must have 6 slices along axis 2"):
        SlabInferer().split(torch.rand(1, 1, 4, 4, 7))


def test_a_traced_walk_predicts_the_same() -> None:
    """MONAI exports bundles by tracing, which makes tensors of sizes."""

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            slab = SlabInferer()
            return slab(x, slab.nearest)

    x = torch.rand(1, 1, 3, 4, 12)
    traced = torch.jit.trace(Model(), torch.rand_like(x), check_trace=False)
    torch.testing.assert_close(traced(x), Model()(x))
