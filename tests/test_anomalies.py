"""Anomalies painted into healthy windows: where they are, what they change, what counts as one."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from volad import anomalies
from volad.anomalies import FILLS, fills, paint, places

SHAPE = (24, 28, 20)


def healthy(count: int = 2, channels: int = 1) -> Tensor:
    """Windows `(B, C, X, Y, Z)` of smooth tissue in a box of brain, 0 around it."""
    torch.manual_seed(0)
    x = torch.zeros(count, channels, *SHAPE)
    x[..., 3:-3, 3:-3, 3:-3] = 0.5 + 0.1 * torch.rand(count, channels, 18, 22, 14)
    return x


def only(monkeypatch: pytest.MonkeyPatch, case: str, fill: str | None = None) -> None:
    """Draw one case, and one way to fill, alone."""
    chosen = {name: each._replace(often=float(name == case)) for name, each in places.CASES.items()}
    monkeypatch.setattr(places, "CASES", chosen)
    if fill is not None:
        monkeypatch.setattr(fills, "FILLS", {name: float(name == fill) for name in FILLS})


@pytest.mark.parametrize("fill", FILLS)
def test_only_the_brain_is_painted_and_labelled(monkeypatch: pytest.MonkeyPatch, fill: str) -> None:
    only(monkeypatch, "some", fill)
    x = healthy()
    kept = x.clone()
    for seed in range(5):
        torch.manual_seed(seed)
        found = paint(x)
        outside = x == 0
        assert torch.equal(x, kept)
        assert not found.image[outside].any()
        assert not found.label[outside].any()
        assert not found.sure[outside].any()
        assert (found.image[~outside] > 0).all()
        assert found.image.isfinite().all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_label_stands_where_something_changed(monkeypatch: pytest.MonkeyPatch, fill: str) -> None:
    only(monkeypatch, "one large", fill)
    labelled = 0
    for seed in range(8):
        x = healthy()
        torch.manual_seed(seed)
        found = paint(x)
        changed = (found.image - x).abs() > 1e-6
        inside = found.label > 0
        labelled += int(inside.sum())
        assert found.sure[inside].all()
        assert changed[inside].float().mean() > 0.5 or not inside.any()
    assert labelled > 0


def test_far_from_anomalies_the_window_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "one large", "intensity")
    x = healthy()
    found = paint(x)
    clear = (found.sure > 0) & (found.label == 0)
    # Beyond the soft rim (a share under 0.1) at most a tenth of the strongest change is left.
    assert (found.image - x)[clear].abs().max() < 0.1 * 1.3 * 3 * anomalies.CHANGE[1]


def test_no_anomaly_leaves_everything_sure_and_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "none")
    x = healthy()
    found = paint(x)
    assert torch.equal(found.image, x)
    assert not found.label.any()
    assert torch.equal(found.sure > 0, x != 0)


def test_what_cannot_be_seen_is_no_anomaly(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "one large", "foreign")
    x = healthy(1).expand(2, -1, -1, -1, -1)  # the lender is the same window
    found = paint(x)
    assert not found.label.any()
    assert torch.equal(found.sure > 0, x != 0)


def test_the_seed_decides() -> None:
    x = healthy()
    torch.manual_seed(3)
    first = paint(x)
    torch.manual_seed(3)
    assert torch.equal(paint(x).image, first.image)
    assert not torch.equal(paint(x).image, first.image)


def test_anomalies_are_more_frequent_where_they_are_likely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "some", "intensity")
    x = healthy()
    likely = torch.zeros(1, 1, *SHAPE)
    likely[..., :12, :, :] = 1
    near = far = 0.0
    for seed in range(20):
        torch.manual_seed(seed)
        label = paint(x, likely).label
        near += float(label[..., :12, :, :].sum())
        far += float(label[..., 12:, :, :].sum())
    assert near > 2 * far


def test_poisson_blending_is_harmonic_and_meets_its_surroundings() -> None:
    """Of a constant and a linear lender, any difference is harmonic: the seam vanishes."""
    x, _, _ = torch.meshgrid(*[torch.arange(11.0)] * 3, indexing="ij")
    own = 1 + 0.05 * x[None]
    other = torch.full_like(own, 0.7)
    share = torch.zeros(own.shape[1:])
    share[3:8, 3:8, 3:8] = 1
    blob = fills.Blob((slice(None),) * 3, share, share, 0.3, fills.poisson)
    found = fills.poisson(own, other, share, blob)
    torch.testing.assert_close(found, own, atol=2e-3, rtol=0)


def test_deformation_keeps_constant_tissue(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.full((1, 9, 9, 9), 0.6)
    depth = torch.rand(9, 9, 9)
    blob = fills.Blob((slice(None),) * 3, depth, depth, 0.3, fills.deformation)
    torch.testing.assert_close(fills.deformation(own, own, depth, blob), own)


def test_layers_lie_along_the_surface() -> None:
    x = healthy(1)
    brain = x[0, 0] != 0
    middle = torch.zeros_like(brain)
    middle[11:-11, 11:-11, 9:-9] = True
    labelled = deep = 0
    for seed in range(10):
        torch.manual_seed(seed)
        found = paint(x, layers=1.0)
        assert not found.label[0, 0][~brain].any()
        labelled += int(found.label.sum())
        deep += int(found.label[0, 0][middle].sum())
    assert labelled > 500
    assert deep < 0.02 * labelled


def test_pools_fill_the_fluid_alone_and_are_brighter_than_tissue() -> None:
    x = healthy(1)
    fluid = torch.zeros_like(x, dtype=torch.bool)
    fluid[..., 8:12, 8:20, 6:14] = True
    x[fluid] = 0.2
    labelled = 0
    for seed in range(6):
        torch.manual_seed(seed)
        found = paint(x, spaces=1.0)
        inside = found.label > 0
        labelled += int(inside.sum())
        assert not inside[~fluid].any()
        assert (found.image[inside] > 0.4).all()  # at least half filled
        assert found.image[inside].median() > 0.6
        torch.testing.assert_close(found.image[~fluid], x[~fluid])
    assert labelled > 100


def test_very_large_anomalies_can_be_asked_for() -> None:
    """Up to a third of the brain's width, and larger than the large ones that are drawn anyway."""
    x = torch.full((1, 1, 48, 48, 48), 0.5)
    wide = dict.fromkeys(("one large", "one very large"), 0)
    for seed in range(20):
        for case in wide:
            torch.manual_seed(seed)
            blob = next(places.anywhere(x[0, 0] > 0, None, (0.2, 0.4), case))
            wide[case] += max(blob.share.shape)
    assert wide["one very large"] > 1.2 * wide["one large"]
    sizes = []
    for seed in range(6):
        torch.manual_seed(seed)
        label = paint(x, large=1.0).label[0, 0].numpy() > 0
        parts, count = ndimage.label(label)
        sizes.append(max(ndimage.sum_labels(label, parts, range(1, count + 1)), default=0))
    assert min(sizes) > 500
    assert max(sizes) > 8000


def test_a_change_can_be_asked_for() -> None:
    x = healthy()
    torch.manual_seed(0)
    weak = (paint(x, change=(0.1, 0.11)).image - x).abs().max()
    torch.manual_seed(0)
    assert (paint(x, change=(0.7, 0.8)).image - x).abs().max() > 2 * weak


def test_rescaled_windows_keep_their_darkest_and_brightest_per_cent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a scan that is scaled by its own range: a large bright lesion darkens the rest."""
    only(monkeypatch, "one large", "intensity")
    x = healthy(1)
    inside = x != 0
    ends = torch.tensor([0.01, 0.99])
    expected = torch.quantile(x[inside], ends)
    darker = 0
    for seed in range(8):
        torch.manual_seed(seed)
        plain = paint(x, change=(0.5, 0.6))
        torch.manual_seed(seed)
        found = paint(x, change=(0.5, 0.6), rescale=True)
        assert torch.equal(found.label, plain.label)
        torch.testing.assert_close(
            torch.quantile(found.image[inside], ends), expected, atol=2e-3, rtol=0
        )
        assert torch.equal(found.image != 0, inside)
        rest = inside & (found.label == 0)
        darker += int(found.image[rest].median() < x[rest].median() - 0.02)
    assert darker > 0


def test_a_large_anomaly_may_have_another_one_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "one large", "intensity")
    brain = torch.ones(40, 40, 40, dtype=torch.bool)
    counts = []
    for seed in range(30):
        torch.manual_seed(seed)
        blobs = list(places.anywhere(brain, None, (0.2, 0.4)))
        counts.append(len(blobs))
        volumes = [float(blob.share.sum()) for blob in blobs]
        assert volumes == sorted(volumes, reverse=True)
    assert set(counts) >= {1, 2, 3}


def test_the_tissue_may_give_way_to_the_anomaly() -> None:
    """Levelled, what was dark and what was bright are alike in it; else both are changed alike."""
    own = torch.full((1, 16, 16, 16), 0.3)
    own[..., 8:] = 0.7
    share = torch.ones(16, 16, 16)
    blob = fills.Blob((slice(None),) * 3, share, share, 0.1, fills.intensity)
    steps = []
    for seed in range(30):
        torch.manual_seed(seed)
        found = fills.intensity(own, own, share, blob)
        steps.append(float(found[..., 12:].mean() - found[..., :4].mean()))
    assert min(steps) < 0.15
    assert max(steps) == pytest.approx(0.4, abs=0.08)
