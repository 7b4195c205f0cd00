"""W-scores: one model for scans of several contrasts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from phantoms import Scans
from torch import Tensor

from volad.methods.voxel_gaussian import VoxelGaussian
from volad.methods.w_score import WScore
from volad.surroundings import anatomy
from volad.tensors import brain_of
from volad.train import Trainer


def brains(count: int, seed: int = 0) -> Tensor:
    """Noisy MNI152 heads `(count, 1, 80, 96, 88)`, each with tissues of its own brightness."""
    random = torch.Generator().manual_seed(seed)
    maps = anatomy()
    grey, white = maps[:, :1], maps[:, 1:2]
    levels = 0.2 + 0.8 * torch.rand(count, 3, 1, 1, 1, generator=random)
    x = (levels * torch.cat([grey, white, 1 - grey - white], dim=1)).sum(dim=1, keepdim=True)
    x = (x + 0.02 * torch.randn(x.shape, generator=random)).clamp(min=1e-3)
    return x * (maps[:, 2:3] > 0.3)


def trained(method: WScore | VoxelGaussian, tmp_path: Path, batch: int = 64) -> Tensor:
    """The score of a head of new contrast with a lesion."""
    Trainer(method, Scans(brains(24)), None, tmp_path / "model.pt", batch=batch).run()
    x = brains(1, seed=5)
    x[..., 20:26, 40:46, 50:56] += 0.25
    score: Tensor = method.eval()(x)
    return score


def test_a_lesion_stands_out_in_a_contrast_never_seen(tmp_path: Path) -> None:
    score = trained(WScore(), tmp_path)[0, 0]
    inside = brain_of(brains(1, seed=5))[0, 0] > 0
    lesion = torch.zeros_like(inside)
    lesion[20:26, 40:46, 50:56] = True
    assert score[lesion & inside].mean() > 3 * score[inside & ~lesion].mean()
    plain = trained(VoxelGaussian(), tmp_path)[0, 0]
    ratio = plain[lesion & inside].mean() / plain[inside & ~lesion].mean()
    assert ratio < 2


def test_batches_of_any_size_give_the_same_model(tmp_path: Path) -> None:
    once = trained(WScore(), tmp_path, batch=24)
    parts = trained(WScore(), tmp_path, batch=10)
    torch.testing.assert_close(once, parts)


def test_sides(tmp_path: Path) -> None:
    up, down = (trained(WScore(residual=side), tmp_path) for side in ("positive", "negative"))
    assert not (up * down).any()
    torch.testing.assert_close(up + down, trained(WScore(), tmp_path))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="residual must be one of"):
        WScore(residual="ssim")
    with pytest.raises(ValueError, match="grid must be even"):
        WScore(grid=(16, 16, 15))
    with pytest.raises(ValueError, match=r"whole aligned volumes of \(16, 16, 16\)"):
        WScore(grid=(16, 16, 16))(torch.zeros(1, 1, 8, 8, 8))
