"""Head CT simulated from healthy T1 scans, to train a CT detector where no healthy CT is at hand.

Nothing that comes from here is a CT. Shapes are those of real brains, Hounsfield values are drawn
from published ones, and noise, streaks and slices are modelled. What was trained on it says so.
"""

from __future__ import annotations

from volad.simulate_ct.files import write_scans
from volad.simulate_ct.windows import SimulatedSet

__all__ = ["SimulatedSet", "write_scans"]
