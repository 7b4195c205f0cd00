"""Several channels of one scan: which images belong to it beside the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from volad.errors import InputError

__all__ = ["in_order"]


def in_order(
    given: Mapping[str, Path], names: Sequence[str] | None, where: object
) -> tuple[tuple[str, Path], ...]:
    """The further channels of a scan in the order in which a bundle takes them.

    Args:
        given: files by the channel's name.
        names: the bundle's channels, the scan itself first; None: it takes the scan alone.
        where: what errors name.

    Raises:
        InputError: a channel is missing, or one is there that the bundle does not take.
    """
    wanted = list(names or ())[1:]
    takes = "this bundle takes one channel"
    if names and wanted:
        takes = f"this bundle takes {names[0]} (the scan itself), {', '.join(wanted)}"
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise InputError(f"{where}: comes with a channel {unknown[0]!r}, {takes}; leave it out")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise InputError(
            f"{where}: no channel {' and '.join(missing)}, {takes}; give "
            f"--channel {missing[0]}=FILE, or a manifest with columns image, {', '.join(wanted)}"
        )
    return tuple((name, given[name]) for name in wanted)
