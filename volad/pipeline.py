"""The one way through: a `Pipeline` takes one scan from file to mask (`volad.batch`: many)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor

from volad.errors import VoladError
from volad.io import Scan, Volume
from volad.methods._base import Method, Reconstruction, ScanScores
from volad.postprocess import Threshold, ToScan
from volad.preprocess.steps import Sample
from volad.scan_check import ScanCheck
from volad.scan_check.gate import admit, look_back

__all__ = ["Pipeline", "Result", "Shared", "prepare"]


@dataclass(frozen=True)
class Result:
    """What the pipeline found in one scan; every array on the scan's own grid.

    Attributes:
        volume: the scan as read.
        mask: `(X, Y, Z)` bool, lesions.
        score: `(X, Y, Z)` float32, higher is less like healthy; 0 outside the brain.
        healthy: `(X, Y, Z)` float32 in the scan's units, the healthy counterpart that the method
            inferred; None where it infers none or none was asked for.
        brain: `(X, Y, Z)` bool.
        scan_scores: how unlike healthy the whole scan is (`Method.scan_scores`), by measure.
        flags: lines that the user must see.
        facts: what the steps measured.
        seconds: wall time per stage.
        threshold: what the mask was cut at.
        scan_check: what the scan check found (`volad.scan_check.ScanCheck.facts`); None without.
    """

    volume: Volume
    mask: NDArray[np.bool_]
    score: NDArray[np.float32]
    healthy: NDArray[np.float32] | None
    brain: NDArray[np.bool_]
    scan_scores: ScanScores
    flags: tuple[str, ...]
    facts: dict[str, Any]
    seconds: dict[str, float]
    threshold: float
    scan_check: dict[str, Any] | None = None


@dataclass
class _Clock:
    """Adds up wall time per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


def prepare(
    preprocessing: Compose,
    scan: Scan | Volume | str,
    before_step: Callable[[], None] = lambda: None,
) -> Sample:
    """Read and preprocess one scan, timed; needs no network, so it can run in another process.

    Args:
        preprocessing: the bundle's transforms.
        scan: which one.
        before_step: called before each of them; may raise to give the scan up.
    """
    sample: Sample = {"image": scan}
    clock = _Clock()
    for step in preprocessing.transforms:
        before_step()
        with clock(_name(step)):
            sample = step(sample)
    return {**sample, "seconds": clock.seconds}


class Shared:
    """A scan that several bundles look at: prepared once for all that prepare it alike.

    Args:
        scan: which one.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self._samples: dict[str, Sample] = {}

    def sample(self, preprocessing: Compose, recipe: str) -> Sample:
        """The scan as a bundle prepares it, whose `volad.bundle.recipe` this is."""
        if recipe not in self._samples:
            self._samples[recipe] = prepare(preprocessing, self.scan)
        return self._samples[recipe]


class Pipeline:
    """One scan from file to mask.

    Args:
        preprocessing: the bundle's transforms (`volad.preprocess.steps`).
        inferer: how the method walks over the volume (`volad.window`).
        network: the trained method.
        postprocessing: the bundle's transforms (`volad.postprocess`).
        device: where the method runs.
        amp: bfloat16 autocast; scores then differ in the third digit from those calibrated.
        scan_check: tells whether a scan is of the kind the bundle knows; None: nobody asks.
        force: go on where it is not.
    """

    def __init__(
        self,
        preprocessing: Compose,
        inferer: Inferer,
        network: Method,
        postprocessing: Compose,
        device: torch.device | str = "cpu",
        amp: bool = False,
        scan_check: ScanCheck | None = None,
        force: bool = False,
    ) -> None:
        self.preprocessing = preprocessing
        self.inferer = inferer
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.amp = amp
        self.scan_check, self.force = scan_check, force
        steps = list(postprocessing.transforms)
        cuts = [i for i, step in enumerate(steps) if isinstance(step, Threshold)]
        if len(cuts) != 1:
            raise ValueError("postprocessing must hold exactly one volad.postprocess.Threshold")
        self.map_steps, self.cut, self.mask_steps = (
            steps[: cuts[0]],
            steps[cuts[0]],
            steps[cuts[0] + 1 :],
        )

    def score(self, sample: Sample) -> Sample:
        """The continuous score on the scan's grid as `pred`; calibration reads this too.

        The healthy counterpart, from the same pass, is `healthy (C, *S)` on the model's grid, or
        None; `scan_scores` are those of `Method.scan_scores`.
        """
        return self.to_scan(self.infer(sample))

    def infer(self, sample: Sample) -> Sample:
        """The method's own part of `score`: all that runs on the device, still on its grid.

        Raises:
            OtherKindError: the scan is of another kind than the bundle knows, without `force`.
        """
        clock = _Clock(dict(sample["seconds"]))
        check, checked = self.scan_check, dict[str, Any](scan_check=None)
        if check is not None:
            with clock("ScanCheck"):
                found = admit(check, sample, self.force)
        with clock("model"):
            pred, counterpart = self._infer(sample["image"])
            scan_scores = self._scan_scores(sample["image"], pred, counterpart)
        if check is not None:
            with clock("ScanCheck"):
                checked = look_back(check, found, sample, self.network, pred, counterpart)
        return {
            **sample,
            **checked,
            "pred": MetaTensor(pred, affine=sample["image"].affine),
            "healthy": counterpart,
            "scan_scores": scan_scores,
            "seconds": clock.seconds,
        }

    def to_scan(self, inferred: Sample) -> Sample:
        """The rest of `score`: the bundle's steps on the map, up to the scan's grid."""
        clock = _Clock(dict(inferred["seconds"]))
        out = sample = inferred
        for step in self.map_steps:
            with clock(_name(step)):
                out = step(out)
        found = (out["pred"].numpy(), *sample["scan_scores"].values())
        if not all(np.isfinite(scores).all() for scores in found):
            raise VoladError(
                f"{sample['volume'].scan.path}: the model gave scores that are not finite; "
                "run without --amp, or on --device cpu"
            )
        return {**out, "seconds": clock.seconds}

    def finish(self, scored: Sample, *, healthy: bool = False) -> Result:
        """Threshold a score and clean the mask; with `healthy`, bring the counterpart along."""
        clock = _Clock(dict(scored["seconds"]))
        sample = scored
        for step in (self.cut, *self.mask_steps):
            with clock(_name(step)):
                sample = step(sample)
        counterpart = None
        if healthy and scored["healthy"] is not None:
            with clock("healthy"):
                counterpart = _healthy_scan(scored)
        return Result(
            volume=sample["volume"],
            mask=sample["pred"].numpy()[0].astype(bool),
            score=sample["score"].numpy()[0].astype(np.float32),
            healthy=counterpart,
            brain=sample["native_brain"].numpy()[0].astype(bool),
            scan_scores=dict(sample["scan_scores"]),
            flags=tuple(sample["flags"]),
            facts=dict(sample["facts"]),
            seconds=clock.seconds,
            threshold=self.cut.of(sample),
            scan_check=sample["scan_check"],
        )

    def __call__(self, scan: Scan | Volume | str, *, healthy: bool = False) -> Result:
        """Take one scan from file to mask."""
        return self.finish(self.score(prepare(self.preprocessing, scan)), healthy=healthy)

    def _infer(self, image: MetaTensor) -> tuple[Tensor, Tensor | None]:
        """Score `(1, *S)` and healthy counterpart `(C, *S)` of a scan, in one pass over it."""
        window = image.as_tensor()[None].to(self.device)
        network: Callable[[Tensor], Any] = self.network
        if isinstance(self.network, Reconstruction):
            network = _with_counterpart(self.network)
        # Not inference_mode: some methods take gradients at test time.
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            out = self.inferer(window, network)
        if isinstance(out, Tensor):
            return out[0].float().cpu(), None
        score, counterpart = (part[0].float().cpu() for part in out)
        return score, counterpart

    def _scan_scores(self, image: MetaTensor, pred: Tensor, healthy: Tensor | None) -> ScanScores:
        x_hat = None if healthy is None else healthy[None]
        return self.network.scan_scores(image.as_tensor()[None], pred[None], x_hat)


def _with_counterpart(network: Reconstruction) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What gives windows' scores, as `network` itself does, and their counterparts."""

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        x_hat = network.reconstruct(x)
        return network.compare(x, x_hat), x_hat

    return both


def _healthy_scan(scored: Sample) -> NDArray[np.float32]:
    """The counterpart's first channel in the scan's units, on the scan's grid: `(X, Y, Z)`."""
    values = scored["scale"].inverse(scored["healthy"][:1].numpy())
    brain = scored["brain"].numpy()
    affine = scored["image"].affine
    pred = MetaTensor(torch.from_numpy(np.where(brain, values, 0)), affine=affine)
    back: NDArray[np.float32] = ToScan()({**scored, "pred": pred})["pred"].numpy()[0]
    return back.astype(np.float32)


def _name(step: Any) -> str:
    return type(step).__name__
