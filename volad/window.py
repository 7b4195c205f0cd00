"""Step 3: how a method walks over a volume: MONAI inferers, so that any of MONAI's serves too."""

from __future__ import annotations

from collections.abc import Sequence

from monai.inferers import Inferer, SimpleInferer, SliceInferer, SlidingWindowInferer

__all__ = ["build"]

KINDS = ("volume", "patch", "slice", "slab")


def build(
    kind: str,
    roi: Sequence[int] | None = None,
    *,
    overlap: float = 0.5,
    batch: int = 2,
    axis: int = 2,
) -> Inferer:
    """An inferer: `inferer(volume (1, C, X, Y, Z), network) -> (1, 1, X, Y, Z)`.

    A network that gives a tuple of maps gets a tuple of volumes back.

    Args:
        kind: `volume` gives the network all of it at once; `patch` overlapping 3D windows, merged
            with Gaussian weights; `slice` the 2D slices across `axis`; `slab` all of it too, since
            a method on slabs walks over the slices itself (`volad.slab`).
        roi: spatial shape of a patch, or of the window within a slice (None: the whole slice).
        overlap: share of a window that the next one covers again, 0 to 0.9 (not the step).
        batch: windows per pass. At 1 torch falls back to its slow 3D convolution on the CPU.
        axis: the axis that slices are cut across, 0 to 2.
    """
    if kind in ("volume", "slab"):
        return SimpleInferer()
    if kind not in KINDS:
        raise ValueError(f"window kind must be one of {KINDS}, got {kind!r}")
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap must be from 0 to 0.9, got {overlap}")
    if axis not in (0, 1, 2):  # MONAI would cut -1 across another axis than it says
        raise ValueError(f"axis must be 0, 1 or 2, got {axis}")
    dims = 3 if kind == "patch" else 2
    if roi is not None and (len(roi) != dims or min(roi) < 1):
        raise ValueError(f"the roi of {kind} windows must be {dims} sizes in voxels, got {roi}")
    if kind == "patch":
        if roi is None:
            raise ValueError("patch windows need a roi, their spatial shape in voxels")
        return SlidingWindowInferer(
            roi_size=tuple(roi),
            sw_batch_size=batch,
            overlap=overlap,
            mode="gaussian",
            cache_roi_weight_map=True,
        )
    return SliceInferer(
        spatial_dim=axis,
        # A window of -1 spans the whole axis, whatever its size.
        roi_size=tuple(roi) if roi is not None else (-1, -1),
        sw_batch_size=batch,
        overlap=overlap,
        mode="gaussian",
    )
