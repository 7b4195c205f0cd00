"""Whether a scan is of the kind that a bundle knows, asked before anything is segmented.

A method scores whatever it did not learn, so on another contrast, a head with its skull or half a
brain it marks lesions everywhere. Two families of features are measured (`measure`), the `kind` of
the scan and its `quality`; `fitting` learns their usual ranges from healthy scans, as they are and
mildly varied (`vary`); `check` turns them into conformal p-values and a verdict, in `words`.
"""

from __future__ import annotations

from volad.scan_check.check import ScanCheck, load

__all__ = ["ScanCheck", "load"]
