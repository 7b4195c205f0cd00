"""Which parts of MADGAN earn their keep: attention, both ways, the critic.

    python benchmarks/madgan_ablation.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --cache-dir DIR [--epochs 6] [--scans 10] [--only NAME ...]

Trains the settings of `brain_t1_madgan` and variants that differ in one thing, each from the same
seed on the same slabs for the same number of the generator's steps, far fewer than the shipped
model's, and judges them on the model's grid. Prints the L1 error on healthy validation scans (brain
voxels, intensity scale), the mean AUPRC on dark lesions PAINTED into held-out healthy scans (as in
`painted.py`: synthetic), its difference to the first variant with a 95 % bootstrap interval over
scans, how often the scan score `l2_mean` rises when lesions are painted in, and seconds a training
step beside the first variant's (other work on the machine disturbs them).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from painted import paint
from tqdm import tqdm

from volad import bundle
from volad.data import HealthySet, read_split
from volad.methods.madgan import MADGAN
from volad.metrics import average_precision
from volad.postprocess import MedianSmooth, Rim
from volad.preprocess.align import load_template
from volad.train import Trainer

BUNDLE = "brain_t1_madgan"
#: What differs from the bundle's settings; the first is the bundle itself.
VARIANTS: dict[str, dict[str, Any]] = {
    "3 attention blocks, both ways, WGAN-GP + L1": {},
    "no attention": {"attention": 0},
    "7 attention blocks": {"attention": 7},
    "forward only": {"both": False},
    "L1 only": {"critic_steps": 0},
}


def main() -> None:
    """Train, judge and print each variant."""
    args = _arguments()
    root = bundle.find(args.bundle)
    base = {k: v for k, v in bundle.network_def(root).items() if k != "_target_"}
    train = bundle.open_config(root, "train", {}).config
    sets = {split: _scans(root, args, split) for split in ("train", "validation", "test")}
    sets["train"].augment = bundle.build(bundle.open_config(root, "train", {}), "augment")
    sick = [_painted(x, seed) for seed, x in enumerate(sets["test"].scans)]
    first: tuple[NDArray[np.float64], float] | None = None
    print(f"{args.epochs} epochs of {len(sets['train'])} slabs, batch {train['batch']}\n")
    print("| variant | L1 | AUPRC, painted | minus the first's (95 %) | l2_mean rises | s a step |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, changes in VARIANTS.items():
        if args.only and name not in args.only:
            continue
        torch.manual_seed(train["seed"])
        # The spread from the scans alone: mirror images would double the time of measuring it.
        method = MADGAN(**{**base, "mirror": False, **changes})
        seconds = _train(method, sets, train, args.epochs)
        found, rises = _judge(method, sick)
        first = first or (found, seconds)
        draws = np.random.default_rng(0).choice(found - first[0], (2000, len(found))).mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        print(
            f"| {name} | {_error(method, sets['validation']):.4f} | {found.mean():.3f} "
            f"| {(found - first[0]).mean():+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {rises} of {len(sick)} | {seconds:.2f} ({seconds / first[1]:.1f}x) |",
            flush=True,
        )


def _scans(root: Path, args: argparse.Namespace, split: str) -> HealthySet:
    train = bundle.open_config(root, "train", {}).config
    rows = read_split(args.manifest, args.data_dir, split)
    slabs = {}
    if split == "train":
        slabs = {
            "roi": train["train"]["dataset"]["roi"],
            "windows_per_scan": train["windows_per_scan"],
        }
    return HealthySet(
        rows if split == "train" else rows[: args.scans],
        bundle.part(root, "preprocessing"),
        args.cache_dir,
        settings=bundle.settings(root, "preprocessing"),
        **slabs,
    )


def _train(
    method: MADGAN, sets: dict[str, HealthySet], settings: dict[str, Any], epochs: int
) -> float:
    """Train, without an early stop; returns the seconds of a step of the generator."""
    seconds, steps = 0.0, epochs * (len(sets["train"]) // settings["batch"])
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            method,
            sets["train"],
            None,
            Path(folder) / "model.pt",
            max_epochs=epochs,
            batch=settings["batch"],
            lr=settings["lr"],
            betas=settings["betas"],
            ema=0.98,  # the shipped average is longer than these trainings
            amp=settings["amp"],
            seed=settings["seed"],
        )
        for epoch in trainer.run():
            seconds += epoch.seconds if epoch.stage == 0 else 0
    return seconds / steps


def _error(method: MADGAN, scans: HealthySet) -> float:
    """Mean L1 over brain voxels of healthy scans, as the walk predicts them."""
    errors = []
    for i in range(len(scans)):
        with torch.no_grad():
            errors.append(float(method.validation_loss(scans[i][None])))
    return float(np.mean(errors))


def _judge(
    method: MADGAN, sick: list[tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_]]]
) -> tuple[NDArray[np.float64], int]:
    """AUPRC of each painted scan, and in how many `l2_mean` rises against the scan itself."""
    found, rises = [], 0
    for healthy, painted, lesion in tqdm(sick, unit="scan"):
        scores = []
        for x in (healthy, painted):
            with torch.no_grad():
                x_hat = method.reconstruct(x)
                score = method.compare(x, x_hat)
            scores.append(method.scan_scores(x, score, x_hat)["l2_mean"])
        brain = painted[0] != 0
        affine = load_template().affine
        sample: Any = {
            "pred": MetaTensor(score[0], affine=affine),
            "brain": MetaTensor(brain, affine=affine),
        }
        smooth = Rim(2.0)(MedianSmooth(3)(sample))["pred"].numpy()[0]
        inside = brain.numpy()[0]
        found.append(average_precision(smooth[inside], lesion[inside]))
        rises += int(scores[1] > scores[0])
    return np.array(found), rises


def _painted(scan: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_]]:
    """A scan `(1, 1, *grid)`, the same with lesions, and where these are."""
    image = scan[0].float().numpy()
    painted, lesion = paint(image, image != 0, np.random.default_rng(seed))
    return torch.from_numpy(image)[None, None], torch.from_numpy(painted)[None, None], lesion


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--cache-dir", required=True, help="preprocessed scans, as of volad train")
    parser.add_argument("--bundle", default=BUNDLE)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--scans", type=int, default=10, help="of validation and test")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
