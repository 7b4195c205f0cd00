"""How much a bundle's healthy counterpart follows the scan, over held-out healthy scans.

    python benchmarks/counterparts.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --bundles brain_t1_ae methods_t1/bundles/vae-seed0 ...

For bundles on aligned volumes whose method makes a counterpart. At every voxel that is brain in all
scans: how far the scans and their counterparts differ between scans (standard deviation, averaged
over voxels), and the share of the scans' variance about their mean that the counterparts follow. A
counterpart that is the same for all scans makes a z-score of the method, whatever it learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from volad import bundle
from volad.data import read_split
from volad.methods._base import Reconstruction
from volad.pipeline import Pipeline, prepare


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--bundles", nargs="+", required=True)
    args = parser.parse_args()
    scans = [row.scan for row in read_split(args.manifest, args.data_dir, args.split)[: args.scans]]
    print("| bundle | scans differ by | counterparts differ by | followed | residual rms |")
    print("|---|---|---|---|---|")
    for name in args.bundles:
        parts = bundle.open_config(bundle.find(name), "inference", {"force": True})
        pipeline: Pipeline = bundle.build(parts, "pipeline")
        method = pipeline.network
        if not isinstance(method, Reconstruction):
            print(f"| {Path(name).name} | no counterpart |  |  |  |")
            continue
        samples = [prepare(pipeline.preprocessing, scan) for scan in scans]
        x = torch.stack([sample["image"].as_tensor() for sample in samples])
        with torch.no_grad():
            x_hat = torch.cat([method.reconstruct(one[None]) for one in x])
        inside = (x != 0).all(dim=0)
        x, x_hat = x[:, inside], x_hat[:, inside]
        own, followed = (values - values.mean(dim=0) for values in (x, x_hat))
        share = 1 - (own - followed).square().mean() / own.square().mean()
        numbers = (x.std(dim=0).mean(), x_hat.std(dim=0).mean())
        rms = (x - x_hat).square().mean().sqrt()
        differ = " | ".join(f"{number:.4f}" for number in numbers)
        print(f"| {Path(name).name} | {differ} | {share:.3f} | {rms:.3f} |", flush=True)


if __name__ == "__main__":
    main()
