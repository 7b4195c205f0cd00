"""Slabs: from some adjacent slices of a volume, a network predicts others further on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["SlabInferer"]


class SlabInferer(Inferer):
    """Predict every slice of a volume from known slices beside it: `inferer(volume, network)`.

    The network takes known slices `(B, C * n_in, H, W)`, in the order in which they lead up to the
    unknown ones, and returns those, `(B, C * n_out, H, W)`. The walk goes through the volume along
    `axis`; the way back, from the last slice to the first, shows the network the slices in that
    order. Where predictions overlap they are averaged. A slice is never among those it is
    predicted from.

    Args:
        n_in: known slices.
        n_out: predicted slices.
        offset: slices from the first known to the first predicted one; None: `n_in`, the next ones.
        axis: spatial axis that the slices lie across, 0 to 2.
        both: walk forward and back. Without it the way back only gives the first `offset` slices,
            which nothing lies in front of.
        stride: slices from one slab to the next, at most `n_out`.
        batch: slabs per pass of the network.
    """

    def __init__(
        self,
        n_in: int = 3,
        n_out: int = 3,
        offset: int | None = None,
        *,
        axis: int = 2,
        both: bool = True,
        stride: int = 1,
        batch: int = 8,
    ) -> None:
        super().__init__()
        offset = n_in if offset is None else offset
        if min(n_in, n_out, batch) < 1:
            raise ValueError("n_in, n_out and batch must be 1 or more")
        if offset < n_in:
            raise ValueError(
                f"offset must be at least n_in, {n_in}, so that no slice predicts itself; "
                f"got {offset}"
            )
        if not 1 <= stride <= n_out:
            raise ValueError(f"stride must be 1 to n_out, {n_out}, to miss no slice; got {stride}")
        if axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0, 1 or 2, got {axis}")
        self.n_in, self.n_out, self.offset, self.axis = n_in, n_out, offset, axis
        self.both, self.stride, self.batch = both, stride, batch

    @property
    def depth(self) -> int:
        """Slices of one slab, from the first known to the last predicted."""
        return self.offset + self.n_out

    def split(self, slabs: Tensor) -> tuple[Tensor, Tensor]:
        """Known and unknown slices of slabs `(B, C, *S)` that are `depth` long along the axis.

        Returns:
            `(B, C * n_in, H, W)` and `(B, C * n_out, H, W)`.
        """
        if slabs.shape[2 + self.axis] != self.depth:
            raise ValueError(
                f"slabs must have {self.depth} slices along axis {self.axis}, "
                f"got the shape {tuple(slabs.shape)}"
            )
        known, unknown = self._cut(slabs, 0, self.n_in), self._cut(slabs, self.offset, self.n_out)
        return known, unknown

    def nearest(self, known: Tensor) -> Tensor:
        """The last of the known slices `(B, C * n_in, H, W)`, repeated: `(B, C * n_out, H, W)`."""
        last = known[:, self.n_in - 1 :: self.n_in]
        return last.repeat_interleave(self.n_out, dim=1)

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The predicted volume, `(B, C, *S)` as `inputs`, in float32."""
        slices = inputs.shape[2 + self.axis]
        # Where the two ways cannot meet, in a thin volume, edge slices stand in for the missing.
        lacking = max(self.depth, 2 * self.offset) - slices
        before = max(lacking, 0) // 2
        volume = self._pad(inputs, before, max(lacking, 0) - before)

        def predict(known: Tensor) -> Tensor:
            return network(known, *args, **kwargs)

        total, count = self._walk(volume, predict, everything=True)
        back = self._walk(volume.flip(2 + self.axis), predict, everything=self.both)
        total_back, count_back = (x.flip(2 + self.axis) for x in back)
        if not self.both:  # only where the way forward has no prediction
            empty = count == 0
            total_back, count_back = total_back * empty, count_back * empty
        mean = (total + total_back) / (count + count_back)
        return mean.narrow(2 + self.axis, before, slices)

    def _walk(
        self, volume: Tensor, predict: Callable[[Tensor], Tensor], *, everything: bool
    ) -> tuple[Tensor, Tensor]:
        """Sum of the predictions, and how many there are, `(1, 1, *S)`-broadcastable.

        Without `everything`, only the last `offset` slices.
        """
        along = 2 + self.axis
        slices = int(volume.shape[along])  # while torch traces, a size is no number
        last = slices - self.depth
        first = 0 if everything else max(slices - self.offset - self.depth + 1, 0)
        starts = sorted({*range(first, last + 1, self.stride), last})
        total = torch.zeros_like(volume, dtype=torch.float32)
        count = torch.zeros([slices if d == along else 1 for d in range(5)], device=volume.device)
        for i in range(0, len(starts), self.batch):
            some = starts[i : i + self.batch]
            known = torch.cat([self._cut(volume, start, self.n_in) for start in some])
            found = predict(known)
            wanted = (len(known), volume.shape[1] * self.n_out, *known.shape[2:])
            if found.shape != wanted:
                raise ValueError(f"the network gave {tuple(found.shape)}, not {wanted}")
            for start, slab in zip(some, found.float().chunk(len(some)), strict=True):
                place = slice(start + self.offset, start + self.depth)
                shape = (len(volume), volume.shape[1], self.n_out, *slab.shape[2:])
                stacked = slab.reshape(shape).movedim(2, along)
                total[(slice(None),) * along + (place,)] += stacked
                count[(slice(None),) * along + (place,)] += 1
        return total, count

    def _cut(self, volume: Tensor, start: int, length: int) -> Tensor:
        """Slices of `(B, C, *S)` as channels: `(B, C * length, H, W)`."""
        return volume.narrow(2 + self.axis, start, length).movedim(2 + self.axis, 2).flatten(1, 2)

    def _pad(self, volume: Tensor, before: int, after: int) -> Tensor:
        if not before and not after:
            return volume
        border = [0, 0] * (2 - self.axis) + [before, after] + [0, 0] * self.axis
        return pad(volume, border, mode="replicate")
