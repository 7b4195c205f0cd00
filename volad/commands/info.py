"""Tell versions and bundles, or all about one bundle; answers without loading torch."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from volad import __version__, bundle

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument("bundle", nargs="?", help="a bundle's name or folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    facts: dict[str, Any] = {"volad": __version__, **_versions(), "bundles": bundle.names()}
    if args.bundle:
        found = bundle.identity(bundle.find(args.bundle))
        facts = {**found.facts(), "modality": found.modality, "calibration": found.calibration}
    if args.json:
        print(json.dumps(facts))
        return 0
    for key, value in facts.items():
        text = json.dumps(value, indent=2) if isinstance(value, (dict, list)) else value
        print(f"{key}: {text}")
    return 0


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("monai", "torch", "nibabel", "SimpleITK", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
