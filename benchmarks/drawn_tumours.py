"""Draw tumours into patients' scans, the same ones into each of a patient's contrasts.

    python benchmarks/drawn_tumours.py --patients DIR -o tumours/
    python benchmarks/development.py --patients tumours/ --image FLAIR --bundles brain_mr_any ...

SYNTHETIC, no clinical result: it asks whether a detector fills a lesion of centimetres, in scans of
a real scanner and in contrasts of which no healthy scan is at hand. `DIR` holds a folder a patient
with `FLAIR`, `T1`, `T2` and `lesion.nii.gz` on one grid, without skull (as in the public
open_ms_data set). Writes `PATIENT_TUMOUR/` folders of the same kind, `lesion` being the tumour and
the patient's own lesions. Each tumour is a bumpy ball of oedema that hides most of what was there,
in it a rim and a core, as bright as below; nothing is pushed aside. Not drawn by `volad.anomalies`,
which detectors may have learned from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volad.io import write_new
from volad.synthetic.stored import NOTE

#: Millilitres, and where the middle lies: mm to the right, to the front and up from the brain's.
TUMOURS = {
    "frontal": (60.0, (-28.0, 30.0, 22.0)),
    "parietal": (25.0, (27.0, -35.0, 26.0)),
    "temporal": (8.0, (-42.0, -12.0, -14.0)),
}
#: Brightness of oedema, rim and core, in units of the brain's median.
LEVELS = {"FLAIR": (1.35, 1.5, 0.85), "T1": (0.8, 0.85, 0.5), "T2": (1.6, 1.5, 1.9)}
#: Where rim and core begin, as shares of the way from the surface to the middle.
RIM, CORE = 0.45, 0.65
#: How much of the tissue's own differences is left, and the spread of a grain that comes instead.
LEFT, GRAIN = 0.3, 0.04


def main() -> None:
    """Draw all tumours into all patients."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    for folder in sorted(p for p in args.patients.iterdir() if p.is_dir()):
        own = nib.load(folder / "lesion.nii.gz")
        scans = {contrast: nib.load(folder / f"{contrast}.nii.gz") for contrast in LEVELS}
        images = {name: np.asarray(scan.dataobj, np.float32) for name, scan in scans.items()}
        brain, lesions = images["FLAIR"] > 0, np.asarray(own.dataobj) > 0
        for index, (name, (volume_ml, middle)) in enumerate(TUMOURS.items()):
            random = np.random.default_rng(index)
            depth = _depth(brain, scans["FLAIR"].affine, volume_ml, middle, random)
            grain = ndimage.gaussian_filter(random.standard_normal(depth.shape), 1.0)
            grain *= GRAIN / grain.std()
            out = args.output / f"{folder.name}_{name}"
            out.mkdir(parents=True, exist_ok=True)
            for contrast, levels in LEVELS.items():
                drawn = _drawn(images[contrast], depth, levels, grain)
                write_new(out / f"{contrast}.nii.gz", drawn, scans[contrast].affine, NOTE)
            lesion = (lesions | (depth > 0)).astype(np.uint8)
            write_new(out / "lesion.nii.gz", lesion, own.affine, NOTE)
            voxel_ml = abs(np.linalg.det(own.affine[:3, :3])) / 1000
            print(f"{out}: {(depth > 0).sum() * voxel_ml:.1f} ml")


def _depth(
    brain: NDArray[np.bool_],
    affine: NDArray[np.float64],
    volume_ml: float,
    middle: tuple[float, float, float],
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """How deep each voxel lies in the tumour: 0 outside of it, 1 in its middle."""
    voxels = np.indices(brain.shape).reshape(3, -1)
    place = (affine[:3, :3] @ voxels).T
    centre = place[brain.ravel()].mean(axis=0)
    apart = np.linalg.norm(place - centre - middle, axis=1).reshape(brain.shape)
    bumps = ndimage.gaussian_filter(random.standard_normal(brain.shape), 8.0)
    apart *= 1 + 0.15 * bumps / bumps.std()
    inside = np.sort(apart[brain])
    radius = inside[int(volume_ml * 1000 / abs(np.linalg.det(affine[:3, :3])))]
    return np.asarray(np.clip(1 - apart / radius, 0, 1) * brain, np.float32)


def _drawn(
    image: NDArray[np.float32],
    depth: NDArray[np.float32],
    levels: tuple[float, float, float],
    grain: NDArray[np.float64],
) -> NDArray[np.float32]:
    median = float(np.median(image[image > 0]))
    oedema, rim, core = levels
    level = np.select([depth > CORE, depth > RIM], [core, rim], oedema)
    level = median * ndimage.gaussian_filter(level, 1.0) * (1 + grain)
    tissue = np.clip(image - median, -median, median)
    share = np.clip(depth / 0.08, 0, 1)  # a soft edge
    out = image + share * (level + LEFT * tissue - image)
    return np.where(image > 0, np.maximum(out, 1e-3), 0).astype(np.float32)


if __name__ == "__main__":
    main()
