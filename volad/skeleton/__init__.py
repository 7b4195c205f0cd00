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
from volad.skeleton.docs import (
    LOGGING,
    MNI_GRID,
    MULTI_GPU,
    SIMULATED,
    SIMULATED_FILES,
    SIMULATED_REMARK,
    metadata,
    readme,
)
from volad.skeleton.inference import inference
from volad.skeleton.training import Simulated
from volad.skeleton.training import training as training_settings

__all__ = ["SPACES", "create"]

#: Spaces a bundle can work in: how scans get onto the model's grid.
SPACES = ("mni", "isotropic")
#: Columns of manifests that no channel can be called by.
TAKEN = ("subject", "split", "image", "sha256", "name", "brain_mask", "series")


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
    simulate: Simulated | None = None,
    channels: Sequence[str] = (),
    simulated_files: bool = False,
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
        simulate: learn from CTs or MRs simulated of T1 scans (`volad.simulate_ct`, `simulate_mr`).
        channels: names of several channels, the first that of the scan itself; empty: one channel.
        simulated_files: some of the scans to learn from are files that volad simulated.
    """
    _check_channels(channels, modality, simulate)
    if space not in SPACES:
        raise UsageError(f"--space must be one of {', '.join(SPACES)}, got {space!r}")
    window = _window(method, space)
    if simulate and (modality, space, window) != (simulate, "mni", "volume"):
        raise UsageError(
            f"--simulate {simulate} makes whole aligned volumes: give --modality {simulate}, "
            "--space mni and a method that works on volumes"
        )
    settings = network(method, arguments, space, channels)
    roi = _roi(_built(method, settings), space, patch)
    shape = MNI_GRID if space == "mni" else patch
    configs = {
        "inference": inference(
            settings,
            modality,
            space,
            window,
            spacing_mm,
            patch,
            landmarks,
            channels,
            methods.load(method).median,
            any_contrast=simulate == "mr",
        ),
        "train": training_settings(
            roi,
            {**methods.load(method).training_defaults, **(training or {})},
            simulate,
            several=bool(channels),
        ),
        "multi_gpu_train": MULTI_GPU,
        "metadata": metadata(
            root.name, method, modality, shape, is_patch=window == "patch", channels=channels
        ),
    }
    if simulated_files:
        configs["metadata"] |= SIMULATED_FILES
    if simulate:
        configs["metadata"] |= SIMULATED[simulate]
    if simulate == "ct":
        configs["inference"]["preprocessing"]["transforms"].insert(1, SIMULATED_REMARK)
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


def _check_channels(channels: Sequence[str], modality: str, simulate: Simulated | None) -> None:
    if not channels:
        return
    if modality != "mr" or simulate:
        raise UsageError("--channels are of real MR: not with --modality ct, nor with --simulate")
    # They name columns of manifests, beside those that have a meaning of their own.
    odd = [name for name in channels if name in TAKEN or not name.replace("-", "_").isidentifier()]
    if odd or len(channels) < 2 or len(set(channels)) < len(channels):
        raise UsageError(
            f"--channels must be two or more different names such as t1,t2,flair, none of "
            f"{', '.join(TAKEN)}; got {','.join(channels)!r}"
        )


def network(
    method: str, arguments: Mapping[str, Any], space: str, channels: Sequence[str] = ()
) -> dict[str, Any]:
    """The `network_def` of a method; what it can know, grid and number of channels, it is told."""
    cls = methods.load(method)
    known = inspect.signature(cls).parameters
    settings = dict(arguments)
    if space == "mni" and "grid" in known:
        settings.setdefault("grid", list(MNI_GRID))
    if channels and "channels" in known:
        settings.setdefault("channels", len(channels))
    if settings.get("channels", 1) != (len(channels) or 1) and "channels" in known:
        raise UsageError(
            f"{method} is given channels={settings['channels']} for {len(channels) or 1}; name "
            "them with --channels NAME,NAME"
        )
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
