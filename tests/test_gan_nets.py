"""The shapes that generators, encoders and translators take and give."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from monai.networks.blocks import ResidualUnit

from volad.gan_nets import ResidualTranslator, WindowEncoder, WindowGenerator

GRIDS = [(16, 16), (17, 13), (16, 16, 16), (17, 12, 9)]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_window_becomes_a_vector_and_a_vector_a_window(grid: Sequence[int]) -> None:
    window, vector = torch.rand(2, 3, *grid), torch.rand(2, 5)
    assert WindowEncoder(3, 5, (4, 8), grid)(window).shape == (2, 5)
    assert WindowGenerator(5, 3, (4, 8), grid)(vector).shape == (2, 3, *grid)


def test_every_number_of_the_vector_tells_in_the_window() -> None:
    torch.manual_seed(0)
    generator, vector = WindowGenerator(6, 1, (4, 8), (16, 16, 16)), torch.randn(1, 6)
    first = generator(vector)
    for place in range(6):
        changed = vector.clone()
        changed[0, place] += 1
        assert (generator(changed) - first).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(16, 16, 16), (5, 30, 21)])
def test_features_are_taken_of_windows_of_any_size(shape: Sequence[int]) -> None:
    features = WindowEncoder(1, 1, (4, 8), (16, 16, 16)).features
    assert features(torch.rand(2, 1, *shape)).shape == (2, 8, *(-(-n // 4) for n in shape))


def test_the_encoder_sees_how_bright_a_window_is() -> None:
    """Normalisation behind the first convolution would hide most of it."""
    torch.manual_seed(0)
    encoder, x = WindowEncoder(1, 1, (8, 16), (16, 16, 16)), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        levels = torch.stack([encoder(scale * 100 * x)[0, 0] for scale in (1, 2, 3)])
    torch.testing.assert_close(levels[2] - levels[1], levels[1] - levels[0], rtol=0.05, atol=1e-3)
    assert (levels[1] - levels[0]).abs() > 0.1


@pytest.mark.parametrize("shape", [(16, 16), (3, 30), (17, 13, 9), (2, 8, 22)])
@pytest.mark.parametrize("features", [(8,), (8, 16)])
def test_translators_take_windows_of_any_size(
    shape: Sequence[int], features: Sequence[int]
) -> None:
    net = ResidualTranslator(len(shape), 2, features, 1)
    assert net(torch.rand(2, 2, *shape)).shape == (2, 2, *shape)


@pytest.mark.parametrize("blocks", [0, 1, 6])
def test_translators_have_the_residual_blocks_they_are_asked_for(blocks: int) -> None:
    net = ResidualTranslator(2, 1, (4, 8), blocks)
    found = [part for part in net.modules() if isinstance(part, ResidualUnit)]
    assert len(found) == blocks
    assert all(len(part.conv) == 2 for part in found)
