"""Make the 2 mm MNI152 maps that volad ships from the 1 mm ones inside nilearn's wheel.

    pip download --no-deps nilearn && python tools/make_template.py nilearn-*.whl

Every map is averaged over the eight 1 mm voxels around each 2 mm voxel centre, so that nothing
aliases, on a fixed field of view that holds the whole brain with a margin.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

#: Field of view: 80 x 96 x 88 voxels of 2 mm, RAS. Multiples of 8, so that nets halve it evenly.
SHAPE = (80, 96, 88)
ORIGIN_MM = (-79.0, -113.0, -85.0)
OUT = Path(__file__).parents[1] / "volad" / "preprocess" / "mni152"


def main(wheel: str) -> None:
    """Write t1, gm and wm of `wheel` into the package."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = ORIGIN_MM
    for tissue in ("t1", "gm", "wm"):
        name = f"nilearn/datasets/data/mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
        with zipfile.ZipFile(wheel) as archive:
            raw = archive.read(name)
        source = nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(raw)))
        data = ndimage.uniform_filter(np.asarray(source.dataobj, np.float32), 2, origin=-1)
        # The mean over voxels i and i+1 sits half a voxel (0.5 mm) above voxel i.
        shifted = source.affine.copy()
        shifted[:3, 3] += 0.5
        to_source = np.linalg.inv(shifted) @ affine
        out = ndimage.affine_transform(
            data, to_source[:3, :3], to_source[:3, 3], output_shape=SHAPE, order=1
        )
        image = nib.Nifti1Image(np.rint(out).astype(np.uint8), affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code=4)  # 4: MNI space
        image.set_qform(affine, code=4)
        nib.save(image, OUT / f"{tissue}_2mm.nii.gz")


if __name__ == "__main__":
    main(sys.argv[1])
