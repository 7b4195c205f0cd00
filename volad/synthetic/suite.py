"""Write a suite: healthy scans with lesions painted in, and controls without, as a data set.

SUITE/images/NAME.nii.gz                 the scans; every NAME ends in `_synthetic`
SUITE/images/NAME.json                   what was done to each, written last
SUITE/lesions/NAME_lesion_mask.nii.gz    label maps: 0, or the number of the lesion
SUITE/brain/SCAN_synthetic_brainmask.nii.gz
SUITE/manifest.csv                       for `volad evaluate`; `volad segment` takes it too,
                                         with the brain masks of the clean scans
SUITE/scans.csv                          for `volad segment`, which finds the brain itself
SUITE/lesions.csv                        a row a lesion
SUITE/suite.json                         all settings
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose
from tqdm import tqdm

from volad import __version__, bundle
from volad.errors import InputError, UsageError, VoladError
from volad.io import Scan, Volume, ensure_writable, input_sha256, remove, write_json
from volad.pipeline import prepare
from volad.preprocess.steps import AlignToTemplate, ExtractBrain, Load, naming
from volad.synthetic.anatomy import Anatomy, study
from volad.synthetic.case import Case, cases_of, kept, write
from volad.synthetic.make import Made, with_atrophy, with_lesions
from volad.synthetic.shapes import library_sha256
from volad.synthetic.spec import DEFAULT, Suite
from volad.synthetic.stored import write_labels
from volad.synthetic.tables import write_tables

__all__ = ["Source", "write_suite"]


@dataclass(frozen=True)
class Source:
    """A healthy scan to paint into.

    Attributes:
        subject: who was scanned.
        scan: the scan.
    """

    subject: str
    scan: Scan


def write_suite(
    sources: Sequence[Source],
    folder: Path | str,
    suite: Suite = DEFAULT,
    *,
    seed: int = 0,
    bundle_name: str | Path = bundle.DEFAULT,
) -> Path:
    """Make a suite of healthy scans; volumes that the same settings made are kept.

    The same scans, settings and seed give the same bytes. A scan's volumes depend on the scan and
    on its place in the list, not on how many follow.

    Args:
        sources: healthy scans that no detector under test was trained on.
        folder: where the suite goes.
        suite: what to make of each.
        seed: of all draws.
        bundle_name: whose brain extraction to use; it must be fit for such scans.

    Returns:
        The path of the suite's `manifest.csv`.

    Raises:
        InputError: a scan is unusable, or two would be written under one name.
        UsageError: there are no scans, or the folder holds something else.
    """
    folder = Path(folder)
    _refuse(sources, folder)
    ensure_writable(folder)
    root = bundle.find(bundle_name)
    made_by = _made_by(root)
    # While the tables are missing a suite is not whole.
    for name in ("manifest.csv", "scans.csv", "lesions.csv"):
        remove(folder / name)
    settings = {**made_by, "seed": seed, "suite": suite.to_json()}
    write_json(folder / "suite.json", settings)
    steps = _steps(root)
    made: list[tuple[Case, Mapping[str, Any]]] = []
    for index, source in enumerate(tqdm(sources, desc="synthesize", unit="scan", disable=None)):
        scan, sha256 = source.scan, input_sha256(source.scan)
        cases = cases_of(scan.name, source.subject, sha256, index, suite, seed)
        made += _of_scan(scan, cases, folder, made_by, steps)
    hashes = {case.scan: case.sha256 for case, _ in made}
    write_json(folder / "suite.json", {**settings, "sources_sha256": hashes})
    return write_tables(folder, made, suite, seed)


def _of_scan(
    scan: Scan,
    cases: Sequence[Case],
    folder: Path,
    made_by: Mapping[str, Any],
    steps: Compose,
) -> list[tuple[Case, Mapping[str, Any]]]:
    """Make what is missing of one scan's volumes; returns all with their records."""
    found = {case: kept(case, folder, made_by) for case in cases}
    todo = [case for case, record in found.items() if record is None]
    if todo:
        volume, anatomy = _studied(scan, folder / todo[0].brain, steps)
        levels = dict(zip(("grey", "white", "fluid"), anatomy.levels, strict=True))
        facts = {**made_by, "scan_levels": levels, "scan_noise": anatomy.noise}
        for case in todo:
            found[case] = write(case, folder, _made(case, volume, anatomy), volume, facts)
    return [(case, record) for case, record in found.items() if record is not None]


def _studied(scan: Scan, brain_file: Path, steps: Compose) -> tuple[Volume, Anatomy]:
    """Find brain, alignment and tissues of a healthy scan, and write its brain mask."""
    sample = prepare(steps, scan)
    volume: Volume = sample["volume"]
    doubtful = [flag for flag in sample["flags"] if flag.startswith("alignment")]
    if doubtful:
        raise InputError(f"{scan.path}: {doubtful[0]}; or leave the scan out")
    brain = sample["native_brain"]
    with naming(volume):
        anatomy = study(volume.image, brain, sample["to_model"])
    write_labels(brain_file, brain.numpy()[0].astype(np.uint8), volume)
    return volume, anatomy


def _made(case: Case, volume: Volume, anatomy: Anatomy) -> Made:
    whole = volume.image.numpy()[0]
    if case.recipe is None:
        image = with_atrophy(whole, anatomy, case.atrophy) if case.atrophy else whole
        return Made(image, np.zeros(whole.shape, np.uint8), (), ())
    made = with_lesions(whole, anatomy, case.recipe, np.random.default_rng(case.draws))
    if not made.lesions:
        raise VoladError(
            f"{volume.scan.path}: none of the lesions found a place; ask for smaller ones"
        )
    return made


def _steps(root: Path) -> Compose:
    """A bundle's reading and brain extraction, and the alignment, which all bundles share."""
    steps = bundle.part(root, "preprocessing").transforms
    first = [step for step in steps if isinstance(step, (Load, ExtractBrain))]
    return Compose([*first, AlignToTemplate()])


def _made_by(root: Path) -> dict[str, Any]:
    """The mark, and what voxels depend on beside a case's own settings."""
    preprocessing = bundle.recipe(root)
    packages = ("monai", "torch", "numpy", "scipy", "SimpleITK")
    return {
        "synthetic": True,
        "volad": __version__,
        "packages": {name: version(name) for name in packages},
        "bundle": root.name,
        "preprocessing_sha256": hashlib.sha256(preprocessing.encode()).hexdigest(),
        "shapes_sha256": library_sha256(),
    }


def _refuse(sources: Sequence[Source], folder: Path) -> None:
    if not sources:
        raise UsageError("no healthy scans to paint lesions into; name some")
    met: dict[str, Scan] = {}
    for source in sources:
        other = met.setdefault(source.scan.name, source.scan)
        if other is not source.scan:
            raise InputError(
                f"{other.path} and {source.scan.path} would both be written as "
                f"{other.name!r}; rename one"
            )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "suite.json").is_file():
        raise UsageError(f"{folder}: holds something other than a suite; name another folder")
