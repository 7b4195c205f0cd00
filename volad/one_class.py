"""One-class support vector machines with a Gaussian kernel, one at each of many sites."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SiteSVM", "solve"]

#: Sites whose kernels are held at once, in double precision.
SITES_AT_ONCE = 512
#: A weight this close to 0 or 1 is there but for rounding.
EDGE = 1e-9


def solve(
    kernel: Tensor, nu: float, tolerance: float = 1e-4, most: int = 20_000
) -> tuple[Tensor, Tensor]:
    """Solve the duals of many one-class SVMs at once.

    Each minimises `a K a / 2` with `0 <= a <= 1` and `sum(a) = nu * n`, as LIBSVM scales it, by
    sequential minimal optimisation: again and again, the two examples that are furthest from the
    optimum trade weight. The decision is then `sum(a * k(x_i, x)) - offset`, below 0 for outliers.

    Source: Schölkopf et al., "Estimating the support of a high-dimensional distribution", Neural
    Computation 13 (2001).

    Args:
        kernel: `(sites, n, n)`, each symmetric and positive semidefinite.
        nu: at most this share of the examples is outside, at least this one supports.
        tolerance: how far from the optimality conditions is good enough, in units of the decision.
        most: steps after which it is enough in any case.

    Returns:
        Weights `(sites, n)` and offsets `(sites,)`.
    """
    site = torch.arange(len(kernel), device=kernel.device)
    weight = torch.full_like(kernel[:, 0], nu)
    slope = (kernel @ weight[..., None])[..., 0]
    for step in range(most + 1):
        # The example to gain: of those that may, the one that decreases the sum most; and to lose.
        low, gain = slope.masked_fill(weight >= 1 - EDGE, torch.inf).min(dim=1)
        high, lose = slope.masked_fill(weight <= EDGE, -torch.inf).max(dim=1)
        # Asked seldom: the answer has to come from the GPU.
        if step == most or (step % 32 == 0 and bool((high - low < tolerance).all())):
            break
        gainer, loser = kernel[site, gain], kernel[site, lose]
        curvature = gainer[site, gain] + loser[site, lose] - 2 * gainer[site, lose]
        move = ((high - low) / curvature.clamp(min=1e-12)).clamp(min=0)
        move = torch.minimum(move, torch.minimum(1 - weight[site, gain], weight[site, lose]))
        weight[site, gain] += move
        weight[site, lose] -= move
        slope += move[:, None] * (gainer - loser)
    # The slope of the examples on the boundary; without any, the middle of what is optimal.
    return weight, (low + high) / 2


class SiteSVM(nn.Module):
    """One-class SVMs of codes of healthy controls, one at each site of an aligned grid.

    The kernel is `exp(-d^2 / (2 s^2))` with `s` the median distance between two controls of the
    site, times `width`; it is at least a tenth of what it is at the median site, since where
    controls hardly differ anything would be an outlier.

    Args:
        sites: how many.
        controls: codes kept of each site; what is added after them is ignored.
        code: length of a code.
        nu: share of the controls that may be outliers, 0 to 1.
        width: of the kernel, in median distances.
    """

    count: Tensor
    codes: Tensor
    present: Tensor
    weight: Tensor
    offset: Tensor
    sharpness: Tensor

    def __init__(self, sites: int, controls: int, code: int, nu: float, width: float) -> None:
        super().__init__()
        if not 0 < nu < 1:
            raise ValueError(f"nu must be above 0 and below 1, got {nu}")
        self.nu, self.width = nu, width
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        # Half precision is far finer than controls differ, and these are most of the model.
        self.register_buffer("codes", torch.zeros(sites, controls, code, dtype=torch.half))
        self.register_buffer("present", torch.zeros(sites))
        self.register_buffer("weight", torch.zeros(sites, controls))
        self.register_buffer("offset", torch.ones(sites))
        self.register_buffer("sharpness", torch.ones(sites))

    def add(self, codes: Tensor, present: Tensor) -> None:
        """Take in one control's codes `(sites, code)` and where it has brain, `(sites,)`."""
        if self.count < self.codes.shape[1]:
            self.codes[:, self.count] = codes.to(self.codes.dtype)
            self.present += present.to(self.present.dtype)
            self.count += 1

    @property
    def known(self) -> Tensor:
        """`(sites,)` bool: where at least half of the controls have brain."""
        return (self.present > 0) & (2 * self.present >= self.count)

    def fit(self) -> None:
        """Solve all sites that are known."""
        known = self.known.nonzero()[:, 0]
        count = int(self.count)
        parts = torch.split(known, SITES_AT_ONCE)
        squares = [self._squares(at) for at in parts]
        upper = torch.triu_indices(count, count, offset=1, device=known.device)
        if not len(known) or not upper.numel():
            raise ValueError("one-class SVMs need at least two controls with brain at one site")
        middle = torch.cat([s[:, upper[0], upper[1]].median(dim=1).values for s in squares])
        spread = middle.clamp(min=max(float(middle.median()) / 100, 1e-12))
        self.sharpness[known] = (1 / (2 * self.width**2 * spread)).to(self.sharpness.dtype)
        for at, square in zip(parts, squares, strict=True):
            kernel = torch.exp(-self.sharpness[at, None, None].double() * square.double())
            weight, offset = solve(kernel, self.nu)
            self.weight[at, :count] = weight.to(self.weight.dtype)
            self.offset[at] = offset.to(self.offset.dtype)

    def _squares(self, at: Tensor) -> Tensor:
        """`(N, n, n)`: squared distances between the controls of some sites."""
        codes = self.codes[at, : int(self.count)].float()
        apart: Tensor = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist")
        return apart.square()

    def forward(self, codes: Tensor, at: Tensor) -> Tensor:
        """Decisions `(N,)` on codes `(N, code)` of the sites `at (N,)`; below 0 for outliers.

        In units of the site's offset: 0 on the boundary and -1 far from all controls, everywhere.
        """
        squares = (self.codes[at].float() - codes[:, None].float()).square().sum(dim=-1)
        likeness = self.weight[at] * torch.exp(-self.sharpness[at, None] * squares)
        return likeness.sum(dim=-1) / self.offset[at] - 1
