"""Brain extraction: one real head, and phantoms whose brain is known."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from volad.errors import InputError
from volad.preprocess.brain import (
    BrainMask,
    CTBrain,
    MRBrain,
    brain_mask_from_stripped,
    brain_mask_warning,
    is_stripped,
)

DATA = Path(__file__).parent / "data"


def meta(array, affine=None) -> MetaTensor:
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    tensor = torch.from_numpy(np.ascontiguousarray(array))[None]
    return MetaTensor(tensor, affine=torch.from_numpy(np.asarray(affine, np.float64)))


def dice(a, b) -> float:
    a, b = np.asarray(a) > 0, np.asarray(b) > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@lru_cache(maxsize=1)
def head() -> tuple[MetaTensor, np.ndarray]:
    """A real T1 with skull `(1, 120, 120, 90)`, axes PSR, and its brain."""
    scan = nib.load(DATA / "IXI646-HH-2653_T1.nii.gz")
    brain = np.asarray(nib.load(DATA / "IXI646-HH-2653_brain.nii.gz").dataobj) > 0
    return meta(scan.get_fdata(dtype=np.float32), scan.affine), brain


@lru_cache(maxsize=1)
def head_mask() -> MetaTensor:
    return MRBrain()(head()[0])


def ellipsoid(shape, spacing_mm, radii_mm, centre_mm=(0, 0, 0)) -> np.ndarray:
    """Voxels of a grid, whose middle is the origin, that lie in an ellipsoid."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * s - c) / r
        for n, s, r, c in zip(shape, spacing_mm, radii_mm, centre_mm, strict=True)
    ]
    return sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) <= 1


def ct_head(spacing_mm=(2.0, 2.0, 2.0)) -> tuple[np.ndarray, np.ndarray]:
    """A head in HU on a table: skin and fat, skull, brain with ventricles; and its brain."""
    shape = [round(size / s) for size, s in zip((200, 240, 180), spacing_mm, strict=True)]
    hu = np.full(shape, -1000.0, np.float32)
    hu[:, : round(14 / spacing_mm[1])] = 60  # the table, a slab of soft tissue's density
    radii = np.array([66.0, 82.0, 64.0])
    for extra_mm, value in ((20, 40), (17, -80), (7, 1000), (0, 35)):  # skin, fat, skull, brain
        hu[ellipsoid(shape, spacing_mm, radii + extra_mm)] = value
    hu[ellipsoid(shape, spacing_mm, (12, 35, 14))] = 5
    hu[ellipsoid(shape, spacing_mm, (13, 13, 60), (0, -20, -80)) & (hu > 300)] = 35  # great foramen
    rng = np.random.default_rng(0)
    return hu + rng.normal(0, 5, shape).astype(np.float32), ellipsoid(shape, spacing_mm, radii)


class TestMR:
    def test_it_finds_the_brain(self):
        image, brain = head()
        mask = head_mask()
        assert mask.shape == image.shape
        assert mask.dtype == torch.bool
        assert torch.equal(mask.affine, image.affine)
        assert dice(mask[0], brain) > 0.96

    def test_it_is_deterministic(self):
        assert torch.equal(MRBrain()(head()[0]).as_tensor(), head_mask().as_tensor())

    def test_the_order_and_direction_of_axes_do_not_matter(self):
        image, _ = head()
        scan = nib.Nifti1Image(image.numpy()[0], image.affine.numpy())
        ornt = nib.orientations.axcodes2ornt("LIA")
        turned = scan.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(scan.affine), ornt)
        )
        mask = MRBrain()(meta(turned.get_fdata(dtype=np.float32), turned.affine))
        expected = nib.Nifti1Image(head_mask().numpy()[0].astype(np.uint8), scan.affine)
        expected = expected.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(scan.affine), ornt)
        )
        np.testing.assert_array_equal(mask.numpy()[0], np.asarray(expected.dataobj) > 0)

    def test_thick_slices_and_integers(self):
        image, brain = head()
        affine = image.affine.numpy() @ np.diag([1, 3, 1, 1])  # 6 mm axial slices
        thick = meta(image.numpy()[0, :, ::3].astype(np.int16), affine)
        assert dice(MRBrain()(thick)[0], brain[:, ::3]) > 0.9

    def test_a_constant_scan_is_refused(self):
        with pytest.raises(InputError, match="constant"):
            MRBrain()(meta(np.zeros((16, 16, 16), np.float32)))

    def test_channels_are_refused(self):
        with pytest.raises(ValueError, match=r"\(1, X, Y, Z\)"):
            MRBrain()(MetaTensor(torch.zeros(2, 8, 8, 8)))


class TestStripped:
    def test_a_head_is_not(self):
        assert not is_stripped(head()[0])

    @pytest.mark.parametrize("share_of_mean", [0.1, 0.5, 1.0])
    def test_a_head_with_zeroed_air_is_not(self, share_of_mean):
        scan = head()[0].numpy()[0]
        zeroed = np.where(scan > share_of_mean * scan.mean(), scan, 0)
        assert not is_stripped(meta(zeroed, head()[0].affine))

    def test_a_defaced_head_is_not(self):
        scan = head()[0].numpy()[0].copy()
        scan[:35, :60] = 0  # axes run to posterior, superior, right
        assert not is_stripped(meta(scan, head()[0].affine))

    @pytest.mark.parametrize("background", [0.0, -1.5])
    def test_a_brain_is(self, background):
        image, brain = head()
        stripped = np.where(brain, image.numpy()[0], background).astype(np.float32)
        assert is_stripped(meta(stripped, image.affine))

    def test_a_brain_cropped_to_its_box_is(self):
        image, brain = head()
        where = np.argwhere(brain)
        box = tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
        assert is_stripped(meta((image.numpy()[0] * brain)[box], image.affine))

    def test_a_constant_is_not(self):
        assert not is_stripped(meta(np.zeros((8, 8, 8), np.float32)))

    def test_the_mask_is_the_largest_piece_without_holes(self):
        scan = np.zeros((12, 12, 12), np.float32)
        scan[2:9, 2:9, 2:9] = 7
        expected = scan > 0
        scan[5, 5, 5] = 0  # a hole
        scan[11, 11, 11] = 3  # a speck
        mask = brain_mask_from_stripped(meta(scan))
        np.testing.assert_array_equal(mask.numpy()[0], expected)


class TestCT:
    @pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (1.5, 1.5, 5.0)])
    def test_it_finds_the_brain_inside_the_skull(self, spacing_mm):
        hu, brain = ct_head(spacing_mm)
        mask = CTBrain()(meta(hu, np.diag([*spacing_mm, 1.0]))).numpy()[0]
        assert dice(mask, brain) > 0.95
        assert not mask[hu > 300].any(), "the mask holds bone"

    def test_it_keeps_a_bleed_at_the_skull(self):
        hu, brain = ct_head()
        bleed = ellipsoid(hu.shape, (2, 2, 2), (15, 30, 25), (60, 0, 0)) & brain
        hu[bleed] = 75
        mask = CTBrain()(meta(hu)).numpy()[0]
        assert (mask & bleed).sum() > 0.95 * bleed.sum()

    def test_no_soft_tissue_is_an_error_that_names_the_way_out(self):
        with pytest.raises(InputError, match="--brain-mask FILE"):
            CTBrain()(meta(np.full((20, 20, 20), -1000, np.float32)))


class TestChoice:
    @pytest.mark.parametrize("kind", ["auto", "mr"])
    def test_with_skull(self, kind, monkeypatch):
        monkeypatch.setattr(MRBrain, "__call__", lambda self, image: head_mask())
        mask, how = BrainMask(kind)(head()[0])
        assert how == "deepbet"
        assert mask is head_mask()

    @pytest.mark.parametrize("kind", ["auto", "ct"])
    def test_without_skull(self, kind):
        image, brain = head()
        mask, how = BrainMask(kind)(meta(image.numpy()[0] * brain, image.affine))
        assert how == "stripped"
        assert dice(mask[0], brain) > 0.99

    def test_ct(self):
        hu, brain = ct_head()
        mask, how = BrainMask("ct")(meta(hu))
        assert how == "ct-hu"
        assert dice(mask[0], brain) > 0.95

    @pytest.mark.parametrize("kind", ["auto", "mr", "ct", "given"])
    def test_a_given_mask_wins(self, kind):
        image, brain = head()
        mask, how = BrainMask(kind)(image, meta(brain.astype(np.uint8), image.affine))
        assert how == "given"
        assert mask.dtype == torch.bool
        np.testing.assert_array_equal(mask.numpy()[0], brain)

    def test_a_given_mask_must_fit_the_scan(self):
        with pytest.raises(InputError, match="resample it"):
            BrainMask()(head()[0], meta(np.ones((8, 8, 8), bool)))

    def test_given_needs_a_mask(self):
        with pytest.raises(InputError, match="--brain-mask FILE"):
            BrainMask("given")(head()[0])

    def test_an_unknown_kind(self):
        with pytest.raises(ValueError, match="auto, mr, ct, given"):
            BrainMask("pet")  # type: ignore[arg-type]

    @pytest.mark.parametrize("radius_mm", [10, 95])
    def test_an_implausible_volume_is_refused(self, radius_mm):
        ball = ellipsoid((100, 100, 100), (2, 2, 2), (radius_mm,) * 3)
        with pytest.raises(InputError, match="ml where"):
            BrainMask()(meta(ball.astype(np.float32)), meta(ball))


class TestWarning:
    def test_a_whole_brain_has_none(self):
        assert brain_mask_warning(head_mask()) is None

    def test_a_cut_brain(self):
        slab = head_mask().numpy()[0][:, 70:90]
        assert "field of view cuts" in str(brain_mask_warning(meta(slab)))

    def test_a_small_brain(self):
        ball = ellipsoid((60, 60, 60), (2, 2, 2), (50, 50, 50))
        assert "only 52" in str(brain_mask_warning(meta(ball)))
