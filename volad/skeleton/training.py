"""`train.json`: refers to `inference.json` for all that both need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from volad.errors import UsageError

__all__ = ["Simulated", "training"]

#: What can be simulated of healthy T1 scans.
Simulated = Literal["ct", "mr"]


def training(
    roi: Sequence[int] | None,
    changes: Mapping[str, Any],
    simulate: Simulated | None = None,
    several: bool = False,
) -> dict[str, Any]:
    """The config of a bundle.

    Args:
        roi: spatial shape of the windows, -1 for all of an axis; None for whole volumes.
        changes: settings that differ from the defaults.
        simulate: the scans are T1, and CTs or MRs are simulated of them.
        several: they have several channels, which `inference.json` names.
    """
    rows: dict[str, Any] = {
        "_target_": "volad.data.read_split",
        "path": "@manifest",
        "data_dir": "@dataset_dir",
    }
    if several:
        rows["channels"] = {
            "_target_": "volad.bundle.part",
            "root": "@bundle_root",
            "name": "channels",
        }
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
    fixed: dict[str, Any] = {}
    varied = {"augment": "@augment"}
    settings: dict[str, Any] = {"augment": {"_target_": "volad.data.Augment"}}
    if simulate:
        left = ("preprocessing", "cache_dir", "workers")
        target = f"volad.simulate_{simulate}.SimulatedSet"
        healthy = {"_target_": target, **{k: healthy[k] for k in left}}
        varied, settings = {}, {}
    if simulate == "mr":
        varied = {"roi": "@roi", "windows_per_scan": "@windows_per_scan", "draws": "@draws"}
        varied |= {"remnants": "@remnants", "warp_mm": "@warp_mm"}
        fixed = {"roi": "@roi"}
        settings = {"roi": None, "windows_per_scan": 1, "draws": 1, "remnants": 0.0, "warp_mm": 0.0}
    if simulate == "ct":
        varied = {"draws": "@draws", "seed": "@seed"}
        fixed = {"draws": 1, "seed": 1}
        settings = {"draws": 3}
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
        "schedule": "constant",
        "betas": [0.9, 0.999],
        "ema": 0.99,
        "patience": 30,
        "amp": True,
        "seed": 0,
        "log_dir": None,
        **({"windows_per_scan": 4} if roi is not None else {}),
        **settings,
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
            "dataset": {**healthy, "rows": {**rows, "split": "train"}, **varied},
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
                "schedule": "@schedule",
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
        "validate": {"dataset": {**healthy, "rows": {**rows, "split": "validation"}, **fixed}},
        "initialize": ["$torch.manual_seed(@seed)"],  # the weights to start from are random, too
        "run": ["$@train::trainer.run()"],
    }
    for key, value in changes.items():
        if key not in config:
            raise UsageError(f"training has no setting {key!r}")
        config[key] = value
    return config
