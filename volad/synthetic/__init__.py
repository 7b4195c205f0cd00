"""Synthetic lesions in healthy scans: how well a detector finds what, without a label by hand.

The outlines are real or simple, the contrast, texture and mass effect graded. Nothing here is a
patient's lesion, and every file that is written says so.
"""

from __future__ import annotations

from volad.synthetic.curves import Cell, curves, found_labels
from volad.synthetic.make import Made, Painted, make
from volad.synthetic.spec import DEFAULT, Lesion, Recipe, Suite, read_suite
from volad.synthetic.suite import Source, write_suite
from volad.synthetic.tables import LesionRow, read_lesions

__all__ = [
    "DEFAULT",
    "Cell",
    "Lesion",
    "LesionRow",
    "Made",
    "Painted",
    "Recipe",
    "Source",
    "Suite",
    "curves",
    "found_labels",
    "make",
    "read_lesions",
    "read_suite",
    "write_suite",
]
