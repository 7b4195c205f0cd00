"""What each feature of the scan check is called, and what it means when it is odd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FEATURES", "Family", "Feature", "of_scan_score"]

Family = Literal["kind", "quality"]


@dataclass(frozen=True)
class Feature:
    """One number that is measured of every scan.

    Attributes:
        family: `kind` decides whether a mask is made, `quality` only warns.
        about: contrast, intensity, coverage, alignment, noise, ...
        tolerance: a difference from the middle of healthy scans that counts for nothing odd, in
            the feature's unit, however alike the healthy scans are: a handful of them from one
            scanner must not make every other scanner odd.
        low: what it means where it is too low.
        high: what it means where it is too high.
    """

    family: Family
    about: str
    tolerance: float
    low: str
    high: str


#: Intensities in units of the scan's range (`volad.scan_check.measure`).
FEATURES = {
    "white_grey": Feature(
        "kind",
        "contrast",
        0.07,
        "white matter is too dark against grey matter",
        "white matter is too bright against grey matter",
    ),
    "grey_fluid": Feature(
        "kind",
        "contrast",
        0.12,
        "fluid is too bright against grey matter",
        "fluid is too dark against grey matter",
    ),
    "depth_contrast": Feature(
        "kind",
        "contrast",
        0.08,
        "the inside of the brain is too dark against its rim",
        "the inside of the brain is too bright against its rim",
    ),
    "like_t1": Feature(
        "kind",
        "contrast",
        0.06,
        "its tissues resemble those of the template's T1 too little",
        "its tissues resemble those of the template's T1 too much",
    ),
    "middle": Feature(
        "kind",
        "intensity",
        0.08,
        "the brain's grey values pile up at the dark end",
        "the brain's grey values pile up at the bright end",
    ),
    "dark_tail": Feature(
        "kind", "intensity", 0.2, "hardly anything is very dark", "much is far darker than the rest"
    ),
    "bright_tail": Feature(
        "kind",
        "intensity",
        0.08,
        "hardly anything is very bright",
        "much is far brighter than the rest",
    ),
    "level": Feature("kind", "intensity", 0.1, "the brain is too dark", "the brain is too bright"),
    "range": Feature(
        "kind", "intensity", 0.15, "its grey values differ too little", "they differ too much"
    ),
    "brain_ml": Feature(
        "kind", "coverage", 250.0, "the brain mask is too small", "the brain mask is too large"
    ),
    "brain_cut": Feature(
        "kind", "coverage", 0.1, "the field of view is odd", "the field of view cuts the brain"
    ),
    "covered": Feature(
        "kind", "coverage", 0.04, "part of the brain is missing", "the brain mask is too generous"
    ),
    "outside": Feature(
        "kind", "coverage", 0.02, "the brain mask is too tight", "the mask holds more than brain"
    ),
    "overlap": Feature(
        "kind",
        "alignment",
        0.02,
        "the brain does not come to lie on the template",
        "the brain lies on the template too well",
    ),
    "fit": Feature(
        "kind",
        "alignment",
        0.07,
        "its tissues do not come to lie on the template's",
        "its tissues lie on the template's too well",
    ),
    "stretch": Feature(
        "kind",
        "alignment",
        0.1,
        "the brain's shape is odd",
        "the brain had to be stretched to fit the template",
    ),
    "enlarged": Feature(
        "kind",
        "alignment",
        0.35,
        "the brain had to be shrunk to fit the template",
        "the brain had to be enlarged to fit the template",
    ),
    "noise": Feature("quality", "noise", 0.02, "it is oddly smooth", "it is noisy"),
    "sharpness": Feature(
        "quality", "sharpness", 0.07, "it is blurred", "its edges are oddly strong"
    ),
    "ripple": Feature(
        "quality",
        "motion or resolution",
        0.2,
        "it is oddly even in all directions",
        "it is rougher along one axis than along another, as by motion or thick slices",
    ),
    "shading": Feature(
        "quality", "bias field", 0.03, "it is oddly even", "it is unevenly bright (bias field)"
    ),
}


def of_scan_score(name: str, typical: float) -> Feature:
    """The feature that a method's scan score is; `typical` is its middle in healthy scans."""
    return Feature(
        "quality",
        "reconstruction",
        0.25 * abs(typical),
        f"the model finds it oddly usual as a whole ({name})",
        f"the model finds it unusual as a whole ({name})",
    )
