"""What a voxelwise network sees: by hand, in any contrast, and nothing from outside the brain."""

from __future__ import annotations

import math

import pytest
import torch
from phantoms import healthy_brains
from torch import Tensor

from volad.preprocess.align import load_template
from volad.surroundings import (
    AXES,
    anatomy,
    blur,
    brain_box,
    highest,
    local_mean,
    score_surroundings,
    second_differences,
    surroundings,
    unusual,
)


def impulse(size: int = 17) -> Tensor:
    x = torch.zeros(1, 1, size, size, size)
    x[0, 0, size // 2, size // 2, size // 2] = 1.0
    return x


@pytest.mark.parametrize("voxels", [0.7, 1.5, 3.0, 5.0])
def test_a_blur_keeps_the_sum_and_has_the_spread_asked_for(voxels: float) -> None:
    found = blur(impulse(64), voxels)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-3)
    place = torch.arange(64.0) - float((found.sum(dim=(0, 1, 3, 4)) * torch.arange(64.0)).sum())
    spread = (found.sum(dim=(0, 1, 3, 4)) * place**2).sum().sqrt()
    assert float(spread) == pytest.approx(voxels, rel=0.15, abs=0.15)  # coarse grids add some


def test_a_mean_of_even_brightness_is_that_up_to_the_edge() -> None:
    brain = torch.zeros(1, 1, 20, 21, 22)
    brain[..., 4:-4, 4:-4, 4:-4] = 1
    for voxels in (0.7, 3.0, 6.0):
        found = local_mean(0.3 * brain, brain, voxels)
        assert torch.allclose(found[brain > 0], torch.tensor(0.3), atol=1e-4)


def test_highest_is_the_largest_of_the_cube() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 9, 8, 7)
    for reach in (1, 2):
        expected = torch.nn.functional.max_pool3d(x, 2 * reach + 1, 1, reach)
        assert torch.equal(highest(x, reach), expected)


def test_there_are_13_axes_and_no_two_alike() -> None:
    assert len({*AXES} | {tuple(-a for a in axis) for axis in AXES}) == 26


def test_second_differences_tell_a_blob_from_a_sheet() -> None:
    blob, sheet = impulse(9), torch.zeros(1, 1, 9, 9, 9)
    sheet[..., 4, :, :] = 1.0
    middle = (0, 0, 4, 4, 4)
    least, most, mean = (float(d[middle]) for d in second_differences(blob, 1))
    assert (least, most, mean) == pytest.approx((1.0, 1.0, 1.0))
    least, most, mean = (float(d[middle]) for d in second_differences(sheet, 1))
    # Of 13 axes four lie in the sheet.
    assert (least, most, mean) == pytest.approx((0.0, 1.0, 9 / 13))


def test_an_even_slope_has_no_second_difference() -> None:
    slope = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 1, 9, 9, 9)
    for found in second_differences(slope, 2):
        assert float(found[0, 0, 2:-2].abs().max()) < 1e-5


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_voxel_of_the_brain_has_finite_channels_and_no_other(
    known: bool, mirror: bool
) -> None:
    x = healthy_brains(2)
    places = torch.rand(1, 6, *x.shape[2:]) / 2 if known else None
    found = surroundings(x, places, mirror)
    assert found.isfinite().all()
    assert not found.movedim(1, -1)[(x == 0)[:, 0]].any()
    assert found.abs().max() < 50
    assert found.shape[1] == 26 + 2 * mirror + 15 * known


def test_each_channel_of_the_image_has_its_own() -> None:
    x = healthy_brains(2)
    both = torch.cat([x, 2 * x], dim=1)
    one, other = surroundings(both).chunk(2, dim=1)
    assert torch.allclose(one, surroundings(x), atol=1e-5)
    assert torch.allclose(other, surroundings(2 * x), atol=1e-5)


def test_windows_do_not_see_each_other() -> None:
    x = healthy_brains(3)
    both, alone = surroundings(x, mirror=True)[1:2], surroundings(x[1:2], mirror=True)
    assert torch.allclose(both, alone, atol=1e-4)


def test_brightness_beside_its_surroundings_does_not_change_with_brightness_added() -> None:
    x = healthy_brains(1)
    brain = x != 0
    brighter = torch.where(brain, x + 0.2, 0)
    first, second = surroundings(x), surroundings(brighter)
    inside = brain[0, 0]
    changed = (first - second)[0][:, inside].abs().amax(dim=1) > 1e-3
    # The brightness itself and its own close mean, alone, are of the scan's scale.
    assert changed.nonzero().flatten().tolist() == [0, 1]


def test_symmetric_brains_have_no_difference_of_sides() -> None:
    x = healthy_brains(1)
    even = (x + x.flip(2)) / 2
    assert surroundings(even, mirror=True)[:, -1].abs().max() < 1e-4
    even[:, :, : x.shape[2] // 2] *= 1.5
    assert surroundings(even, mirror=True)[:, -1].abs().max() > 0.1


def test_a_tissues_brightness_is_found_where_it_is() -> None:
    x = torch.full((1, 1, 24, 24, 24), 0.8)
    x[..., 12:] = 0.4
    known = torch.zeros(1, 6, 24, 24, 24)
    known[:, 0, ..., 12:] = 1  # grey matter is the dark half, white the bright one
    known[:, 1, ..., :12] = 1
    found = surroundings(x, known)
    grey, white = found[0, 26, 0, 0, 0], found[0, 29, 0, 0, 0]
    assert (float(grey), float(white)) == pytest.approx((0.4, 0.8), abs=1e-3)
    # What a voxel of each is above grey matter near it.
    above = found[0, 27]
    assert float(above[12, 12, 20]) == pytest.approx(0.0, abs=0.03)
    assert float(above[12, 12, 3]) == pytest.approx(0.4, abs=0.03)


def test_what_is_unusual_is_so_for_the_scan_at_hand() -> None:
    differences = torch.tensor([0.1, -0.2, 0.3, 1.0, -0.2]).view(1, 1, 5, 1, 1)
    where = torch.ones(1, 1, 5, 1, 1)
    found = unusual(differences, where).flatten()  # the median size is 0.2
    assert torch.allclose(found, torch.asinh(torch.tensor([0.5, -1.0, 1.5, 5.0, -1.0])))
    where[0, 0, :4] = 0
    assert float(unusual(differences, where)[0, 0, 3]) == pytest.approx(math.asinh(5.0))
    assert not unusual(0 * differences, where).any()
    assert unusual(differences, 0 * where).isfinite().all()


def test_unusual_channels_know_no_units_and_grow_as_noise_falls() -> None:
    torch.manual_seed(0)
    known = torch.rand(1, 6, 32, 32, 32)
    known[:, 1] *= 1 - known[:, 0]
    noise = torch.randn(1, 1, 32, 32, 32)
    spot = torch.zeros_like(noise)
    spot[..., 4:12, 10:20, 10:20] = 0.3

    def seen(noisy: float, scale: float = 1.0) -> Tensor:
        x = scale * (0.6 + 0.2 * known[:, :1] + noisy * noise + spot)
        with_them, without = (surroundings(x, known, True, r) for r in (True, False))
        assert torch.equal(with_them[:, : without.shape[1] - 6], without[:, :-6])
        return with_them[0, without.shape[1] - 6 : -6, 8, 15, 15]

    loud, quiet = seen(0.1, scale=5.0), seen(0.03, scale=5.0)
    assert len(loud) == 3 + 3 + 5
    assert torch.allclose(loud, seen(0.1, scale=10.0), atol=1e-3)
    close = [0, 1, 3 + 3, 3 + 3 + 1]  # sides and what tissues leave over; wide means have no noise
    assert (quiet > loud + 0.1)[close].all()


def test_anatomy_is_mni152s() -> None:
    known, template = anatomy(), load_template()
    assert known.shape == (1, 6, 80, 96, 88)
    assert torch.equal(known[0, 1], torch.from_numpy(template.white))
    assert torch.equal(known[0, 3], known[0, 3].flip(0))  # across, without a side
    assert float(known[0, 5, 0, 0, 0]) == -1.0


def test_the_box_holds_the_brain_and_is_centred_across() -> None:
    x = torch.zeros(2, 1, 20, 20, 20)
    x[0, 0, 3:9, 5:7, 2:18] = 1
    x[1, 0, 10, 11, 2] = 1
    assert brain_box(x) == (slice(3, 17), slice(5, 12), slice(2, 18))
    assert brain_box(0 * x) == (slice(0, 20),) * 3


def test_an_earlier_answer_is_seen_where_it_is_and_near() -> None:
    brain = torch.ones(1, 1, 15, 15, 15)
    logits = 20 * (2 * impulse(15) - 1)
    seen = score_surroundings(logits, brain, mirror=True)
    assert torch.equal(seen[:, 0], logits[:, 0])
    near, wide = seen[0, 5, 8, 8, 8], seen[0, 6, 9, 9, 9]  # highest within one and two voxels
    assert float(near) == pytest.approx(1.0, abs=1e-5)
    assert float(wide) == pytest.approx(1.0, abs=1e-5)
    assert float(seen[0, 5, 9, 9, 9]) == pytest.approx(0.0, abs=1e-5)
    assert seen.isfinite().all()
