"""Where a calibration goes: into its bundle, or into a copy of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from volad.errors import UsageError, VoladError
from volad.io import ensure_writable, write_json

__all__ = ["TRAINED_ON", "save", "target", "trained_on"]

#: In `models/`: the scans that a bundle was trained on, which must not be calibrated on.
TRAINED_ON = "trained_on.json"
#: Of use to a training alone.
LEFT_OUT = ("cache", "checkpoint*.pt", ".*")


def target(bundle: Path, output: str | os.PathLike[str] | None, shelf: Path) -> Path:
    """The folder of the bundle to write to, tried before any work is done for it.

    Args:
        bundle: folder of the bundle to calibrate.
        output: folder for a copy of it; None: the bundle itself.
        shelf: folder of the shipped bundles, which are changed only where `output` names them.

    Raises:
        UsageError: it cannot be written to, or holds something else.
    """
    folder = bundle if output is None else Path(output).resolve()
    if output is None and folder.is_relative_to(shelf.resolve()):
        raise UsageError(
            f"{folder}: is a shipped bundle, which stays as it is; name a folder for a calibrated "
            "copy with -o DIR"
        )
    if folder == bundle:
        try:
            ensure_writable(folder / "models")
        except VoladError as error:
            raise UsageError(
                f"{folder}: this bundle cannot be written to; name a folder for a calibrated copy "
                "with -o DIR"
            ) from error
        return folder
    if folder.is_relative_to(bundle):
        raise UsageError(f"{folder}: lies in the bundle itself; name a folder beside it with -o")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already; name a new folder with -o")
    ensure_writable(folder.parent)
    return folder


def save(bundle: Path, folder: Path, files: Mapping[str, dict[str, Any]]) -> None:
    """Write a calibration, after copying the bundle where it goes elsewhere; whole or not at all.

    Args:
        bundle: folder of the bundle that was calibrated.
        folder: where it goes.
        files: what to write into `models/`, by name.

    Raises:
        VoladError: the disk is full, the folder read-only, or the like.
    """
    if folder == bundle:
        for name, content in files.items():
            write_json(folder / "models" / name, content)
        return
    try:
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            # From an installation that is read-only, so only contents are copied, no permissions.
            copy = Path(temporary) / folder.name
            ignore = shutil.ignore_patterns(*LEFT_OUT)
            shutil.copytree(bundle, copy, ignore=ignore, copy_function=shutil.copyfile)
            for place, _, _ in os.walk(copy):
                os.chmod(place, 0o755)
            for name, content in files.items():
                write_json(copy / "models" / name, content)
            os.replace(copy, folder)
    except OSError as error:
        raise VoladError(f"{folder}: cannot be written ({error.strerror or error})") from error


def trained_on(bundle: Path) -> dict[str, str]:
    """By the SHA-256 of its file, each scan that a bundle was trained on; empty where unknown."""
    path = bundle / "models" / TRAINED_ON
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {str(scan["sha256"]): str(scan["subject"]) for scan in stored["scans"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: names no scans trained on; get the bundle again") from error
