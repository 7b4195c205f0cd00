"""How one simulated patient and one simulated scanner differ from the next: all that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Look", "draw_look"]


@dataclass(frozen=True)
class Look:
    """One draw; values in Hounsfield units, lengths in mm.

    Sources of the values: white matter 30.1 ± 3.5 and 29.8 ± 3.3, deep grey matter 33.0 ± 3.3 and
    33.2 ± 2.6 in 93 healthy volunteers (Cala et al., AJNR 2 (1981)); grey minus white 5.5 at usual
    energies (Brooks, Di Chiro, Keller, J Comput Assist Tomogr 4 (1980)). Between scanners the means
    of grey and white matter differ by 1 to 10, which the common `shift` stands for. Fluid, blood in
    sinuses, bone and fat: textbook ranges (CSF 0 to 15, blood 45 to 65, bone 700 and more, fat
    -100 to -60). Spreads are wider than a hospital's, so that its scans lie inside.

    Attributes:
        white: white matter.
        grey: grey matter.
        fluid: cerebrospinal fluid.
        blood: in the venous sinuses.
        dura: falx and tentorium.
        membrane: share of a voxel of 2 mm that they fill.
        tent_shift_mm: how much higher than usual the tentorium stands.
        sinus_mm: half of the width of the venous sinuses.
        sinus_shift_mm: how much higher than usual the transverse sinuses run.
        artery_mm: radius of the arteries at the brain's base; they hold `blood`.
        bone: of the skull.
        skull_mm: its thickness.
        scalp_mm: of fat and skin outside it.
        ventricle_growth_mm: by how much the ventricles are wider than the T1's.
        sulcus_growth: by how much the sulci are wider, as a share.
        fullness: share of the sulci's fluid that is missing: in the young hardly any is seen on CT.
        gap_mm: between the brain's surface and the bone: fluid, dura and sinuses.
        rim_fluid_mm: of fluid between the brain and the skull, over the front of the head.
        falx_calcified: HU of calcified pieces of the falx; 0: none.
        choroid_calcified: of the choroid plexus.
        pineal_calcified: of the pineal gland.
        basal_calcified: of the globus pallidus.
        blur_mm: standard deviation of the in-plane point spread.
        slice_mm: thickness of the slices.
        noise: standard deviation in a voxel of 2 mm.
        grain_mm: how far the noise hangs together, in plane.
        streaks: depth of the dark bands between the petrous bones.
        cupping: brightening towards the skull by beam hardening.
        cupping_mm: how far in it reaches.
        vertex: how much stronger it is below the top of the skull, where rays run along the bone.
        drift: standard deviation of what varies smoothly over centimetres.
    """

    white: float
    grey: float
    fluid: float
    blood: float
    dura: float
    membrane: float
    tent_shift_mm: float
    sinus_mm: float
    sinus_shift_mm: float
    artery_mm: float
    bone: float
    skull_mm: float
    scalp_mm: float
    ventricle_growth_mm: float
    sulcus_growth: float
    fullness: float
    gap_mm: float
    rim_fluid_mm: float
    falx_calcified: float
    choroid_calcified: float
    pineal_calcified: float
    basal_calcified: float
    blur_mm: float
    slice_mm: float
    noise: float
    grain_mm: float
    streaks: float
    cupping: float
    cupping_mm: float
    vertex: float
    drift: float


def draw_look(random: np.random.Generator) -> Look:
    """Draw a patient and a scanner."""
    shift = random.normal(0, 2.0)
    old = random.beta(1.0, 1.2)  # from the young to the very old
    # With age white matter grows darker (leukoaraiosis).
    white = 29.0 + shift + random.normal(0, 1.5) - 5.0 * old

    def sometimes(chance: float, low: float, high: float) -> float:
        found = random.random() < chance
        value = random.uniform(low, high)
        return float(value) if found else 0.0

    return Look(
        white=white,
        grey=white + float(np.clip(random.normal(8.0, 2.2), 3.5, 14.0)) + 3.0 * old,
        fluid=float(np.clip(random.normal(6.0, 4.0), -4.0, 16.0)) + 0.5 * shift,
        blood=random.uniform(45, 66),
        dura=random.uniform(45, 75),
        membrane=random.uniform(0.3, 0.9),
        tent_shift_mm=random.normal(0, 3),
        sinus_mm=random.uniform(3.0, 7.0),
        sinus_shift_mm=random.normal(0, 3),
        artery_mm=random.uniform(0.8, 2.4),
        bone=random.uniform(600, 1300),
        skull_mm=random.uniform(3.5, 9.0),
        scalp_mm=random.uniform(4.0, 12.0),
        ventricle_growth_mm=6.0 * old,
        sulcus_growth=0.8 * old,
        fullness=sometimes(0.6, 0, 1),
        gap_mm=0.5 + min(random.exponential(0.6), 2.5),
        rim_fluid_mm=max(random.uniform(-4, 5), 0.0) * old,
        falx_calcified=sometimes(0.12, 90, 300),
        choroid_calcified=sometimes(0.45 + 0.4 * old, 60, 250),
        pineal_calcified=sometimes(0.6, 60, 300),
        basal_calcified=sometimes(0.04 + 0.1 * old, 45, 90),
        blur_mm=random.uniform(0.4, 2.2),  # up to what averaging heads over each other blurs
        slice_mm=float(random.choice([1.0, 1.5, 2.5, 3.0, 4.0, 5.0])),
        noise=float(np.exp(random.uniform(np.log(0.15), np.log(3.0)))),
        grain_mm=random.uniform(1.0, 2.2),
        streaks=random.exponential(2.5),
        cupping=random.uniform(0.0, 9.0),
        cupping_mm=random.uniform(3.0, 14.0),
        vertex=random.uniform(0.0, 1.2),
        drift=random.uniform(0.2, 1.2),
    )
