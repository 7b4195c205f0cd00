"""Memory and time of `volad evaluate` on SYNTHETIC 1 mm volumes: how it scales, not how good it is.

    python benchmarks/evaluation.py [--scans 1000] [--sets 1] [--no-froc]

Three distinct volumes of 182 x 218 x 182 voxels (score, mask, expert mask and brain mask, packed as
`volad segment` packs them) stand in a data set N times under N names, and each is read and judged
N / 3 times, in both passes. Prints the peak memory of the process and the seconds a volume.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volad.evaluate import Job, ResultSet, Settings, evaluate

SHAPE = (182, 218, 182)
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
DISTINCT = 3
LIMIT_MIB = 2048


def main() -> None:
    """Make the data set, judge it, print."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In a process of its own, so that its memory is not counted.
        child = get_context("spawn").Process(target=write_volumes, args=(root / "volumes",))
        child.start()
        child.join()
        sets = [ResultSet(f"set{k}", root / f"set{k}") for k in range(args.sets)]
        manifest = data_set(root, sets, args.scans)
        before = peak_mib()
        started = time.perf_counter()
        job = Job(manifest, sets, by=["site"], settings=Settings(froc=args.froc))
        evaluate(job, root / "out")
        seconds = time.perf_counter() - started
    peak = peak_mib()
    print("| scans | result sets | FROC | peak memory | of it before | seconds a scan and set |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {args.scans} | {args.sets} | {'yes' if args.froc else 'no'} | {peak:.0f} MiB "
        f"| {before:.0f} MiB | {seconds / args.scans / args.sets:.2f} |"
    )
    if peak > LIMIT_MIB:
        sys.exit(f"more than {LIMIT_MIB} MiB")


def write_volumes(folder: Path) -> None:
    """The distinct volumes; the first has no lesions."""
    for k in range(DISTINCT):
        write_volume(folder, f"v{k}", np.random.default_rng(k), lesioned=k > 0)


def write_volume(folder: Path, name: str, random: np.random.Generator, *, lesioned: bool) -> None:
    """A brain of 1.5 litres with smooth noise as score, and some lesions brighter than it."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    brain = (grid**2 / np.array([0.74, 0.83, 0.66])[:, None, None, None] ** 2).sum(axis=0) < 1
    noise = random.standard_normal(SHAPE, np.float32)
    score = np.abs(ndimage.gaussian_filter(noise, 1.5))
    lesion = np.zeros(SHAPE, bool)
    inner = np.argwhere(ndimage.binary_erosion(brain, iterations=12))
    for radius in (1, 2, 3, 5, 8, 12) * 3 if lesioned else ():
        x, y, z = random.choice(inner)
        place = np.s_[x - radius : x + radius + 1, y - radius : y + radius + 1]
        ball = _square_distances(radius)
        lesion[(*place, slice(z - radius, z + radius + 1))] |= ball <= radius**2
    score = (score * (1 + 2 * lesion) * brain).astype(np.float32)
    threshold = np.quantile(score[brain & ~lesion], 0.995)
    _save(folder / f"{name}_score.nii.gz", score)
    _save(folder / f"{name}_mask.nii.gz", score > threshold)
    _save(folder / f"{name}_lesion.nii.gz", lesion)
    _save(folder / f"{name}_brainmask.nii.gz", brain)


def _square_distances(radius: int) -> NDArray[np.int64]:
    """From the middle of a cube, voxels squared."""
    x, y, z = np.ogrid[(slice(-radius, radius + 1),) * 3]
    squares: NDArray[np.int64] = x**2 + y**2 + z**2
    return squares


def _save(path: Path, array: NDArray[np.generic]) -> None:
    path.parent.mkdir(exist_ok=True)
    kind = np.float32 if array.dtype == np.float32 else np.uint8
    nib.Nifti1Image(array.astype(kind), AFFINE).to_filename(path)


def data_set(root: Path, sets: list[ResultSet], scans: int) -> Path:
    """A manifest of so many names, and folders of results with links to the volumes."""
    lines = ["name,lesion,site"]
    for n in range(scans):
        k = n % DISTINCT
        lesion = f"volumes/v{k}_lesion.nii.gz" if k else ""
        lines.append(f"scan{n:05d},{lesion},{'AB'[n // DISTINCT % 2]}")
        for one in sets:
            one.folder.mkdir(exist_ok=True)
            for kind in ("score", "mask", "brainmask"):
                link = one.folder / f"scan{n:05d}_{kind}.nii.gz"
                link.symlink_to(root / "volumes" / f"v{k}_{kind}.nii.gz")
    manifest = root / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--sets", type=int, default=1)
    parser.add_argument("--froc", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
