"""The contract every method fulfils. A method's `forward` is its score map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from volad.dense_code import DenseCode
from volad.heads import VoxelNormal
from volad.nets import ConvAutoencoder
from volad.residual import RESIDUALS, SIGNED, residual
from volad.slab import SlabInferer
from volad.tensors import brain_mean, brain_of

__all__ = ["Contrast", "Method", "Reconstruction", "ScanScores", "Stage", "Update", "Window"]

#: What one input of a method is.
Window = Literal["volume", "patch", "slice", "slab"]
#: How a lesion differs from healthy tissue.
Contrast = Literal["bright", "dark"]
#: What a training step yields: the name of the child module to update, and its loss (a scalar).
Update = tuple[str, Tensor]
#: How unlike healthy a whole scan is, by several measures: numbers, or one for each of its parts.
ScanScores = dict[str, float | list[float]]


def _nothing() -> None:
    """Most stages have nothing to do after their last epoch."""


@dataclass(frozen=True)
class Stage:
    """A part of a training: a step for every batch, and what to do after the last one.

    Attributes:
        step: takes a batch `(B, C, *S)` and yields the updates it makes, in order; the loop does
            backward, clipping and the optimiser's step before it asks for the next one. A step
            that yields nothing learns through buffers.
        epochs: passes over the training set; None: as many as the training was asked for.
        finish: called once at the stage's end.
        learns: False where the step only collects statistics: it is then called in evaluation
            mode, without gradients and on windows without augmentation.
        whole: True where the step takes whole volumes, whatever windows the others take.
    """

    step: Callable[[Tensor], Iterator[Update]]
    epochs: int | None = None
    finish: Callable[[], None] = _nothing
    learns: bool = True
    whole: bool = False


class Method(nn.Module, ABC):
    """A map from a window of a scan to one score per voxel, learned from healthy scans.

    Higher scores are less like the healthy training set. Voxels outside the brain are exactly 0
    in every channel, and a method may use that. Lesion labels never reach a method.

    Attributes:
        windows: the kinds of window the method can work on, the preferred one first. A method on
            `slab` learns from stacks of a few slices and scores whole volumes.
        slab: how such a method cuts its slabs; None for all others.
        median: edge, in voxels, of the cube whose median smooths the score map before the
            threshold; 1: none, for methods that look at more than a voxel by themselves.
        training_defaults: settings of `train.json` that suit the method better than the usual ones.
        tiny: the smallest arguments that still train; the contract tests use them.
        sees: what a lesion may be, next to healthy tissue, for a model built with `tiny` to find
            it: `bright`, `dark`, or either.
    """

    windows: ClassVar[tuple[Window, ...]] = ("patch", "volume", "slice")
    slab: SlabInferer | None = None
    median: ClassVar[int] = 3
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    tiny: ClassVar[Mapping[str, Any]] = {}
    sees: ClassVar[tuple[Contrast, ...]] = ("bright", "dark")

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Score windows: `(B, C, *S)` in, `(B, 1, *S)` out, finite, 0 outside the brain or not."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages of a training, one after the other."""

    def validation_loss(self, x: Tensor) -> Tensor:
        """How badly healthy windows `(B, C, *S)` not trained on are explained; a scalar."""
        return brain_mean(self(x), x)

    def scan_scores(self, x: Tensor, score: Tensor, x_hat: Tensor | None) -> ScanScores:
        """Finite scores of one whole scan, higher is less like healthy; 0 for one without brain.

        The two of every method are `mean`, over brain voxels, and `p99`, which 99 % of them do not
        exceed, both in the score map's unit. A method overrides this to add its own.

        Args:
            x: `(1, C, *S)` the scan on the model's grid, float32 on the CPU, as all three.
            score: `(1, 1, *S)` its score map as the method gave it, not smoothed.
            x_hat: `(1, C, *S)` its healthy counterpart, None from a method that infers none.
        """
        return mean_and_p99(score, brain_of(x))


class Reconstruction(Method):
    """A method whose score is the residual between a window and its healthy counterpart.

    With `standardise`, residuals are standardised voxel by voxel: a last stage measures mean and
    spread of the residual of healthy scans at every voxel of the grid, so that what is hard to
    reconstruct in everybody (cortex, ventricle walls) does not count as a lesion. That needs
    aligned whole volumes.

    With `atlas`, networks see what deviates from the mean healthy scan (`deviation`), which a first
    stage measures: what all scans have in common has not to be learned. Dense codes are started
    from principal components (`volad.dense_code`), for which training takes twice as long.

    Args:
        kind: how the two are compared, a name in `volad.residual`.
        grid: spatial shape of the aligned volumes, or None for windows at any place.
        standardise: divide residuals by their healthy spread at each voxel; needs `grid`.
        floor: added to the spread, in units of the image.
        channels: image channels.
        mirror: measure every scan and its mirror image (first spatial axis), for grids that are
            symmetric about the middle.
        atlas: measure the mean healthy scan; needs `grid`.
    """

    def __init__(
        self,
        kind: str,
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        channels: int = 1,
        mirror: bool = False,
        atlas: bool = False,
    ) -> None:
        super().__init__()
        if kind not in RESIDUALS:
            raise ValueError(f"residual must be one of {sorted(RESIDUALS)}, got {kind!r}")
        self.kind = kind
        self.mirror = mirror
        self.spread = self.atlas = None
        if atlas:
            if grid is None:
                raise ValueError("atlas needs grid, the volumes' shape")
            self.atlas = VoxelNormal(channels, grid, floor, brain_only=True)
        if standardise:
            if grid is None:
                raise ValueError("standardise needs grid, the volumes' shape")
            if kind not in SIGNED:
                raise ValueError(f"residual {kind!r} cannot be standardised; choose from {SIGNED}")
            self.spread = VoxelNormal(channels, grid, floor)

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """The healthy counterpart of windows `(B, C, *S)`, of the same shape, in new memory."""

    @abstractmethod
    def training_step(self, x: Tensor) -> Iterator[Update]:
        """Yield each update this batch makes."""

    def stages(self) -> Sequence[Stage]:
        stages = [*self.learning()]
        if self.atlas is not None:
            stages.insert(0, Stage(self._average, 1, learns=False))
        if self.spread is not None:
            stages.append(Stage(self._measure, 1, learns=False, whole=True))
        return stages

    def learning(self) -> Sequence[Stage]:
        """The stages between: `training_step`, around the start of dense codes if there are any."""
        learn = Stage(self.training_step)
        if not self._dense():
            return [learn]
        return [learn, Stage(self._study, 1, self._close, learns=False), learn]

    def deviation(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """What networks see of windows: with `atlas`, their deviation from the mean scan.

        Args:
            x: `(B, C, *S)`.
            inside: `(B, 1, *S)`, the brain; None: where `x` is not 0.
        """
        if self.atlas is None:
            return x
        return (x - self.atlas.mean) * (brain_of(x) if inside is None else inside)

    def scan(self, deviation: Tensor) -> Tensor:
        """`deviation` undone, but for the air around the brain."""
        return deviation if self.atlas is None else deviation + self.atlas.mean

    def _average(self, x: Tensor) -> Iterator[Update]:
        assert self.atlas is not None
        self.atlas.update(self.mirrored(x))
        yield from ()

    def _study(self, x: Tensor) -> Iterator[Update]:
        for network, code in self._dense():
            code.measure(network.encode(self.deviation(self.mirrored(x))))
        yield from ()

    def _close(self) -> None:
        for _, code in self._dense():
            code.close()

    def _dense(self) -> list[tuple[ConvAutoencoder, DenseCode]]:
        """Networks with a dense code, and that."""
        networks = [m for m in self.modules() if isinstance(m, ConvAutoencoder)]
        return [(network, network.dense) for network in networks if network.dense is not None]

    def _measure(self, x: Tensor) -> Iterator[Update]:
        assert self.spread is not None
        both = self.mirrored(x)
        self.spread.update(both - self.reconstruct(both))
        yield from ()

    def mirrored(self, x: Tensor) -> Tensor:
        """Windows `(B, C, *S)`, with `mirror` their mirror images too: `(2 * B, C, *S)`."""
        return torch.cat([x, x.flip(2)]) if self.mirror else x

    def forward(self, x: Tensor) -> Tensor:
        # Not to be overridden: the pipeline calls the two halves.
        return self.compare(x, self.reconstruct(x))

    def compare(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Score windows `(B, C, *S)` against their healthy counterparts: `(B, 1, *S)`, new memory.

        Override this, not `forward`, for another comparison.
        """
        if self.spread is None:
            return residual(self.kind, x, x_hat)
        return residual(self.kind, self.spread(x - x_hat) * brain_of(x))


def mean_and_p99(values: Tensor, inside: Tensor) -> ScanScores:
    """Mean and 99th percentile of `values (1, 1, *S)` where `inside`, alike in shape, is not 0."""
    found = values[inside != 0].double()
    if len(found) == 0:
        return {"mean": 0.0, "p99": 0.0}
    rank = -(-99 * len(found) // 100)  # torch.quantile refuses more than 16 million voxels
    return {"mean": float(found.mean()), "p99": float(found.kthvalue(rank).values)}
