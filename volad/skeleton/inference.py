"""`inference.json`: from a file to a mask, complete on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["inference"]


def inference(
    network: Mapping[str, Any],
    modality: str,
    space: str,
    window: str,
    spacing_mm: float,
    patch: Sequence[int],
    landmarks: Sequence[float] | None,
    channels: Sequence[str] = (),
    median: int = 3,
    any_contrast: bool = False,
) -> dict[str, Any]:
    """The config of a bundle; its arguments are those of `volad.skeleton.create`.

    `median` is that of the method, see `volad.methods._base.Method`. With `any_contrast` scans say
    which contrast they have, so that each gets a threshold of its own.
    """
    # A bundle without further channels is written as ever, so that caches made for it still serve.
    names = {"channels": "@channels"} if channels else {}
    files = {"channel_files": "@channel_files"} if channels else {}
    return {
        "bundle_root": ".",
        "dataset_dir": "/input",
        "output_dir": "/output",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "amp": False,
        "series": None,
        "brain_mask": None,
        "volume": None,
        **({"channels": list(channels), "channel_files": None} if channels else {}),
        "bids": None,
        "bids_suffix": "ct" if modality == "ct" else "T1w",
        "workers": None,
        "resume": False,
        "num_shards": 1,
        "shard_index": 0,
        "save_score": True,
        "save_healthy": False,
        "save_brain": False,
        "stats": True,
        "report": True,
        "force": False,
        "healthy_fpr": None,
        "promise": None,
        "threshold": {
            "_target_": "volad.calibrate.load_threshold",
            "path": "$@bundle_root + '/models/calibration.json'",
            "rate": "@healthy_fpr",
            "promise": "@promise",
            "min_lesion_mm3": "@min_lesion_mm3",
        },
        "min_lesion_mm3": 20.0,
        "network_def": dict(network),
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": _steps(modality, space, spacing_mm, landmarks, names, any_contrast),
        },
        "inferer": _inferer(window, patch),
        "postprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                *([{"_target_": "volad.postprocess.MedianSmooth", "size": median}] * (median > 1)),
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
        "scan_check": {
            "_target_": "volad.scan_check.load",
            "path": "$@bundle_root + '/models/scan_check.json'",
        },
        "pipeline": {
            "_target_": "volad.pipeline.Pipeline",
            "preprocessing": "@preprocessing",
            "inferer": "@inferer",
            "network": "@network",
            "postprocessing": "@postprocessing",
            "device": "@device",
            "amp": "@amp",
            "scan_check": "@scan_check",
            "force": "@force",
        },
        "dataset": {
            "_target_": "volad.io.find_scans",
            "path": "@dataset_dir",
            "series": "@series",
            "brain_mask": "@brain_mask",
            "bids": "@bids",
            "bids_suffix": "@bids_suffix",
            **names,
            **files,
        },
        "handlers": [],
        "key_metric": {},
        "evaluator": {
            "_target_": "volad.batch.Batch",
            "pipeline": "@pipeline",
            "scans": "@dataset",
            "output_dir": "@output_dir",
            "identity": {
                "_target_": "volad.bundle.identity",
                "root": "@bundle_root",
                "rate": "@healthy_fpr",
                "promise": "@promise",
            },
            "save_score": "@save_score",
            "save_healthy": "@save_healthy",
            "save_brain": "@save_brain",
            "stats": "@stats",
            "report": "@report",
            "workers": "@workers",
            "resume": "@resume",
            "num_shards": "@num_shards",
            "shard_index": "@shard_index",
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
    }


def _steps(
    modality: str,
    space: str,
    spacing_mm: float,
    landmarks: Sequence[float] | None,
    channels: Mapping[str, str],
    any_contrast: bool,
) -> list[dict[str, Any]]:
    prefix = "volad.preprocess.steps"
    steps: list[dict[str, Any]] = [
        {"_target_": f"{prefix}.Load", "volume": "@volume", **channels},
        *([{"_target_": "volad.preprocess.ct.CheckHounsfield"}] if modality == "ct" else []),
        {
            "_target_": f"{prefix}.ExtractBrain",
            "kind": "ct" if modality == "ct" else "auto",
            "device": "$str(@device)",
        },
    ]
    if space == "mni":
        steps.append({"_target_": f"{prefix}.AlignToTemplate"})
        if modality == "ct":
            steps.append({"_target_": "volad.preprocess.ct.InsideTemplate"})
    else:
        steps.append({"_target_": f"{prefix}.ResampleIsotropic", "spacing_mm": spacing_mm})
    if modality == "ct":
        return [*steps, {"_target_": f"{prefix}.Hounsfield", "window_hu": [0.0, 80.0]}]
    steps.append({"_target_": f"{prefix}.CorrectBias"})
    if any_contrast:
        steps.append({"_target_": "volad.preprocess.contrast.NameContrast"})
    if landmarks is None:
        return [*steps, {"_target_": f"{prefix}.RobustRange"}]
    rounded = [round(float(v), 5) for v in landmarks]
    return [*steps, {"_target_": f"{prefix}.Landmarks", "landmarks": rounded}]


def _inferer(window: str, patch: Sequence[int]) -> dict[str, Any]:
    inferer: dict[str, Any] = {"_target_": "volad.window.build", "kind": window}
    if window == "patch":
        inferer.update({"roi": list(patch), "overlap": 0.5, "batch": 2})
    return inferer
