"""Many one-class SVMs at once, against scikit-learn's one by one and against hand-solved duals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import OneClassSVM

from volad.one_class import SiteSVM, solve


def clouds(sites: int = 6, count: int = 40, dims: int = 3) -> torch.Tensor:
    """`(sites, count, dims)`: of another size and with an outlier at each site."""
    random = torch.Generator().manual_seed(0)
    points = torch.randn(sites, count, dims, generator=random, dtype=torch.float64)
    points[:, 0] += 5
    return points * torch.linspace(0.5, 2, sites)[:, None, None]


def gaussian(a: torch.Tensor, b: torch.Tensor, sharpness: float) -> torch.Tensor:
    return torch.exp(-sharpness * torch.cdist(a, b).square())


@pytest.mark.parametrize("nu", [0.03, 0.2, 0.5, 0.9])
def test_decisions_are_scikit_learns(nu: float) -> None:
    points, sharpness = clouds(count=41), 0.3  # nu * 41 is not whole, so the offset is unique
    asked = 2 * clouds(count=25)
    weight, offset = solve(gaussian(points, points, sharpness), nu, tolerance=1e-8)
    found = (gaussian(asked, points, sharpness) @ weight[..., None])[..., 0] - offset[:, None]
    for site, given in enumerate(points.numpy()):
        model = OneClassSVM(gamma=sharpness, nu=nu, tol=1e-8).fit(given)
        expected = model.decision_function(asked[site].numpy())
        np.testing.assert_allclose(found[site], expected, atol=1e-5)


@pytest.mark.parametrize("nu", [0.1, 0.3])
def test_nu_bounds_the_outliers_from_above_and_the_supporting_from_below(nu: float) -> None:
    points = clouds(count=100)
    kernel = gaussian(points, points, 0.3)
    weight, offset = solve(kernel, nu, tolerance=1e-8)
    decision = (kernel @ weight[..., None])[..., 0] - offset[:, None]
    assert ((decision < -1e-6).double().mean(dim=1) <= nu).all()
    assert ((weight > 1e-9).double().mean(dim=1) >= nu - 1e-9).all()
    torch.testing.assert_close(weight.sum(dim=1), torch.full_like(offset, nu * 100))
    assert weight.min() >= 0
    assert weight.max() <= 1


def test_the_dual_of_two_alike_and_one_apart_by_hand() -> None:
    """`K = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]`, `sum(a) = 1.5`: the pair and the one share alike.

    Slopes `a1 + a2` and `a3` are equal at 0.75, and that is the offset. With `nu = 0.8` the sum is
    2.4, and the lone one would have 1.2, so it is held at 1 and the pair's slope 1.4 is the offset.
    """
    kernel = torch.eye(3, dtype=torch.float64)[None].clone()
    kernel[0, 0, 1] = kernel[0, 1, 0] = 1
    weight, offset = solve(kernel, 0.5, tolerance=1e-9)
    assert weight[0, :2].sum() == pytest.approx(0.75)
    assert weight[0, 2] == pytest.approx(0.75)
    assert offset[0] == pytest.approx(0.75)
    weight, offset = solve(kernel, 0.8, tolerance=1e-9)
    assert weight[0, 2] == pytest.approx(1)
    assert offset[0] == pytest.approx(1.4)


def test_without_an_example_on_the_boundary_the_offset_is_between_the_two_sides() -> None:
    """One at weight 1, two at 0: slopes 1 of the outlier, 1.5 of the nearest inside."""
    kernel = torch.tensor([[[1.0, 1.5, 2.0], [1.5, 4.0, 3.0], [2.0, 3.0, 5.0]]]).double()
    weight, offset = solve(kernel, 1 / 3, tolerance=1e-9)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 0.0, 0.0]]).double())
    assert offset[0] == pytest.approx(1.25)


def fitted(
    points: torch.Tensor, controls: int = 40, width: float = 1.0, nu: float = 0.2
) -> SiteSVM:
    head = SiteSVM(len(points), controls, points.shape[-1], nu, width)
    for scan in points.transpose(0, 1):
        head.add(scan, torch.ones(len(points)))
    head.fit()
    return head


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_site_decides_as_scikit_learn_with_the_median_distance_as_width(width: float) -> None:
    points = clouds().half().double()
    head, asked = fitted(points, width=width), clouds(count=10).float()
    for site, given in enumerate(points.numpy()):
        median = np.median(np.linalg.norm(given[:, None] - given, axis=-1)[np.triu_indices(40, 1)])
        model = OneClassSVM(gamma=1 / (2 * (width * median) ** 2), nu=0.2, tol=1e-8).fit(given)
        expected = model.decision_function(asked[site].numpy()) / -model.intercept_
        found = head(asked[site], torch.full((10,), site))
        # torch's median is the lower one of an even number.
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_far_from_all_controls_the_decision_is_minus_one_at_every_site() -> None:
    head = fitted(clouds())
    found = head(torch.full((6, 3), 1e3), torch.arange(6))
    torch.testing.assert_close(found, torch.full((6,), -1.0))


def test_what_comes_after_the_last_place_for_controls_is_ignored() -> None:
    points = clouds()
    full, cut = fitted(points, controls=30), fitted(points[:, :30], controls=30)
    assert full.count == 30
    assert torch.equal(full.weight, cut.weight)


def test_places_left_free_have_no_weight() -> None:
    points, asked, at = clouds(), clouds(count=1)[:, 0].float(), torch.arange(6)
    torch.testing.assert_close(fitted(points, controls=64)(asked, at), fitted(points)(asked, at))


def test_controls_that_hardly_differ_get_the_floor_under_the_width() -> None:
    """Sites of spread 1, 1 and 0.001: the third is as wide as a tenth of the others."""
    points = clouds(1)[0].expand(3, -1, -1) * torch.tensor([1.0, 1.0, 1e-3])[:, None, None]
    head = fitted(points)
    assert head.sharpness[2] == pytest.approx(100 * float(head.sharpness[0]))


def test_a_site_is_known_where_at_least_half_of_the_controls_have_brain() -> None:
    head = SiteSVM(4, 8, 2, 0.2, 1.0)
    assert not head.known.any()
    for n in range(4):
        head.add(torch.randn(4, 2), torch.tensor([n < 4, n < 2, n < 1, n < 0]))
    assert head.known.tolist() == [True, True, False, False]


def test_fewer_than_two_controls_are_refused() -> None:
    head = SiteSVM(2, 8, 3, 0.2, 1.0)
    head.add(torch.randn(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match="at least two controls"):
        head.fit()


@pytest.mark.parametrize("nu", [0.0, 1.0, -0.1])
def test_a_share_of_outliers_that_cannot_be_is_refused(nu: float) -> None:
    with pytest.raises(ValueError, match="nu must be"):
        SiteSVM(2, 8, 3, nu, 1.0)
