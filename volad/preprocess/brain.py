"""Step 2a: which voxels are brain."""

from __future__ import annotations

from volad.preprocess.brain_mr import MRBrain

__all__ = ["MRBrain"]
