"""What holds for every method. A new file in volad/methods is tested here by being there."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from phantoms import SIZE, Scans, healthy_brains, lesion_mask, with_lesion
from torch import Tensor

from volad import methods
from volad.data import Augment
from volad.methods._base import Method, Reconstruction, ScanScores, mean_and_p99
from volad.train import Trainer
from volad.window import build

NAMES = methods.names()


def known(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a method's constructor."""
    return dict(inspect.signature(methods.load(name)).parameters)


def make(name: str, dims: int, **settings: Any) -> Method:
    """A tiny method for windows of 2 or 3 dimensions, always with the same weights."""
    cls = methods.load(name)
    if "spatial_dims" in known(name):
        settings["spatial_dims"] = dims
    torch.manual_seed(0)
    return cls(**{**cls.tiny, **settings})


def cut(volumes: Tensor, dims: int) -> Tensor:
    """Volumes `(..., X, Y, Z)` themselves, or their middle slices `(..., X, Y)`."""
    return volumes if dims == 3 else volumes[..., SIZE // 2]


def train(method: Method, brains: Tensor, output: Path, **settings: Any) -> None:
    options: dict[str, Any] = {"max_epochs": 20, "batch": 4, "lr": 3e-3, **settings}
    Trainer(method, Scans(brains), Scans(brains[:4]), output, **options).run()


@lru_cache
def trained_weights(name: str, dims: int) -> dict[str, Tensor]:
    """What the training loop writes for the healthy phantoms."""
    with TemporaryDirectory() as folder:
        train(make(name, dims), cut(healthy_brains(16), dims), Path(folder) / "model.pt")
        weights: dict[str, Tensor] = torch.load(Path(folder) / "model.pt", weights_only=True)
    return weights


def trained(name: str, dims: int) -> Method:
    method = make(name, dims)
    method.load_state_dict(trained_weights(name, dims))
    return method.eval().requires_grad_(False)


def dims_of(window: str) -> int:
    return 2 if window == "slice" else 3


#: Every method with every number of dimensions that its windows have, and with every window.
MODELS = [(n, d) for n in NAMES for d in sorted({dims_of(w) for w in methods.load(n).windows})]
RECONSTRUCTIONS = [(n, d) for n, d in MODELS if issubclass(methods.load(n), Reconstruction)]
WINDOWS = [(n, w) for n in NAMES for w in methods.load(n).windows]

every_name = pytest.mark.parametrize("name", NAMES)
every_model = pytest.mark.parametrize(("name", "dims"), MODELS)


@pytest.fixture
def score(name: str, dims: int) -> Callable[[Tensor], Tensor]:
    """Score windows with the trained method as the pipeline does: without gradients."""
    return torch.no_grad()(trained(name, dims))


@pytest.fixture
def unseen(dims: int) -> Tensor:
    """Windows `(3, 1, *S)` of healthy subjects that no method was trained on."""
    return cut(healthy_brains(3, seed=1), dims)


@every_model
def test_training_ends_with_finite_weights(name: str, dims: int) -> None:
    weights = trained_weights(name, dims)
    assert weights.keys() == make(name, dims).state_dict().keys()
    assert all(value.isfinite().all() for value in weights.values())


@every_model
def test_training_changes_every_module_that_it_updates(
    name: str, dims: int, tmp_path: Path
) -> None:
    """And what has something to learn is updated by some stage; the weights can be read back."""
    method, augment = make(name, dims), Augment()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    windows = [augment(one) for one in cut(healthy_brains(8), dims)]
    trainer = Trainer(method, Scans(windows), None, tmp_path / "m.pt")
    trainer.max_epochs = 1
    updated = {child for epoch in trainer.run() for child in epoch.losses}
    assert updated == {key.split(".")[0] for key, p in method.named_parameters() if p.requires_grad}
    for child in updated:
        changed = [k for k in before if k.startswith(f"{child}.")]
        assert any(not torch.equal(before[k], method.state_dict()[k]) for k in changed)
    assert torch.load(tmp_path / "m.pt", weights_only=True).keys() == before.keys()


@every_model
def test_one_finite_score_per_voxel(
    score: Callable[[Tensor], Tensor], unseen: Tensor, name: str, dims: int
) -> None:
    found = score(unseen)
    assert found.shape == unseen.shape
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@every_model
def test_a_window_without_brain_has_finite_scores(
    score: Callable[[Tensor], Tensor], unseen: Tensor, name: str, dims: int
) -> None:
    assert score(torch.zeros_like(unseen)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "dims", "kind"), [(n, d, k) for n, d in MODELS for k in methods.load(n).sees]
)
def test_lesion_outranks_healthy_tissue(
    score: Callable[[Tensor], Tensor], unseen: Tensor, name: str, dims: int, kind: str
) -> None:
    lesion = cut(lesion_mask(), dims).expand_as(unseen)
    brain = unseen != 0
    found = score(with_lesion(unseen, lesion, kind))
    pairs = found[lesion][:, None] > found[brain & ~lesion]
    assert pairs.float().mean() > 0.9  # the area under the ROC curve


@every_model
def test_windows_of_a_batch_do_not_affect_each_other(
    score: Callable[[Tensor], Tensor], unseen: Tensor, name: str, dims: int
) -> None:
    alone = score(unseen[:1])
    others = torch.cat([unseen[:1], 5 * unseen[1:]])
    torch.testing.assert_close(score(others)[:1], alone)


@every_model
def test_the_same_input_gives_the_same_score_whatever_the_seed(
    score: Callable[[Tensor], Tensor], unseen: Tensor, name: str, dims: int
) -> None:
    torch.manual_seed(1)
    first = score(unseen)
    torch.manual_seed(2)
    assert torch.equal(score(unseen), first)


@every_model
def test_saved_weights_give_the_same_score_in_a_fresh_instance(
    unseen: Tensor, name: str, dims: int, tmp_path: Path
) -> None:
    first, second = trained(name, dims), make(name, dims)
    torch.save(first.state_dict(), tmp_path / "model.pt")
    second.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(second.eval()(unseen), first(unseen))


@every_model
def test_scoring_changes_neither_the_method_nor_its_input(
    unseen: Tensor, name: str, dims: int
) -> None:
    method, given = trained(name, dims), unseen.clone()
    with torch.no_grad():
        found = method(given)
    # MONAI weighs overlapping scores in place.
    assert found.untyped_storage().data_ptr() != given.untyped_storage().data_ptr()
    weights = trained_weights(name, dims)
    assert all(torch.equal(value, weights[key]) for key, value in method.state_dict().items())
    assert torch.equal(given, unseen)


@pytest.mark.parametrize(("name", "dims"), RECONSTRUCTIONS)
def test_a_reconstruction_scores_its_counterpart(unseen: Tensor, name: str, dims: int) -> None:
    """The pipeline calls the two halves of `forward`, so that one pass gives both."""
    method = trained(name, dims)
    assert isinstance(method, Reconstruction)
    assert type(method).forward is Reconstruction.forward, "override compare, not forward"
    with torch.no_grad():
        x_hat = method.reconstruct(unseen)
        found = method.compare(unseen, x_hat)
        assert torch.equal(found, method(unseen))
    assert x_hat.shape == unseen.shape
    # MONAI weighs both in place.
    assert len({t.untyped_storage().data_ptr() for t in (unseen, x_hat, found)}) == 3


def of_scan(method: Method, x: Tensor) -> ScanScores:
    """The scores of a scan `(1, C, *S)`, as the pipeline asks for them."""
    with torch.no_grad():
        x_hat = method.reconstruct(x) if isinstance(method, Reconstruction) else None
        return method.scan_scores(x, method(x), x_hat)


@every_model
def test_scan_scores_are_numbers_also_without_brain(unseen: Tensor, name: str, dims: int) -> None:
    method = trained(name, dims)
    full, empty = of_scan(method, unseen[:1]), of_scan(method, torch.zeros_like(unseen[:1]))
    assert {"mean", "p99"} <= full.keys() == empty.keys()
    for found in (full, empty):
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        for value in found.values():
            assert all(type(v) is float for v in (value if isinstance(value, list) else [value]))
    assert (empty["mean"], empty["p99"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "dims", "kind"), [(n, d, k) for n, d in MODELS for k in methods.load(n).sees]
)
def test_a_lesion_raises_every_score_of_the_scan(
    unseen: Tensor, name: str, dims: int, kind: str
) -> None:
    method, healthy = trained(name, dims), unseen[:1]
    sick = with_lesion(healthy, cut(lesion_mask(), dims).expand_as(healthy), kind)
    before, after = of_scan(method, healthy), of_scan(method, sick)
    for key, value in before.items():
        if not isinstance(value, list):
            assert after[key] > value


def test_mean_and_p99_by_hand() -> None:
    """Over 200 brain voxels of a scan: the 198th is the one that 99 % do not exceed."""
    values = torch.full((1, 1, 15, 15), 1e6)
    inside = torch.zeros(1, 1, 15, 15)
    values.view(-1)[:200] = torch.arange(200, 0, -1.0)
    inside.view(-1)[:200] = 1
    assert mean_and_p99(values, inside) == {"mean": 100.5, "p99": 198.0}
    assert mean_and_p99(values, 0 * inside) == {"mean": 0.0, "p99": 0.0}


def test_p99_of_a_volume_larger_than_torch_quantile_takes() -> None:
    values = torch.arange(2**24 + 1.0).reshape(1, 1, -1)
    found = mean_and_p99(values, torch.ones_like(values))
    assert found["p99"] == pytest.approx(0.99 * 2**24, abs=2)
    assert found["mean"] == pytest.approx(2**23, rel=1e-9)  # float32 sums would be off


def test_the_scan_scores_of_intensity_are_not_ranks() -> None:
    """Ranks have the same mean in every scan; the image is what differs."""
    x = torch.zeros(1, 2, 4, 4)
    x[:, 0, 1:3, 1:3], x[:, 1, 1:3, 1:3] = 2.0, 4.0
    bright, dark = (make("intensity", 3, dark=dark) for dark in (False, True))
    assert of_scan(bright, x) == {"mean": 3.0, "p99": 3.0}
    assert of_scan(dark, x) == {"mean": -3.0, "p99": -3.0}


@every_model
def test_memory_layout_does_not_matter(
    score: Callable[[Tensor], Tensor], unseen: Tensor, name: str, dims: int
) -> None:
    turned = unseen.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not turned.is_contiguous()
    torch.testing.assert_close(score(turned), score(unseen))


@every_model
def test_mixed_precision_gives_finite_scores_and_gradients(
    unseen: Tensor, name: str, dims: int, tmp_path: Path
) -> None:
    method = make(name, dims)
    train(method, cut(healthy_brains(8), dims), tmp_path / "model.pt", amp=True, max_epochs=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = method(unseen)
    assert found.shape == unseen.shape
    assert found.isfinite().all()


@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_every_listed_window_walks_over_a_volume(name: str, window: str) -> None:
    roi = {"patch": (SIZE,) * 3, "slice": (SIZE,) * 2}.get(window)
    shape = (SIZE,) * 3 if window == "volume" else (SIZE + 5, SIZE, SIZE + 2)
    volume = torch.zeros(1, 1, *shape)
    volume[..., :SIZE, :, :SIZE] = healthy_brains(1, seed=1)
    with torch.no_grad():
        found = build(window, roi)(volume, trained(name, dims_of(window)))
    assert found.shape == volume.shape
    assert found.isfinite().all()


@pytest.mark.parametrize(("name", "dims"), [(n, d) for n, d in MODELS if "channels" in known(n)])
def test_two_image_channels_make_one_score(name: str, dims: int, tmp_path: Path) -> None:
    brains = cut(healthy_brains(8), dims)
    brains = torch.cat([brains, 1.5 * brains], dim=1)
    method = make(name, dims, channels=2)
    train(method, brains, tmp_path / "model.pt", max_epochs=1)
    with torch.no_grad():
        found = method(brains)
    assert found.shape == brains[:, :1].shape
    assert found.isfinite().all()


@every_name
def test_the_documentation_names_its_source_and_the_differences(name: str) -> None:
    text = methods.documentation(name)
    assert methods.summary(name).endswith(".")
    assert "Method:" in text
    assert "Differs from" in text


@every_name
def test_the_file_exports_one_method(name: str) -> None:
    module = import_module(f"volad.methods.{name}")
    assert len(module.__all__) == 1
    cls = getattr(module, module.__all__[0])
    assert issubclass(cls, Method)
    assert cls.__module__ == module.__name__


@every_name
def test_the_facts_about_a_method_are_ones_there_can_be(name: str) -> None:
    cls = methods.load(name)
    assert set(cls.tiny) <= set(known(name))
    assert set(cls.windows) <= {"volume", "patch", "slice", "slab"}
    assert ("slab" in cls.windows) == (make(name, 3).slab is not None)
    assert set(cls.sees) <= {"bright", "dark"}
    assert cls.windows
    assert cls.sees


@every_name
def test_every_argument_has_a_default(name: str) -> None:
    assert all(argument.default is not inspect.Parameter.empty for argument in known(name).values())
