"""How well bundles find the lesions of labelled patients, beside the baselines, voxel by voxel.

    python benchmarks/development.py --patients DIR --image T1 --bundles brain_t1_ae BASELINE ...

`DIR` holds a folder a patient with `<image>.nii.gz` and `lesion.nii.gz` on one grid (as in the
public open_ms_data set). Prints one row a patient and bundle: area under the precision-recall
curve (AUPRC), Dice at the bundle's own healthy threshold (deployable), the best Dice over all
thresholds (oracle: an upper bound that looks at the labels), and the mask's volume. With
`--pictures DIR`, also the slice with most lesion: input, healthy counterpart, score, mask, expert.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np

from volad import bundle
from volad.metrics import average_precision, dice, oracle_dice
from volad.pipeline import Pipeline, Result


def main() -> None:
    """Evaluate and print."""
    args = _arguments()
    print("| patient | bundle | lesion ml | AUPRC | Dice | oracle Dice | mask ml | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    forced = {"force": True} if args.force else {}
    for name in args.bundles:
        parser = bundle.open_config(bundle.find(name), "inference", forced)
        pipeline: Pipeline = bundle.build(parser, "pipeline")
        for folder in sorted(p for p in args.patients.iterdir() if p.is_dir()):
            result = pipeline(str(folder / f"{args.image}.nii.gz"), healthy=True)
            lesion = np.asarray(nib.load(folder / "lesion.nii.gz").dataobj) > 0
            print(_row(folder.name, Path(name).name, result, lesion), flush=True)
            if args.pictures is not None:
                _picture(args.pictures / f"{folder.name}_{Path(name).name}.png", result, lesion)


def _row(patient: str, name: str, result: Result, lesion: np.ndarray) -> str:
    inside = result.brain
    score, truth = result.score[inside], lesion[inside]
    best, _ = oracle_dice(score, truth)
    numbers = (
        f"{lesion.sum() * result.volume.voxel_mm3 / 1000:.1f}",
        f"{average_precision(score, truth):.3f}",
        f"{dice(result.mask, lesion):.3f}",
        f"{best:.3f}",
        f"{result.mask.sum() * result.volume.voxel_mm3 / 1000:.1f}",
        f"{sum(result.seconds.values()):.0f}",
    )
    return f"| {patient} | {name} | " + " | ".join(numbers) + " |"


def _picture(path: Path, result: Result, lesion: np.ndarray) -> None:
    from matplotlib import pyplot

    z = int(lesion.sum(axis=(0, 1)).argmax())
    image = result.volume.image.numpy()[0]
    healthy = result.healthy if result.healthy is not None else np.zeros_like(image)
    top = float(np.percentile(image[result.brain], 99))
    panels = [
        ("input", image, "gray", top),
        ("healthy counterpart", healthy, "gray", top),
        ("score", result.score, "inferno", 2 * result.threshold),
        ("mask", result.mask, "gray", 1),
        ("expert", lesion, "gray", 1),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 4.5))
    for axis, (title, array, colours, high) in zip(axes, panels, strict=True):
        axis.imshow(np.rot90(array[:, :, z]), cmap=colours, vmin=0, vmax=high)
        axis.set_title(title)
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60, bbox_inches="tight")
    pyplot.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=Path, required=True)
    parser.add_argument("--image", default="T1")
    parser.add_argument("--bundles", nargs="+", required=True)
    parser.add_argument("--force", action="store_true", help="scans of another kind, too")
    parser.add_argument("--pictures", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
