"""The default bundle on real scans: a patient's FLAIR, and a healthy head's T1."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from volad import bundle
from volad.metrics import average_precision, dice, oracle_dice
from volad.pipeline import Pipeline, Result

DATA = Path(__file__).parent / "data"

pytestmark = pytest.mark.slow


@cache
def segmented(name: str) -> Result:
    root = bundle.find("brain_mr_any")
    parser = bundle.open_config(root, "inference", {"device": "$torch.device('cpu')"})
    pipeline: Pipeline = bundle.build(parser, "pipeline")
    return pipeline(str(DATA / name))


def test_it_finds_a_patients_lesions_better_than_plain_brightness_can() -> None:
    """At its own threshold, better than brightness at the threshold that the labels would choose.

    A development patient: a figure that the README gives, not one for new patients.
    """
    result = segmented("open_ms_patient26_FLAIR.nii.gz")
    lesion = np.asarray(nib.load(DATA / "open_ms_patient26_lesion.nii.gz").dataobj) > 0
    inside = result.brain
    plain = ndimage.median_filter(result.volume.image.numpy()[0], 3)
    assert average_precision(result.score[inside], lesion[inside]) > average_precision(
        plain[inside], lesion[inside]
    )
    assert dice(result.mask, lesion) > oracle_dice(plain[inside], lesion[inside])[0]


def test_it_keeps_its_promise_on_a_healthy_head() -> None:
    """One that it learned from: held-out ones are in the README's figures."""
    result = segmented("IXI646-HH-2653_T1.nii.gz")
    assert result.mask[result.brain].mean() < 0.001


def test_it_is_the_default() -> None:
    assert bundle.DEFAULT == "brain_mr_any"
