"""Siamese patch autoencoder, and at each place of the template a one-class SVM of healthy codes.

Method: Alaverdyan et al., "Regularized siamese neural network for unsupervised outlier detection on
brain multiparametric magnetic resonance imaging: application to epilepsy lesion screening", Medical
Image Analysis 60 (2020), with the autoencoders that it is compared to as options: plain, and
Wasserstein (Tolstikhin et al., ICLR 2018). No code of the authors is public. Differs from them:
patches are cubes, not slices, of any number of channels; one SVM for every few voxels, and its
decisions are interpolated between them; codes are short, so that the healthy ones fit into the
model's file; the cosine is of codes less their mean, so that no common offset makes all alike; a
patch and the next subject's at its place are a pair, in a batch where all subjects give patches of
the same places; errors are taken inside the brain only; an SVM's decision is divided by its offset,
so that it means the same everywhere; the score is that voxel map, not clusters ranked by size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.networks.nets import AutoEncoder
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, max_pool3d, pad

from volad.methods._base import Method, Stage, Update
from volad.one_class import SiteSVM
from volad.tensors import brain_of, crop

__all__ = ["SiameseOCSVM"]

#: Patches encoded at once.
PATCHES_AT_ONCE = 1024


class SiameseOCSVM(Method):
    """Score places by how far their codes lie outside those of healthy controls.

    Args:
        channels: image channels.
        grid: spatial shape of the aligned volumes, in voxels.
        patch: edge of a patch, in voxels; larger than `stride` by an even number, and a multiple of
            two to the number of `features`.
        stride: voxels from one SVM to the next, along each axis.
        features: feature channels of each level of the autoencoder; each halves the resolution.
        code: length of a patch's code.
        similarity: weight of `1 - cosine` of a pair's codes beside the squared error of
            reconstruction (mean over brain voxels); 0 is the plain autoencoder.
        prior: weight of the distance (MMD) of the codes from a standard normal distribution; with
            `similarity` 0 this is the Wasserstein autoencoder.
        patches: places in a step, in each subject of the batch; pairs need a batch of two or more.
        controls: healthy scans whose codes are kept, the first of the training set; with `code` it
            sets the size of the model's file.
        nu: share of the controls that an SVM may leave outside, 0 to 1.
        width: of an SVM's Gaussian kernel, in median distances between its controls.
    """

    windows = ("volume",)
    training_defaults: ClassVar[Mapping[str, Any]] = {"batch": 8}
    tiny: ClassVar[Mapping[str, Any]] = {
        "grid": (16, 16, 16),
        "patch": 4,
        "stride": 2,
        "features": (8,),
        "code": 4,
        "patches": 16,
        "controls": 16,
    }

    def __init__(
        self,
        channels: int = 1,
        grid: Sequence[int] = (80, 96, 88),
        patch: int = 16,
        stride: int = 4,
        features: Sequence[int] = (16, 32, 64),
        code: int = 12,
        similarity: float = 0.05,
        prior: float = 0.0,
        patches: int = 64,
        controls: int = 75,
        nu: float = 0.03,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if patch < stride or (patch - stride) % 2 or patch % 2 ** len(features):
            raise ValueError(
                "patch must be larger than stride by an even number and a multiple of "
                f"{2 ** len(features)}, got {patch} and {stride}"
            )
        self.grid, self.patch, self.stride = tuple(grid), patch, stride
        self.similarity, self.prior, self.patches = similarity, prior, patches
        self.sites = tuple(-(-n // stride) for n in grid)
        self.net = PatchAutoencoder(channels, patch, features, code)
        self.svm = SiteSVM(math.prod(self.sites), controls, code, nu, width)

    def stages(self) -> Sequence[Stage]:
        collect = Stage(self._collect, 1, self.svm.fit, learns=False, whole=True)
        return [Stage(self.training_step), collect]

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self._loss(x, None)

    def validation_loss(self, x: Tensor) -> Tensor:
        """The loss of training, at places that are the same for the same windows."""
        return self._loss(x, torch.Generator(x.device).manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        brain, known = self._brain_sites(x), self.svm.known
        scores = []
        for scan, here in zip(x, brain, strict=True):
            at = (here & known).nonzero()[:, 0]
            score = torch.zeros(2, len(known), device=x.device)
            score[0, at] = -self.svm(self._codes(scan, at), at)
            score[1, at] = 1
            scores.append(score.view(2, *self.sites))
        size = [self.stride * n for n in self.sites]
        fine = interpolate(torch.stack(scores), size=size, mode="trilinear", align_corners=False)
        fine = crop(fine, x)
        # Divided by the share that is known, so that the rim is not drawn to 0.
        return fine[:, :1] / fine[:, 1:].clamp(min=1e-6) * brain_of(x)

    def _collect(self, x: Tensor) -> Iterator[Update]:
        every = torch.arange(math.prod(self.sites), device=x.device)
        for scan, here in zip(x, self._brain_sites(x), strict=True):
            self.svm.add(self._codes(scan, every), here)
        yield from ()

    def _loss(self, x: Tensor, random: torch.Generator | None) -> Tensor:
        # Outside of all brains only where there is no brain at all.
        chance = brain_of(x).float().mean(dim=(0, 1)).flatten() + 1e-9
        voxels = chance.multinomial(self.patches, replacement=True, generator=random)
        centre = torch.stack(torch.unravel_index(voxels, x.shape[2:]), dim=1)
        cut = self._cut(x, centre - self.patch // 2)  # (B, P, C, *patch)
        rows = cut.flatten(0, 1)
        codes = self.net.encode(rows)
        inside = brain_of(rows)
        error = ((self.net.decode(codes) - rows) * inside).square().sum()
        loss: Tensor = error / (inside.sum().clamp(min=1) * x.shape[1])
        if self.similarity:
            centred = (codes - codes.mean(dim=0)).view(*cut.shape[:2], -1)
            alike = cosine_similarity(centred, centred.roll(1, dims=0), dim=-1)
            loss = loss + self.similarity * (1 - alike).mean()
        if self.prior:
            drawn = torch.randn(codes.shape, generator=random, device=x.device)
            loss = loss + self.prior * discrepancy(codes.float(), drawn)
        return loss

    def _codes(self, scan: Tensor, at: Tensor) -> Tensor:
        """`(N, code)`: of the patches around sites `at (N,)` of a scan `(C, *grid)`."""
        corner = torch.stack(torch.unravel_index(at, self.sites), dim=1) * self.stride
        corner = corner - (self.patch - self.stride) // 2
        parts = torch.split(corner, PATCHES_AT_ONCE)
        return torch.cat([self.net.encode(self._cut(scan[None], part)[0]) for part in parts])

    def _cut(self, x: Tensor, corner: Tensor) -> Tensor:
        """`(B, P, C, *patch)`: patches of scans `(B, C, *S)` at corners `(P, 3)`, 0 beyond S."""
        padded = pad(x, [self.patch] * 6)
        i, j, k = (corner.T + self.patch)[..., None] + torch.arange(self.patch, device=x.device)
        found = padded[:, :, i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]]
        return found.transpose(1, 2)

    def _brain_sites(self, x: Tensor) -> Tensor:
        """`(B, sites)` bool: whose cube of `stride` voxels holds brain."""
        if x.shape[2:] != self.grid:
            raise ValueError(
                f"this model scores whole aligned volumes of {self.grid}, got {tuple(x.shape[2:])}"
            )
        cubes: Tensor = max_pool3d(brain_of(x).float(), self.stride, ceil_mode=True)
        return cubes.flatten(1) > 0


class PatchAutoencoder(nn.Module):
    """MONAI's strided autoencoder with a vector between its halves.

    Without normalisation, which would hide how bright a patch is.

    Args:
        channels: image channels.
        patch: edge of a patch, in voxels.
        features: feature channels of each level.
        code: length of the vector.
    """

    def __init__(self, channels: int, patch: int, features: Sequence[int], code: int) -> None:
        super().__init__()
        halves = AutoEncoder(
            spatial_dims=3,
            in_channels=channels,
            out_channels=channels,
            channels=features,
            strides=[2] * len(features),
            act=("leakyrelu", {"negative_slope": 0.1}),
            norm=None,
        )
        shape = (features[-1], *[patch // 2 ** len(features)] * 3)
        size = math.prod(shape)
        self.encode = nn.Sequential(halves.encode, nn.Flatten(), nn.Linear(size, code))
        self.decode = nn.Sequential(nn.Linear(code, size), nn.Unflatten(1, shape), halves.decode)


def discrepancy(codes: Tensor, drawn: Tensor) -> Tensor:
    """Maximum mean discrepancy of codes `(N, D)` and draws from their prior, `(N, D)`; a scalar.

    With the inverse multiquadratic kernel `c / (c + d^2)`, `c = 2 D`: Tolstikhin et al., ICLR 2018.
    """
    scale = 2 * codes.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return scale / (scale + (a[:, None] - b).square().sum(dim=-1))

    others = ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    within = kernel(codes, codes)[others].mean() + kernel(drawn, drawn)[others].mean()
    return within - 2 * kernel(codes, drawn).mean()
