"""The lesion table against geometry a person can solve, and the page as a document."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import re
from html.parser import HTMLParser
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from volad.report.lesions import find_lesions, lesions_csv, summary_row
from volad.report.page import render_page
from volad.report.volumes import Grid, embed_image, embed_mask, image_range

SPACED = np.diag([3.0, 2.0, 1.0, 1.0])


def two_lesions() -> tuple[np.ndarray, np.ndarray]:
    """A bar of three voxels along i, and two voxels that touch only at a corner."""
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[1:4, 2, 3] = True
    mask[6, 6, 6] = mask[7, 7, 7] = True
    score = np.zeros(mask.shape, dtype=np.float32)
    score[1:4, 2, 3] = [1, 2, 6]
    score[6, 6, 6], score[7, 7, 7] = 8, 4
    return mask, score


def test_two_lesions_measured_by_hand() -> None:
    bar, pair = find_lesions(*two_lesions(), SPACED)
    assert (bar.index, bar.voxels, bar.volume_mm3) == (1, 3, 18.0)
    assert bar.centroid_voxel == (2.0, 2.0, 3.0)
    assert bar.centroid_mm == (6.0, 4.0, 3.0)
    assert (bar.max_score, bar.mean_score) == (6.0, 3.0)
    assert (pair.index, pair.voxels, pair.volume_mm3) == (2, 2, 12.0)
    assert pair.centroid_voxel == (6.5, 6.5, 6.5)
    assert pair.centroid_mm == (19.5, 13.0, 6.5)
    assert (pair.max_score, pair.mean_score) == (8.0, 6.0)


def test_flipped_and_swapped_axes_move_the_world_not_the_volume() -> None:
    # i runs to the left, j downwards, k to the front: x = 90 - 3 i, y = k - 50, z = 70 - 2 j.
    affine = np.array([[-3, 0, 0, 90], [0, 0, 1, -50], [0, -2, 0, 70], [0, 0, 0, 1]], dtype=float)
    bar, _ = find_lesions(*two_lesions(), affine)
    assert bar.centroid_mm == (84.0, -47.0, 66.0)
    assert bar.volume_mm3 == pytest.approx(18)


def test_oblique_affine() -> None:
    # Thirty degrees about z, then 5 mm to the right.
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[cos, -sin, 0, 5], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    bar, _ = find_lesions(*two_lesions(), turn @ SPACED)
    assert bar.centroid_mm == pytest.approx((6 * cos - 4 * sin + 5, 6 * sin + 4 * cos, 3))
    assert bar.volume_mm3 == pytest.approx(18)


def test_ties_are_ordered_by_peak_then_position() -> None:
    mask = np.zeros((9, 3, 3), dtype=bool)
    mask[[0, 4, 8], 1, 1] = True
    score = np.zeros(mask.shape, dtype=np.float32)
    score[[0, 4, 8], 1, 1] = [1, 1, 2]
    lesions = find_lesions(mask, score, np.eye(4))
    assert [lesion.centroid_voxel[0] for lesion in lesions] == [8, 0, 4]


def test_no_lesions() -> None:
    empty = np.zeros((4, 4, 4), dtype=bool)
    lesions = find_lesions(empty, np.zeros(empty.shape, dtype=np.float32), np.eye(4))
    assert lesions == []
    header = "lesion,volume_mm3,voxels,x_mm,y_mm,z_mm,i,j,k,max_score,mean_score\n"
    assert lesions_csv(lesions) == header
    assert summary_row("a", lesions, 0) == {
        "Name": "a",
        "Num_Lesions": 0,
        "Num_Vox": 0,
        "Lesion_Volume": 0,
    }


def test_shapes_that_differ_are_refused() -> None:
    mask, score = two_lesions()
    with pytest.raises(ValueError, match="share one 3D shape"):
        find_lesions(mask, score[:1], np.eye(4))


def test_csv_and_summary_agree_with_the_lesions() -> None:
    mask, score = two_lesions()
    lesions = find_lesions(mask, score, SPACED)
    rows = list(csv.DictReader(io.StringIO(lesions_csv(lesions))))
    assert [row["volume_mm3"] for row in rows] == ["18.00", "12.00"]
    assert [rows[1][key] for key in ("x_mm", "y_mm", "z_mm", "i")] == [
        "19.50",
        "13.00",
        "6.50",
        "6.50",
    ]
    assert summary_row("a", lesions, int(mask.sum()))["Lesion_Volume"] == 30.0
    with pytest.raises(ValueError, match="belong together"):
        summary_row("a", lesions, 4)


#: i runs backwards, j up, k to the left, voxels of 2 x 1 x 3 mm.
TURNED = np.array([[0, 0, -3, 40], [-2, 0, 0, 30], [0, 1, 0, -20], [0, 0, 0, 1]], dtype=float)


def page(**changes: Any) -> str:
    """A page of a small scan with two lesions; keyword arguments replace its parts."""
    mask, score = two_lesions()
    affine = changes.get("affine", TURNED)
    image = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    parts: dict[str, Any] = {
        "name": "sub-01",
        "image": image,
        "score": score,
        "mask": mask,
        "affine": affine,
        "lesions": find_lesions(mask, score, affine),
        "provenance": {"volad": "0.1.0", "bundle": {"name": "b", "seconds": [1.25, 2]}},
        "threshold": 0.5,
    }
    return render_page(**parts | changes)


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text of headings and list items."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def embedded(html: str, layer: str) -> nib.Nifti1Image:
    found = re.search(rf'id="volume-{layer}">([^<]*)<', html)
    assert found is not None
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(found[1])))


def test_page_asks_for_nothing_outside_itself() -> None:
    parsed = Tags(page(healthy=np.zeros((8, 8, 8), dtype=np.float32)))
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {t for t, _ in parsed.tags}
    for _, attributes in parsed.tags:
        assert not {"src", "href", "srcset", "action", "data", "style"} & attributes.keys()
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_hostile_texts_stay_texts() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
    plain = Tags(page(warnings=["w"]))
    parsed = Tags(
        page(name=evil, warnings=[evil], provenance={evil: evil, "x": {"bundle": {"y": [evil]}}})
    )
    for tag in ("script", "img", "li", "h1"):
        assert parsed.count(tag) == plain.count(tag)
    assert "".join(parsed.texts["h1"]).startswith(evil)
    assert evil in "".join(parsed.texts["li"])
    assert evil in "".join(parsed.texts["dt"])


def test_page_says_what_a_reader_must_know() -> None:
    html = page(warnings=["the field of view is cut"])
    assert html.count("not a medical device: not for diagnosis or treatment") == 1
    assert html.index("the field of view is cut") < html.index('id="stage"')
    assert "2 lesions, 30.0 mm³ in all, at a score threshold of 0.5" in html
    assert "<dt>seconds</dt><dd>1.25, 2</dd>" in html
    assert html.count('<tr class="lesion"') == 2
    assert "Redistributions in binary form" in html


def test_page_without_lesions() -> None:
    empty = np.zeros((8, 8, 8), dtype=bool)
    html = page(mask=empty, score=empty.astype(np.float32), lesions=[])
    assert "no lesion, at a score threshold of 0.5" in html
    assert "No lesion above the threshold." in html


def test_embedded_volumes_keep_their_place_and_value() -> None:
    html = page()
    image, score, mask = (embedded(html, layer) for layer in ("image", "score", "mask"))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), (3, 2, 1))
    # Voxel (6, 6, 6) of the scan, wherever it lies in the page's volume.
    i, j, k = np.linalg.solve(image.affine, TURNED @ [6, 6, 6, 1])[:3].round().astype(int)
    assert image.get_fdata()[i, j, k] == pytest.approx(6 * 64 + 6 * 8 + 6, abs=511 / 255)
    assert score.get_fdata()[i, j, k] == pytest.approx(8, abs=8 / 255)
    assert np.asarray(mask.dataobj)[i, j, k] > 0
    assert np.count_nonzero(np.asarray(mask.dataobj)) == 5


def test_ct_keeps_single_hounsfield_units_where_tissue_is() -> None:
    hu = np.linspace(-1000, 2000, 512, dtype=np.float32).reshape(8, 8, 8)
    grid = Grid(hu.shape, np.eye(4))
    data = embed_image(grid, hu, image_range(hu, "ct"), "ct")
    shown = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data))).get_fdata()
    tissue = np.abs(hu) < 199
    np.testing.assert_allclose(shown[tissue], hu[tissue], atol=0.5)
    bone = (hu > 200) & (hu < 1490)
    np.testing.assert_allclose(shown[bone], hu[bone], atol=8.5)
    assert '"Subdural": [-20, 180]' in page(modality="ct")


def test_mask_is_one_inside_and_two_on_the_border() -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    data = embed_mask(Grid(mask.shape, np.eye(4)), mask)
    labels = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data))).dataobj)
    assert (labels[2, 2, 2], np.count_nonzero(labels == 2)) == (1, 26)


def test_large_scans_are_halved_along_their_finest_axis_and_keep_lesions() -> None:
    # Spacing (2, 1, 3): j is the finest, then i and j alike.
    grid = Grid((8, 9, 8), TURNED, max_voxels=400)
    assert grid.shape == (8, 8, 5)  # x from k, y from i, z from j
    mask = np.zeros((8, 9, 8), dtype=bool)
    mask[4, 5, 6] = True
    shown = np.argwhere(grid.show(mask, np.max))
    assert len(shown) == 1
    # Its block's centre is within half a block of the voxel, in the scan and in the world.
    block = [*shown[0], 1]
    np.testing.assert_allclose((grid.to_native @ block)[:3], [4, 5, 6], atol=0.5)
    np.testing.assert_allclose(grid.affine @ block, TURNED @ [4, 5, 6, 1], atol=0.5)


def test_page_of_a_whole_head_at_one_mm_stays_small() -> None:
    shape = (181, 217, 181)
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    head = sum(((np.indices(shape)[n] / s - 0.5) / 0.42) ** 2 for n, s in enumerate(shape)) < 1
    smooth = ndimage.gaussian_filter(noise, 2)
    image = np.where(head, 500 + 400 * smooth + 30 * noise, 5 * np.abs(noise))
    score = np.abs(smooth) * head
    mask = score > 1.2
    html = page(image=image, score=score, mask=mask, lesions=[], healthy=500 + 400 * smooth * head)
    assert len(html) < 12e6


def test_volumes_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="share one 3D shape"):
        page(healthy=np.zeros((8, 8, 7), dtype=np.float32))
