"""The networks' shapes, bottlenecks and attention."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from volad.nets import AttentionUNet, ConvAutoencoder, PatchCritic, SelfAttention


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


def test_without_normalisation_what_comes_out_grows_with_what_goes_in() -> None:
    net, x = autoencoder(normalise=False), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        torch.testing.assert_close(net(0.01 * x), 0.01 * net(x))


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


def test_dropout_acts_on_the_code_while_training_only() -> None:
    net = autoencoder(dropout=0.5)
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        assert not torch.equal(net.train()(x), net(x))


@pytest.mark.parametrize("shape", [(6, 7), (3, 4, 5)])
def test_attention_starts_as_the_identity(shape: Sequence[int]) -> None:
    x = torch.rand(2, 16, *shape)
    assert torch.equal(SelfAttention(len(shape), 16)(x), x)


def attention(channels: int, gamma: float) -> SelfAttention:
    torch.manual_seed(0)
    block = SelfAttention(2, channels)
    nn.init.constant_(block.gamma, gamma)
    return block


@pytest.mark.parametrize("channels", [3, 16])
def test_attention_is_sagans_formula(channels: int) -> None:
    """Softmax over all places of query times key, unscaled, weighs the values."""
    block, x = attention(channels, 0.3), torch.rand(2, channels, 5, 4)
    thin = block.thin
    query, key, value = block.query_key_value(x).flatten(2).split([thin, thin, channels], dim=1)
    weights = (query.transpose(1, 2) @ key).softmax(dim=-1)  # (B, from, to)
    expected = x + 0.3 * (value @ weights.transpose(1, 2)).view_as(x)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_reaches_every_place() -> None:
    block, x = attention(8, 1.0), torch.rand(1, 8, 6, 6, requires_grad=True)
    block(x)[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_the_fused_attention_gives_the_gradients_of_the_plain_one() -> None:
    block = attention(16, 0.5)
    found = []
    for backends in ([SDPBackend.MATH], [SDPBackend.FLASH_ATTENTION]):
        x = torch.rand(2, 16, 9, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with sdpa_kernel(backends):  # raises where the kernel does not take these shapes
            y = block(x)
        found.append((y, torch.autograd.grad(y.square().sum(), [x, *block.parameters()])))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (33, 45), (5, 70), (17, 18, 33)])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_the_unet_takes_windows_of_any_size(shape: Sequence[int], blocks: int) -> None:
    net = AttentionUNet(len(shape), 3, 2, (8, 8, 16), blocks)
    assert net(torch.rand(2, 3, *shape)).shape == (2, 2, *shape)


def attended(net: nn.Module) -> list[str]:
    return [name for name, part in net.named_modules() if isinstance(part, SelfAttention)]


@pytest.mark.parametrize(
    ("blocks", "where"),
    [
        (0, []),
        (1, ["down.3.1"]),
        (3, ["down.2.1", "down.3.1", "up.0.1"]),
        (7, [*(f"down.{n}.1" for n in range(4)), *(f"up.{n}.1" for n in range(3))]),
    ],
)
def test_attention_begins_at_the_bottom_of_the_unet(blocks: int, where: list[str]) -> None:
    assert attended(AttentionUNet(2, 3, 3, (8, 16, 32, 64), blocks)) == where


@pytest.mark.parametrize("blocks", [2, 9, -1])
def test_attention_that_a_unet_cannot_hold_is_refused(blocks: int) -> None:
    with pytest.raises(ValueError, match="attention must be 0 or an odd number below 8"):
        AttentionUNet(2, 3, 3, (8, 16, 32, 64), blocks)


@pytest.mark.parametrize(
    ("blocks", "where"), [(0, []), (1, ["levels.2.1"]), (3, [f"levels.{n}.1" for n in range(3)])]
)
def test_the_critic_attends_on_its_fine_levels(blocks: int, where: list[str]) -> None:
    assert attended(PatchCritic(2, 6, (8, 16, 32, 64), blocks)) == where


@pytest.mark.parametrize("shape", [(32, 32), (33, 45), (3, 70)])
def test_the_critic_gives_one_value_a_window_and_mixes_none(shape: Sequence[int]) -> None:
    torch.manual_seed(0)
    critic, x = PatchCritic(2, 6, (8, 16, 32), 1).train(), torch.rand(3, 6, *shape)
    values = critic(x)
    assert values.shape == (3,)
    assert len(values.unique()) == 3
    torch.testing.assert_close(critic(torch.cat([x[:1], 9 * x[1:]]))[0], values[0])
