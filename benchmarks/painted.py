"""How well bundles find dark lesions PAINTED into healthy scans: synthetic, not clinical.

    python benchmarks/painted.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --bundles brain_t1_ae ... [--scans 10]

Into each held-out healthy scan (split `test`) soft balls of 1 to 6 voxels' radius (2 mm) are
painted in the white matter, darker than it by 0.08 to 0.30 of the intensity scale, from a fixed
seed. Prints the mean area under the precision-recall curve (AUPRC) a scan, and the differences
between the first bundle and the others with 95 % bootstrap intervals over scans. For bundles in MNI
space.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad import bundle
from volad.data import read_split
from volad.metrics import average_precision, bootstrap
from volad.pipeline import Pipeline, prepare
from volad.postprocess import ToScan
from volad.preprocess.align import load_template

LESIONS = 8
RADII = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def main() -> None:
    """Paint, score and print."""
    args = _arguments()
    rows = read_split(args.manifest, args.data_dir, "test")[: args.scans]
    roots = [bundle.find(name) for name in args.bundles]
    pipelines: list[Pipeline] = [
        bundle.build(bundle.open_config(root, "inference", {}), "pipeline") for root in roots
    ]
    random = np.random.default_rng(0)
    found = np.zeros((len(rows), len(roots)))
    for i, row in enumerate(rows):
        sample, lesion = painted(prepare(pipelines[0].preprocessing, row.scan), random)
        inside = sample["native_brain"].numpy()[0] > 0
        for j, pipeline in enumerate(pipelines):
            score = pipeline.score(sample)["pred"].numpy()[0]
            found[i, j] = average_precision(score[inside], lesion[inside])
    print("| bundle | scans | AUPRC on painted lesions | first bundle minus this one (95 %) |")
    print("|---|---|---|---|")
    for j, root in enumerate(roots):
        gain = bootstrap.paired(found[:, 0], found[:, j])
        print(
            f"| {root.name} | {len(rows)} | {found[:, j].mean():.3f} "
            f"| {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) |"
        )


def painted(
    sample: dict[str, Any], random: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """The sample with lesions on the model's grid, and where they are on the scan's."""
    darker, lesion = paint(sample["image"].numpy()[0], sample["brain"].numpy()[0] > 0, random)
    affine = sample["image"].affine
    truth = MetaTensor(torch.from_numpy(lesion.astype(np.float32))[None], affine=affine)
    native = ToScan()({**sample, "pred": truth})["pred"].numpy()[0] > 0.5
    return {**sample, "image": MetaTensor(torch.from_numpy(darker)[None], affine=affine)}, native


def paint(
    image: NDArray[np.float32], brain: NDArray[np.bool_], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A scan on the MNI152 grid with lesions, and where they are."""
    places = np.argwhere((load_template().white > 0.6) & brain)
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
    darker, lesion = image.copy(), np.zeros(image.shape, bool)
    for _ in range(LESIONS):
        centre, radius = random.choice(places), random.choice(RADII)
        ball = (((grid - centre) ** 2).sum(axis=-1) <= radius**2) & brain
        soft = ndimage.gaussian_filter(ball.astype(np.float32), 0.6)
        darker = np.where(brain, np.maximum(darker - random.uniform(0.08, 0.3) * soft, 1e-3), 0)
        lesion |= ball
    return darker.astype(np.float32), lesion


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--bundles", nargs="+", required=True)
    parser.add_argument("--scans", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
