"""What surrounds each voxel, as channels: all that a network without convolutions sees of a scan.

Brightness beside that of ever wider surroundings, of the mirrored place and of each tissue tells
what is anomalous in any contrast; none of it has to be learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate, pad

from volad.preprocess.align import load_template
from volad.tensors import brain_of, crop, divisible, mean_over
from volad.tissue_normal import deviation, levels_of, shares_of

__all__ = ["anatomy", "brain_box", "score_surroundings", "surroundings"]

#: Spreads of the Gaussians, in voxels, from a voxel's neighbours to a quarter of the brain.
SCALES = (0.7, 1.5, 3.0, 6.0, 12.0)
#: Spreads within which a tissue's own brightness is looked for.
TISSUE_SCALES = (5.0, 12.0)
#: Share of a tissue among the surroundings that says as much of its brightness as the whole brain.
SCARCE = 0.02
#: Steps, in voxels, of second differences.
STEPS = (1, 2, 3)
#: The 13 axes through a voxel and its 26 neighbours.
AXES = [
    (x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)
]
#: Dimmer than anything.
NOTHING = -1e4
#: Least spread of what is compared with its own spread in the scan, in units of the image.
EVEN = 5e-3


def anatomy() -> Tensor:
    """What MNI152's 2 mm grid has at each place: `(1, 6, 80, 96, 88)`.

    Probabilities of grey and of white matter, the T1 average, and how far from the middle of the
    grid, -1 to 1: across (without its sign, since heads are about symmetric), to the front, up.
    """
    template = load_template()
    maps = torch.from_numpy(np.stack([template.grey, template.white, template.t1]))
    ends = [torch.linspace(-1, 1, n) for n in maps.shape[1:]]
    place = torch.stack(torch.meshgrid(*ends, indexing="ij"))
    place[0] = place[0].abs()
    return torch.cat([maps, place])[None]


def brain_box(x: Tensor) -> tuple[slice, ...]:
    """Where windows `(B, C, X, Y, Z)` hold brain: the smallest box that is centred along x."""
    brain = (x != 0).flatten(0, 1).any(dim=0)
    box = []
    for axis in range(3):
        held = brain.any(dim=tuple(a for a in range(3) if a != axis)).nonzero().flatten()
        n = brain.shape[axis]
        low, high = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, n)
        if axis == 0:  # so that the mirror image of the box is the box
            low = min(low, n - high)
            high = n - low
        box.append(slice(low, high))
    return tuple(box)


def surroundings(
    x: Tensor,
    known: Tensor | None = None,
    mirror: bool = False,
    relative: bool = False,
    normal: Tensor | None = None,
) -> Tensor:
    """Channels of every voxel of windows `(B, C, X, Y, Z)`: `(B, F, X, Y, Z)`, 0 outside the brain.

    Of each channel: its brightness and what that is above the mean of wider and wider
    surroundings; their spread; second differences along 13 axes (least, most, mean: a blob has them
    in all directions, a sheet in one); brightness beside the brightest and the darkest neighbour;
    its rank in the brain; how much brain is near; with `mirror` the difference to the other side;
    with `known` the brightness of grey matter, white matter and fluid and what the voxel is above
    each; with `relative` what is unusual in this very scan; with `normal` how far from what healthy
    brains have at that place. Then `known` itself.

    Args:
        x: the windows, float32.
        known: `(1, 6, X, Y, Z)`, `anatomy` of these voxels; None: places have no meaning.
        mirror: the middle of the first spatial axis is that of the head.
        relative: in units of their own usual size in the scan, since how much is much depends on
            contrast and noise: with `mirror`, differences to the other side; with `known`, those to
            each tissue, and means over ever wider surroundings of what the tissues leave
            unexplained.
        normal: `(C, 7, X, Y, Z)`, `TissueNormal` of these voxels; needs `known`.
    """
    image = x.flatten(0, 1)[:, None]
    brain = brain_of(x).repeat_interleave(x.shape[1], dim=0)
    means = [local_mean(image, brain, scale) for scale in SCALES]
    out = list(_brightness(image, brain, means))
    compared: list[Tensor] = []
    if mirror:
        both = brain * brain.flip(2)
        closest, small, middle, large = means[:4]
        sides = [(closest - small.flip(2)) * both, (middle - middle.flip(2)) * both]
        out += sides
        if relative:
            sides.append((large - large.flip(2)) * both)
            compared += [unusual(side, both) for side in sides]
    if known is not None:
        for levels, comparisons in _by_tissue(image, brain, known, means[0], relative):
            out += levels
            compared += comparisons
        if normal is not None:
            compared += _deviations(image, brain, known, normal.repeat(len(x), 1, 1, 1, 1))
    out += [part * brain for part in compared]
    # Written once, since copies of so many channels cost more time and memory than most of them.
    own, places = x.shape[1] * len(out), 0 if known is None else known.shape[1]
    channels = x.new_empty(len(x), own + places, *x.shape[2:])
    by_image = channels[:, :own].view(len(x), x.shape[1], len(out), *x.shape[2:])
    for index, part in enumerate(out):
        by_image[:, :, index] = part.reshape(x.shape)
    if known is not None:
        channels[:, own:] = known
    return channels.mul_(brain_of(x))


def score_surroundings(logits: Tensor, brain: Tensor, mirror: bool = False) -> Tensor:
    """What an earlier answer `(B, 1, X, Y, Z)` found at each voxel and about it: `(B, F, X, Y, Z)`.

    Its logit; its chance's mean about the voxel, highest and lowest near it, its shape, its mean
    over the brain; with `mirror` what it is above that of the other side.
    """
    chance = torch.sigmoid(logits) * brain
    near = [local_mean(chance, brain, scale) for scale in (1.0, 2.0, 4.0, 10.0)]
    out = [logits, *near, highest(chance, 1), highest(chance, 2), -highest(-chance, 1)]
    out += second_differences(chance, 2)
    out.append(mean_over(chance, brain).expand_as(chance))
    if mirror:
        out.append(chance - near[0].flip(2))
    return torch.cat(out, dim=1) * brain


def _brightness(image: Tensor, brain: Tensor, means: Sequence[Tensor]) -> Iterable[Tensor]:
    """Channels `(N, 1, X, Y, Z)` that need neither place nor sides; `means` are those of `SCALES`.

    All are of images `(N, 1, X, Y, Z)`.
    """
    closest, _, middle, large, widest = means
    yield from (image, closest, *(image - mean for mean in means), closest - middle)
    for mean, scale in ((middle, 3.0), (widest, 12.0)):
        yield local_mean((image - mean) ** 2, brain, scale).clamp(min=0).sqrt()
    # Neither the brain's edge nor the window's is an edge in brightness.
    filled = _gaussian(torch.where(brain > 0, image, large), 0.7, "replicate")
    for step in STEPS:
        yield from second_differences(filled, step)
    for reach in (1, 2):
        yield image - highest(torch.where(brain > 0, image, NOTHING), reach)
        yield image + highest(torch.where(brain > 0, -image, NOTHING), reach)
    yield _rank(image, brain)
    yield from (blur(brain, 2.0), blur(brain, 5.0))


def _by_tissue(
    image: Tensor, brain: Tensor, known: Tensor, near: Tensor, relative: bool
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Each tissue's brightness, and what images are above it; what of that is unusual.

    Above its brightness hereabouts, for each of `TISSUE_SCALES`. `near` is the mean of each voxel's
    closest surroundings.
    """
    expected = torch.zeros_like(image)
    shares = shares_of(known)
    for share, everywhere in zip(shares, levels_of(image, brain, shares), strict=True):
        weight = brain * share**2
        above = []
        for scale in TISSUE_SCALES:
            near_share = blur(weight, scale)
            here = blur(image * weight, scale) / near_share.clamp(min=1e-3)
            trust = near_share / (near_share + SCARCE)
            above.append(near - torch.lerp(everywhere.expand_as(here), here, trust))
        expected = expected + share * everywhere
        compared = [unusual(above[-1], brain * (share > 0.5))] if relative else []
        yield [everywhere.expand_as(image), *above], compared
    if relative:  # of many voxels together a little is unusual
        rest = (image - expected) * brain
        yield [], [unusual(local_mean(rest, brain, scale), brain) for scale in SCALES]


def _deviations(image: Tensor, brain: Tensor, known: Tensor, normal: Tensor) -> list[Tensor]:
    """How far images `(N, 1, X, Y, Z)` are from healthy ones: in their unit, and in spreads.

    The latter at each voxel and, in units of their usual size in the scan, over ever wider
    surroundings, since means over many voxels depend on the scan's noise. Then the healthy spread.
    """
    away, spread = deviation(image, brain, known, normal)
    score = away / spread * brain
    wider = [unusual(local_mean(score, brain, scale), brain) for scale in SCALES]
    return [local_mean(away, brain, SCALES[0]), torch.asinh(score), *wider, spread]


def unusual(difference: Tensor, where: Tensor) -> Tensor:
    """`asinh` of a difference in units of its median size where `where > 0`, `(N, 1, X, Y, Z)`.

    The median, since a large lesion must not make itself usual; asinh, since what is a hundred
    times the usual is hardly more unusual than what is fifty times.
    """
    out = torch.zeros_like(difference)
    for index, inside in enumerate((where > 0).expand_as(difference)):
        sizes = difference[index][inside].abs()
        usual = sizes.median() if len(sizes) else sizes.new_zeros(())
        out[index] = torch.asinh(difference[index] / usual.clamp(min=EVEN))
    return out


def local_mean(image: Tensor, weight: Tensor, voxels: float) -> Tensor:
    """Gaussian mean of `image` over what `weight` holds, both `(N, 1, X, Y, Z)`."""
    return blur(image * weight, voxels) / blur(weight, voxels).clamp(min=1e-3)


def blur(image: Tensor, voxels: float) -> Tensor:
    """Gaussian blur of `(N, 1, X, Y, Z)`, zeros beyond; wide ones on a coarser grid, for speed."""
    factor = 1 if voxels < 2 else 2 if voxels < 4.5 else 4
    if factor == 1:
        return _gaussian(image, voxels)
    coarse = _gaussian(avg_pool3d(divisible(image, factor), factor), voxels / factor)
    size = [n * factor for n in coarse.shape[2:]]
    return crop(interpolate(coarse, size=size, mode="trilinear", align_corners=False), image)


def _gaussian(image: Tensor, voxels: float, beyond: str = "zeros") -> Tensor:
    kernel = gaussian_1d(torch.tensor(voxels), truncated=2.5, approx="sampled", normalize=True)
    out: Tensor = separable_filtering(image, kernel.to(image), mode=beyond)
    return out


def highest(image: Tensor, reach: int) -> Tensor:
    """Highest value within so many voxels along every axis, of `(N, 1, X, Y, Z)`."""
    # torch's max_pool3d is several times slower on a CPU.
    for axis in (2, 3, 4):
        sides = [0, 0] * (4 - axis) + [reach, reach]
        wide, n = pad(image, sides, value=NOTHING), image.shape[axis]
        image = wide.narrow(axis, 0, n)
        for start in range(1, 2 * reach + 1):
            image = torch.maximum(image, wide.narrow(axis, start, n))
    return image


def second_differences(image: Tensor, step: int) -> list[Tensor]:
    """Least, most and mean over 13 axes of what `(N, 1, X, Y, Z)` is above both sides' mean."""
    wide = pad(image, [step] * 6, mode="replicate")
    nx, ny, nz = image.shape[2:]

    def moved(x: int, y: int, z: int) -> Tensor:
        x, y, z = step + x, step + y, step + z
        return wide[:, :, x : x + nx, y : y + ny, z : z + nz]

    least = torch.full_like(image, math.inf)
    most, total = -least, torch.zeros_like(image)
    for axis in AXES:
        length = math.hypot(*axis)
        there = [round(step * a / length) for a in axis]
        bend = image - (moved(*there) + moved(*(-a for a in there))) / 2
        least = torch.minimum(least, bend)
        most = torch.maximum(most, bend)
        total = total + bend
    return [least, most, total / len(AXES)]


def _rank(image: Tensor, brain: Tensor) -> Tensor:
    """Share of the brain's voxels that are darker, of `(N, 1, X, Y, Z)`."""
    out = torch.zeros_like(image)
    for index, inside in enumerate(brain > 0):
        values = image[index][inside].sort().values
        rank = torch.searchsorted(values, image[index].contiguous())
        out[index] = rank.to(image.dtype) / max(len(values), 1)
    return out
