"""Step 2: the transforms of a bundle's `preprocessing`, each on one sample dictionary.

Keys of a sample, all images `MetaTensor (C, X, Y, Z)` whose affine maps voxels to RAS mm:

| key | holds |
|---|---|
| `image` | the scan, on the grid that the steps so far have brought it to |
| `brain` | its brain mask on the same grid, bool `(1, X, Y, Z)` |
| `covered` | till the brain is known: where each further channel has data, by name; bool |
| `volume` | the scan as read (`volad.io.Volume`), with header, hash and warnings |
| `native_brain` | the brain mask on the scan's own grid, bool |
| `to_model` | `(4, 4)` scan world to the model grid's world, mm |
| `contrast` | what its contrast is like (`volad.preprocess.contrast`), where it was asked |
| `scale` | the first channel's intensities to the model's (`volad.preprocess.intensity.Scale`) |
| `flags` | lines that the user must see |
| `facts` | what the steps measured, for the sidecar |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from volad.errors import InputError
from volad.io import Scan, Volume, find_scans, read_mask, read_volume
from volad.io.channels import in_order
from volad.preprocess.align import align, load_template
from volad.preprocess.bias import correct_bias
from volad.preprocess.brain import BrainMask, Kind, brain_mask_warning, cut_share
from volad.preprocess.channels import add_channels, keep_covered
from volad.preprocess.intensity import Scale, landmarks_of
from volad.preprocess.resample import resample, world_grid

__all__ = [
    "AlignToTemplate",
    "CorrectBias",
    "ExtractBrain",
    "Hounsfield",
    "Landmarks",
    "Load",
    "ResampleIsotropic",
    "RobustRange",
    "Sample",
]

Sample = dict[str, Any]


@contextmanager
def naming(volume: Volume | None) -> Iterator[None]:
    """Begin an input error's line with the file it is about."""
    try:
        yield
    except InputError as error:
        where = volume.scan.path if volume is not None else "a cached scan"
        raise InputError(f"{where}: {error}") from error


class Load(Transform):
    """Read `image`: a path, a `Scan` or an already read `Volume`.

    Args:
        volume: index of the volume to take from a 4D file.
        channels: names of the channels, the first that of the image itself, whose grid all come on
            and all outputs have; None: it has no others.
    """

    def __init__(self, volume: int | None = None, channels: Sequence[str] | None = None) -> None:
        self.volume = volume
        self.channels = channels

    def __call__(self, sample: Sample) -> Sample:
        source = sample["image"]
        if isinstance(source, (str, Path)):
            found = find_scans(source, channels=self.channels)
            if len(found) != 1:
                raise InputError(f"{source}: {len(found)} scans found where one is asked for")
            source = found[0]
        if isinstance(source, Scan):
            source = read_volume(source, volume=self.volume)
        assert isinstance(source, Volume)
        scan = source.scan
        further = in_order(dict(scan.channels), self.channels, scan.path)
        loaded = {
            **sample,
            "image": source.image,
            "volume": source,
            "to_model": np.eye(4),
            "flags": list(source.warnings),
            "facts": {},
        }
        return add_channels(loaded, further) if further else loaded


class ExtractBrain(Transform):
    """Find the brain on the scan's own grid (`volad.preprocess.brain.BrainMask`).

    Of several channels it is found in the first, and what another does not show is left out.
    A mask file that comes with the scan (`--brain-mask`, a manifest's column) wins.

    Args:
        kind: `auto` for MR with or without skull, `mr` for MR with skull, `ct`, or `given`.
        device: where the network for MR runs.
    """

    def __init__(self, kind: Kind = "auto", device: str = "cpu") -> None:
        self.extract = BrainMask(kind, device)

    def __call__(self, sample: Sample) -> Sample:
        volume: Volume = sample["volume"]
        given = None
        if volume.scan.brain_mask is not None:
            array = read_mask(volume.scan.brain_mask, volume)
            given = MetaTensor(torch.from_numpy(array)[None], affine=volume.image.affine)
        with naming(volume):
            brain, how = self.extract(_first(sample["image"]), given)
            warning = brain_mask_warning(brain)
            brain, lost = keep_covered(brain, sample.get("covered", {}))
        facts = {
            "brain_extraction": how,
            "brain_ml": float(brain.sum()) * volume.voxel_mm3 / 1000,
            "brain_cut": cut_share(brain.numpy()[0] > 0),
        }
        return {
            **{key: one for key, one in sample.items() if key != "covered"},
            "brain": brain,
            "native_brain": brain,
            "flags": [*sample["flags"], *([warning] if warning else []), *lost],
            "facts": {**sample["facts"], **facts},
        }


def _first(image: MetaTensor) -> MetaTensor:
    """The first channel, `(1, X, Y, Z)`."""
    return MetaTensor(image.as_tensor()[:1], affine=image.affine)


class AlignToTemplate(Transform):
    """Bring scan and brain mask onto the MNI152 2 mm grid, in one interpolation.

    A failed alignment is flagged; the scan goes on as it is best aligned.
    """

    def __call__(self, sample: Sample) -> Sample:
        template = load_template()
        found = align(_first(sample["image"]), sample["brain"])
        flags = list(sample["flags"])
        if found.failed:
            flags.append(
                f"alignment to MNI152 is doubtful (overlap {found.overlap:.2f}, fit "
                f"{found.correlation:.2f}): check the report, the orientation in the header and "
                "the brain mask"
            )
        facts = {
            "alignment_overlap": found.overlap,
            "alignment_fit": found.correlation,
            "alignment_volume_ratio": found.volume_ratio,
            "alignment_stretch": found.stretch,
        }
        moved = _to_grid(sample, found.to_template, template.affine, template.t1.shape)
        return {**sample, **moved, "flags": flags, "facts": {**sample["facts"], **facts}}


class ResampleIsotropic(Transform):
    """Bring scan and brain mask onto an axis-aligned grid of their own world, around the brain.

    Args:
        spacing_mm: isotropic voxel size.
        margin_mm: room around the brain.
    """

    def __init__(self, spacing_mm: float = 1.0, margin_mm: float = 4.0) -> None:
        self.spacing_mm, self.margin_mm = spacing_mm, margin_mm

    def __call__(self, sample: Sample) -> Sample:
        affine = np.asarray(sample["image"].affine, np.float64)
        brain = sample["brain"].numpy()[0] > 0
        grid, shape = world_grid(brain, affine, self.spacing_mm, self.margin_mm)
        return {**sample, **_to_grid(sample, np.eye(4), grid, shape)}


def _to_grid(
    sample: Sample, move: np.ndarray, affine: np.ndarray, shape: Sequence[int]
) -> dict[str, Any]:
    """Mask, move by `(4, 4)` in world mm, and resample; the mask cuts at half a voxel."""
    image, brain = sample["image"], sample["brain"]
    channels = torch.cat([image.as_tensor() * brain.as_tensor(), brain.as_tensor().float()])
    both = MetaTensor(channels, affine=move @ np.asarray(image.affine, np.float64))
    out = resample(both, affine, shape)
    share = out.as_tensor()[-1:]
    inside = share > 0.5
    # At the rim a voxel holds air that the mask zeroed: divide by the share that is brain.
    scan = torch.where(inside, out.as_tensor()[:-1] / share.clamp(min=0.5), 0)
    return {
        "image": MetaTensor(scan, affine=out.affine),
        "brain": MetaTensor(inside, affine=out.affine),
        "to_model": move @ sample["to_model"],
    }


class CorrectBias(Transform):
    """N4 on the model's grid, which must be isotropic."""

    def __call__(self, sample: Sample) -> Sample:
        image, brain = sample["image"], sample["brain"].numpy()[0] > 0
        spacing_mm = float(np.linalg.norm(np.asarray(image.affine)[:3, 0]))
        out = np.stack([correct_bias(channel, brain, spacing_mm) for channel in image.numpy()])
        return {**sample, "image": MetaTensor(torch.from_numpy(out), affine=image.affine)}


class _Intensity(Transform):
    """Map the brain's intensities by a scale, clip, and never leave a brain voxel exactly 0."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def scale(self, values: np.ndarray) -> Scale:
        raise NotImplementedError

    def __call__(self, sample: Sample) -> Sample:
        image, brain = sample["image"], sample["brain"].numpy()[0] > 0
        with naming(sample["volume"]):
            scales = [self.scale(channel[brain]) for channel in image.numpy()]
        out = np.zeros(image.shape, np.float32)
        for channel, values, scale in zip(out, image.numpy(), scales, strict=True):
            # 0 means "not brain" to the methods.
            channel[brain] = np.clip(scale(values[brain]), max(self.low, 1e-3), self.high)
        mapped = MetaTensor(torch.from_numpy(out), affine=image.affine)
        return {**sample, "image": mapped, "scale": scales[0]}


class Landmarks(_Intensity):
    """Map the brain's percentiles onto those learned from healthy scans (Nyúl et al. 2000).

    Args:
        landmarks: standard values of the percentiles `volad.preprocess.intensity.PERCENTILES`.
        low: lowest value kept.
        high: highest value kept.
    """

    def __init__(self, landmarks: Sequence[float], low: float = 0.0, high: float = 2.0) -> None:
        super().__init__(low, high)
        self.landmarks = tuple(float(v) for v in landmarks)

    def scale(self, values: np.ndarray) -> Scale:
        return Scale(landmarks_of(values), self.landmarks)


class RobustRange(_Intensity):
    """Map the brain's 1st and 99th percentile onto 0.1 and 1: needs nothing learned."""

    def __init__(self, low: float = 0.0, high: float = 2.0) -> None:
        super().__init__(low, high)

    def scale(self, values: np.ndarray) -> Scale:
        knots = landmarks_of(values)
        return Scale((knots[0], knots[-1]), (0.1, 1.0))


class Hounsfield(_Intensity):
    """Map a window of Hounsfield units onto 0.1 to 1, and cut off what lies outside it.

    Args:
        window_hu: lower and upper end; the brain window by default.
    """

    def __init__(self, window_hu: tuple[float, float] = (0.0, 80.0)) -> None:
        super().__init__(0.1, 1.0)
        self.window_hu = tuple(window_hu)
        if not self.window_hu[0] < self.window_hu[1]:
            raise ValueError(f"window_hu must ascend, got {window_hu}")

    def scale(self, values: np.ndarray) -> Scale:
        return Scale((float(self.window_hu[0]), float(self.window_hu[1])), (0.1, 1.0))
