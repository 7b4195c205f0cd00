"""A scan's contrast is told from its tissues, lesions or not; each has its own threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from volad import bundle, skeleton
from volad.bundle import Identity
from volad.calibrate import Calibration, HealthyScan, Promise, load_threshold, tail_of, words
from volad.postprocess import Threshold
from volad.preprocess.align import load_template
from volad.preprocess.contrast import CONTRASTS, NameContrast, brightness_of
from volad.sidecar import _threshold
from volad.simulate_mr import draw_contrast

DATA = Path(__file__).parent / "data"


def head(grey: float, white: float, fluid: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """MNI152's tissues in a contrast, with noise, and its brain."""
    template = load_template()
    brain = template.t1 > 0
    rest = 1 - template.grey - template.white
    image = template.grey * grey + template.white * white + rest * fluid
    noise = 0.02 * np.random.default_rng(0).standard_normal(image.shape)
    return ((image + noise) * brain).astype(np.float32), brain


@pytest.mark.parametrize("kind", ["t1", "t2", "flair"])
def test_a_simulated_contrast_is_recognised(kind: str) -> None:
    for seed in range(12):
        drawn = draw_contrast(np.random.default_rng(seed), kind)
        found = brightness_of(*head(drawn.grey, drawn.white, drawn.fluid))
        assert found is not None
        assert found.contrast == kind


@pytest.mark.parametrize(("fluid", "like"), [(0.5, "flair"), (0.9, "pd"), (1.0, "pd"), (1.4, "t2")])
def test_proton_density_lies_between_flair_and_t2(fluid: float, like: str) -> None:
    found = brightness_of(*head(1.0, 0.8, fluid))
    assert found is not None
    assert found.contrast == like
    assert like in CONTRASTS


def test_brightness_in_any_unit_gives_the_same_tissues() -> None:
    image, brain = head(0.6, 1.0, 0.2)
    first, second = brightness_of(image, brain), brightness_of(350 * image + 40, brain)
    assert first is not None
    assert second is not None
    assert (first.grey, first.white, first.fluid) == pytest.approx(
        (second.grey, second.white, second.fluid), abs=1e-4
    )
    assert first.white > first.grey > first.fluid


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_large_lesion_does_not_change_the_contrast(value: float) -> None:
    """A fifth of the brain."""
    for kind, tissues in {"t1": (0.6, 1, 0.2), "flair": (1, 0.8, 0.2), "t2": (0.5, 0.4, 1)}.items():
        image, brain = head(*tissues)
        image[45:70, 40:80, 40:70] = value
        found = brightness_of(image * brain, brain)
        assert found is not None
        assert found.contrast == kind


def test_a_brain_without_a_tissue_has_no_contrast() -> None:
    image, brain = head(0.6, 1.0, 0.2)
    brain[:, :, 10:] = False
    assert brightness_of(image, brain) is None
    sample = {"image": MetaTensor(torch.from_numpy(image[None])), "facts": {"brain": 1}}
    sample["brain"] = MetaTensor(torch.from_numpy(brain[None]))
    out = NameContrast()(sample)
    assert out["contrast"] is None
    assert out["facts"] == {"brain": 1, "contrast": {"like": None, "tissues": {}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "like"),
    [("open_ms_patient26_FLAIR.nii.gz", "flair"), ("open_ms_patient26_T1.nii.gz", "t1")],
)
def test_real_scans_are_recognised(name: str, like: str) -> None:
    steps = bundle.part(bundle.find("brain_mr_any"), "preprocessing")
    sample: dict[str, Any] = {"image": str(DATA / name)}
    for step in steps.transforms:
        sample = step(sample)
    assert sample["contrast"] == like
    assert sample["facts"]["contrast"]["like"] == like


def test_only_bundles_of_any_contrast_ask_for_it(tmp_path: Path) -> None:
    def asks(simulate: Any) -> bool:
        root = tmp_path / f"b{simulate}"
        skeleton.create(root, "synthetic_anomaly", arguments={}, simulate=simulate)
        return "NameContrast" in (root / "configs" / "inference.json").read_text()

    assert asks("mr")
    assert not asks(None)


# Thresholds


def cut(value: Any, contrast: str | None) -> dict[str, Any]:
    pred = MetaTensor(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]))
    out: dict[str, Any] = Threshold(value)({"pred": pred, "contrast": contrast, "flags": ["a"]})
    return out


def test_each_contrast_is_cut_at_its_own_threshold() -> None:
    value = {"otherwise": 3.5, "flair": 1.5, "t1": 2.5}
    found = {name: int(cut(value, name)["pred"].sum()) for name in ("flair", "t1", "t2")}
    assert found == {"flair": 3, "t1": 2, "t2": 1}
    assert cut(value, "flair")["flags"] == ["a"]
    (_, said), (_, unclear) = cut(value, "t2")["flags"], cut(value, None)["flags"]
    assert said.startswith("it looks like t2, and the threshold was set on flair, t1: ")
    assert unclear.startswith("its contrast is not clear, and ")
    assert cut(2.5, "t2")["flags"] == ["a"]
    with pytest.raises(ValueError, match="must be a finite number"):
        Threshold({"flair": 2.0})


def healthy(count: int, contrast: str | None, offset: float, seed: int) -> list[HealthyScan]:
    random = np.random.default_rng(seed)
    return [
        HealthyScan(
            f"{contrast}{n}",
            f"sha-{contrast}{n}",
            tail_of((random.normal(size=5000) + offset).astype(np.float32), np.ones(5000, bool)),
            contrast=contrast,
        )
        for n in range(count)
    ]


def mixed() -> Calibration:
    """FLAIR scores low, T1 high; of T2 there are too few, and one scan is like none."""
    scans = healthy(12, "flair", 0.0, 1) + healthy(10, "t1", 2.0, 2)
    scans += healthy(3, "t2", 1.0, 3) + healthy(1, None, 1.0, 4)
    return Calibration.fit(scans, Promise(rate=0.01, cap=5), [{"step": "DropSmallLesions"}])


def test_a_contrasts_threshold_is_that_of_its_scans_alone() -> None:
    found = mixed()
    assert list(found.contrasts) == ["flair", "t1"]
    for name, offset, seed, count in (("flair", 0.0, 1, 12), ("t1", 2.0, 2, 10)):
        alone = Calibration.fit(healthy(count, None, offset, seed), found.promise)
        assert found.contrasts[name].threshold == alone.threshold
        assert len(found.contrasts[name].scans) == count
    assert len(found.scans) == 26
    assert found.contrasts["flair"].threshold < found.threshold < found.contrasts["t1"].threshold
    assert f"t1 {found.contrasts['t1'].threshold:.6g} (10 scans): scans like" in words.report(found)
    one = Calibration.fit(healthy(9, None, 0, 1), Promise(rate=0.1))
    assert "by contrast" not in words.report(one)


def test_the_file_gives_them_back_and_so_for_another_promise(tmp_path: Path) -> None:
    found = mixed()
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(found.to_json()))
    own = {name: one.threshold for name, one in found.contrasts.items()}
    assert load_threshold(file) == {"otherwise": found.threshold, **own}
    assert Calibration.from_json(json.loads(file.read_text())).to_json() == found.to_json()
    looser = load_threshold(file, 0.05)
    assert isinstance(looser, dict)
    assert all(looser[name] < value for name, value in own.items())


@pytest.mark.parametrize(
    ("contrast", "value", "source", "scans"),
    [
        ("flair", "flair", "calibration", 12),
        ("t1", "t1", "calibration", 10),
        ("t2", "otherwise", "calibration", None),
        ("flair", "t1", "user", None),
    ],
)
def test_the_sidecar_promises_what_holds_for_the_scans_contrast(
    contrast: str, value: str, source: str, scans: int | None
) -> None:
    found = mixed()
    thresholds = found.thresholds
    assert isinstance(thresholds, dict)
    facts = {"contrast": {"like": contrast}}
    result: Any = type("Result", (), {"threshold": thresholds[value], "facts": facts})
    identity = Identity("b", "1", "", "mr", "m", found.facts())
    pipeline: Any = type("Pipeline", (), {"mask_steps": []})
    told = _threshold(result, pipeline, identity)
    assert told["value"] == thresholds[value]
    assert (told["source"], told["contrast"]) == (source, contrast)
    assert (told["promise"] is None) == (scans is None)
    assert "contrasts" not in told["calibration"]
    if scans is not None:
        assert told["calibration"]["healthy_scans"] == scans
        assert f"for {scans} scans" in told["promise"]["guarantee"]
