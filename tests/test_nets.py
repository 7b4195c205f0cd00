"""The autoencoder's shapes and bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from volad.nets import ConvAutoencoder


def autoencoder(dims: int = 3, **settings: object) -> ConvAutoencoder:
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_channels": 1, "channels": (8, 16), "convs": 1, "code": 3}
    return ConvAutoencoder(dims, **{**sizes, **settings}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape", [(16, 16), (17, 13), (3, 30), (16, 16, 16), (17, 13, 9), (3, 8, 22)]
)
@pytest.mark.parametrize("convs", [1, 2])
def test_a_spatial_code_takes_windows_of_any_size(shape: Sequence[int], convs: int) -> None:
    net = autoencoder(len(shape), in_channels=4, out_channels=2, convs=convs)
    with torch.no_grad():
        assert net(torch.rand(2, 4, *shape)).shape == (2, 2, *shape)


@pytest.mark.parametrize("shape", [(16, 8), (16, 8, 12)])
def test_a_dense_code_takes_windows_of_its_grid(shape: Sequence[int]) -> None:
    net = autoencoder(len(shape), grid=shape)
    with torch.no_grad():
        assert net(torch.rand(2, 1, *shape)).shape == (2, 1, *shape)


def test_a_dense_code_needs_a_grid_that_halves_evenly() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, got \(16, 18, 16\)"):
        autoencoder(grid=(16, 18, 16))


def rank_after_bottleneck(net: ConvAutoencoder, windows: Tensor) -> int:
    """The dimension of the space that the bottleneck's outputs lie in, over all windows."""
    with torch.no_grad():
        out = net.bottleneck(net.encoder(windows)).flatten(1)
    return int(torch.linalg.matrix_rank(out - out.mean(dim=0), rtol=1e-4))


def test_the_dense_code_is_a_bottleneck() -> None:
    """Whatever 40 windows hold, 3 numbers of each get through."""
    windows = torch.rand(40, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert rank_after_bottleneck(autoencoder(grid=(16, 16, 16)), windows) == 3


def test_the_spatial_code_is_a_bottleneck_at_each_of_its_places() -> None:
    windows = torch.rand(40, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    net = autoencoder()
    with torch.no_grad():
        out = net.bottleneck(net.encoder(windows))
    assert out.shape == (40, 16, 4, 4, 4)
    at_places = out.movedim(1, -1).reshape(-1, 16)
    assert torch.linalg.matrix_rank(at_places - at_places.mean(dim=0), rtol=1e-4) == 3


def test_nothing_goes_around_the_bottleneck() -> None:
    net = autoencoder()
    one, two = torch.rand(2, 1, 1, 16, 16, 16)
    code = net.bottleneck(net.encoder(one))
    net.bottleneck.register_forward_hook(lambda *_: code)
    with torch.no_grad():
        assert torch.equal(net(one), net(two))


@pytest.mark.parametrize("grid", [None, (16, 16, 16)])
def test_dropout_acts_on_the_code_while_training_only(grid: Sequence[int] | None) -> None:
    net = autoencoder(dropout=0.5, grid=grid)
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        assert not torch.equal(net.train()(x), net(x))
