"""MONAI bundles: the only configuration. Find one, open it, build its parts, load its weights.

A config's `$` expressions are code: open only bundles from people you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

from volad.errors import UsageError, VoladError

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigParser

    from volad.methods._base import Method

__all__ = [
    "DEFAULT",
    "Identity",
    "build",
    "channels",
    "find",
    "identity",
    "literal",
    "load_weights",
    "names",
    "open_config",
    "part",
]

#: The bundle that `volad segment` uses when none is named.
DEFAULT = "brain_mr_any"


@dataclass(frozen=True)
class Identity:
    """Which trained detector this is, for sidecars and `volad info`.

    Attributes:
        name: the bundle's folder.
        version: of the bundle.
        weights_sha256: of `models/model.pt`; empty where there is none.
        modality: `mr` or `ct`.
        method: name of the method.
        calibration: how the threshold was found, without the tables of scores, counts and scans.
    """

    name: str
    version: str
    weights_sha256: str
    modality: Literal["mr", "ct"]
    method: str
    calibration: Mapping[str, Any]

    def facts(self) -> dict[str, str]:
        """What a sidecar says of the bundle."""
        return {
            "name": self.name,
            "version": self.version,
            "method": self.method,
            "weights_sha256": self.weights_sha256,
        }


def shelf() -> Path:
    """The folder of shipped bundles: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def names() -> list[str]:
    """Names of the shipped bundles."""
    return sorted(p.parents[1].name for p in shelf().glob("*/configs/inference.json"))


def find(name: str | os.PathLike[str]) -> Path:
    """The folder of a shipped bundle by its name, or of any bundle by its path.

    Raises:
        UsageError: there is none; names the close ones.
    """
    for root in (Path(name), shelf() / name):
        if (root / "configs" / "inference.json").is_file():
            return root.resolve()
    close = get_close_matches(os.fspath(name), names(), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"shipped are: {', '.join(names())}"
    raise UsageError(
        f"no bundle {os.fspath(name)!r} (a folder with configs/inference.json); {hint}"
    )


def open_config(root: Path, name: str, overrides: Mapping[str, Any]) -> ConfigParser:
    """Read `configs/<name>.json` with keys overridden, as `monai.bundle run` does."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(_read_json(root / "configs" / f"{name}.json"))
    parser.read_meta(_read_json(root / "configs" / "metadata.json"))
    for key, value in {"bundle_root": str(root), **overrides}.items():
        if key.split("::")[0] not in parser:
            raise UsageError(f"bundle {root.name} has no setting {key!r}")
        parser[key] = value
    return parser


def literal(path: str | os.PathLike[str]) -> str:
    """A path as a value in a config, where `$` begins code, `@` a reference and `%` a file."""
    text = os.fspath(path)
    return os.path.join(os.curdir, text) if text.startswith(("$", "@", "%")) else text


def build(parser: ConfigParser, name: str) -> Any:
    """Build one part of an open config.

    MONAI wraps whatever a part raises; a volad error comes out as itself, so that its exit code
    and its one line survive.
    """
    try:
        return parser.get_parsed_content(name)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, VoladError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise


def part(root: str | os.PathLike[str], name: str) -> Any:
    """One part of a bundle's `inference.json`: lets `train.json` refer to it, not repeat it."""
    return build(open_config(Path(root).resolve(), "inference", {}), name)


def settings(root: str | os.PathLike[str], name: str) -> Any:
    """The unbuilt settings of a part of `inference.json`, with references filled in."""
    parser = open_config(Path(root), "inference", {})
    parser.parse()
    parts = {name: parser.get(name)}
    # Whatever a setting refers to with @ belongs to it.
    text = json.dumps(parts)
    parts.update({k: v for k, v in parser.config.items() if f"@{k}" in text})
    return parts


def recipe(root: str | os.PathLike[str]) -> str:
    """What a bundle's preparation of scans depends on: bundles with the same one prepare alike."""
    return json.dumps(settings(root, "preprocessing"), sort_keys=True, default=str)


def load_weights(
    network: Method, path: str | os.PathLike[str], device: torch.device | str
) -> Method:
    """Load a method's weights from `models/model.pt`; a method without any needs no file.

    Raises:
        UsageError: the file is not there, or holds another network's weights.
    """
    if not network.state_dict():
        return network.to(device)
    if not Path(path).is_file():
        raise UsageError(f"{path}: the bundle has no weights; train it with volad train")
    try:
        network.load_state_dict(_read_weights(path))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UsageError(
            f"{path}: the weights do not fit the bundle's network ({first}); get the bundle again"
        ) from error
    return network.to(device)


def _read_weights(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    import torch

    try:
        stored: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise UsageError(
            f"{path}: the weights are unreadable or damaged; get the bundle again"
        ) from error
    return stored


def network_def(root: str | os.PathLike[str]) -> dict[str, Any]:
    """The unbuilt network of a bundle; imports no torch."""
    settings: dict[str, Any] = _read_json(Path(root) / "configs" / "inference.json")["network_def"]
    return settings


def channels(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of a bundle's channels, the scan itself first; none where it takes the scan alone."""
    return tuple(_read_json(Path(root) / "configs" / "inference.json").get("channels", ()))


def identity(
    root: str | os.PathLike[str],
    rate: float | None = None,
    promise: Mapping[str, Any] | None = None,
) -> Identity:
    """Read a bundle's identity from its files; imports no torch.

    Args:
        root: folder of the bundle.
        rate: as for `volad.calibrate.load_threshold`: what its calibration is to promise instead.
        promise: likewise.
    """
    from volad import calibrate

    folder = Path(root).resolve()
    metadata = _read_json(folder / "configs" / "metadata.json")
    stored = folder / "models" / "calibration.json"
    weights = folder / "models" / "model.pt"
    target = str(network_def(folder)["_target_"])
    return Identity(
        name=folder.name,
        version=str(metadata["version"]),
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "",
        modality="ct" if metadata.get("modality") == "ct" else "mr",
        method=target.split(".")[-2],
        calibration=calibrate.facts_for(stored, rate, promise) if stored.exists() else {},
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: missing; this is no whole bundle") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error})") from error
