"""How often alignment to MNI152 fails, and how often a failure is noticed.

    python benchmarks/alignment.py --scans DIR [--limit N] [--as-is]

Every scan under `DIR` is aligned as it is; then with a header that lies: turned by 180 degrees
about the left-right axis (upside down and back to front), and by 90 degrees about each axis. No
registration can be expected to undo those, so each should be flagged as failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from volad.io import find_scans
from volad.preprocess.align import Alignment, align
from volad.preprocess.steps import ExtractBrain, Load

AS_IS = "as it is"


def main() -> None:
    """Align, and print rates and the lowest and middle values of what failures are known by."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--as-is", action="store_true", help="leave the lying headers out")
    args = parser.parse_args()
    found: dict[str, list[Alignment]] = {}
    for scan in find_scans(args.scans)[: args.limit]:
        sample = ExtractBrain()(Load()({"image": scan}))
        turns = {AS_IS: np.eye(4)} if args.as_is else _turns()
        for name, turn in turns.items():
            image, brain = (_turned(sample[key], turn) for key in ("image", "brain"))
            found.setdefault(name, []).append(align(image, brain))
    print("| header | scans | failed | overlap: lowest, median | fit: lowest, median, highest |")
    print("|---|---|---|---|---|")
    for name, results in found.items():
        overlap = np.array([r.overlap for r in results])
        fit = np.array([r.correlation for r in results])
        print(
            f"| {name} | {len(results)} | {sum(r.failed for r in results)} "
            f"| {overlap.min():.3f}, {np.median(overlap):.3f} "
            f"| {fit.min():.3f}, {np.median(fit):.3f}, {fit.max():.3f} |"
        )


def _turns() -> dict[str, np.ndarray]:
    turns = {AS_IS: np.eye(4), "180 degrees about x": np.diag([1.0, -1.0, -1.0, 1.0])}
    for axis, name in enumerate("xyz"):
        turn = np.eye(4)
        a, b = (i for i in range(3) if i != axis)
        turn[[a, b]] = turn[[b, a]]
        turn[a] *= -1
        turns[f"90 degrees about {name}"] = turn
    return turns


def _turned(image: MetaTensor, turn: np.ndarray) -> MetaTensor:
    return MetaTensor(image.as_tensor(), affine=turn @ np.asarray(image.affine))


if __name__ == "__main__":
    main()
