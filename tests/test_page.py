"""The page of results: from a folder of made-up results of a stranger, and in a real browser."""

import base64
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import nibabel
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from shared import run_script

from evaluation import bids, page, plots, report, stacks, thresholds
from fitting.run_directory import RunDirectory
from sources.facts import OASIS, DataFacts
from utils import InputError, provenance, replacing_results

EVIL = "</title><script>document.title='evil'</script><img src=https://evil.example/x onerror=x()>"
BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
SIDE, LEVELS = 32, 6
FACTS = DataFacts(side=64)


def write_volume(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values.astype("uint8"), np.diag([1.0, 1, 1, 1]))
    image.header["descrip"] = b"generated"
    nibabel.save(image, path)


def head():
    y, x, z = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j, -1 : 1 : LEVELS * 1j]
    return 200 * (x**2 + (y / 0.8) ** 2 + 0.5 * z**2 < 0.6) * (0.8 + 0.2 * np.sin(9 * x))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run of a stranger with results of all kinds, and its page."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "run <b>&amp;")
    out = run.predictions
    (out / "brains" / "slices").mkdir(parents=True)
    data = {"name": EVIL[:80], "fingerprint": "", "images": {"train": 9}}
    run.config.write_text(json.dumps({"settings": {}, "data": data, "versions": {EVIL: EVIL}}))
    made = {"command": EVIL, "date": EVIL, "commit": EVIL, "device": EVIL, "minutes": 1.5}
    about = {"name": EVIL, "split": EVIL, "images": 8, "subjects": 2}
    ssim = {"mean": 0.9, "ci95": [0.875, 0.925], "brain_mean": 0.8}
    write(out / report.METRICS, made=made, data=about, ssim=ssim, prior={"bits_per_code": 2})
    figure = Figure((4, 2))
    figure.subplots().plot([0, 1])
    plots.save_figure(figure, out / "samples.png", EVIL)
    for number in range(3):
        write_volume(out / f"brains/brain_{number:04d}.nii.gz", head())
    for level in range(LEVELS):
        picture = Image.fromarray(head()[..., level].astype("uint8"))
        picture.save(out / f"brains/slices/case_000_slice_{level}.nii.png")
    write_volume(out / "anomaly/case_005_original.nii.gz", head())
    lesion = np.zeros((SIDE, SIDE, LEVELS))
    lesion[10:14, 12:18, 2:4] = 250
    write_volume(out / "anomaly/case_005_map.nii.gz", lesion)
    limits = dict(zip(thresholds.QUANTILES, (0.3, 0.6)))
    found = [{"peak_mm": [1.0, 2.0, 3.0], "peak": 1.0, "volume_mm3": 48.0}]
    case = {"case": 5, "slices": 6, "highest_level": 2, "score": 1.0, "clusters": found}
    scores = {"cases": [case], "map_white": 1.5, "thresholds": limits, "limits": [2], "seed": 0}
    write(out / report.ANOMALIES, made=made, data=EVIL, **scores)
    rows = [{"case": 5, "p": {EVIL: 0.25, "b": 0.75}}]
    of = {"attribute": EVIL, "note": EVIL, "training": {EVIL: 0.5, "b": 0.5}, "cases": rows}
    write(out / "classify_x.json", made=made, data=EVIL, **of)
    changed = {"given": {EVIL: EVIL}, "cases": [{"case": 5, "changed_codes": 0.5}]}
    write(out / report.COUNTERFACTUALS, made=made, data=EVIL, **changed)
    page.write(out / report.PAGE, run)
    return run, out


def write(path, **content):
    path.write_text(json.dumps(content))


class Elements(html.parser.HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_a_stranger_puts_no_markup_into_the_page(results):
    _, out = results
    found = Elements((out / report.PAGE).read_text())
    assert len(found.all("script")) == 1 and not found.all("link")
    assert found.text.count(EVIL) > 5
    for _, attributes in found.found:
        assert not any(name.startswith("on") for name in attributes)
        assert not re.match("[a-z]*:|//", attributes.get("href", ""))
        assert attributes.get("src", "data:image/").startswith("data:image/")
    for frame in found.all("iframe"):
        assert frame["sandbox"] == "allow-scripts" and "evil" not in frame["srcdoc"]
    (policy,) = (at["content"] for at in found.all("meta") if "http-equiv" in at)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_page_has_all_that_stands_in_the_folder(results):
    _, out = results
    text = (out / report.PAGE).read_text()
    found = Elements(text)
    assert len(text) < page.MOST_BYTES
    titles = [frame["title"] for frame in found.all("iframe")]
    assert [title.rpartition("map above")[2] for title in titles[:2]] == [
        " 99 % of the pixels of validation people", " 99.9 % of the pixels of validation people",
    ]  # fmt: skip
    assert titles[2:] == ["Viewer: Drawn volume 0000", "Viewer: Drawn volume 0001"]
    assert [file.name for file in (out / "viewers").iterdir()] == ["drawn-volume-0002.html"]
    for link in found.all("a"):
        address = urllib.parse.unquote(link["href"])
        assert address[1:] in text if address.startswith("#") else (out / address).exists()
    for words in ("0.875 to 0.925", "1.5 minutes", "van den Oord", "0.75"):
        assert words in found.text
    assert all(image["alt"] for image in found.all("img"))
    headings = [int(tag[1]) for tag, _ in found.found if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:]))


def test_figures_are_shown_without_the_caption_that_stands_beside_them(results):
    _, out = results
    with Image.open(out / "samples.png") as whole:
        source, width, caption = page._figure(out / "samples.png")
        shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert caption == EVIL and shown.width == width == whole.width
        # 8.5 points of each line of the caption, and the padding
        assert 20 < whole.height - shown.height < 150


def test_clusters_have_a_place_in_millimetres_and_a_volume(tmp_path):
    """Of maps with half the pixels of the slices, and without one level."""
    volume, levels = tmp_path / "map.nii.gz", np.array([4, 5, 7])
    maps = np.zeros((3, SIDE, SIDE))
    maps[:2, 10:14, 12:18], maps[1, 11, 13], maps[2, 0, 0] = 0.5, 0.8, 0.9
    stacks.write_stack(volume, np.zeros((3, 64, 64), "uint8"), levels, FACTS)
    (found,) = thresholds.clusters(volume, maps, levels, 0.4)
    assert found["volume_mm3"] == 2 * 24 * 4 and found["peak"] == pytest.approx(0.8)
    # The middle of pixel (11, 13) is between rows 22 and 23, and columns 26 and 27.
    assert found["peak_mm"] == [22.5 - 128, 26.5 - 147, 5 - 4]
    assert not thresholds.clusters(volume, maps, levels, 0.95)


def test_thresholds_are_quantiles_of_what_is_no_background(tmp_path):
    run = RunDirectory(tmp_path)
    assert thresholds.kept(run) is None
    images = np.ones((1, 100, 100))
    images[:, :50] = 0
    maps = np.arange(10_000.0).reshape(1, 100, 100) * images
    thresholds.keep(run, maps, images, {})
    expected = [5000 + share * 4999 for share in (0.99, 0.999)]
    assert list(thresholds.kept(run).values()) == pytest.approx(expected)


def test_volumes_have_bids_names_too(results, tmp_path):
    _, out = results
    shutil.copytree(out / "brains", tmp_path / "brains")
    shutil.copytree(out / "anomaly", tmp_path / "anomaly")
    write_volume(tmp_path / "counterfactual/case_012_difference_cdr-1.nii.gz", head())
    bids.write(tmp_path, "T1w", OASIS, provenance())
    folder = tmp_path / "bids"
    names = sorted(path.name for path in folder.rglob("*.nii.gz"))
    assert names == [
        "sub-005_desc-anomalyMap_T1w.nii.gz",
        "sub-005_desc-anomalyOriginal_T1w.nii.gz",
        "sub-012_desc-counterfactualDifference_T1w.nii.gz",
        *(f"sub-drawn000{number}_desc-drawn_T1w.nii.gz" for number in range(3)),
    ]
    for name in names:
        subject = name.partition("_")[0]
        about = json.loads((folder / subject / "anat" / name.replace("nii.gz", "json")).read_text())
        assert about["Description"] == "generated"
    owned = bids.owned("brains", "fill", "anomaly", "counterfactual")
    assert {path for pattern in owned for path in tmp_path.glob(pattern)} == {
        *folder.glob("sub-*/anat/*")
    }
    assert json.loads((folder / "dataset_description.json").read_text())["GeneratedBy"]
    if (validator := pathlib.Path(sys.executable).with_name("bids-validator-deno")).is_file():
        command = [validator, folder, "--format", "json"]
        found = json.loads(subprocess.run(command, capture_output=True, timeout=120).stdout)
        issues = found["issues"]["issues"]
        assert {issue["code"] for issue in issues if issue["severity"] == "error"} == set()
        assert len(found["summary"]["subjects"]) == 5


def test_every_call_writes_the_page_anew(run_copy, slices_folder, monkeypatch):
    """The second shows what the first left, too."""
    run, path, opened = RunDirectory(run_copy), run_copy / "predict" / report.PAGE, []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    flags = ("predict.py", "--run", run_copy, "--data", slices_folder)
    done = run_script(*flags, "--samples", 1, "--brains", 0, "--open", figures=True)
    assert done.returncode == 0 and f"The page of all results: {path}" in done.stdout
    assert opened == [path.resolve().as_uri()] and "Highest scores of" not in path.read_text()
    done = run_script(*flags, "--anomaly", "--split", "validate", "--bids", figures=True)
    assert done.returncode == 0, done.stderr
    limits = thresholds.kept(run)  # measured on these people
    assert 0 < limits["0.99"] < limits["0.999"] and len(opened) == 1
    found = json.loads((run_copy / "predict" / report.ANOMALIES).read_text())
    assert found["thresholds"] == limits and found["made"]["minutes"] >= 0
    assert (run_copy / "predict" / report.CLUSTERS).read_text().startswith("case,right_mm,")
    assert len(list((run_copy / "predict").glob("bids/sub-004/anat/*.nii.gz"))) == 3
    assert "Highest scores of" in path.read_text() and "Learning curves" in path.read_text()


def test_a_damaged_result_is_named(results, tmp_path):
    run, out = results
    shutil.copy(out / report.METRICS, tmp_path)
    (tmp_path / report.ANOMALIES).write_text("{")
    with pytest.raises(InputError, match="anomaly.json cannot be read"):
        page.write(tmp_path / report.PAGE, run)
    assert not (tmp_path / report.PAGE).exists()


def test_a_link_among_the_folders_of_volumes_is_refused(tmp_path):
    """In the folder of a stranger it would lead to another place, which results would replace."""
    out = tmp_path / "out"
    (out / "bids").mkdir(parents=True)
    (out / "bids" / "sub-005").symlink_to(tmp_path)
    with pytest.raises(InputError, match="sub-005 is a link"):
        with replacing_results(out, report.OWNED_ANOMALIES):
            pass


# ---- in a browser --------------------------------------------------------------------------------

try:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None


@pytest.fixture(scope="module")
def browser(results):
    if not (webdriver and BROWSER and DRIVER):
        pytest.skip("chromium, chromedriver and selenium are not all installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


COLOURS = """
const canvas = document.querySelector("canvas");
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
return new Set(new Uint32Array(pixels.buffer)).size;
"""


def load(browser, path):
    """Open a file, which must fetch nothing but itself and leave no error."""
    browser.get_log("performance")
    browser.get(path.resolve().as_uri())
    events = [json.loads(row["message"])["message"] for row in browser.get_log("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    outside = {url for url in asked if not url.startswith(("data:", "about:", "file:"))}
    assert not outside and sum(url.startswith("file:") for url in asked) == 1
    assert not browser.get_log("browser")


def shows_pixels(browser):
    """Wait until the viewer has drawn more than one colour."""
    WebDriverWait(browser, 20).until(lambda it: it.execute_script(COLOURS) > 10)


def test_page_in_a_browser(results, browser):
    run, out = results
    load(browser, out / report.PAGE)
    assert browser.title == f"Results of {run.path.name}"
    frames = browser.find_elements(By.TAG_NAME, "iframe")
    assert len(frames) == page.MOST_EMBEDDED
    for frame in frames:
        browser.switch_to.frame(frame)
        shows_pixels(browser)
        browser.switch_to.default_content()
    image = browser.find_element(By.CSS_SELECTOR, ".strip img")
    assert image.get_attribute("alt") == f"Drawn slice at level {LEVELS // 2}"
    slider = browser.find_element(By.CSS_SELECTOR, ".strip input")
    slider.send_keys("\ue014")  # the right arrow
    assert image.get_attribute("alt") == f"Drawn slice at level {LEVELS // 2 + 1}"
    browser.set_window_size(400, 900)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) == 0
    assert not browser.get_log("browser")


def test_viewer_beside_the_page_in_a_browser(results, browser):
    load(browser, next((results[1] / "viewers").iterdir()))
    shows_pixels(browser)


def test_what_is_injected_all_the_same_does_not_run(results, browser, tmp_path):
    """The policy is a second wall, should a text ever come through unescaped."""
    text = (results[1] / report.PAGE).read_text()
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(text.replace("<main>", f"<main>{EVIL}", 1))
    browser.get(spoilt.as_uri())
    assert "evil" not in browser.title
    assert any("Content Security Policy" in row["message"] for row in browser.get_log("browser"))
