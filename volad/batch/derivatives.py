"""The `dataset_description.json` that makes a folder of results a BIDS derivative."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volad import __version__
from volad.batch.lock import folder_lock
from volad.io import Scan, write_json

__all__ = ["describe_dataset"]

_BIDS_VERSION = "1.10.0"


def describe_dataset(folder: Path, scans: Sequence[Scan]) -> None:
    """Write it where the scans come from a BIDS data set, which is linked as `raw`."""
    if not scans or not scans[0].bids_suffix:
        return
    root = scans[0].path.absolute().parents[len(scans[0].group.parts)]
    with folder_lock(folder):
        write_json(
            folder / "dataset_description.json",
            {
                "Name": "volad: lesions found without lesion labels",
                "BIDSVersion": _BIDS_VERSION,
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "volad", "Version": __version__}],
                "DatasetLinks": {"raw": root.as_uri()},
            },
        )
