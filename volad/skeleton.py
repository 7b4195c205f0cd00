"""Make the files of a new bundle, ready to train: what `volad train METHOD` starts from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volad import methods
from volad.errors import UsageError
from volad.io import write_json, write_text
from volad.methods._base import Method
from volad.skeleton_docs import LOGGING, MNI_GRID, MULTI_GPU, metadata, readme

__all__ = ["SPACES", "create"]

#: Spaces a bundle can work in: how scans get onto the model's grid.
SPACES = ("mni", "isotropic")


def create(
    root: Path,
    method: str,
    *,
    arguments: Mapping[str, Any],
    modality: str = "mr",
    space: str = "mni",
    spacing_mm: float = 1.0,
    patch: Sequence[int] = (64, 64, 64),
    landmarks: Sequence[float] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle's configs, metadata, licence notices and documentation stub to fill in.

    Args:
        root: folder of the bundle, made where it is not there.
        method: name of the method.
        arguments: the method's arguments that differ from its defaults.
        modality: `mr` or `ct`.
        space: `mni` works on whole aligned volumes of 2 mm, `isotropic` on patches; in both, a
            method on slabs works on those.
        spacing_mm: voxel size of the isotropic space.
        patch: spatial shape of its patches; of slabs, the shape within a slice.
        landmarks: intensity landmarks learned from the training scans (MR only); without them MR
            is scaled by its own range.
        training: settings of `train.json` that differ from the method's and its defaults.
    """
    if space not in SPACES:
        raise UsageError(f"--space must be one of {', '.join(SPACES)}, got {space!r}")
    window = _window(method, space)
    settings = network(method, arguments, space)
    roi = _roi(_built(method, settings), space, patch)
    shape = MNI_GRID if space == "mni" else patch
    configs = {
        "inference": _inference(settings, modality, space, window, spacing_mm, patch, landmarks),
        "train": _train(roi, {**methods.load(method).training_defaults, **(training or {})}),
        "multi_gpu_train": MULTI_GPU,
        "metadata": metadata(root.name, method, modality, shape, is_patch=window == "patch"),
    }
    for name, config in configs.items():
        write_json(root / "configs" / f"{name}.json", config)
    write_text(root / "configs" / "logging.conf", LOGGING)
    write_text(root / "LICENSE", "Apache-2.0; see the LICENSE of volad.\n")
    write_text(root / "docs" / "README.md", readme(root.name, method))
    write_text(root / "docs" / "data_license.txt", "State the licence of the training data here.\n")


def _window(method: str, space: str) -> str:
    windows = methods.load(method).windows
    for wanted in ("volume" if space == "mni" else "patch", "slab"):
        if wanted in windows:
            return wanted
    raise UsageError(f"{method} works on {' or '.join(windows)} windows, not in --space {space}")


def _roi(method: Method, space: str, patch: Sequence[int]) -> list[int] | None:
    """Spatial shape of the windows that a method learns from; None for whole volumes."""
    if method.slab is None:
        return None if space == "mni" else list(patch)
    # -1 is all of an axis: only aligned slices are all of one size.
    roi = [-1] * 3 if space == "mni" else list(patch)
    roi[method.slab.axis] = method.slab.depth
    return roi


def network(method: str, arguments: Mapping[str, Any], space: str) -> dict[str, Any]:
    """The `network_def` of a method in a space; a method that can know the grid is told it."""
    cls = methods.load(method)
    known = inspect.signature(cls).parameters
    settings = dict(arguments)
    if space == "mni" and "grid" in known:
        settings.setdefault("grid", list(MNI_GRID))
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UsageError(f"{method} has no argument {unknown[0]!r}; it has: {', '.join(known)}")
    return {"_target_": f"{cls.__module__}.{cls.__name__}", **settings}


def _built(method: str, settings: Mapping[str, Any]) -> Method:
    """The method itself, so that a wrong argument is found before hours of preprocessing."""
    try:
        return methods.load(method)(**{k: v for k, v in settings.items() if k != "_target_"})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{method}: {error}") from error


def _inference(
    network: Mapping[str, Any],
    modality: str,
    space: str,
    window: str,
    spacing_mm: float,
    patch: Sequence[int],
    landmarks: Sequence[float] | None,
) -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "dataset_dir": "/input",
        "output_dir": "/output",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "amp": False,
        "series": None,
        "brain_mask": None,
        "volume": None,
        "workers": 0,
        "save_score": True,
        "save_healthy": False,
        "stats": True,
        "report": True,
        "healthy_fpr": None,
        "threshold": {
            "_target_": "volad.calibrate.load_threshold",
            "path": "$@bundle_root + '/models/calibration.json'",
            "rate": "@healthy_fpr",
        },
        "min_lesion_mm3": 20.0,
        "network_def": dict(network),
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": _steps(modality, space, spacing_mm, landmarks),
        },
        "inferer": _inferer(window, patch),
        "postprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {"_target_": "volad.postprocess.MedianSmooth", "size": 3},
                {"_target_": "volad.postprocess.Rim", "width_mm": 2.0},
                {"_target_": "volad.postprocess.ToScan"},
                {"_target_": "volad.postprocess.Threshold", "value": "@threshold"},
                {"_target_": "volad.postprocess.DropSmallLesions", "min_mm3": "@min_lesion_mm3"},
            ],
        },
        "network": {
            "_target_": "volad.bundle.load_weights",
            "network": "@network_def",
            "path": "$@bundle_root + '/models/model.pt'",
            "device": "@device",
        },
        "pipeline": {
            "_target_": "volad.pipeline.Pipeline",
            "preprocessing": "@preprocessing",
            "inferer": "@inferer",
            "network": "@network",
            "postprocessing": "@postprocessing",
            "device": "@device",
            "amp": "@amp",
        },
        "dataset": {
            "_target_": "volad.io.find_scans",
            "path": "@dataset_dir",
            "series": "@series",
            "brain_mask": "@brain_mask",
        },
        "handlers": [],
        "key_metric": {},
        "evaluator": {
            "_target_": "volad.batch.Batch",
            "pipeline": "@pipeline",
            "scans": "@dataset",
            "output_dir": "@output_dir",
            "identity": {"_target_": "volad.bundle.identity", "root": "@bundle_root"},
            "save_score": "@save_score",
            "save_healthy": "@save_healthy",
            "stats": "@stats",
            "report": "@report",
            "workers": "@workers",
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
    }


def _steps(
    modality: str, space: str, spacing_mm: float, landmarks: Sequence[float] | None
) -> list[dict[str, Any]]:
    prefix = "volad.preprocess.steps"
    steps: list[dict[str, Any]] = [
        {"_target_": f"{prefix}.Load", "volume": "@volume"},
        {
            "_target_": f"{prefix}.ExtractBrain",
            "kind": "ct" if modality == "ct" else "auto",
            "device": "$str(@device)",
        },
    ]
    if space == "mni":
        steps.append({"_target_": f"{prefix}.AlignToTemplate"})
    else:
        steps.append({"_target_": f"{prefix}.ResampleIsotropic", "spacing_mm": spacing_mm})
    if modality == "ct":
        return [*steps, {"_target_": f"{prefix}.Hounsfield", "window_hu": [0.0, 80.0]}]
    steps.append({"_target_": f"{prefix}.CorrectBias"})
    if landmarks is None:
        return [*steps, {"_target_": f"{prefix}.RobustRange"}]
    rounded = [round(float(v), 5) for v in landmarks]
    return [*steps, {"_target_": f"{prefix}.Landmarks", "landmarks": rounded}]


def _inferer(window: str, patch: Sequence[int]) -> dict[str, Any]:
    inferer: dict[str, Any] = {"_target_": "volad.window.build", "kind": window}
    if window == "patch":
        inferer.update({"roi": list(patch), "overlap": 0.5, "batch": 2})
    return inferer


def _train(roi: Sequence[int] | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    rows = {"_target_": "volad.data.read_split", "path": "@manifest", "data_dir": "@dataset_dir"}
    healthy = {
        "_target_": "volad.data.HealthySet",
        "preprocessing": "@train::preprocessing",
        "cache_dir": "@cache_dir",
        "settings": {
            "_target_": "volad.bundle.settings",
            "root": "@bundle_root",
            "name": "preprocessing",
        },
        "workers": "@workers",
        **({"roi": roi, "windows_per_scan": "@windows_per_scan"} if roi is not None else {}),
    }
    config: dict[str, Any] = {
        "bundle_root": ".",
        "dataset_dir": "/data",
        "manifest": "/data/manifest.csv",
        "cache_dir": "$@bundle_root + '/cache'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "workers": 0,
        "epochs": 100,
        "batch": 4,
        "lr": 0.001,
        "betas": [0.9, 0.999],
        "ema": 0.99,
        "patience": 30,
        "amp": True,
        "seed": 0,
        "log_dir": None,
        **({"windows_per_scan": 4} if roi is not None else {}),
        "augment": {"_target_": "volad.data.Augment"},
        "network_def": {
            "_target_": "volad.bundle.part",
            "root": "@bundle_root",
            "name": "network_def",
        },
        "train": {
            "preprocessing": {
                "_target_": "volad.bundle.part",
                "root": "@bundle_root",
                "name": "preprocessing",
            },
            "inferer": {"_target_": "volad.bundle.part", "root": "@bundle_root", "name": "inferer"},
            "dataset": {**healthy, "rows": {**rows, "split": "train"}, "augment": "@augment"},
            "handlers": [],
            "trainer": {
                "_target_": "volad.train.Trainer",
                "method": "@network_def",
                "train": "@train::dataset",
                "validation": "@validate::dataset",
                "output": "$@bundle_root + '/models/model.pt'",
                "max_epochs": "@epochs",
                "batch": "@batch",
                "lr": "@lr",
                "betas": "@betas",
                "ema": "@ema",
                "patience": "@patience",
                "device": "@device",
                "amp": "@amp",
                "seed": "@seed",
                "checkpoint": "$@bundle_root + '/models/checkpoint.pt'",
                "log_dir": "@log_dir",
            },
        },
        "validate": {"dataset": {**healthy, "rows": {**rows, "split": "validation"}}},
        "initialize": ["$torch.manual_seed(@seed)"],  # the weights to start from are random, too
        "run": ["$@train::trainer.run()"],
    }
    for key, value in changes.items():
        if key not in config:
            raise UsageError(f"training has no setting {key!r}")
        config[key] = value
    return config
