"""Which scans of a healthy cohort should not be trained on, and why.

Every scan is prepared as for training and described twice: by the features of the scan check, and
by its image in blocks. `outliers` compares the scans with each other by four tests; scans that are
beyond a limit, or cannot be prepared at all, are flagged, named in words, and left out of a new
manifest.
"""

from __future__ import annotations

from volad.screen.run import Job, Screened, screen

__all__ = ["Job", "Screened", "screen"]
