"""What healthy brains of any contrast have at each place, on heads whose mixture is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from volad.surroundings import anatomy, surroundings
from volad.tensors import brain_of
from volad.tissue_normal import FLOOR, TissueNormal, deviation, levels_of, shares_of

GRID = (20, 32, 24)


def known() -> Tensor:
    """Three slabs, of grey matter, white matter and fluid, that run into one another."""
    place = torch.linspace(0, 1, GRID[1])[None, :, None].expand(GRID)
    grey = (1.2 - 2.4 * place).clamp(0, 1)
    white = (1.2 - 4 * (place - 0.5).abs()).clamp(0, 1)
    return torch.stack([grey, white * (1 - grey)])[None]


def scans(levels: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Healthy scans `(N, 1, *GRID)` of tissues with `levels (N, 3)`, with noise, in air."""
    shares = torch.cat(shares_of(known()), dim=1)
    x = torch.einsum("ni,bixyz->nxyz", levels, shares)[:, None]
    x = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    air = torch.zeros_like(x)
    air[..., 2:-2, 2:-2, 2:-2] = 1
    return x * air


def contrasts(count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.2


def away(normal: TissueNormal, x: Tensor) -> tuple[Tensor, Tensor]:
    return deviation(x, brain_of(x), known(), normal().expand(len(x), -1, -1, -1, -1))


def fitted(x: Tensor) -> TissueNormal:
    normal = TissueNormal(known())
    assert not normal.fitted
    normal.fit(x)
    assert normal.fitted
    return normal


def test_tissues_brightness_is_their_weighted_mean() -> None:
    x = scans(torch.tensor([[0.3, 0.9, 0.5]]))
    grey, white, fluid = (share.numpy() for share in shares_of(known()))
    image, brain = x.numpy(), brain_of(x).numpy()
    for share, level in zip(
        (grey, white, fluid), levels_of(x, brain_of(x), shares_of(known())), strict=True
    ):
        expected = np.average(image, weights=brain * share**2)
        assert level.item() == pytest.approx(float(expected), rel=1e-4)


def test_a_healthy_scan_of_a_contrast_never_seen_is_as_expected() -> None:
    normal = fitted(scans(contrasts(60), noise=0.02))
    unseen = scans(torch.tensor([[0.95, 0.25, 0.6], [0.3, 0.5, 1.0]]))
    away_from, _ = away(normal, unseen)
    inside = brain_of(unseen) > 0
    assert away_from[inside].abs().mean() < 0.02
    # One mean for all contrasts, as a plain z-score has it, is far off.
    assert (unseen - scans(contrasts(60)).mean(dim=0))[inside].abs().mean() > 0.1


def test_what_is_bright_or_dark_at_its_place_stands_out() -> None:
    normal = fitted(scans(contrasts(60), noise=0.02))
    x = scans(torch.tensor([[0.7, 0.9, 0.2]]))
    x[0, 0, 5:9, 6:10, 6:10] += 0.3
    x[0, 0, 5:9, 20:24, 6:10] -= 0.15
    score = torch.div(*away(normal, x))
    assert (score[0, 0, 5:9, 6:10, 6:10] > 5).all()
    assert (score[0, 0, 5:9, 20:24, 6:10] < -2).all()
    assert score[brain_of(x) > 0].abs().median() < 1


def test_the_spread_is_the_residuals() -> None:
    normal = fitted(scans(contrasts(200), noise=0.1))
    x = scans(torch.tensor([[0.6, 0.6, 0.6]]))
    _, spread = away(normal, x)
    middle = spread[0, 0, 4:-4, 4:-4, 4:-4] - FLOOR
    assert middle.mean() == pytest.approx(0.1, rel=0.1)


def test_the_spread_grows_with_the_brightness_of_what_varies() -> None:
    """Fluid that is brighter or darker from head to head, by a share: bright fluid varies more."""
    levels = contrasts(400)
    varied = levels.clone()
    random = torch.Generator().manual_seed(2)
    x = scans(varied)
    fluid = shares_of(known())[2]
    flow = 0.3 * torch.randn(x.shape, generator=random) * levels[:, 2, None, None, None, None]
    normal = fitted(x + flow * fluid * brain_of(x))
    dark, bright = away(normal, scans(torch.tensor([[0.6, 0.6, 0.25], [0.6, 0.6, 0.95]])))[1]
    place = fluid[0] > 0.99
    assert bright[place].mean() > 1.5 * dark[place].mean()
    with_none = known()[:, 1] > 0.99
    assert bright[with_none].mean() == pytest.approx(float(dark[with_none].mean()), abs=0.02)


def test_where_no_scan_had_brain_the_template_and_the_usual_spread_hold() -> None:
    normal = fitted(scans(contrasts(60), noise=0.05))  # all have air at the edge
    shares = torch.cat(shares_of(known()), dim=1)
    levels = torch.tensor([0.8, 0.6, 0.1])
    whole = torch.einsum("i,bixyz->bxyz", levels, shares)[:, None]
    off, spread = deviation(whole, torch.ones_like(whole), known(), normal())
    assert off[0, 0, 0].abs().max() < 0.12  # of brightness up to 0.8
    assert spread[0, 0, 0].mean() == pytest.approx(0.05 + FLOOR, rel=0.35)


def test_each_channel_has_maps_of_its_own() -> None:
    levels = contrasts(40)
    both = torch.cat([scans(levels, 0.02), scans(levels.flip(1), 0.02, seed=3)], dim=1)
    normal = TissueNormal(known(), channels=2)
    normal.fit(both)
    alone = fitted(both[:, 1:])
    torch.testing.assert_close(normal()[1:], alone())


def test_a_copy_has_the_same_maps() -> None:
    normal = fitted(scans(contrasts(10), 0.02))
    copy = TissueNormal(known())
    copy.load_state_dict(normal.state_dict())
    assert copy.fitted
    assert torch.equal(copy(), normal())
    assert set(normal.state_dict()) == {"maps", "fitted"}  # the template is no weight


def test_surroundings_have_eight_more_numbers_with_it() -> None:
    maps = anatomy()
    normal = TissueNormal(maps)
    x = (maps[:, 2:3] > 0.3) * (0.2 + maps[:, 2:3])
    normal.fit(x)
    without = surroundings(x, maps, mirror=True)
    seen = surroundings(x, maps, mirror=True, normal=normal())
    assert seen.shape[1] == without.shape[1] + 8
    assert torch.isfinite(seen).all()
    assert torch.equal(seen[:, -6:], without[:, -6:])  # places stay the last
    assert not seen[:, :, ~(x[0, 0] > 0)].any()
