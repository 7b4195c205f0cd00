"""What a scanner makes of a head: blur, slices, noise of its texture, streaks, beam hardening."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from volad.simulate_ct.head import Head
from volad.simulate_ct.look import Look
from volad.tissues import Map

__all__ = ["artefacts", "blurred", "noise_like"]

FWHM = float(np.sqrt(8 * np.log(2)))
#: Bone beyond this adds nothing to the rim that the brain window shows, but ringing.
BRIGHTEST = 1600.0


def blurred(hu: Map, look: Look, spacing_mm: NDArray[np.float64], slice_mm: float) -> Map:
    """A head after the scanner's point spread: in plane by `blur_mm`, along z by the slice."""
    along = slice_mm / np.sqrt(12.0)  # a box of a slice's width has this standard deviation
    sigma = np.array([look.blur_mm, look.blur_mm, along]) / spacing_mm
    wide: Map = ndimage.gaussian_filter(np.minimum(hu, BRIGHTEST), sigma, truncate=3)
    return wide


def noise_like(
    shape: tuple[int, ...],
    spacing_mm: NDArray[np.float64],
    look: Look,
    slice_mm: float,
    sigma: float,
    random: np.random.Generator,
) -> Map:
    """Noise of standard deviation `sigma`: grainy in plane, without its lowest frequencies there.

    Filtered back-projection's noise rises with frequency up to the kernel's limit, so that it looks
    like grain and not like clouds (Riederer, Pelc, Chesler, Phys Med Biol 23 (1978)): here, blurred
    white noise minus a wider blur of it.
    """
    white = random.standard_normal(shape).astype(np.float32)
    along = slice_mm / FWHM / spacing_mm[2] if slice_mm > spacing_mm[2] else 0.0
    fine, coarse = look.grain_mm / 2, 2.2 * look.grain_mm
    narrow = ndimage.gaussian_filter(white, [*(fine / spacing_mm[:2]), along], truncate=3)
    wide = ndimage.gaussian_filter(narrow, [*(coarse / spacing_mm[:2]), 0], truncate=3)
    grain = narrow - wide
    return np.asarray(grain * (sigma / max(float(grain.std()), 1e-6)), np.float32)


def artefacts(
    head: Head, z_mm: NDArray[np.float32], y_mm: Map, look: Look, random: np.random.Generator
) -> Map:
    """What beam hardening adds: dark bands between the petrous bones, cupping, slow drift.

    Args:
        head: where the brain's surface lies.
        z_mm: height of each voxel in MNI152, broadcasting to the head.
        y_mm: likewise, to the front.
        look: how strong they are.
        random: for the place of the bands.
    """
    middle = random.normal(-38, 5)
    petrous = np.exp(-(((z_mm - middle) / 9) ** 2)) * np.exp(-(((y_mm + 25) / 22) ** 2))
    stripe = np.cos((y_mm - random.uniform(-35, -15)) / random.uniform(5, 9))
    bands = -look.streaks * petrous * (0.6 + 0.8 * stripe)
    top = 1 + look.vertex * expit((z_mm - 50) / 6)
    cup = look.cupping * top * np.exp(np.minimum(head.outside_mm, 0) / look.cupping_mm)
    slow = ndimage.gaussian_filter(random.standard_normal([n // 4 + 1 for n in cup.shape]), 3.0)
    zoom = [n / m for n, m in zip(cup.shape, slow.shape, strict=True)]
    drift = ndimage.zoom(slow / max(float(slow.std()), 1e-6), zoom, order=1)
    return np.asarray(bands + cup + look.drift * drift, np.float32)
