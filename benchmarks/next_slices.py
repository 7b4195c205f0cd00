"""Whether a slab model predicts healthy slices better than copying or extrapolating does.

    python benchmarks/next_slices.py --bundle NAME_OR_FOLDER \
        --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR --cache-dir DIR [--scans N]

Prints the mean L1 error over brain voxels of healthy scans of a split (`validation` unless given),
on the model's grid and in units of the intensity scale, of the bundle's generator, of the nearest
known slice copied, and of the last two known slices extended in a straight line (not below 0). All
three go through the same walk and average over the same voxels: first the walk over the volume as
it is used, where overlapping predictions are averaged, then each predicted slice of all single
slabs, by its distance from the known ones. Single slabs also over the voxels that are brain in the
nearest known slice too: at the rim that slice has no tissue to copy, which alone makes copying look
bad. Differences are paired, with 95 % bootstrap intervals over scans: above 0 the generator is
better. The training stopped by the validation split, which flatters the generator; `--split test`
does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from volad import bundle
from volad.data import HealthySet, read_split
from volad.errors import UsageError
from volad.methods.madgan import MADGAN
from volad.metrics import bootstrap
from volad.slab import SlabInferer

Predict = Callable[[Tensor], Tensor]


def main() -> None:
    """Predict the scans' slices in each way, and print a table."""
    args = _arguments()
    root = bundle.find(args.bundle)
    method = bundle.build(bundle.open_config(root, "inference", {}), "network")
    if not isinstance(method, MADGAN):
        raise UsageError(f"{args.bundle}: predicts no slices from others")
    method.eval().requires_grad_(False)
    rows = read_split(args.manifest, args.data_dir, args.split)[: args.scans]
    settings = bundle.settings(root, "preprocessing")
    scans = HealthySet(rows, bundle.part(root, "preprocessing"), args.cache_dir, settings=settings)
    slab = method.slab
    ways: list[Predict] = [method._predict, slab.nearest, lambda known: straight(slab, known)]
    device = next(method.parameters()).device
    found: dict[tuple[str, str], list[list[float]]] = {}
    for i in tqdm(range(len(scans)), unit="scan"):
        volume = scans[i][None].to(device)
        for name, errors in (*walked(slab, volume, ways), *by_distance(slab, volume, ways)):
            found.setdefault(name, []).append(errors)
    print(f"{root.name}, {args.split}: {len(scans)} scans\n")
    print("| slices | voxels | generator | copy | line | copy - generator | line - generator |")
    print("|---|---|---|---|---|---|---|")
    for (slices, voxels), per_scan in found.items():
        generator, copy, line = np.array(per_scan).T
        means = " | ".join(f"{x.mean():.4f}" for x in (generator, copy, line))
        gains = " | ".join(_interval(x - generator) for x in (copy, line))
        print(f"| {slices} | {voxels} | {means} | {gains} |")


Found = Iterator[tuple[tuple[str, str], list[float]]]


def walked(slab: SlabInferer, volume: Tensor, ways: list[Predict]) -> Found:
    """Mean errors of the walk over a volume `(1, C, *S)`, one a way."""
    errors = [(slab(volume, way) - volume).abs() for way in ways]
    brain = volume != 0
    yield ("walk over the volume", "brain"), [float(error[brain].mean()) for error in errors]


def by_distance(slab: SlabInferer, volume: Tensor, ways: list[Predict]) -> Found:
    """Mean errors of single slabs' predicted slices, the nearest first, one a way."""
    along = 2 + slab.axis
    turned = [volume, volume.flip(along)] if slab.both else [volume]
    starts = range(volume.shape[along] - slab.depth + 1)
    cuts = [(x, start) for x in turned for start in starts]
    # Of the voxels of each kind: how many there are, and each way's errors.
    sums = torch.zeros(2, 1 + len(ways), slab.n_out, dtype=torch.float64)
    for i in range(0, len(cuts), slab.batch):
        slabs = torch.cat([x.narrow(along, s, slab.depth) for x, s in cuts[i : i + slab.batch]])
        known, unknown = slab.split(slabs)
        brain = unknown != 0
        errors = [torch.ones_like(unknown), *((way(known) - unknown).abs() for way in ways)]
        for kind, inside in enumerate((brain, brain & (slab.nearest(known) != 0))):
            for j, error in enumerate(errors):
                # Channels are C times n_out slices.
                slices = (error * inside).sum(dim=(0, 2, 3)).view(-1, slab.n_out)
                sums[kind, j] += slices.sum(dim=0).cpu()
    for kind, voxels in enumerate(("brain", "brain in the known slice too")):
        for k in range(slab.n_out):
            name = f"single slabs, slice {slab.offset - slab.n_in + 1 + k} on"
            yield (name, voxels), (sums[kind, 1:, k] / sums[kind, 0, k]).tolist()


def straight(slab: SlabInferer, known: Tensor) -> Tensor:
    """The line through the last two known slices `(B, C * n_in, H, W)`: `(B, C * n_out, H, W)`."""
    by_slice = known.reshape(len(known), -1, slab.n_in, *known.shape[2:])
    last, before = by_slice[:, :, -1:], by_slice[:, :, max(slab.n_in - 2, 0)][:, :, None]
    ahead = torch.arange(slab.n_out, device=known.device) + slab.offset - slab.n_in + 1
    line: Tensor = last + ahead.view(1, 1, -1, 1, 1) * (last - before)
    return line.clamp(min=0).flatten(1, 2)


def _interval(gains: NDArray[np.float64]) -> str:
    found = bootstrap.interval(gains)
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--scans", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
