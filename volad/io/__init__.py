"""The only door for files of users: find scans, read them, write results on their grid.

Names load on first use, so finding files imports no torch, nibabel or SimpleITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volad.io.digest import input_sha256
    from volad.io.find import Scan, find_scans
    from volad.io.read import Map, Volume, read_map, read_mask, read_volume
    from volad.io.write import (
        SIMULATED,
        atomic,
        ensure_writable,
        is_simulated,
        note_of,
        remove,
        write_json,
        write_map,
        write_mask,
        write_new,
        write_text,
        write_values,
    )

__all__ = [
    "SIMULATED",
    "Map",
    "Scan",
    "Volume",
    "atomic",
    "ensure_writable",
    "find_scans",
    "input_sha256",
    "is_simulated",
    "note_of",
    "read_map",
    "read_mask",
    "read_volume",
    "remove",
    "write_json",
    "write_map",
    "write_mask",
    "write_new",
    "write_text",
    "write_values",
]

_ROOMS = {
    "digest": ("input_sha256",),
    "find": ("Scan", "find_scans"),
    "read": ("Map", "Volume", "read_map", "read_mask", "read_volume"),
    "write": (
        *("atomic", "ensure_writable", "is_simulated", "note_of", "remove", "SIMULATED"),
        *("write_json", "write_map", "write_mask", "write_new", "write_text", "write_values"),
    ),
}


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
