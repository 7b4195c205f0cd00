"""The CT bundle on MNI152's own anatomy as simulated CT, with bleeding painted into it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ct_helpers import meta
from numpy.typing import NDArray
from torch import Tensor

from volad import bundle
from volad.pipeline import Pipeline
from volad.preprocess.align import load_template
from volad.simulate_ct.windows import on_grid
from volad.synthetic.ct import BLEEDS, CTLesion, CTScan, paint_ct
from volad.tissues import tissues_of

pytestmark = pytest.mark.slow


@cache
def pipeline() -> Pipeline:
    root = bundle.find("head_ct_context")
    parser = bundle.open_config(root, "inference", {"device": "$torch.device('cpu')"})
    made: Pipeline = bundle.build(parser, "pipeline")
    return made


@cache
def healthy() -> CTScan:
    template = load_template()
    brain = template.t1 > 0
    found = tissues_of(meta(template.t1, template.affine), meta(brain, template.affine))
    hu, inside = on_grid(found, np.random.default_rng(3))
    return CTScan(hu, inside, template.affine, template.affine)


def scored(hu: NDArray[np.float32]) -> Tensor:
    """`(X, Y, Z)` on the model's grid."""
    scan = healthy()
    sample: dict[str, Any] = {
        "image": meta(hu, scan.affine),
        "brain": meta(scan.brain, scan.affine),
        "volume": None,
    }
    image = pipeline().preprocessing.transforms[-1](sample)["image"].as_tensor()
    with torch.no_grad():
        return pipeline().network(image[None])[0, 0]


def test_simulated_healthy_anatomy_stays_below_the_threshold() -> None:
    above = scored(healthy().hu) > pipeline().cut.value
    assert above.float().sum() < 0.001 * healthy().brain.sum()


@pytest.mark.parametrize("kind", [kind for kind in BLEEDS if kind != "subdural"])
def test_five_ml_of_fresh_blood_are_found(kind: str) -> None:
    """But for 5 ml of subdural blood, a film of a millimetre, which its documentation says."""
    image, truth = paint_ct(healthy(), CTLesion(kind, 70.0, 5.0), np.random.default_rng(0))
    assert float(scored(image)[torch.from_numpy(truth)].max()) > pipeline().cut.value
