"""The page of all results: one HTML file, made anew of what stands in the folder of results.

A run may come from a stranger. Therefore the template escapes every text, only files by the names
that predict.py gives are read, pictures are encoded anew, viewers stand in frames without rights,
and the content policy of the page lets nothing be fetched and no script run but ours and theirs.
"""

import base64
import hashlib
import io
import pathlib
import re
import warnings
from urllib.parse import quote

import jinja2
import markupsafe
import nibabel
import numpy as np
from PIL import Image

from evaluation import report
from evaluation.plots import CAPTION, ROWS_ABOVE, brain_box
from evaluation.thresholds import QUANTILES
from fitting.run_directory import RunDirectory, read_config
from sources.images import to_unit
from utils import clean_name, progress, read_json, replacing

TEMPLATE = pathlib.Path(__file__).with_suffix(".html")
MOST_BYTES = 5.9e6  # of the page
MOST_EMBEDDED, MOST_VIEWERS = 4, 16  # those that have no room in the page are files beside it
MOST_ROWS = 10  # of a table
JSON_FILES = (report.METRICS, report.ANOMALIES, report.COUNTERFACTUALS, "classify_*.json")
FOLDERS = ("samples", "brains", "brains/slices", "fill", "reconstructions", "anomaly")
FOLDERS += ("counterfactual", "bids", "viewers")
REPEAT = "remove it, or repeat the call of predict.py that wrote it"
SCRIPT = re.compile("<script>(.*?)</script>", re.DOTALL)
LOOK = "<style>body{margin:0;background:#000;color:#ddd;font:14px sans-serif}</style>"


def write(path: pathlib.Path, run: RunDirectory) -> None:
    """Write the page of a folder of results, and viewers that have no room in it beside it.

    Args:
        path: HTML file to write, in the folder of results.
        run: The run that they are of.

    Raises:
        InputError: A file of the results or of the run is damaged.
    """
    folder, config = path.parent, read_config(run)
    files = [file for pattern in JSON_FILES for file in sorted(folder.glob(pattern))]
    results = {file.name: read_json(file, advice=REPEAT) for file in files}
    pictures = {name: folder / f"{name}.png" for name in report.ALL_FIGURES}
    figures = {name: _figure(file) for name, file in pictures.items() if file.is_file()}
    slices = folder.glob("brains/slices/case_000_slice_*.png")
    slices = sorted(slices, key=lambda path: int(re.search("slice_([0-9]+)", path.name)[1]))
    strip = _strip(slices) if len(slices) > 1 else None
    room = MOST_BYTES - sum(len(source) for source, *_ in (*figures.values(), strip or [""]))
    viewers, beside = _viewers(folder, results.get(report.ANOMALIES, {}), room)
    places = (report.CLUSTERS, *(f"{name}/" for name in FOLDERS))
    options = {"autoescape": True, "undefined": jinja2.ChainableUndefined}
    text = jinja2.Template(TEMPLATE.read_text("utf-8"), **options).render(
        name=clean_name(run.path.resolve().name),
        results=results,
        tables=list(_tables(results)),
        figures=figures,
        strip=strip,
        viewers=viewers,
        beside=beside,
        scripts=[script for one in viewers for script in SCRIPT.findall(one["html"])],
        policy=_policy,
        files=[(quote(name), name) for name in (*results, *places) if (folder / name).exists()],
        config=config,
    )
    with replacing(path) as temporary:
        temporary.write_bytes(text.lstrip().encode("utf-8", "replace"))


def _tables(results):
    """Title, names of columns and rows of the tables of anomalies and classes."""
    anomaly = results.get(report.ANOMALIES, {})
    cases = anomaly.get("cases", [])[:MOST_ROWS]
    if cases:
        rows = [(r["case"], r["slices"], r["highest_level"], f"{r['score']:.3f}") for r in cases]
        yield f"Highest scores of {anomaly['data']}", ("case", "slices", "level", "score"), rows
    if anomaly.get("thresholds"):
        title = f"Clusters above {_percent(QUANTILES[-1])} of the pixels of validation people"
        heads = ("case", "mm to the right", "to the front", "up", "volume in mm³", "peak")
        rows = [
            (r["case"], *(f"{x:.0f}" for x in (*c["peak_mm"], c["volume_mm3"])), f"{c['peak']:.3f}")
            for r in cases
            for c in r.get("clusters", [])[:MOST_ROWS]
        ]
        yield f"{title}, at most {MOST_ROWS} of a case", heads, rows
    for of in (of for name, of in results.items() if name.startswith("classify_")):
        rows = [(r["case"], *(f"{p:.2f}" for p in r["p"].values())) for r in of["cases"]]
        title = f"Probability of {of['attribute']} of {of['data']}. {of['note']}"
        yield title, ("case", *of["training"]), rows[:MOST_ROWS]


def _percent(share):
    return f"{100 * float(share):g} %"


# ---- pictures ------------------------------------------------------------------------------------


def _encoded(image, kind, **options):
    """Address that holds all of a picture."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _smaller(image, png=None):
    """Address of a picture as PNG, which may be there, or as JPEG where that is smaller."""
    jpeg = _encoded(image.convert("L" if image.mode == "L" else "RGB"), "jpeg", quality=85)
    return min(png or _encoded(image, "png", optimize=True), jpeg, key=len)


def _figure(path):
    """A figure without its caption, its width, and the caption."""
    with Image.open(path) as image:
        image.load()
        notes = getattr(image, "text", {})  # figures of earlier versions have none
        rows = min(max(1, int(notes.get(ROWS_ABOVE, image.height))), image.height)
        source = _smaller(image.crop((0, 0, image.width, rows)))
        return source, image.width, notes.get(CAPTION, "")


def _strip(paths):
    """One picture of slices below each other, from the lowest on; its sides and their number."""
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in paths])
    images = images[:, *brain_box(to_unit(images))]
    count, height, width = images.shape
    return _smaller(Image.fromarray(images.reshape(-1, width))), width, height, count


# ---- viewers -------------------------------------------------------------------------------------


def _viewers(folder, anomaly, room):
    """Viewers in the page, and those in files beside it."""
    brains = [
        (f"Drawn volume {path.name.removesuffix('.nii.gz').removeprefix('brain_')}", path)
        for path in sorted(folder.glob("brains/brain_*.nii.gz"))
    ]
    white, limits, maps = float(anomaly.get("map_white", 1)), anomaly.get("thresholds"), []
    for case in (f"{int(row['case']):03d}" for row in anomaly.get("cases", [])):
        scan, over = (folder / f"anomaly/case_{case}_{kind}.nii.gz" for kind in ("original", "map"))
        for share in QUANTILES if over.is_file() else ():
            whose = "validation people" if limits else "this map"
            title = f"Case {case}, map above {_percent(share)} of the pixels of {whose}"
            limit = float(limits[share]) if limits else f"{100 * float(share)}%"
            maps.append((title, scan, over, white, limit))
    embedded, beside = [], []
    # The first four are of both kinds, where there are both.
    wanted = [*maps[:2], *brains[:2], *maps[2:], *brains[2:]][:MOST_VIEWERS]
    for title, *volumes in progress(wanted, "making viewers", unit="viewer"):
        html, shape = _view(*volumes)
        one = {"title": title, "shape": shape, "file": quote(str(volumes[0].relative_to(folder)))}
        room -= len(markupsafe.escape(html))
        if len(embedded) < MOST_EMBEDDED and room > 0:
            embedded.append({**one, "html": html})
        else:
            file = f"viewers/{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}.html"
            with replacing(folder / file) as temporary:
                temporary.write_text(html)
            beside.append((file, title))
    return embedded, beside


def _view(scan, over=None, white=255, limit=None):
    """HTML of three planes of a volume, with a map over it if there is one, and its proportions."""
    from nilearn.plotting import view_img  # noqa: PLC0415  it takes seconds to load

    image = shown = nibabel.load(scan)
    box, under = brain_box(to_unit(np.moveaxis(np.asarray(image.dataobj), 2, 0))), False
    if over:
        shown, under = nibabel.load(over), image.slicer[box]
    shown = shown.slicer[box]
    shown = nibabel.Nifti1Image(shown.get_fdata() * (white / 255), shown.affine)
    colours = {"cmap": "autumn" if over else "gray", "vmax": white, "symmetric_cmap": False}
    with warnings.catch_warnings(action="ignore"):  # of maps in which nothing is so high
        view = view_img(shown, under, threshold=limit, black_bg=True, **colours)
    html = re.sub("<link[^>]*>", "", view.html)  # of an icon that would be fetched
    html = re.sub('data:image/png;base64,([^"]+)', _without_alpha, html)
    html = html.replace("<head>", f"<head>{_policy(SCRIPT.findall(html))}{LOOK}", 1)
    html = html.replace('type="range"', 'type="range" aria-label="Opacity"')
    return html, f"{view.width} / {0.8 * view.height:.0f}"  # it leaves more room below than needed


def _without_alpha(match):
    """Address of an image of a viewer, encoded anew where nothing in it is transparent."""
    with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
        return _smaller(image, match[0]) if image.getextrema()[-1][0] == 255 else match[0]


def _policy(scripts):
    """Element by which a browser fetches nothing, and runs no other scripts than these."""
    digests = (base64.b64encode(hashlib.sha256(str(s).encode()).digest()) for s in scripts)
    sources = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    return markupsafe.Markup(
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; script-src {sources}\">"
    )
