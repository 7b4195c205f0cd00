"""Find the scans a user named: a file, a DICOM series, a folder of them, or a manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from volad.errors import InputError, UsageError
from volad.io.channels import in_order
from volad.io.guard import reading
from volad.io.manifest import MANIFESTS, Entry, read_manifest

__all__ = ["MAGIC", "MAGIC_AT", "Scan", "find_scans", "is_dicom", "stem"]

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
#: What volad itself writes beside scans: never taken for scans when a folder is searched.
OUTPUTS = ("_mask.nii.gz", "_score.nii.gz", "_healthy.nii.gz", "_brainmask.nii.gz")

MAGIC, MAGIC_AT = b"DICM", 128


@dataclass(frozen=True)
class Scan:
    """One scan to read.

    Attributes:
        path: the file, or the folder of a DICOM series; of several channels the first.
        name: what outputs are called by: the file's name without its ending.
        brain_mask: file with the scan's brain mask, if the user has one.
        group: sub-folder to keep in outputs, relative.
        series: id of the DICOM series, where the folder or zip holds several.
        bids_suffix: `T1w` or the like of a scan in a BIDS data set, whose outputs are named as BIDS
            derivatives; empty for any other. `name` is then the scan's entities, and `group` its
            folder, `sub-01/ses-02/anat`.
        channels: further images of the same patient, each by its channel's name.
        subject: who was scanned; empty where nobody said.
    """

    path: Path
    name: str
    brain_mask: Path | None = None
    group: Path = Path()
    series: str | None = None
    bids_suffix: str = ""
    channels: tuple[tuple[str, Path], ...] = ()
    subject: str = ""

    @property
    def identifier(self) -> str:
        """What tables and journals call it: its name with the sub-folder before it."""
        return (self.group / self.name).as_posix()


def find_scans(
    path: Path | str,
    series: str | None = None,
    brain_mask: Path | str | None = None,
    bids: bool | None = None,
    bids_suffix: str = "T1w",
    channels: Sequence[str] | None = None,
    channel_files: Mapping[str, Path | str] | None = None,
) -> list[Scan]:
    """Find scans, in a fixed order.

    A folder is searched with its sub-folders. Left out are hidden files, zips, and names
    ending in `_mask.nii.gz`, `_score.nii.gz`, `_healthy.nii.gz` or `_brainmask.nii.gz`: these
    are volad's own outputs, and with outputs beside scans a second run would take them for
    scans. To segment such a file, name it itself or in a manifest.

    Args:
        path: a NIfTI, NRRD or MetaImage file; a folder or `.zip` of a DICOM series; a folder
            of such files and folders; or a manifest: a `.csv` with a column `image` and
            optional columns `name`, `subject`, `brain_mask`, `series`, or a `.json` datalist
            of such objects. Paths in a manifest start at its own folder. With `channels`, each but
            the first is a column there, too.
        series: id of the one DICOM series to take, where there are several.
        brain_mask: file with the one scan's brain mask.
        bids: whether `path` is a BIDS data set, of which then only the scans of one contrast are
            taken (`volad.io.bids`); None: where its `dataset_description.json` says so.
        bids_suffix: that contrast.
        channels: names of the channels that each scan must have, the scan itself first; None: it
            has no others.
        channel_files: the one scan's further channels, by name.

    Raises:
        InputError: nothing there, several series, a channel missing, or two scans with one output
            name.
        UsageError: `series` for something other than one DICOM folder or zip, or one
            `brain_mask` or `channel_files` for several scans.
    """
    path = Path(path)
    with reading(path):
        path.stat()
        scans = _of_bids(path, bids, bids_suffix) or _scans(path, series, channels)
    if series is not None and [scan.series for scan in scans] != [series]:
        raise UsageError(f"{path}: is no DICOM series; leave --series out")
    if brain_mask is not None:
        scans = [replace(_only(scans, "brain mask", path), brain_mask=Path(brain_mask))]
    if channel_files:
        further = {name: _channel(Path(file)) for name, file in channel_files.items()}
        scans = [replace(_only(scans, next(iter(further)), path), channels=tuple(further.items()))]
    scans = [
        replace(scan, channels=in_order(dict(scan.channels), channels, path)) for scan in scans
    ]
    _refuse_doubles(scans, path)
    return scans


def stem(path: Path) -> str:
    """A file's name without its volume ending; any other name as it is."""
    ending = _ending(path, (*VOLUMES, ".zip"))
    name = path.resolve().name if path.name in ("", "..") else path.name
    return name[: len(name) - len(ending)]


def is_dicom(file: Path) -> bool:
    """Whether a file says it is DICOM; a DICOMDIR is an index, not an image."""
    if not file.is_file() or file.name.upper() == "DICOMDIR":
        return False
    with open(file, "rb") as opened:
        return opened.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC


def _of_bids(path: Path, bids: bool | None, suffix: str) -> list[Scan]:
    """The scans of a BIDS data set; none where `path` is no such, or is not to be taken as such."""
    from volad.io.bids import bids_scans, is_bids

    if bids and not path.is_dir():
        raise UsageError(f"{path}: is no folder, so no BIDS data set; leave --bids out")
    if bids or (bids is None and path.is_dir() and is_bids(path)):
        return bids_scans(path, suffix)
    return []


def _only(scans: list[Scan], what: str, path: Path) -> Scan:
    """The one scan that a file named on the command line goes with."""
    if len(scans) != 1:
        raise UsageError(
            f"{path}: one {what} for {len(scans)} scans; name each scan's in a manifest"
        )
    return scans[0]


def _channel(file: Path) -> Path:
    """The file or series folder of a further channel, which must be there."""
    with reading(file):
        file.stat()
        return _single(file).path


def _scans(path: Path, series: str | None, channels: Sequence[str] | None) -> list[Scan]:
    if path.is_dir() and not _holds_series(path, _visible(path)):
        return list(_in_tree(path))
    if path.suffix.lower() in MANIFESTS and not path.is_dir():
        entries = read_manifest(path, list(channels or ())[1:])
        return [_of_entry(entry, path, channels) for entry in entries]
    return [_single(path, series)]


def _single(path: Path, series: str | None = None) -> Scan:
    """The scan that one file or one series folder is."""
    if path.is_dir():
        from volad.io.dicom import series_files  # SimpleITK loads only when needed

        series_files(path, series)
        return Scan(path, stem(path), series=series)
    if path.suffix.lower() == ".zip":
        return Scan(path, stem(path), series=series)
    if not _ending(path, VOLUMES):
        if is_dicom(path):
            raise InputError(f"{path}: is one file of a DICOM series; give the series' folder")
        known = ", ".join((*VOLUMES, ".zip", *MANIFESTS))
        raise InputError(f"{path}: unknown ending; give one of {known}, or a folder")
    return Scan(path, stem(path))


def _in_tree(folder: Path) -> Iterator[Scan]:
    """Every volume and every series folder below `folder`."""
    scans = []
    for place, files in _walk(folder):
        group = place.relative_to(folder)
        if _holds_series(place, files):
            scans.append(Scan(place, place.name, group=group.parent))
        scans += [
            Scan(file, stem(file), group=group)
            for file in files
            if _ending(file, VOLUMES) and not _ending(file, OUTPUTS)
        ]
    if not scans:
        raise InputError(
            f"{folder}: no scans in it (looked for {', '.join(VOLUMES)} and DICOM series; "
            f"*{', *'.join(OUTPUTS)} do not count); name the right folder"
        )
    return iter(sorted(scans, key=lambda scan: scan.path.parts))


def _walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its visible files; links are followed, each folder is met once."""
    met: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for place, folders, _ in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(place)
        if os.path.realpath(here) in met:
            folders.clear()
            continue
        met.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, _visible(here)


def _visible(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()
    )


def _holds_series(folder: Path, files: list[Path]) -> bool:
    volumes = [file for file in files if _ending(file, VOLUMES)]
    found = any(is_dicom(file) for file in files if file not in set(volumes))
    if found and volumes:
        raise InputError(
            f"{folder}: holds DICOM files beside {volumes[0].name}, maybe one scan twice; "
            "name the scans in a manifest or part the two"
        )
    return found


def _of_entry(entry: Entry, manifest: Path, channels: Sequence[str] | None) -> Scan:
    try:
        with reading(entry.image):
            entry.image.stat()
            scan = _single(entry.image, entry.series)
        if entry.brain_mask is not None:
            with reading(entry.brain_mask):
                entry.brain_mask.stat()
        further = {name: _channel(file) for name, file in entry.channels.items()}
    except InputError as error:
        raise InputError(f"{manifest}: {entry.place}: {error}") from error
    return Scan(
        scan.path,
        entry.name or scan.name,
        entry.brain_mask,
        series=entry.series,
        channels=in_order(further, channels, f"{manifest}: {entry.place}"),
        subject=entry.subject,
    )


def _refuse_doubles(scans: list[Scan], path: Path) -> None:
    met: dict[Path, Scan] = {}
    for scan in scans:
        other = met.setdefault(scan.group / scan.name, scan)
        if other is not scan:
            raise InputError(
                f"{path}: {other.path} and {scan.path} would both be written as {scan.name!r}; "
                "rename one, or give each a `name` in a manifest"
            )


def _ending(path: Path, endings: tuple[str, ...]) -> str:
    """The first of `endings` that the name has, in any case; empty if none or nothing else."""
    name = path.name.lower()
    found = (one for one in endings if name.endswith(one) and name != one)
    return next(found, "")
