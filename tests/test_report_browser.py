"""The report page as a reader meets it: opened from a disk in a real browser, and used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

from volad.report.lesions import Lesion, find_lesions
from volad.report.page import render_page

if TYPE_CHECKING:  # a machine without selenium still collects the other tests
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
]
WEBGL2_IN_SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

#: i to the front, j down, k to the left; voxels of 2 x 1.5 x 3 mm, tilted by 15 degrees.
COS, SIN = np.cos(np.pi / 12), np.sin(np.pi / 12)
TILT = np.array([[COS, -SIN, 0, 12], [SIN, COS, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])
AFFINE = TILT @ np.array([[0, 0, -3, 60], [2, 0, 0, -50], [0, -1.5, 0, 45], [0, 0, 0, 1]])
SHAPE = (50, 60, 40)

#: Sums over what the viewer has drawn: of every channel, and where a colour lies.
MEASURE = """
const { nv } = volad.view, { gl } = nv, [w, h] = [gl.canvas.width, gl.canvas.height];
nv.drawScene();
const px = new Uint8Array(4 * w * h);
gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, px);
let [sum, n, x, y] = [0, 0, 0, 0];
const [left, top, width, height] = nv.screenSlices[arguments[1]].leftTopWidthHeight;
const wanted = {
  cyan: (r, g, b) => g > 100 && b > 100 && r < 80, bright: (r, g, b) => r > 220 && b > 220,
}[arguments[0]];
for (let row = 0; row < h; row++) for (let col = 0; col < w; col++) {
  const at = 4 * (row * w + col), [r, g, b] = px.slice(at, at + 3), fromTop = h - 1 - row;
  sum += r + 2 * g + 3 * b;
  const inside = col > left && col < left + width && fromTop > top && fromTop < top + height;
  if (inside && wanted(r, g, b)) { n++; x += (col - left) / width; y += (fromTop - top) / height; }
}
return [sum, n, x / n, y / n];
"""
AXIAL, CORONAL, SAGITTAL = 0, 1, 2


def ball(world: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    indices = np.indices(SHAPE).reshape(3, -1)
    points = (AFFINE[:3, :3] @ indices).T + AFFINE[:3, 3]
    return (np.linalg.norm(points - world, axis=1) < radius_mm).reshape(SHAPE)


def centre() -> np.ndarray:
    return AFFINE @ [*(n / 2 for n in SHAPE), 1]


@pytest.fixture(scope="module")
def lesions() -> list[Lesion]:
    mask, score, _ = phantom()
    return find_lesions(mask, score, AFFINE)


def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grey head with two bright balls; the larger is right, in front of and above the centre."""
    x, y, z = centre()[:3]
    large, small = ball((x + 20, y + 15, z + 12), 9), ball((x - 25, y - 20, z - 10), 6)
    mask = large | small
    image = np.where(ball((x, y, z), 42), 100, 0) + 150 * mask
    score = ndimage.gaussian_filter(mask.astype(np.float32), 0.5)
    return mask, score, image.astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, lesions: list[Lesion]) -> Path:
    mask, score, image = phantom()
    html = render_page(
        name="phantom & <co>",
        image=image,
        score=score,
        mask=mask,
        affine=AFFINE,
        lesions=lesions,
        provenance={"volad": "0"},
        threshold=0.4,
        healthy=image - 150 * mask,
        warnings=["a warning"],
    )
    path = tmp_path_factory.mktemp("report") / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


def start(profile: Path, flags: list[str]) -> Chrome:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS, *flags, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    driver = start(tmp_path_factory.mktemp("profile"), WEBGL2_IN_SOFTWARE)
    yield driver
    driver.quit()


def load(driver: Chrome, path: Path) -> str:
    """Open a page and wait for the state it ends in."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver.get(path.as_uri())
    state = "return document.body.dataset.state"
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(state) != "loading")
    return driver.execute_script(state)


@pytest.fixture
def opened(browser: Chrome, path: Path) -> Chrome:
    assert load(browser, path) == "ready"
    return browser


def measure(driver: Chrome, color: str = "bright", plane: int = AXIAL) -> tuple[float, ...]:
    """The picture's checksum; how many pixels of a plane have a colour; their mean place in it."""
    return tuple(value or 0 for value in driver.execute_script(MEASURE, color, plane))


def click(driver: Chrome, selector: str) -> None:
    driver.find_element("css selector", selector).click()


def layer(driver: Chrome, name: str) -> None:
    click(driver, f"input[type=checkbox][data-layer={name}]")


def crosshair_mm(driver: Chrome) -> np.ndarray:
    script = "const { nv } = volad.view; return [...nv.frac2mm(nv.scene.crosshairPos, 0, true)]"
    return np.array(driver.execute_script(script)[:3])


def errors(driver: Chrome) -> list[Any]:
    return [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def test_opens_without_errors_or_requests(browser: Chrome, path: Path) -> None:
    browser.get_log("performance")
    assert load(browser, path) == "ready"
    assert errors(browser) == []
    assert browser.find_element("id", "message").text == ""
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    messages = [json.loads(m["message"])["message"] for m in browser.get_log("performance")]
    urls = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert [u for u in urls if u.startswith("file:")] == [path.as_uri()]
    # chrome, chrome-untrusted: the tab that the browser opens with; no request to anywhere.
    assert {u.split(":")[0] for u in urls} <= {"file", "data", "blob", "chrome", "chrome-untrusted"}
    assert browser.find_element("tag name", "h1").text == "phantom & <co>"


def test_draws_head_and_overlays(opened: Chrome) -> None:
    layer(opened, "score")
    without_score = measure(opened)
    layer(opened, "mask")
    bare = measure(opened)
    assert bare[1] > 100  # the bright lesion of the input
    layer(opened, "mask")
    assert measure(opened) == without_score
    layer(opened, "score")
    assert len({measure(opened)[0], without_score[0], bare[0]}) == 3
    for name in ("score", "mask", "image"):
        layer(opened, name)
    assert measure(opened)[0] < bare[0] / 2


def test_sliders_change_the_picture(opened: Chrome) -> None:
    seen = {measure(opened)[0]}
    for selector, value in [
        ("input[type=range][data-layer=score]", "0.9"),
        ("input[type=range][data-layer=image]", "0.5"),
        ("#score-from", "150"),
    ]:
        opened.execute_script(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input'))",
            selector,
            value,
        )
        seen.add(measure(opened)[0])
    click(opened, "#outline")
    seen.add(measure(opened)[0])
    assert len(seen) == 5
    assert errors(opened) == []


def test_mask_lies_on_the_lesion_in_every_plane(opened: Chrome) -> None:
    layer(opened, "score")
    click(opened, "#outline")
    masks = [measure(opened, "cyan", plane) for plane in (AXIAL, CORONAL, SAGITTAL)]
    layer(opened, "mask")
    for plane, (_, count, *place) in zip((AXIAL, CORONAL, SAGITTAL), masks, strict=True):
        bright = measure(opened, "bright", plane)
        assert count > 100
        np.testing.assert_allclose(place, bright[2:], atol=0.01)


def test_sides_are_where_the_letters_say(opened: Chrome) -> None:
    # The larger lesion is right, in front of and above: left, upper half of a radiologist's view.
    layer(opened, "score")
    for plane in (AXIAL, CORONAL):
        _, count, x, y = measure(opened, "cyan", plane)
        assert count
        assert x < 0.5
        assert y < 0.5
    click(opened, "#neurological")
    assert measure(opened, "cyan", AXIAL)[2] > 0.5
    click(opened, "#neurological")


@pytest.mark.parametrize("index", [1, 0])
def test_lesion_row_moves_the_crosshair(opened: Chrome, lesions: list[Lesion], index: int) -> None:
    click(opened, f"tr.lesion:nth-of-type({index + 1})")
    # Half a millimetre is less than half of any voxel's edge.
    np.testing.assert_allclose(crosshair_mm(opened), lesions[index].centroid_mm, atol=0.5)
    readout = opened.find_element("id", "readout").text
    assert "in the lesion mask" in readout
    native = ", ".join(str(round(v)) for v in lesions[index].centroid_voxel)
    assert f"voxel {native}" in readout
    assert measure(opened, "cyan")[1] > 0


def test_lesion_rows_by_keyboard(opened: Chrome, lesions: list[Lesion]) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(opened).send_keys("n").perform()
    np.testing.assert_allclose(crosshair_mm(opened), lesions[1].centroid_mm, atol=0.5)
    ActionChains(opened).send_keys("p").perform()
    np.testing.assert_allclose(crosshair_mm(opened), lesions[0].centroid_mm, atol=0.5)


def test_healthy_counterpart_hides_the_lesion(opened: Chrome) -> None:
    layer(opened, "score")
    layer(opened, "mask")
    sick = measure(opened, "bright")
    layer(opened, "healthy")
    healthy = measure(opened, "bright")
    assert healthy[1] == 0
    assert sick[1] > 100
    assert "healthy 100" in opened.find_element("id", "readout").text
    layer(opened, "healthy")
    assert measure(opened, "bright") == sick


def test_wheel_and_keys_move_one_slice(opened: Chrome) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    before, picture = crosshair_mm(opened), measure(opened)
    canvas = opened.find_element("id", "canvas")
    # An eighth of the width from the left is the axial plane.
    origin = ScrollOrigin.from_element(canvas, -int(canvas.size["width"] * 3 / 8), 0)
    ActionChains(opened).scroll_from_origin(origin, 0, -120).perform()
    scrolled = crosshair_mm(opened)
    assert np.linalg.norm(scrolled - before) == pytest.approx(1.5, abs=0.8)  # one axial slice
    assert measure(opened)[0] != picture[0]

    for key, axis, step_mm in [("\ue013", 2, 1.5), ("\ue00e", 1, 2.0), ("\ue014", 0, -3.0)]:
        start_mm = crosshair_mm(opened)
        ActionChains(opened).send_keys(key).perform()  # up, page up, right: the patient's left
        moved = crosshair_mm(opened) - start_mm
        assert np.linalg.norm(moved) == pytest.approx(abs(step_mm), abs=1e-3)
        assert np.sign(moved[axis]) == np.sign(step_mm)


def test_three_dimensions_and_window(opened: Chrome) -> None:
    flat = measure(opened)[0]
    click(opened, "#render")
    assert measure(opened)[0] != flat
    click(opened, "#render")
    opened.execute_script("volad.view.setWindow(0, 50)")
    assert "0 to 50" in opened.find_element("id", "windows").text
    assert measure(opened)[0] > flat
    click(opened, "#windows button")
    assert measure(opened)[0] == flat
    assert errors(opened) == []


def test_without_webgl2_plain_slices_and_the_table(
    tmp_path: Path, path: Path, lesions: list[Lesion]
) -> None:
    driver = start(tmp_path, ["--disable-3d-apis"])
    try:
        assert load(driver, path) == "fallback"
        assert "no WebGL2" in driver.find_element("id", "message").text
        assert errors(driver) == []
        click(driver, "tr.lesion:nth-of-type(2)")
        at = np.array(driver.execute_script("return volad.view.position()"))
        # The nearest voxel is at most half a diagonal away.
        assert np.linalg.norm(at - lesions[1].centroid_mm) < np.linalg.norm([1, 0.75, 1.5])
        assert "in the lesion mask" in driver.find_element("id", "readout").text
        drawn = """return [...document.querySelectorAll("figure canvas")].map((canvas) =>
            canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
            .filter((value, n) => n % 4 === 0 && value > 60).length)"""
        assert all(count > 50 for count in driver.execute_script(drawn))
        layer(driver, "mask")
        assert errors(driver) == []
    finally:
        driver.quit()
