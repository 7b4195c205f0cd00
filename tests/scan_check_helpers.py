"""The template as a head without noise to speak of, for the scan check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from volad import bundle
from volad.io import Scan, Volume
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample
from volad.scan_check.check import ScanCheck, load


def head(image: NDArray[Any] | None = None, brain: NDArray[np.bool_] | None = None) -> Sample:
    """The template, before the intensity scale; by default its T1."""
    template = load_template()
    image = 1000 * template.t1 if image is None else image
    brain = template.t1 > 0 if brain is None else brain
    random = np.random.default_rng(0)
    noisy = np.where(brain, image + random.normal(0, 10, brain.shape), 0).astype(np.float32)
    affine = torch.from_numpy(template.affine)
    volume = Volume.__new__(Volume)
    object.__setattr__(volume, "scan", Scan(Path("head.nii.gz"), "head"))
    return {
        "image": MetaTensor(torch.from_numpy(noisy)[None], affine=affine),
        "brain": MetaTensor(torch.from_numpy(brain)[None], affine=affine),
        "facts": {
            **{"brain_ml": 1400.0, "brain_cut": 0.0},
            **{"alignment_stretch": 1.1, "alignment_volume_ratio": 1.3},
        },
        "flags": [],
        "volume": volume,
    }


def scaled(sample: Sample) -> Sample:
    """After the intensity scale of the default bundle."""
    scale = bundle.part(bundle.find("brain_t1_ae"), "preprocessing").transforms[-1]
    out: Sample = scale(sample)
    return out


def shipped() -> ScanCheck:
    found = load(bundle.find("brain_t1_ae") / "models" / "scan_check.json")
    assert found is not None
    return found
