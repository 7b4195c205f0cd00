"""One volume of a suite: what it is to be, its files, and whether they are there already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volad.io import Volume, remove, write_json
from volad.synthetic.make import Made, Painted
from volad.synthetic.spec import Recipe, Suite
from volad.synthetic.stored import write_image, write_labels

__all__ = ["Case", "cases_of", "kept", "write"]


@dataclass(frozen=True)
class Case:
    """A volume to make.

    Attributes:
        scan: name of the healthy scan.
        subject: who was scanned.
        sha256: of the healthy scan.
        part: `clean`, `atrophy`, or `lesions` with a number.
        recipe: the lesions; None for the controls.
        atrophy: growth of the ventricles; 0: none.
        draws: what all its random draws start from.
    """

    scan: str
    subject: str
    sha256: str
    part: str
    recipe: Recipe | None
    atrophy: float
    draws: tuple[int, ...]

    @property
    def name(self) -> str:
        """What its files are called by."""
        return f"{self.scan}_{self.part}_synthetic"

    @property
    def kind(self) -> str:
        """`clean`, `atrophy` or `lesions`."""
        return self.part if self.recipe is None else "lesions"

    @property
    def image(self) -> str:
        """Path of the image in the suite."""
        return f"images/{self.name}.nii.gz"

    @property
    def sidecar(self) -> str:
        """Path of the record in the suite; it is written last."""
        return f"images/{self.name}.json"

    @property
    def labels(self) -> str:
        """Path of the label map in the suite; empty for a control."""
        return f"lesions/{self.name}_lesion_mask.nii.gz" if self.recipe else ""

    @property
    def brain(self) -> str:
        """Path of the brain mask in the suite, which a scan's volumes share."""
        return f"brain/{self.scan}_synthetic_brainmask.nii.gz"

    def settings(self) -> dict[str, Any]:
        """All that its voxels depend on, but for the program."""
        return {
            "source": self.scan,
            "subject": self.subject,
            "source_sha256": self.sha256,
            "kind": self.kind,
            "recipe": asdict(self.recipe) if self.recipe else None,
            "atrophy": self.atrophy,
            "draws": list(self.draws),
        }


def cases_of(
    scan: str, subject: str, sha256: str, index: int, suite: Suite, seed: int
) -> tuple[Case, ...]:
    """What a suite makes of its `index`-th scan."""
    start = (seed, int(sha256[:16], 16))
    lesioned = (
        Case(
            *(scan, subject, sha256, f"lesions{i + 1}"),
            suite.recipe(index * suite.volumes + i),
            0.0,
            (*start, i),
        )
        for i in range(suite.volumes)
    )
    return (
        Case(scan, subject, sha256, "clean", None, 0.0, start),
        Case(scan, subject, sha256, "atrophy", None, suite.atrophy, start),
        *lesioned,
    )


def kept(case: Case, folder: Path, made_by: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a volume that is whole and was made by the same settings, or None."""
    try:
        record: dict[str, Any] = json.loads((folder / case.sidecar).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = json.loads(json.dumps({**made_by, **case.settings()}))
    same = isinstance(record, dict) and all(record.get(k) == v for k, v in wanted.items())
    files = [case.image, case.brain, *([case.labels] if case.labels else [])]
    return record if same and all((folder / file).is_file() for file in files) else None


def write(
    case: Case, folder: Path, made: Made, volume: Volume, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a volume, the record last, and return the record.

    Args:
        case: what it is.
        folder: the suite.
        made: the voxels.
        volume: the healthy scan.
        facts: what made it, and what was measured of the scan.
    """
    remove(folder / case.sidecar)  # an old one would vouch for new files
    write_image(folder / case.image, made.image, volume)
    if case.labels:
        write_labels(folder / case.labels, made.labels, volume)
    record = {
        **facts,
        **case.settings(),
        "lesions": [_lesion(one, volume) for one in made.lesions],
        "left_out": [asdict(one) for one in made.left_out],
    }
    write_json(folder / case.sidecar, record)
    stored: dict[str, Any] = json.loads(json.dumps(record))
    return stored


def _lesion(one: Painted, volume: Volume) -> dict[str, Any]:
    centre_mm = volume.affine[:3, :3] @ np.array(one.centre) + volume.affine[:3, 3]
    return {
        "label": one.label,
        "kind": one.lesion.kind,
        "tissue": one.lesion.tissue,
        "shape": one.shape,
        "mm3": round(one.mm3, 3),
        "asked_mm3": one.lesion.mm3,
        "contrast_realised": round(one.contrast, 4),
        "centre_mm": [round(v, 2) for v in centre_mm.tolist()],
    }
