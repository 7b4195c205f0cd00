"""What only a CUDA device can show."""

from __future__ import annotations

import pytest
import torch

from volad import methods
from volad.corrupt import CORRUPTIONS, corrupt

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
