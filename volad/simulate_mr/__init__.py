"""MR of any contrast simulated from healthy T1 scans, to train a detector that knows no sequence.

Anatomy is that of real brains; what grey matter, white matter and fluid look like is drawn. What
was trained on it says so.
"""

from __future__ import annotations

from volad.simulate_mr.contrast import CONTRASTS, Contrast, draw_contrast
from volad.simulate_mr.files import KINDS, write_scans
from volad.simulate_mr.windows import SimulatedSet

__all__ = ["CONTRASTS", "KINDS", "Contrast", "SimulatedSet", "draw_contrast", "write_scans"]
