"""A bundle run as MONAI's own parts run it: for `benchmarks/batch.py` to compare with.

    python benchmarks/stock_evaluator.py BUNDLE OUT [--workers 0] SCAN ...

`LoadImaged`, `ResampleToMatchd`, `DataLoader`, `SupervisedEvaluator`, `Invertd` and `SaveImaged`.
What MONAI has no transform for (brain extraction, registration, N4 and intensity landmarks, the
rim, and lesions' sizes in mm³) is volad's, wrapped: both do the same steps with the same network.
What differs: MONAI reads, inverts and writes; everything but what the loader's workers do happens
in one line, scan after scan; no hashes, scan check, sidecar or tables are made.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    Compose,
    Invertd,
    LoadImaged,
    ResampleToMatchd,
    SaveImaged,
    SelectItemsd,
    Transform,
)

from volad import bundle
from volad.pipeline import Pipeline
from volad.postprocess import ToScan
from volad.preprocess.align import align, load_template
from volad.preprocess.resample import _blur, world_grid
from volad.preprocess.steps import AlignToTemplate, ExtractBrain, Load, ResampleIsotropic

Sample = dict[str, Any]


def main() -> None:
    """Segment scans one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader [0, its default]")
    parser.add_argument("scans", nargs="+")
    args = parser.parse_args()
    root = bundle.find(args.bundle)
    settings = {"device": "$torch.device('cpu')"}
    pipeline = bundle.build(bundle.open_config(root, "inference", settings), "pipeline")
    evaluator(pipeline, args.scans, args.out, args.workers).run()


def evaluator(pipeline: Pipeline, scans: list[str], out: Path, workers: int) -> SupervisedEvaluator:
    """The evaluator of a bundle's pipeline."""
    before = Compose([step for one in _steps(pipeline) for step in one])
    save = {"output_dir": out, "separate_folder": False, "print_log": False, "resample": False}
    inner = [step for step in pipeline.map_steps if not isinstance(step, ToScan)]
    after = Compose(
        [
            *(Kept(step) for step in inner),
            Invertd("pred", before, orig_keys="image", nearest_interp=False),
            OnScan(),
            *(Kept(step) for step in (pipeline.cut, *pipeline.mask_steps)),
            SaveImaged("score", output_postfix="score", output_dtype=np.float32, **save),
            SaveImaged("pred", output_postfix="mask", output_dtype=np.uint8, **save),
        ]
    )
    data = Dataset([{"image": scan} for scan in scans], before)
    return SupervisedEvaluator(
        device=pipeline.device,
        val_data_loader=DataLoader(data, batch_size=1, num_workers=workers),
        network=pipeline.network,
        inferer=pipeline.inferer,
        postprocessing=after,
        amp=pipeline.amp,
    )


def _steps(pipeline: Pipeline) -> list[list[Transform]]:
    """MONAI's transform for each of the bundle's steps, or the step itself, wrapped."""
    found: list[list[Transform]] = []
    for step in pipeline.preprocessing.transforms:
        if isinstance(step, Load):
            read = LoadImaged("image", ensure_channel_first=True, dtype=np.float32)
            found.append([read, Begin()])
        elif isinstance(step, (AlignToTemplate, ResampleIsotropic)):
            how = {"mode": "bilinear", "padding_mode": "zeros", "dtype": torch.float32}
            found.append([Plan(step), ResampleToMatchd("image", "grid", **how), Part()])
        elif isinstance(step, ExtractBrain):
            found.append([step])
        else:
            found.append([Kept(step)])
    return [*found, [SelectItemsd(["image", "brain", "native_brain"])]]


class Begin(Transform):
    """What volad's steps want to know of a scan beside its image."""

    def __call__(self, sample: Sample) -> Sample:
        image = sample["image"]
        affine = np.asarray(image.affine, np.float64)
        scan = SimpleNamespace(path=image.meta["filename_or_obj"], brain_mask=None)
        voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
        volume = SimpleNamespace(scan=scan, affine=affine, voxel_mm3=voxel_mm3, image=image)
        return {**sample, "volume": volume, "flags": [], "facts": {}, "to_model": np.eye(4)}


class Plan(Transform):
    """Scan and brain mask as two channels, moved in the world, and the grid to sample them on."""

    def __init__(self, step: AlignToTemplate | ResampleIsotropic) -> None:
        self.step = step

    def __call__(self, sample: Sample) -> Sample:
        image, brain = sample["image"], sample["brain"]
        affine, move = np.asarray(image.affine, np.float64), np.eye(4)
        if isinstance(self.step, ResampleIsotropic):
            inside = brain.numpy()[0] > 0
            grid, shape = world_grid(inside, affine, self.step.spacing_mm, self.step.margin_mm)
        else:
            template = load_template()
            grid, shape = template.affine, template.t1.shape
            move = align(image, brain).to_template
        channels = torch.cat([image.as_tensor() * brain.as_tensor(), brain.as_tensor().float()])
        both = MetaTensor(channels, affine=torch.from_numpy(move @ affine))
        reference = MetaTensor(torch.zeros((1, *shape)), affine=torch.from_numpy(grid))
        return {
            **sample,
            "image": _blur(both, move @ affine, grid),
            "grid": reference,
            "native_brain": _like(brain.as_tensor(), image),  # with the file's name and header
        }


class Part(Transform):
    """Two channels to scan and brain mask again, as `volad.preprocess.steps` does it."""

    def __call__(self, sample: Sample) -> Sample:
        both = sample["image"]
        share = both.as_tensor()[1:]
        inside = share > 0.5
        scan = torch.where(inside, both.as_tensor()[:1] / share.clamp(min=0.5), 0)
        return {
            **sample,
            "image": _like(scan, both),
            "brain": MetaTensor(inside, affine=both.affine),
        }


class Kept(Transform):
    """A step of volad's after which MONAI still knows how to get back."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def __call__(self, sample: Sample) -> Sample:
        out = self.step(sample)
        for key in ("image", "pred"):
            if key in sample and isinstance(sample[key], MetaTensor):
                out[key] = _like(out[key].as_tensor(), sample[key])
        return dict(out)


class OnScan(Transform):
    """The score on the scan's own affine, 0 outside its brain."""

    def __call__(self, sample: Sample) -> Sample:
        brain, pred = sample["native_brain"], sample["pred"]
        return {**sample, "pred": _like(pred.as_tensor() * brain.as_tensor(), brain)}


def _like(array: torch.Tensor, image: MetaTensor) -> MetaTensor:
    return MetaTensor(array, meta=dict(image.meta), applied_operations=image.applied_operations)


if __name__ == "__main__":
    main()
