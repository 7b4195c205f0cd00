"""Loss terms that several methods use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["critic_loss", "gradient_penalty"]


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
