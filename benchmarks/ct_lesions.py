"""What a CT bundle finds of bleeding and infarcts PAINTED into lesion-free scans: not clinical.

    python benchmarks/ct_lesions.py --bundle head_ct_ae --whole \
        --template DIR/scct_unsmooth_SS_0.01.nii.gz
    python benchmarks/ct_lesions.py --bundle head_ct_ae \
        --manifest data_manifests/ixi_hh_ct.csv --data-dir DIR --cache-dir CACHE

The template is real: the average head CT of older healthy adults (Rorden et al., NeuroImage 61
(2012)); the simulated scans are `volad.simulate_ct`'s, of subjects neither trained on nor
calibrated with. Every scan is extracted and aligned once, without its lesion; lesions are painted
on the model's grid of 2 mm, scored, cut at the bundle's threshold and cleaned of specks there. A
lesion is found if the mask touches it; what touches none is a false lesion. Scan-level AUROC: the
lesion-free simulated scans against the same with a lesion, by the volume of the mask and by the
largest score. `--whole` paints one lesion on the template's own grid instead and takes it through
the whole pipeline.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad import bundle
from volad.data import read_split
from volad.errors import VoladError
from volad.io import Volume, find_scans, read_volume
from volad.pipeline import Pipeline, prepare
from volad.postprocess import DropSmallLesions, Threshold, ToScan
from volad.simulate_ct import write_scans
from volad.synthetic.ct import BLEEDS, CTLesion, CTScan, paint_ct

BLEED_HU, INFARCT_HU = (50.0, 60.0, 70.0, 80.0), (-4.0, -8.0, -12.0, -16.0)
VOLUMES_ML = (1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass
class Found:
    """What was found of lesions that are alike."""

    hits: list[bool] = field(default_factory=list)

    def text(self) -> str:
        return f"{sum(self.hits)}/{len(self.hits)}" if self.hits else "-"


class Detector:
    """A bundle's pipeline on samples that stand before the intensity scale."""

    def __init__(self, name: str) -> None:
        root = bundle.find(name)
        config = bundle.open_config(root, "inference", {"device": "$torch.device('cpu')"})
        self.pipeline: Pipeline = bundle.build(config, "pipeline")
        self.threshold = self.pipeline.cut.value
        steps = self.pipeline.preprocessing.transforms
        self.first, self.scale = steps[:-1], steps[-1]
        self.smallest = next(s for s in self.pipeline.mask_steps if isinstance(s, DropSmallLesions))

    def prepared(self, path: Path) -> dict[str, Any]:
        (scan,) = find_scans(path)
        sample: dict[str, Any] = {"image": scan}
        for step in self.first:
            sample = step(sample)
        return sample

    def judge(self, sample: dict[str, Any], hu: NDArray[np.float32]) -> tuple[Any, Any]:
        """Score map and mask `(X, Y, Z)` on the model's grid."""
        image = MetaTensor(torch.from_numpy(hu)[None], affine=sample["image"].affine)
        scored = self.pipeline.infer({**self.scale({**sample, "image": image}), "seconds": {}})
        for step in self.pipeline.map_steps:
            if not isinstance(step, ToScan):
                scored = step(scored)
        cut = self.smallest(Threshold(self.threshold)(scored))
        return scored["pred"].numpy()[0], cut["pred"].numpy()[0] > 0


def main() -> None:
    """Print the tables."""
    args = _arguments()
    detector = Detector(args.bundle)
    print(f"threshold {detector.threshold:.3f}; lesions are painted, nothing is a patient's\n")
    for title, paths, volumes in (
        ("the real template", [args.template], VOLUMES_ML),
        ("simulated scans", _simulated(args), args.volumes),
    ):
        if paths and paths[0] is not None:
            _on(title, detector, paths, volumes, args)
    if args.whole:
        _whole(detector, args.template)


def _simulated(args: Any) -> list[Path]:
    """CTs of subjects neither trained on nor calibrated with."""
    if args.manifest is None:
        return []
    rows = read_split(args.manifest, args.data_dir, "test")[: args.scans]
    made = write_scans(rows, args.cache_dir / "simulated_test", args.cache_dir, seed=99)
    return [scan.path for scan in find_scans(made)]


def _on(
    title: str, detector: Detector, paths: list[Path], volumes: tuple[float, ...], args: Any
) -> None:
    cells: dict[tuple[str, float, float], Found] = defaultdict(Found)
    clean, false, scores = [], [], defaultdict(list)
    for index, path in enumerate(paths):
        sample = detector.prepared(path)
        scan = _scan(sample)
        score, mask = detector.judge(sample, scan.hu)
        count, ml = ndimage.label(mask, np.ones((3, 3, 3)))[1], mask.sum() * scan.voxel_ml
        clean.append((path.name, count, float(ml), float(score.max())))
        random = np.random.default_rng((args.seed, index))
        for lesion in _lesions(volumes):
            try:
                image, truth = paint_ct(scan, lesion, random)
            except VoladError:
                continue  # no such space in this head
            after, found = detector.judge(sample, image)
            cells[lesion.kind, lesion.hu, lesion.ml].hits.append(bool((found & truth).any()))
            labels, n = ndimage.label(found, np.ones((3, 3, 3)))
            near = ndimage.binary_dilation(truth, iterations=1)
            new = sum(1 for i in range(1, n + 1) if not (near & (labels == i)).any())
            false.append(new)
            scores[lesion.kind].append((float(found.sum()), float(after.max())))
    _tables(title, cells, clean, volumes)
    print(f"\nfalse lesions in a scan with a painted one: {np.mean(false):.2f} on average\n")
    if len(paths) > 1:
        _scan_level(clean, scores, [scan.voxel_ml])


def _tables(title: str, cells: Any, clean: Any, volumes: tuple[float, ...]) -> None:
    print(f"### {title}: {len(clean)}\n")
    print("| lesion-free | false lesions | false ml | highest score |\n|---|---|---|---|")
    for name, count, ml, top in clean:
        print(f"| {name} | {count} | {ml:.2f} | {top:.2f} |")
    print("\n| found | HU | " + " | ".join(f"{v:g} ml" for v in volumes) + " |")
    print("|---" * (len(volumes) + 2) + "|")
    for kind in (*BLEEDS, "infarct"):
        for hu in INFARCT_HU if kind == "infarct" else BLEED_HU:
            row = " | ".join(cells[kind, hu, ml].text() for ml in volumes)
            print(f"| {kind} | {hu:g} | {row} |", flush=True)


def _scan_level(clean: Any, scores: Any, voxel_ml: list[float]) -> None:
    print("| scans with | AUROC by mask volume | AUROC by highest score |\n|---|---|---|")
    for kind, found in scores.items():
        by_volume = _auroc([n * voxel_ml[0] for n, _ in found], [ml for _, _, ml, _ in clean])
        by_score = _auroc([top for _, top in found], [top for _, _, _, top in clean])
        print(f"| {kind} | {by_volume:.3f} | {by_score:.3f} |")


def _auroc(lesioned: list[float], free: list[float]) -> float:
    """How often a lesioned scan has more than a lesion-free one; ties count half."""
    a, b = np.array(lesioned)[:, None], np.array(free)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def _lesions(volumes: tuple[float, ...]) -> list[CTLesion]:
    bleeds = [CTLesion(k, hu, ml) for k in BLEEDS for hu in BLEED_HU for ml in volumes]
    return bleeds + [CTLesion("infarct", hu, ml) for hu in INFARCT_HU for ml in volumes]


def _scan(sample: dict[str, Any]) -> CTScan:
    affine = np.asarray(sample["image"].affine, np.float64)
    return CTScan(sample["image"].numpy()[0], sample["brain"].numpy()[0] > 0, affine, affine)


def _whole(detector: Detector, template: Path) -> None:
    """5 ml of blood on the template's own grid, from file to mask, alignment and all."""
    (scan,) = find_scans(template)
    volume = read_volume(scan)
    sample = prepare(detector.pipeline.preprocessing, volume)
    brain = sample["native_brain"].numpy()[0] > 0
    place = sample["to_model"] @ volume.affine
    source = CTScan(volume.image.numpy()[0], brain, volume.affine, place)
    print("| painted on the template's grid, whole pipeline | found | its ml | false lesions |")
    print("|---|---|---|---|")
    result = detector.pipeline.finish(detector.pipeline.score(sample))
    print(f"| nothing | - | - | {ndimage.label(result.mask, np.ones((3, 3, 3)))[1]} |", flush=True)
    for kind in BLEEDS:
        for hu in (60.0, 70.0, 80.0):
            lesion = CTLesion(kind, hu, 5.0)
            image, truth = paint_ct(source, lesion, np.random.default_rng(1))
            painted = Volume(
                MetaTensor(torch.from_numpy(image)[None], affine=torch.tensor(volume.affine)),
                volume.header,
                volume.sha256,
                volume.warnings,
                volume.scan,
            )
            mask = detector.pipeline(painted).mask
            labels, n = ndimage.label(mask, np.ones((3, 3, 3)))
            near = ndimage.binary_dilation(truth, iterations=2)
            false = sum(1 for i in range(1, n + 1) if not (near & (labels == i)).any())
            ml = (mask & truth).sum() * volume.voxel_mm3 / 1000
            hit = "yes" if (mask & truth).any() else "no"
            print(f"| {kind}, {hu:g} HU, 5 ml | {hit} | {ml:.1f} | {false} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bundle", default="head_ct_ae")
    parser.add_argument("--template", type=Path)
    parser.add_argument("--manifest", help="healthy T1; CTs of its split `test` are simulated")
    parser.add_argument("--data-dir")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--scans", type=int)
    parser.add_argument("--volumes", type=float, nargs="+", default=[2.0, 5.0, 20.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    args.volumes = tuple(args.volumes)
    return args


if __name__ == "__main__":
    main()
