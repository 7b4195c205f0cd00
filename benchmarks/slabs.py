"""What a slab model costs: its self-attention, and its walk over a 1 mm volume.

    python benchmarks/slabs.py [--device cpu|cuda] [--slices N] [--stride 1] [--slabs 8]

First: one forward and backward pass of `SelfAttention` (64 channels, batch 2) as shipped, beside
the same block with the weights of N places on N written out (torch's MATH backend): least of three.
Then: the healthy counterpart of a volume of 182x218x182 voxels, or of its middle N slices, by
MADGAN at the paper's widths and at the shipped ones, float32, both ways. Weights and voxels are
random: they change no cost. Each measurement runs in a fresh process, after a small warm-up; memory
is the peak above what was held before (host: ru_maxrss; CUDA: what torch allocated). Seconds are
wall time and depend on the machine and what else it does: trust ratios.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

# torch is imported in the children only: a child's ru_maxrss begins at its parent's size.

MAPS = ((40, 48), (64, 44), (80, 96), (128, 88))
VOLUME = (182, 218, 182)
PAPER, SHIPPED = (64, 128, 256, 512), (32, 64, 128, 256)
WALKS = ((PAPER, 0), (PAPER, 3), (PAPER, 7), (SHIPPED, 3))
Cost = tuple[float, float]


def main() -> None:
    """Measure and print."""
    args = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    print(f"{args.device}, threads: {args.threads}\n")
    print("| map | places | s: shipped, written out | ratio | MiB: shipped, written out | ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    for places in MAPS:
        fused, plain = (_fresh(attention, args, places, written) for written in (False, True))
        print(
            f"| {places[0]}x{places[1]} | {places[0] * places[1]} "
            f"| {fused[0]:.4f}, {plain[0]:.4f} | {plain[0] / fused[0]:.1f} "
            f"| {fused[1]:.0f}, {plain[1]:.0f} | {plain[1] / max(fused[1], 1):.1f} |",
            flush=True,
        )
    slabs = _slabs(args.slices, args.stride)
    print(f"\nstride {args.stride}, slabs a pass: {args.slabs}\n")
    print(f"| widths | attention | slices (of {VOLUME[2]}) | slabs | s | s a slab | peak MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for features, blocks in WALKS:
        seconds, mib = _fresh(walk, args, features, blocks)
        print(
            f"| {', '.join(map(str, features))} | {blocks} | {args.slices} | {slabs} "
            f"| {seconds:.2f} | {seconds / slabs:.4f} | {mib:.0f} |",
            flush=True,
        )


def attention(args: argparse.Namespace, places: tuple[int, int], written_out: bool) -> Cost:
    """Seconds and MiB of one forward and backward pass of the block."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from volad.nets import SelfAttention

    torch.set_num_threads(args.threads)
    block = SelfAttention(2, 64).to(args.device)

    def run(*shape: int) -> None:
        x = torch.rand(2, 64, *shape, device=args.device, requires_grad=True)
        with sdpa_kernel(SDPBackend.MATH) if written_out else nullcontext():
            block(x).sum().backward()

    run(8, 8)
    return _cost(lambda: run(*places), args.device, repeats=3)


def walk(args: argparse.Namespace, features: tuple[int, ...], blocks: int) -> Cost:
    """Seconds and MiB of the healthy counterpart of one volume."""
    import torch

    from volad.methods.madgan import MADGAN

    torch.set_num_threads(args.threads)
    method = MADGAN(
        features=features, attention=blocks, critic_steps=0, stride=args.stride, slabs=args.slabs
    )
    method.to(args.device).eval().requires_grad_(False)
    volume = torch.rand(1, 1, *VOLUME[:2], args.slices, device=args.device)
    method.reconstruct(volume[:, :, :32, :32, : method.slab.depth])
    repeats = 1 if args.device == "cpu" else 3
    return _cost(lambda: method.reconstruct(volume), args.device, repeats)


def _cost(run: Callable[[], Any], device: str, repeats: int) -> Cost:
    """Least seconds, and peak MiB above what this process or the device holds now."""
    import torch

    cuda = device == "cuda"
    wait: Callable[[], Any] = torch.cuda.synchronize if cuda else int
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else _host_peak_mib()
    seconds = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _host_peak_mib()
    return min(seconds), peak - before


def _host_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _fresh(measure: Callable[..., Cost], *args: Any) -> Cost:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *args).result()


def _slabs(slices: int, stride: int) -> int:
    """Slabs of three and three slices that both ways over a volume take."""
    last = slices - 6
    return 2 * len({*range(0, last + 1, stride), last})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--slices", type=int, default=VOLUME[2], choices=range(6, VOLUME[2] + 1))
    parser.add_argument("--stride", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--slabs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
