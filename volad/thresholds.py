"""How a threshold is written that depends on a scan's contrast; read without any heavy library."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["OTHERWISE", "by_contrast", "named"]

#: The threshold of scans whose contrast has none of its own.
OTHERWISE = "otherwise"


def by_contrast(threshold: float, own: Mapping[str, float]) -> float | dict[str, float]:
    """As `volad.postprocess.Threshold` takes it: one for each contrast, where there are several."""
    return {OTHERWISE: threshold, **own} if own else threshold


def named(threshold: float | Mapping[str, float]) -> dict[str, float]:
    """What `by_contrast` gave, by name in either case; a new dict."""
    return dict(threshold) if isinstance(threshold, Mapping) else {OTHERWISE: threshold}
