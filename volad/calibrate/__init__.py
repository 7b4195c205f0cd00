"""The threshold: from healthy scans that were not trained on, never from lesion labels."""

from volad.calibrate.calibration import Calibration
from volad.calibrate.curves import LEVELS, Curve, HealthyScan, tail_of
from volad.calibrate.promise import KINDS, QUANTITIES, Promise
from volad.calibrate.stored import facts_for, load_threshold

__all__ = [
    "KINDS",
    "LEVELS",
    "QUANTITIES",
    "Calibration",
    "Curve",
    "HealthyScan",
    "Promise",
    "facts_for",
    "load_threshold",
    "tail_of",
]
