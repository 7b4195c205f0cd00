"""Find the scans of a BIDS data set."""

from __future__ import annotations

import json
from pathlib import Path

from volad.errors import InputError
from volad.io.find import Scan
from volad.io.guard import reading

__all__ = ["bids_scans", "is_bids"]

DESCRIPTION = "dataset_description.json"
ENDINGS = (".nii.gz", ".nii")


def is_bids(folder: Path) -> bool:
    """Whether a folder says that it is a raw BIDS data set; results of a tool are none."""
    try:
        facts = json.loads((folder / DESCRIPTION).read_bytes())
        return bool(facts["BIDSVersion"]) and facts.get("DatasetType", "raw") == "raw"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def bids_scans(folder: Path, suffix: str) -> list[Scan]:
    """Every `sub-*/[ses-*/]anat/*_<suffix>.nii[.gz]` below a folder, sorted by path.

    Args:
        folder: the data set.
        suffix: the contrast, `T1w` or the like.

    Raises:
        InputError: there is none; names the contrasts that there are.
    """
    with reading(folder):
        files = sorted(
            file
            for pattern in ("sub-*/anat/sub-*_*.nii*", "sub-*/ses-*/anat/sub-*_*.nii*")
            for file in folder.glob(pattern)
            if file.name.endswith(ENDINGS)
        )
    found = [(file, *_parts(file)) for file in files]
    scans = [
        Scan(
            file,
            entities,
            group=file.parent.relative_to(folder),
            bids_suffix=suffix,
            subject=entities.partition("_")[0],
        )
        for file, entities, contrast in found
        if contrast == suffix
    ]
    if not scans:
        others = ", ".join(sorted({contrast for *_, contrast in found})) or "none"
        raise InputError(
            f"{folder}: no sub-*/[ses-*/]anat/*_{suffix}.nii.gz in it (contrasts there: {others}); "
            "name the right data set, or its contrast with --bids-suffix"
        )
    return scans


def _parts(file: Path) -> tuple[str, str]:
    """The entities of a name, `sub-01_run-1`, and its suffix, `T1w`."""
    entities, _, contrast = file.name.partition(".nii")[0].rpartition("_")
    return entities, contrast
