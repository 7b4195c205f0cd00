"""Small stripped head CTs, and a detector trained on them once for all tests of a session."""

from __future__ import annotations

import atexit
import csv
import hashlib
import io
import os
import shutil
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from io_helpers import save_nifti
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage

from volad import bundle
from volad.cli import main
from volad.pipeline import Pipeline
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample

#: Where `head(lesion=True)` bleeds: a cube of 24 mm in the left hemisphere.
LESION = np.s_[12:18, 22:28, 22:28]
#: What makes the detector, as `volad train` takes it.
TRAINING = [
    *("--modality=ct", "--space=isotropic", "--spacing-mm=6", "--patch", "16", "16", "16"),
    *("--epochs=30", "--batch=4", "--lr=0.003", "--ema=0", "--no-amp", "--device=cpu"),
    *("--set", "features=[8,16]", "--set", "convs=1", "--set", "code=4"),
    *("--set", "residual=positive", "--set", "dropout=0.1", "--healthy-fpr=0.005"),
]


def head(seed: int, *, lesion: bool = False) -> NDArray[np.int16]:
    """`(40, 48, 44)` voxels of 4 mm in Hounsfield units: MNI152's tissues, -1000 outside.

    Every subject has other tissue densities and its own noise.
    """
    random = np.random.default_rng(seed)
    template = load_template()
    grey, white = (
        tissue.reshape(40, 2, 48, 2, 44, 2).mean(axis=(1, 3, 5))
        for tissue in (template.grey, template.white)
    )
    inside = ndimage.binary_fill_holes(grey + white > 0.3)
    hu = 10 + random.normal(30, 1) * grey + random.normal(18, 1) * white
    hu += random.normal(0, 1, hu.shape)
    if lesion:
        hu[LESION] += 35
    return np.where(inside, hu, -1000).astype(np.int16)


def grid() -> NDArray[np.float64]:
    """The affine of `head`: `(4, 4)`, voxel to RAS mm."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = load_template().affine[:3, 3] + 1
    return affine


def save_head(path: Path, seed: int = 90, *, lesion: bool = True) -> Path:
    """Write a subject; by default one with a lesion that the detector was not trained on."""
    return save_nifti(path, head(seed, lesion=lesion), grid())


@cache
def shared() -> Path:
    """A folder that is there until the interpreter ends; tests only read what is in it."""
    folder = TemporaryDirectory(prefix="volad-tests-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def healthy_set() -> Path:
    """A folder with `manifest.csv`: three healthy subjects to train on, two to validate on."""
    folder = shared() / "healthy"
    scans = [folder / "scans" / f"sub{seed}.nii.gz" for seed in range(5)]
    for seed, scan in enumerate(scans):
        scan.parent.mkdir(parents=True, exist_ok=True)
        save_head(scan, seed, lesion=False)
    write_training_manifest(folder, scans[:3], scans[3:])
    return folder


def write_training_manifest(folder: Path, train: list[Path], validation: list[Path]) -> Path:
    """Write `manifest.csv` for scans below a folder, every scan of another subject."""
    path = folder / "manifest.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["subject", "split", "image", "sha256"])
        for split, scans in (("train", train), ("validation", validation)):
            for scan in scans:
                name = scan.relative_to(folder).as_posix()
                table.writerow([f"{split}-{name}", split, name, sha256(scan)])
    return path


def sha256(path: Path) -> str:
    """Hash a file as `sha256sum` does."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train_arguments(root: Path, *more: str, method: str = "ae") -> list[str]:
    """The command line that trains a detector on `healthy_set` into a folder."""
    data = healthy_set()
    where = ["-o", str(root), "--manifest", str(data / "manifest.csv"), "--data-dir", str(data)]
    return ["train", method, *where, *more]


@cache
def ready_bundle() -> Path:
    """A trained and calibrated autoencoder; to change it, take `bundle_copy`."""
    root = shared() / "head_ct_ae"
    with redirect_stdout(io.StringIO()):
        assert main(train_arguments(root, *TRAINING)) == 0
    return root


def bundle_copy(folder: Path) -> Path:
    """A copy of `ready_bundle` that a test may change."""
    return Path(shutil.copytree(ready_bundle(), folder / "head_ct_ae"))


def segment(*arguments: object) -> int:
    """Run `volad segment` with the ready bundle on the CPU; later arguments win."""
    given = [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments]
    return main(["segment", "-b", str(ready_bundle()), "--device=cpu", *given])


def pipeline(root: Path, **overrides: object) -> Pipeline:
    """A bundle's pipeline on the CPU."""
    settings = {"device": "cpu", **overrides}
    built: Pipeline = bundle.build(bundle.open_config(root, "inference", settings), "pipeline")
    return built


def voxels(path: Path) -> NDArray[np.generic]:
    """The voxels of a NIfTI file in its own data type."""
    return np.asarray(nib.load(path).dataobj)


def files_below(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too, as sorted relative paths."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class Dies(Transform):
    """A step of preprocessing during which the process is killed."""

    def __call__(self, sample: Sample) -> Sample:
        os._exit(9)


class Breaks(Transform):
    """A step with a bug, or in which a library fails, for scans of one name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, sample: Sample) -> Sample:
        if sample["volume"].scan.name == self.name:
            raise RuntimeError("ITK ERROR:\n  all samples lie outside")
        return sample
