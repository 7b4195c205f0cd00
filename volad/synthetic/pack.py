"""Make `soop/shapes.npz` from the masks of stroke lesions: `python -m volad.synthetic.pack FOLDER`.

The masks are the `*_lesion.nii.gz` of `soop/README.md`'s source. Every connected lesion between
`SMALLEST_MM3` and `LARGEST_MM3` is kept, cropped, a bit a voxel.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volad.io import atomic, find_scans, read_volume

__all__ = ["pack"]

#: Smaller ones are mostly the steps of their voxels; scaled ones serve in their place.
SMALLEST_MM3 = 100
#: Larger ones, up to a whole hemisphere, take most of the room and are no test of a detector.
LARGEST_MM3 = 60_000


def pack(folder: Path | str) -> bytes:
    """The library's file for a folder of binary masks in MNI152 with voxels of 1 mm."""
    bits, sizes, homes_mm, names = [], [], [], []
    for scan in find_scans(folder):
        volume = read_volume(scan)
        for number, (mask, home_mm) in enumerate(
            _lesions(volume.image.numpy()[0] > 0, volume.affine), start=1
        ):
            bits.append(np.packbits(mask))
            sizes.append(mask.shape)
            homes_mm.append(home_mm)
            names.append(f"{scan.name}-{number}")
    return _npz(
        bits=np.concatenate(bits),
        sizes=np.array(sizes, np.uint8),
        homes_mm=np.array(homes_mm, np.float32),
        names=np.array(names),
    )


def _lesions(
    mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Each lesion, cropped and turned to the axes R, A, S, with its centre in the world."""
    if not np.allclose(np.abs(affine[:3, :3]), np.eye(3)):
        raise ValueError("masks must have voxels of 1 mm along the world's axes")
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    back = tuple(axis for axis in range(3) if affine[axis, axis] < 0)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if SMALLEST_MM3 <= sizes[label] <= LARGEST_MM3:
            one = labels[box] == label
            centre = np.array(ndimage.center_of_mass(one)) + [s.start for s in box]
            yield np.flip(one, back), affine[:3, :3] @ centre + affine[:3, 3]


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    """As `numpy.savez_compressed`, smaller, and without the time of day in it."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as stored:
        for name, array in arrays.items():
            member = BytesIO()
            np.save(member, array)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            stored.writestr(entry, member.getvalue(), compresslevel=9)
    return out.getvalue()


def main(arguments: Sequence[str]) -> None:
    """Write the library beside this file."""
    with atomic(Path(__file__).parent / "soop" / "shapes.npz") as temporary:
        temporary.write_bytes(pack(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
