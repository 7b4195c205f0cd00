"""What a result depends on, as plain values and a hash: `--resume` skips only what still agrees."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import nn

import volad
from volad.bundle import Identity
from volad.io import Scan
from volad.io.digest import sha256_of

if TYPE_CHECKING:
    from volad.pipeline import Pipeline

__all__ = [
    "MEASURED",
    "describe",
    "digest",
    "parameters",
    "scan_parameters",
    "sealed",
    "software",
]

#: What torch itself keeps in a module: weights are hashed apart, hooks change no result.
_TORCH_OWN = frozenset(vars(nn.Module())) | {"training"}
#: What differs between two runs that do the same.
MEASURED = ("seconds", "peak_memory")
_SEAL = "sidecar_sha256"
_CUDA_NAME = re.compile(r"cuda(:\d+)?")


def parameters(pipeline: Pipeline, identity: Identity, wanted: Sequence[str]) -> dict[str, Any]:
    """All that decides what is written for a scan, but for the scan itself.

    Which CUDA device, how many workers and where files lie do not count; the type of device does,
    since sums differ in their last digits between types.

    Args:
        pipeline: its whole settings count, weights and scan check included.
        identity: the bundle.
        wanted: which optional outputs are written (`volad.outputs.Outputs.wanted`).
    """
    return {
        "bundle": identity.facts(),
        "calibration_sha256": digest(describe(identity.calibration)),
        "pipeline_sha256": digest(describe(vars(pipeline))),
        "threshold": vars(pipeline.cut),
        "amp": pipeline.amp,
        "device_type": pipeline.device.type,
        "outputs": list(wanted),
        "software": software(),
    }


def software() -> dict[str, str]:
    """Versions of what decides over results."""
    return {"volad": volad.__version__, "monai": version("monai"), "torch": torch.__version__}


def scan_parameters(common: Mapping[str, Any], scan: Scan) -> dict[str, Any]:
    """`parameters` with those of one scan, and the hash of both together.

    Raises:
        InputError: its brain mask cannot be read.
    """
    mask = None if scan.brain_mask is None else sha256_of([scan.brain_mask])
    full = {**common, "brain_mask_sha256": mask, "series": scan.series}
    return {**full, "sha256": digest(full)}


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A sidecar's facts with a hash of them, by which an edit shows; what is `MEASURED` is free."""
    plain = {key: value for key, value in facts.items() if key != _SEAL}
    return {**plain, _SEAL: digest({k: v for k, v in plain.items() if k not in MEASURED})}


def digest(value: Any) -> str:
    """SHA-256 of a plain value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe(value: object) -> Any:
    """Any settings object as plain JSON values: its class and attributes, arrays as hashes.

    The same settings give the same description in every process; two that differ in any attribute,
    however deep, do not.
    """
    return _describe(value, ())


def _describe(value: object, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        return "itself"
    for kinds, plain in _PLAIN:
        if isinstance(value, kinds):
            return plain(value)
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        return {str(key): _describe(one, inside) for key, one in value.items()}
    if isinstance(value, Compose):  # its own attributes are a random state, not settings
        return [_describe(one, inside) for one in value.transforms]
    if isinstance(value, (list, tuple)):
        return [_describe(one, inside) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(_describe(one, inside), sort_keys=True) for one in value)
    return _describe_object(value, inside)


def _describe_object(value: object, inside: tuple[int, ...]) -> Any:
    attributes = dict(getattr(value, "__dict__", {}))
    if isinstance(value, nn.Module):
        attributes = {k: v for k, v in attributes.items() if k not in _TORCH_OWN}
        attributes["parts"] = dict(value.named_children())
        attributes["weights"] = dict(value.named_parameters(recurse=False))
        attributes["buffers"] = dict(value.named_buffers(recurse=False))
    name = getattr(value, "__qualname__", None)
    return {
        "class": f"{type(value).__module__}.{type(value).__qualname__}",
        **({"name": name} if name else {}),
        **{key: _describe(one, inside) for key, one in attributes.items()},
    }


def _text(value: Any) -> Any:
    return "cuda" if isinstance(value, str) and _CUDA_NAME.fullmatch(value) else value


def _array(value: Any) -> dict[str, Any]:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    if array.dtype.hasobject:
        return {"object array": repr(array)}
    sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": sha256}


#: Values that have no parts, in the order they are looked for.
_PLAIN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (torch.Size, list),
    ((bool, int, str, type(None)), _text),
    (float, repr),  # JSON has no infinity
    (np.generic, lambda value: repr(value.item())),
    (os.PathLike, os.fspath),
    (torch.device, lambda value: value.type),
    ((torch.dtype, torch.memory_format, type), str),
    (bytes, lambda value: hashlib.sha256(value).hexdigest()),
    ((torch.Tensor, np.ndarray), _array),
)
