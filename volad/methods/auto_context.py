"""A voxelwise network that finds anomalies painted into healthy scans, and then looks again.

Method: self-supervised detection of synthetic anomalies (see `synthetic_anomaly`) by auto-context,
Tu and Bai, "Auto-context and its application to high-level vision tasks and 3D brain image
segmentation", IEEE TPAMI 32 (2010): a classifier of what surrounds each voxel; then another one
that also sees what the first one found there and around. Differs from it: the classifiers are
small networks instead of boosted trees, the channels are fixed filters (`volad.surroundings`)
instead of thousands of picked shifts, the second one sees smoothed maps and extremes of the first
one's chances, and both learn anomalies painted into healthy scans (`volad.anomalies`) instead of
labels. Since nothing has to be learned of filters, voxels can be drawn from many scans, few of them
healthy; a U-Net has to be shown whole windows of which a thousandth is anomalous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.optim.swa_utils import AveragedModel

from volad import distributed
from volad.anomalies import CHANGE, paint
from volad.methods._base import Method, Stage, Update, Window
from volad.surroundings import anatomy, brain_box, score_surroundings, surroundings
from volad.tensors import brain_of, fixed_draws
from volad.tissue_normal import TissueNormal
from volad.voxelwise import Voxelwise

__all__ = ["AutoContext"]

#: Odds, 1 to so many, below which `log_odds` falls to 0: rarer than that, nothing is a lesion.
REMOTE = 50.0
#: Windows that are painted at a time, and lend each other tissue.
TOGETHER = 8
#: Voxels that a network answers for at a time.
PART = 1 << 14
#: A part of windows `(B, C, X, Y, Z)`.
Box = tuple[slice, ...]
#: What becomes of logits.
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "chance": torch.sigmoid,
    "log_odds": lambda logits: softplus(logits + math.log(REMOTE)),
}


class AutoContext(Method):
    """Score a voxel by how likely it is, as the last network has it, to belong to an anomaly.

    Args:
        channels: image channels.
        passes: networks, each of which sees what the one before it found.
        hidden: units of each of a network's two hidden layers.
        dropout: share of them that are 0 while training.
        members: of each network, which start from other weights; their logits are averaged, since
            they differ most where a scan is unlike those that they have learned from.
        prior: the networks also see what MNI152 has at each place, and anomalies are painted more
            often into white matter; needs windows that are whole volumes on MNI152's 2 mm grid.
        mirror: they also see the other side of the head (first spatial axis).
        relative: they also see how unusual differences are in the scan at hand.
        atlas: they also see how far the scan is from healthy ones (`volad.tissue_normal`), which
            the first batch of windows tells; needs `prior`.
        change: weakest and strongest change of brightness of the painted anomalies, in units of
            the image; either way.
        layers: share of the windows with collections along the brain's surface in place of others.
        spaces: share of the windows with brightened fluid in place of others, for CT.
        large: share of the windows with a very large anomaly in place of others.
        rescale: scale painted windows anew, for scans that are scaled by their own range.
        anomalous: voxels drawn from the anomalies of each painted window, at most.
        healthy: voxels drawn from the rest of it, at most.
        updates: of the network for each batch of windows; the mean of its weights over the last
            quarter of them is kept.
        rows: voxels of each update.
        average: the mean of all networks' logits is the answer, not the last one's alone, which
            finds large anomalies better and some small ones worse.
        rarity: how many times rarer anomalies are in a scan than among the drawn voxels.
        score: `chance`, 0 to 1; or `log_odds`, the logarithm of 1 + 50 times the odds, about 0
            where they are far below 1 to 50: interpolated between voxels like that, more is left of
            small lesions.
    """

    windows: ClassVar[tuple[Window, ...]] = ("volume", "patch")
    median: ClassVar[int] = 1
    tiny: ClassVar[Mapping[str, Any]] = {"hidden": 16, "prior": False, "updates": 10, "rows": 512}
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "batch": 832,  # what one batch has not, the next makes the networks forget
        "ema": 0,
        "lr": 3e-3,
        "schedule": "cosine",
        "epochs": 1,
        "patience": 0,
        "amp": False,
    }
    known: Tensor | None
    finished: Tensor

    def __init__(
        self,
        channels: int = 1,
        passes: int = 2,
        hidden: int = 128,
        dropout: float = 0.3,
        members: int = 3,
        prior: bool = False,
        mirror: bool = False,
        relative: bool = True,
        atlas: bool = False,
        change: Sequence[float] = CHANGE,
        layers: float = 0.0,
        spaces: float = 0.0,
        large: float = 0.0,
        rescale: bool = False,
        anomalous: int = 1500,
        healthy: int = 3000,
        updates: int = 2000,
        rows: int = 8192,
        average: bool = False,
        rarity: float = 30.0,
        score: Literal["chance", "log_odds"] = "log_odds",
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        if atlas and not prior:
            raise ValueError("atlas needs prior, since it is one of places")
        self.score, self.average = score, average
        self.prior, self.mirror, self.relative = prior, mirror, relative
        self.paint = partial(
            paint,
            change=(change[0], change[1]),
            layers=layers,
            spaces=spaces,
            large=large,
            rescale=rescale,
        )
        self.anomalous, self.healthy = anomalous, healthy
        self.updates, self.rows, self.rarity = updates, rows, rarity
        known = anatomy() if prior else None
        self.register_buffer("known", known, persistent=False)
        self.normal = TissueNormal(known, channels) if atlas and known is not None else None
        #: Networks that are trained; a training that goes on has to know.
        self.register_buffer("finished", torch.zeros((), dtype=torch.long))
        example = torch.zeros(1, channels, 8, 8, 8)
        box = (slice(None), slice(None), *[slice(8)] * 3)
        first = self._surroundings(example, box).shape[1]
        more = score_surroundings(example[:, :1], example[:, :1], mirror).shape[1]
        self.passes = nn.ModuleList(
            Voxelwise(first + (more if number else 0), hidden, members, dropout)
            for number in range(passes)
        )

    def stages(self) -> Sequence[Stage]:
        return [
            Stage(partial(self._learn, number), finish=partial(self._finish, number))
            for number in range(len(self.passes))
        ]

    def validation_loss(self, x: Tensor) -> Tensor:
        """Cross-entropy of the network in training, on the same anomalies every time."""
        number = min(int(self.finished), len(self.passes) - 1)
        with fixed_draws(x.device):
            values, label = self._drawn(x, number)
        if not len(label):
            return torch.zeros((), device=x.device)
        return _loss(self._network(number)(values), label)

    def forward(self, x: Tensor) -> Tensor:
        """See `Method.forward`.

        Raises:
            RuntimeError: while torch traces, since every other brain would be cut like this one.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise RuntimeError(
                "auto_context cuts each scan to its own brain, which a trace would keep for all "
                "others: run the bundle, not a TorchScript file of it"
            )
        return torch.cat([self._scored(one[None]) for one in x.float()])

    def _scored(self, x: Tensor) -> Tensor:
        """`(1, 1, *S)` of one window."""
        box = (slice(None), slice(None), *brain_box(x))
        number = max(int(self.finished), 1)
        logits = self._logits(x[box], box, number) - math.log(self.rarity)
        out = torch.zeros_like(x[:, :1])
        out[box] = SCORES[self.score](logits) * brain_of(x[box])
        return out

    def _learn(self, number: int, x: Tensor) -> Iterator[Update]:
        """Updates of one network on voxels drawn from windows `(B, C, *S)`."""
        network = self._network(number)
        if self.normal is not None and not self.normal.fitted:
            with torch.autocast(x.device.type, enabled=False):
                self.normal.fit(x)
            distributed.equalise(self.normal)
        self.eval()  # what earlier networks find is what they find in the end
        values, label = self._drawn(x, number)
        network.train()
        learns = len(label) > 0
        if learns:
            network.measure(values)
        else:  # on several GPUs all must make as many updates
            values, label = values.new_zeros(1, network.size), label.new_zeros(1)
        average = AveragedModel(network)
        for update in range(self.updates):
            some = torch.randint(len(label), (self.rows,), device=x.device)
            yield "passes", learns * _loss(network(values[some]), label[some])
            if update >= 0.75 * self.updates - 1:  # the optimiser has made its step by now
                average.update_parameters(network)
        with torch.no_grad():
            for own, mean in zip(network.parameters(), average.module.parameters(), strict=True):
                own.copy_(mean)

    def _finish(self, number: int) -> None:
        self.finished.fill_(number + 1)

    @torch.no_grad()
    def _drawn(self, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Voxels of painted windows: what the network sees of them `(N, F)`, and labels `(N,)`."""
        white = None if self.known is None else self.known[:, 1:2]
        values, labels = [], []
        for windows in torch.split(x, TOGETHER):
            painted = self.paint(windows.float(), white)
            for image, label, sure in zip(painted.image, painted.label, painted.sure, strict=True):
                box = (slice(None), slice(None), *brain_box(image[None]))
                seen = self._seen(image[None][box], box, number)
                anomalous, sure = label[None][box] > 0, sure[None][box] > 0
                some = _some(sure & anomalous, self.anomalous)
                drawn = torch.cat([some, _some(sure & ~anomalous, self.healthy)])
                values.append(seen[0].flatten(1)[:, drawn].T)
                labels.append(anomalous.flatten()[drawn])
        return torch.cat(values), torch.cat(labels).float()

    def _seen(self, x: Tensor, box: Box, number: int) -> Tensor:
        """`(1, F, *S)`: what network `number` sees of a window `(1, C, *S)` cut to its brain."""
        return self._looks(x, box, number)[0]

    def _looks(self, x: Tensor, box: Box, number: int) -> tuple[Tensor, list[Tensor]]:
        """What network `number` sees, and the logits `(1, 1, *S)` of those before it."""
        logits = []
        with torch.autocast(x.device.type, enabled=False):
            own = seen = self._surroundings(x, box)
            for earlier in range(number):
                logits.append(self._of_network(earlier, seen, x))
                found = score_surroundings(logits[-1], brain_of(x), self.mirror)
                seen = torch.cat([own, found], dim=1)
        return seen, logits

    def _logits(self, x: Tensor, box: Box, number: int) -> Tensor:
        """`(1, 1, *S)`: what the first `number` networks make of a window cut to its brain."""
        seen, earlier = self._looks(x, box, number - 1)
        last = self._of_network(number - 1, seen, x)
        return torch.stack([*earlier, last]).mean(dim=0) if self.average else last

    def _of_network(self, number: int, seen: Tensor, x: Tensor) -> Tensor:
        inside = (x != 0).any(dim=1).flatten()
        logits = torch.full(inside.shape, -20.0, device=x.device)
        network, values = self._network(number), seen[0].flatten(1)[:, inside].T
        # Part by part, or the hidden layers of a whole brain would be the most that is in memory.
        parts = [network(part).mean(dim=0) for part in torch.split(values, PART)]
        logits[inside] = torch.cat(parts)
        return logits.reshape(x[:, :1].shape)

    def _network(self, number: int) -> Voxelwise:
        network = self.passes[number]
        assert isinstance(network, Voxelwise)
        return network

    def _surroundings(self, x: Tensor, box: Box) -> Tensor:
        known = None if self.known is None else self.known[box]
        normal = None if self.normal is None else self.normal()[box]
        return surroundings(x, known, self.mirror, self.relative, normal)


def _loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of networks' logits `(M, N)` with labels `(N,)`; a scalar."""
    return binary_cross_entropy_with_logits(logits, label.expand_as(logits))


def _some(where: Tensor, most: int) -> Tensor:
    """Places in `where (1, 1, *S)`, as indices into it laid flat; drawn, where there are more."""
    places = where.flatten().nonzero().flatten()
    return places[torch.randperm(len(places), device=places.device)[:most]]
