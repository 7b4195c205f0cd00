"""One scan's result as one HTML file that works from a disk, with no network."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from string import Template
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volad.report import fragments
from volad.report.html import asset, policy
from volad.report.lesions import Lesion
from volad.report.volumes import (
    Grid,
    Range,
    embed_image,
    embed_mask,
    embed_score,
    image_range,
)

__all__ = ["render_page"]

Array = NDArray[Any]

#: In this order they make one script; niivue is unpacked by it.
_SCRIPTS = ("volumes.js", "niivue_view.js", "plain_view.js", "controls.js", "start.js")

_NIIVUE = "assets/niivue/niivue.umd.js"

_CT_WINDOWS_HU = {
    "Brain": (0, 80),
    "Subdural": (-20, 180),
    "Stroke": (20, 60),
    "Bone": (-500, 1500),
}


def render_page(
    *,
    name: str,
    image: NDArray[np.float32],
    score: NDArray[np.float32],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    lesions: Sequence[Lesion],
    provenance: Mapping[str, object],
    threshold: float,
    healthy: NDArray[np.float32] | None = None,
    warnings: Sequence[str] = (),
    modality: Literal["mr", "ct"] = "mr",
) -> str:
    """Write a page to look at one result: three planes, overlays, lesions and provenance.

    Args:
        name: what the page calls the scan.
        image: `(X, Y, Z)` the scan on its own grid; in HU for CT.
        score: `(X, Y, Z)` score map on that grid.
        mask: `(X, Y, Z)` lesion mask on that grid.
        affine: `(4, 4)` from its voxel indices to RAS mm.
        lesions: what `find_lesions` gave for the mask.
        provenance: what the sidecar holds, mappings inside mappings as they are.
        threshold: the score from which a voxel counts as lesion.
        healthy: `(X, Y, Z)` the inferred healthy counterpart, in the image's intensities.
        warnings: what a reader must know before looking, one line each.
        modality: decides the intensity windows.
    """
    volumes = [image, score, mask] + ([] if healthy is None else [healthy])
    if image.ndim != 3 or any(volume.shape != image.shape for volume in volumes):
        raise ValueError(
            f"all volumes of a page must share one 3D shape, got {[v.shape for v in volumes]}"
        )
    grid = Grid(image.shape, affine)
    kept = image_range(image, modality)
    top = _highest_score(score, threshold)
    layers = {"image": embed_image(grid, image, kept, modality)}
    if healthy is not None:
        layers["healthy"] = embed_image(grid, healthy, kept, modality)
    layers |= {"score": embed_score(grid, score, top), "mask": embed_mask(grid, mask)}

    style = asset("assets/report.css")
    script = "\n".join(asset(f"assets/{part}") for part in _SCRIPTS)
    return Template(asset("template.html")).substitute(
        policy=policy(style, script, asset(_NIIVUE)),
        name=escape(name),
        summary=fragments.summary(lesions, threshold) + fragments.checked(provenance),
        warnings=fragments.warning_list(warnings),
        lesions=fragments.lesion_rows(lesions),
        provenance=fragments.definitions(provenance),
        resolution=_resolution(grid),
        style=style,
        licence=escape(asset("assets/niivue/LICENSE.txt")),
        niivue=_packed_niivue(),
        volumes="\n".join(_data(f"volume-{key}", data) for key, data in layers.items()),
        page=_json(_page(grid, kept, score, threshold, top, modality)),
        script=script,
    )


def _page(
    grid: Grid, kept: Range, score: Array, threshold: float, top: float, modality: str
) -> dict[str, object]:
    """What the script needs to know; intensities in the image's, scores in the score's unit."""
    shown = [kept.shown_low, kept.shown_high]
    return {
        "shape": grid.shape,
        "affine": grid.affine.tolist(),
        "from_world": np.linalg.inv(grid.affine).tolist(),
        "to_native": grid.to_native.tolist(),
        "windows": _CT_WINDOWS_HU if modality == "ct" else {"Reset window": shown},
        "window": shown,
        "unit": " HU" if modality == "ct" else "",
        "score": {
            "low": min(0.0, float(score.min())),
            "high": top,
            "threshold": threshold,
            # Half the threshold also shows what almost became a lesion.
            "shown_from": threshold / 2 if threshold > 0 else threshold,
            "shown_to": min(top, 3 * threshold) if threshold > 0 else top,
        },
    }


def _highest_score(score: Array, threshold: float) -> float:
    """The score a page ends at: one bright voxel must not use up the 255 steps."""
    low, high = min(0.0, float(score.min())), float(score.max())
    if threshold > 0:
        high = min(max(high, 1.1 * threshold), 20 * threshold)
    return max(high, threshold) if max(high, threshold) > low else low + 1.0


def _resolution(grid: Grid) -> str:
    if (grid.factors == 1).all():
        return ""
    steps = " × ".join(str(n) for n in grid.factors.tolist())
    return f"This page shows blocks of {steps} voxels as one; the table and the mask file do not."


@lru_cache(maxsize=1)
def _packed_niivue() -> str:
    """The viewer, a third of its size; its text cannot end the page's script early either."""
    packed = gzip.compress(asset(_NIIVUE).encode(), mtime=0)
    return _data("niivue-code", base64.b64encode(packed).decode("ascii"))


def _data(element_id: str, base64_text: str) -> str:
    return f'<script type="text/plain" id="{element_id}">{base64_text}</script>'


def _json(value: object) -> str:
    """JSON that cannot close the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
