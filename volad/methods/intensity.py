"""Baseline without learning: the brightest (or darkest) tissue is the lesion.

Method: Meissen, Kaissis, Rueckert, "Challenging Current Semi-Supervised Anomaly Segmentation
Methods for Brain MRI", BrainLes 2021: histogram-equalise the scan inside the brain and threshold.
Differs from the paper: lesions can also be asked for as dark, since they are on T1. Smoothing
is left to the post-processing (a median filter).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from volad.methods._base import Method, ScanScores, Stage, mean_and_p99
from volad.tensors import brain_of

__all__ = ["Intensity"]


class Intensity(Method):
    """Score a voxel by the rank of its intensity among the brain voxels of its scan, 0..1.

    A rank is what histogram equalisation with as many bins as voxels gives.

    Args:
        dark: whether low intensities score high (T1), or high ones (FLAIR, T2).
    """

    windows = ("volume",)  # a rank within a patch would make each patch hold a lesion
    sees = ("bright",)

    def __init__(self, dark: bool = False) -> None:
        super().__init__()
        self.dark = dark

    def stages(self) -> Sequence[Stage]:
        return []

    def scan_scores(self, x: Tensor, score: Tensor, x_hat: Tensor | None) -> ScanScores:
        """`mean` and `p99` of the image itself (negated if `dark`), in its unit.

        Ranks are of the one scan: their mean is 1/2 in all scans.
        """
        image = x.mean(dim=1, keepdim=True)
        return mean_and_p99(-image if self.dark else image, brain_of(x))

    def forward(self, x: Tensor) -> Tensor:
        inside = brain_of(x) > 0
        image = x.mean(dim=1, keepdim=True)
        score = torch.zeros_like(image)
        for out, scan, brain in zip(score, image, inside, strict=True):
            values = scan[brain]
            if len(values) == 0:
                continue
            if self.dark:
                values = -values
            # Equal intensities share a rank: integer scans have many ties.
            ordered = values.sort().values
            out[brain] = torch.searchsorted(ordered, values, right=True).to(x.dtype) / len(values)
        return score
