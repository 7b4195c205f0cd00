"""Metrics of score maps and masks against expert masks.

Only evaluation reads lesion masks: nothing here is called while training, calibrating or
segmenting.
"""

from __future__ import annotations

from volad.metrics.counts import Confusion, dice
from volad.metrics.curves import auroc, average_precision, oracle_dice

__all__ = ["Confusion", "auroc", "average_precision", "dice", "oracle_dice"]
