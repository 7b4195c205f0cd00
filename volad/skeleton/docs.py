"""What is alike in every new bundle: metadata, logging, several GPUs, a documentation stub."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

import volad
from volad import methods

__all__ = [
    "LOGGING",
    "MNI_GRID",
    "MULTI_GPU",
    "SIMULATED",
    "SIMULATED_FILES",
    "SIMULATED_REMARK",
    "metadata",
    "readme",
]

#: Voxels of the shipped MNI152 grid (`volad.preprocess.align.Template`).
MNI_GRID = (80, 96, 88)

#: Laid over `train.json` to train with torchrun, as MONAI's bundles do it.
MULTI_GPU = {
    "device": {"_target_": "volad.distributed.device"},
    "initialize": [
        {"_target_": "volad.distributed.start", "device": "@device"},
        "$torch.manual_seed(@seed)",
    ],
    "finalize": [{"_target_": "volad.distributed.stop"}],
}

#: What the metadata of a bundle say that was trained on simulated scans.
SIMULATED: dict[str, dict[str, Any]] = {
    "ct": {
        "simulated_training_data": True,
        "data_source": "SIMULATED CT: no CT was trained on or calibrated with; state the source of "
        "the healthy T1 scans that they were made from",
    },
    "mr": {
        "simulated_training_data": True,
        "data_source": "SIMULATED MR of any contrast beside real T1: no T2, FLAIR or PD was "
        "trained on or calibrated with; state the source of the healthy T1 scans that they were "
        "made from",
    },
}

#: And of one that was trained on files that say so themselves.
SIMULATED_FILES = {
    "simulated_training_data": True,
    "data_source": "SIMULATED scans, all or some: state the source of the healthy scans that they "
    "were made from",
}

#: What is said with every result of a bundle for CT that was trained on simulated ones.
SIMULATED_REMARK = {
    "_target_": "volad.preprocess.ct.Remark",
    "text": "this bundle was trained on and calibrated with SIMULATED CT: its threshold promises "
    "nothing for real scans until volad calibrate was run on healthy ones",
}

LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stderr,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""


def metadata(
    name: str,
    method: str,
    modality: str,
    shape: Sequence[int],
    *,
    is_patch: bool,
    channels: Sequence[str] = (),
) -> dict[str, Any]:
    import torch

    known = channels or ("image",)
    tensor = {
        "type": "image",
        "modality": modality.upper(),
        "num_channels": 1,
        "spatial_shape": list(shape),
        "dtype": "float32",
        "is_patch_data": is_patch,
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"made by volad {volad.__version__} on {date.today().isoformat()}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "volad": volad.__version__,
            "nibabel": version("nibabel"),
            "SimpleITK": version("SimpleITK"),
            "scipy": version("scipy"),
        },
        "supported_apps": {},
        "name": name,
        "task": "Unsupervised lesion segmentation: learns healthy scans, finds what differs",
        "description": methods.summary(method),
        "authors": "The volad authors",
        "copyright": "The volad authors",
        "data_source": "state the source of the healthy training scans",
        "data_type": "nifti",
        "modality": modality,
        "image_classes": ", ".join(channels) or "one channel",
        "label_classes": "none: training takes no labels",
        "pred_classes": "single channel, 1 is lesion",
        "intended_use": "Research only. Not a medical device: not for diagnosis or treatment.",
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "num_channels": len(known),
                    "format": "magnitude" if modality == "mr" else "hounsfield",
                    "value_range": [0, 2],
                    "channel_def": {str(number): one for number, one in enumerate(known)},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "regression",
                    "value_range": [],
                    "channel_def": {"0": "score: higher is less like healthy tissue"},
                }
            },
        },
    }


def readme(name: str, method: str) -> str:
    return f"# {name}\n\n{methods.summary(method)}\n\nTrained with `volad train {method}`.\n"
