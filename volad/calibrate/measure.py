"""What a calibration needs of healthy scans: scores' tails, and lesions in the final masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad.calibrate.curves import COUNTED, HealthyScan, rounded_up, tail_of
from volad.errors import InputError
from volad.io import Scan, input_sha256
from volad.pipeline import Pipeline
from volad.postprocess import DropSmallLesions, Threshold
from volad.preprocess.steps import Sample

__all__ = ["describe_steps", "measure", "refuse_known"]

_NEIGHBOURS = np.ones((3, 3, 3))


def measure(pipeline: Pipeline, scored: Sample) -> HealthyScan:
    """The tail of a scored scan (`Pipeline.score`), and what its mask holds when cut along it."""
    volume = scored["volume"]
    brain = scored["native_brain"].numpy()[0] > 0
    tail = rounded_up(tail_of(scored["pred"].numpy()[0], brain))  # cut where the file says
    found = list(_counts(pipeline, scored, tail[COUNTED]))
    return HealthyScan(
        name=volume.scan.name,
        sha256=volume.sha256,
        tail=tail,
        brain_mm3=float(brain.sum() * volume.voxel_mm3),
        lesions=np.array([count for count, _ in found], np.float64),
        mm3=np.array([voxels * volume.voxel_mm3 for _, voxels in found], np.float64),
        contrast=scored.get("contrast"),
        subject=volume.scan.subject,
    )


def describe_steps(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Name and settings of the steps from the cut score to the final mask."""
    return [{"step": type(step).__name__, **vars(step)} for step in pipeline.mask_steps]


def refuse_known(scans: Sequence[Scan], trained_on: Mapping[str, str]) -> None:
    """Refuse a scan that is there twice, and one that the bundle was trained on.

    Args:
        scans: the healthy scans.
        trained_on: by the SHA-256 of a scan's file, its name in the training.

    Raises:
        InputError: naming it; the promise needs distinct scans that are new to the detector.
    """
    met: dict[str, Scan] = {}
    for scan in scans:
        sha256 = input_sha256(scan)
        if sha256 in trained_on:
            raise InputError(
                f"{scan.path}: the bundle was trained on this scan ({trained_on[sha256]}), whose "
                "scores flatter; calibrate on others"
            )
        twin = met.setdefault(sha256, scan)
        if twin is not scan:
            raise InputError(
                f"{scan.path}: is the same scan as {twin.path}; a promise needs distinct scans, "
                "leave one out"
            )


def _counts(
    pipeline: Pipeline, scored: Sample, thresholds: NDArray[np.float64]
) -> Iterator[tuple[int, int]]:
    """Lesions, and their voxels, in the final mask at each of the falling thresholds."""
    # Steps that look at the mask alone need only the box that it lies in.
    alone = all(isinstance(step, DropSmallLesions) for step in pipeline.mask_steps)
    for threshold in thresholds:
        sample = _cropped(scored, threshold) if alone else scored
        for step in (Threshold(float(threshold)), *pipeline.mask_steps):
            sample = step(sample)
        mask = sample["pred"].numpy()[0] > 0
        _, count = ndimage.label(mask, structure=_NEIGHBOURS)
        yield int(count), int(mask.sum())


def _cropped(scored: Sample, threshold: float) -> Sample:
    """The score within the smallest box that holds all above a threshold."""
    pred: MetaTensor = scored["pred"]
    above = (pred.as_tensor()[0] > threshold).numpy()
    sides = [np.flatnonzero(above.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(side[0], side[-1] + 1) if len(side) else slice(0, 1) for side in sides)
    # The box's place does not matter to what is counted, so the affine stays.
    return {"pred": MetaTensor(pred.as_tensor()[(slice(None), *box)], affine=pred.affine)}
