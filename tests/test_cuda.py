"""What only a CUDA device can show."""

from __future__ import annotations

import pytest
import torch

from volad import methods
from volad.corrupt import CORRUPTIONS, corrupt
from volad.losses import gradient_penalty
from volad.nets import PatchCritic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device (gpu)"),
]


@pytest.mark.parametrize("name", methods.names())
def test_a_method_scores_on_cuda_as_on_the_cpu(name: str) -> None:
    cls = methods.load(name)
    torch.manual_seed(0)
    method = cls(**cls.tiny).eval()
    window = torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        here = method(window)
        there = method.cuda()(window.cuda()).cpu()
    torch.testing.assert_close(there, here, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", sorted(CORRUPTIONS))
def test_a_corruption_stays_on_its_device(kind: str) -> None:
    window = torch.rand(1, 1, 16, 16, 16, device="cuda")
    assert corrupt(kind, window, 0.3).device == window.device


def test_the_penalty_of_a_critic_with_attention_is_the_cpus() -> None:
    """Only the plain kernel can be differentiated twice, and CUDA has several."""
    torch.manual_seed(0)
    critic = PatchCritic(2, 6, (16, 32), attention=1)
    torch.nn.init.constant_(critic.levels[0][1].gamma, 0.5)
    real = torch.rand(2, 6, 32, 32)
    found = []
    for device in ("cpu", "cuda"):
        critic = critic.to(device).requires_grad_()
        # Between a window and itself there is one place only, wherever the share is drawn.
        penalty = gradient_penalty(critic, real.to(device), real.to(device))
        slopes = torch.autograd.grad(penalty, critic.levels[0][1].gamma)
        found.append((penalty.detach().cpu(), slopes[0].cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-3)
