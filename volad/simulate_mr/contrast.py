"""What the tissues of one simulated MR look like: all of it that is drawn of the sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["CONTRASTS", "Contrast", "draw_contrast"]

#: Kinds of contrast, and how often each is drawn. `t1` and `flair` weigh most: they are the ones
#: that scans of patients come with; `any` has tissues of any brightness in any order.
CONTRASTS = {"t1": 0.2, "t2": 0.2, "flair": 0.3, "pd": 0.1, "any": 0.2}


@dataclass(frozen=True)
class Contrast:
    """One draw; brightness in units of the brightest tissue's, about.

    The ranges are wide enough to hold the usual sequences of 1.5 and 3 T; they stand for no
    protocol, and were not fitted to patients' scans.

    Attributes:
        kind: a name in `CONTRASTS`.
        grey: brightness of grey matter.
        white: of white matter.
        fluid: of cerebrospinal fluid.
        detail: how much of the T1's own variation within a tissue is kept, in units of the
            difference of grey and white matter; negative where what is bright in T1 is dark here.
        grey_varies: spread of grey matter's brightness from region to region, as a share.
        white_varies: of white matter's.
        fluid_varies: of fluid's, by flow.
        rim: how much brighter white matter is right at the ventricles, as a share.
        rim_mm: how far that reaches.
        plexus: brightness that the choroid plexus has.
        iron: how dark an adult's pallidum is for its iron, as the logarithm of a factor.
    """

    kind: str
    grey: float
    white: float
    fluid: float
    detail: float
    grey_varies: float
    white_varies: float
    fluid_varies: float
    rim: float
    rim_mm: float
    plexus: float
    iron: float


#: Most that iron darkens, likewise: T2 and T2* do, T1 hardly.
IRON = {"t1": 0.0, "t2": 0.6, "flair": 0.5, "pd": 0.2, "any": 0.4}


def draw_contrast(random: np.random.Generator, kind: str | None = None) -> Contrast:
    """Draw a contrast, of one kind or of any."""
    if kind is None:
        kind = str(random.choice(list(CONTRASTS), p=list(CONTRASTS.values())))
    grey, white, fluid = _levels(kind, random)
    detail = random.uniform(*{"t1": (0.5, 1.0), "any": (-1.0, 1.0)}.get(kind, (-0.6, 0.1)))
    wet = kind in ("t2", "flair", "any")
    return Contrast(
        kind=kind,
        grey=grey,
        white=white,
        fluid=fluid,
        detail=detail,
        grey_varies=random.uniform(0.0, 0.08),
        white_varies=random.uniform(0.0, 0.04),
        fluid_varies=random.uniform(0.0, 0.5) if kind != "t1" else random.uniform(0.0, 0.2),
        rim=random.uniform(0.0, 0.25) if wet else 0.0,
        rim_mm=random.uniform(1.0, 4.0),
        plexus=random.uniform(0.6, 1.2),
        iron=random.uniform(0.0, IRON[kind]),
    )


def _levels(kind: str, random: np.random.Generator) -> tuple[float, float, float]:
    """Brightness of grey matter, white matter and fluid."""
    if kind == "t1":
        return random.uniform(0.55, 0.85), 1.0, random.uniform(0.12, 0.45)
    if kind == "t2":
        grey = random.uniform(0.4, 0.7)
        return grey, grey * random.uniform(0.6, 0.97), 1.0
    if kind == "flair":
        return 1.0, random.uniform(0.65, 0.95), random.uniform(0.1, 0.5)
    if kind == "pd":
        return 1.0, random.uniform(0.7, 0.92), random.uniform(0.6, 1.1)
    while True:
        grey, white, fluid = random.uniform(0.1, 1.0, 3)
        if abs(grey - white) > 0.05:  # else nothing is to be seen of the anatomy
            return float(grey), float(white), float(fluid)
