"""Loss terms that several methods use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = [
    "critic_loss",
    "discriminator_loss",
    "energy_score",
    "frozen",
    "gradient_penalty",
]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP: how far the critic's slope between real and generated windows is from 1; a scalar.

    `E[(||grad D(m)|| - 1)^2]`, `m` at a random place of the line from each fake to its real window,
    the norm over all axes but the batch's.

    Source: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017.

    Args:
        critic: `(B, ...)` to one value a window, `(B,)` or `(B, 1)`; it must be differentiable
            twice and must not mix windows, as batch normalisation does.
        real: windows `(B, ...)`.
        fake: windows of the same shape.
    """
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = torch.lerp(fake.detach().float(), real.detach().float(), share).requires_grad_()
    # bfloat16 has too few digits for a norm that is pulled to 1, and of torch's kernels for
    # attention only the plain one can be differentiated twice.
    with torch.autocast(real.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        value = critic(between).sum()
        (slope,) = torch.autograd.grad(value, between, create_graph=True)
    excess: Tensor = slope.flatten(1).norm(dim=1) - 1
    return excess.square().mean()


def critic_loss(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, penalty: float = 10.0
) -> Tensor:
    """WGAN-GP's loss of the critic: `E D(fake) - E D(real) + penalty * gradient penalty`."""
    wasserstein = critic(fake.detach()).mean() - critic(real).mean()
    return wasserstein + penalty * gradient_penalty(critic, real, fake)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """LSGAN's loss of the discriminator: `(E (D(real) - 1)^2 + E D(fake)^2) / 2`.

    Source: Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017.

    Args:
        real: the discriminator's values of real windows, any shape.
        fake: those of generated ones.
    """
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def frozen(module: nn.Module, x: Tensor) -> Any:
    """`module(x)`, from which its weights learn nothing: gradients reach `x` alone."""
    weights = {name: value.detach() for name, value in module.named_parameters()}
    return functional_call(module, weights, x)


def energy_score(samples: Tensor, x: Tensor) -> Tensor:
    """How badly samples of a distribution foretell windows; a scalar, on average lowest for theirs.

    `E ||s - x|| - E ||s - s'|| / 2`, the norm over all axes but the first.

    Source: Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", JASA
    102 (2007).

    Args:
        samples: `(M, ...)`, two at the least.
        x: windows `(B, ...)`.
    """
    drawn, count = samples.flatten(1), len(samples)
    apart = torch.cdist(drawn, drawn).sum() / (count * (count - 1))
    return torch.cdist(x.flatten(1), drawn).mean() - apart / 2
