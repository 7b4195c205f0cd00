"""What healthy brains of any contrast look like at each place, told from a scan's own tissues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate

from volad.tensors import brain_of, mean_over

__all__ = ["TissueNormal", "deviation", "levels_of", "shares_of"]

#: Windows that are taken in at a time.
TOGETHER = 16
#: Voxels of the grid along each edge of one of the maps': they are smooth.
COARSE = 2
#: Healthy scans that the template counts as, where the mean is looked for.
TEMPLATE = 0.5
#: Healthy scans that the usual spread counts as; and no dependence of it on brightness, in units of
#: how much brightness varies.
USUAL, INDEPENDENT = 2.0, 5.0
#: Mean size of a normal deviate, in standard deviations.
MEAN_SIZE = 0.798
#: Least spread, in units of the image.
FLOOR = 0.02


class TissueNormal(nn.Module):
    """The brightness healthy scans have at each place, and their spread, whatever the contrast.

    Both are linear in the brightness of the scan's grey matter, white matter and fluid: what lies
    at a place is a mixture of them, another one in each head. Deviations in units of the spread are
    W-scores, z-scores after regression on covariates: La Joie et al., "Region-specific hierarchy
    between atrophy, hypometabolism, and beta-amyloid load in Alzheimer's disease dementia", Journal
    of Neuroscience 32 (2012). Differs from them: the covariates are brightness of tissues, not age;
    the spread is the mean size of residuals, which depends on them too; where few scans have brain
    it falls back to the template and to the usual spread.

    Args:
        known: `(1, >= 2, X, Y, Z)` probabilities of grey and of white matter, of even shape.
        channels: image channels, each of which has a contrast of its own.
    """

    maps: Tensor
    fitted: Tensor

    def __init__(self, known: Tensor, channels: int = 1) -> None:
        super().__init__()
        self.register_buffer("shares", torch.cat(shares_of(known), dim=1), persistent=False)
        coarse = [n // COARSE for n in known.shape[2:]]
        #: What the mean holds of each tissue's brightness, then the spread's: of none, of each.
        self.register_buffer("maps", torch.zeros(channels, 7, *coarse))
        self.register_buffer("fitted", torch.zeros(()))  # no bool: processes exchange numbers

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Learn from healthy windows `(N, C, X, Y, Z)` of as many contrasts as shall be known."""
        shares = self.get_buffer("shares")
        for channel in range(x.shape[1]):
            images = x[:, channel : channel + 1]
            template = avg_pool3d(shares, COARSE)[0].flatten(1).T
            mean = _regress(self._mean_sums(images), template, template.new_full((3,), TEMPLATE))
            levels = torch.cat([f for _, f in self._parts(images)])
            middle, scale = levels.mean(dim=0), levels.std(dim=0, correction=0).clamp(min=1e-3)
            sums = self._spread_sums(images, mean, middle, scale)
            usual = template.new_zeros(len(template), 4)
            usual[:, 0] = sums[1][:, 0].sum() / sums[0][:, 0, 0].sum().clamp(min=1e-3)
            strength = template.new_tensor([USUAL, *[INDEPENDENT] * 3])
            spread = _regress(sums, usual, strength)
            spread[:, 1:] /= scale
            spread[:, 0] -= spread[:, 1:] @ middle
            both = torch.cat([mean, spread / MEAN_SIZE], dim=1).T
            self.maps[channel] = both.reshape(self.maps.shape[1:])
        self.fitted.fill_(1)

    def forward(self) -> Tensor:
        """`(C, 7, X, Y, Z)`: the maps on the grid, for `deviation`."""
        size = [n * COARSE for n in self.maps.shape[2:]]
        return interpolate(self.maps, size=size, mode="trilinear", align_corners=False)

    def _parts(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some images `(n, 1, X, Y, Z)` at a time, and their tissues' brightness `(n, 3)`."""
        shares = torch.split(self.get_buffer("shares"), 1, dim=1)
        for part in torch.split(images, TOGETHER):
            image = part.float()
            yield image, torch.cat(levels_of(image, brain_of(image), shares), dim=1).flatten(1)

    def _mean_sums(self, images: Tensor) -> tuple[Tensor, Tensor]:
        gram = sums = torch.zeros(())
        for image, levels in self._parts(images):
            there, bright = _pooled(brain_of(image)), _pooled(image)
            gram = gram + torch.einsum("ni,nj,nv->vij", levels, levels, there)
            sums = sums + torch.einsum("ni,nv->vi", levels, bright)
        return gram, sums

    def _spread_sums(
        self, images: Tensor, mean: Tensor, middle: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        maps = mean.T.reshape(1, 3, *self.maps.shape[2:])
        fine = interpolate(maps, size=images.shape[2:], mode="trilinear", align_corners=False)
        gram = sums = torch.zeros(())
        for image, levels in self._parts(images):
            expected = torch.einsum("ni,ixyz->nxyz", levels, fine[0])[:, None]
            size = _pooled((image - expected).abs() * brain_of(image))
            one = levels.new_ones(len(levels), 1)
            covariates = torch.cat([one, (levels - middle) / scale], dim=1)
            there = _pooled(brain_of(image))
            gram = gram + torch.einsum("ni,nj,nv->vij", covariates, covariates, there)
            sums = sums + torch.einsum("ni,nv->vi", covariates, size)
        return gram, sums


def deviation(image: Tensor, brain: Tensor, known: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """How far images are from what healthy ones with such tissues are, and the healthy spread.

    Args:
        image: `(N, 1, X, Y, Z)`.
        brain: likewise, 1 in the brain.
        known: `(1, >= 2, X, Y, Z)` probabilities of grey and of white matter.
        maps: `(N, 7, X, Y, Z)`, `TissueNormal` of these voxels.
    """
    levels = levels_of(image, brain, shares_of(known))
    mean = sum(maps[:, i : i + 1] * level for i, level in enumerate(levels))
    spread = maps[:, 3:4] + sum(maps[:, 4 + i : 5 + i] * level for i, level in enumerate(levels))
    return image - mean, spread.clamp(min=0) + FLOOR


def shares_of(known: Tensor) -> list[Tensor]:
    """What `(1, >= 2, X, Y, Z)` holds of grey matter, white matter, fluid: `(1, 1, X, Y, Z)` each.

    The first two channels of `known` are the probabilities of grey and of white matter.
    """
    grey, white = known[:, :1], known[:, 1:2]
    return [grey, white, (1 - grey - white).clamp(min=0)]


def levels_of(image: Tensor, brain: Tensor, shares: Iterable[Tensor]) -> list[Tensor]:
    """Mean brightness of each tissue, `(N, 1, 1, 1, 1)`, weighted by how sure the tissue is.

    Args:
        image: `(N, 1, X, Y, Z)`.
        brain: likewise, 1 in the brain.
        shares: of each tissue `(1, 1, X, Y, Z)`.
    """
    return [mean_over(image, brain * share**2) for share in shares]


def _pooled(image: Tensor) -> Tensor:
    """`(n, 1, X, Y, Z)` on the coarse grid, laid flat: `(n, V)`."""
    return avg_pool3d(image, COARSE).flatten(1)


def _regress(sums: tuple[Tensor, Tensor], usual: Tensor, strength: Tensor) -> Tensor:
    """Ridge regression at every place: coefficients `(V, K)` that are drawn to `usual (V, K)`.

    Args:
        sums: products of the covariates `(V, K, K)`, and of them with the values `(V, K)`.
        usual: what the coefficients are without any observations.
        strength: `(K,)` how many observations that counts as.
    """
    gram, products = sums
    left = gram + torch.diag(strength)
    found: Tensor = torch.linalg.solve(left, (products + usual * strength)[..., None])[..., 0]
    return found
