"""Which parts of MADGAN earn their keep: attention, both ways, the critic.

    python benchmarks/madgan_ablation.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --cache-dir DIR [--epochs 6] [--scans 10] [--store FILE.json]

Trains the settings of `brain_t1_madgan` and variants that differ in one thing, each from the same
seed on the same slabs for the same number of the generator's steps, far fewer than the shipped
model's, and judges them on the model's grid. Prints the L1 error on healthy validation scans (brain
voxels, intensity scale), the mean AUPRC on dark lesions PAINTED into held-out healthy scans (as in
`painted.py`: synthetic), its difference to the first variant with a 95 % bootstrap interval over
scans, how often the scan score `l2_mean` rises when lesions are painted in, and seconds a training
step beside the first variant's (other work on the machine disturbs them). With `--store`, finished
variants are kept there, and a run that was cut short goes on with the next.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
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
from volad.errors import UsageError
from volad.io import write_json
from volad.methods.madgan import MADGAN
from volad.metrics import average_precision, bootstrap
from volad.postprocess import MedianSmooth, Rim
from volad.preprocess.align import load_template
from volad.train import Trainer

BUNDLE = "brain_t1_madgan"
#: What differs from the bundle's settings; the first is the bundle itself.
VARIANTS: dict[str, dict[str, Any]] = {
    "3 attention blocks, both ways, WGAN-GP + L1": {},
    "no attention": {"attention": 0},
    "forward only": {"both": False},
    "L1 only": {"critic_steps": 0},
    "7 attention blocks": {"attention": 7},  # the slowest by far
}


@dataclass(frozen=True)
class Variant:
    """What became of one: L1 error, AUPRC of each painted scan, rises, seconds a step."""

    error: float
    found: list[float]
    rises: int
    seconds: float


def main() -> None:
    """Train, judge and print each variant."""
    args = _arguments()
    root = bundle.find(args.bundle)
    base = {k: v for k, v in bundle.network_def(root).items() if k != "_target_"}
    train = bundle.open_config(root, "train", {}).config
    sets = {split: _scans(root, args, split) for split in ("train", "validation", "test")}
    sets["train"].augment = bundle.build(bundle.open_config(root, "train", {}), "augment")
    sick = [_painted(x, seed) for seed, x in enumerate(sets["test"].scans)]
    settings = {"epochs": args.epochs, "scans": args.scans, "base": base, "train": train["lr"]}
    done = _stored(args.store, settings)
    for name, changes in VARIANTS.items():
        if name in done:
            continue
        torch.manual_seed(train["seed"])
        # The spread from the scans alone: mirror images would double the time of measuring it.
        method = MADGAN(**{**base, "mirror": False, **changes})
        seconds = _train(method, sets, train, args.epochs)
        found, rises = _judge(method, sick)
        done[name] = Variant(_error(method, sets["validation"]), found, rises, seconds)
        if args.store:
            variants = {key: asdict(value) for key, value in done.items()}
            write_json(args.store, {"settings": settings, "variants": variants})
    print(f"{args.epochs} epochs of {len(sets['train'])} slabs, batch {train['batch']}\n")
    print("| variant | L1 | AUPRC, painted | minus the first's (95 %) | l2_mean rises | s a step |")
    print("|---|---|---|---|---|---|")
    first = done[next(iter(VARIANTS))]
    for name in VARIANTS:
        print(_row(name, done[name], first))


def _stored(path: Path | None, settings: dict[str, Any]) -> dict[str, Variant]:
    """What an earlier run with the same settings finished."""
    if path is None or not path.exists():
        return {}
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise UsageError(f"{path}: was made with other settings; name another file")
    return {name: Variant(**value) for name, value in found["variants"].items()}


def _row(name: str, variant: Variant, first: Variant) -> str:
    gain = bootstrap.paired(np.array(variant.found), np.array(first.found))
    return (
        f"| {name} | {variant.error:.4f} | {np.mean(variant.found):.3f} "
        f"| {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) "
        f"| {variant.rises} of {len(variant.found)} "
        f"| {variant.seconds:.2f} ({variant.seconds / first.seconds:.1f}x) |"
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
) -> tuple[list[float], int]:
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
    return found, rises


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
    parser.add_argument("--store", type=Path, help="JSON file of finished variants")
    return parser.parse_args()


if __name__ == "__main__":
    main()
