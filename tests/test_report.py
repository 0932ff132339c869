"""Results of predict.py: saved together, drawn again from what was saved, read without trust."""

import io
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import CODES, IMAGE_SIZE, ROOT, make_prior, one_line, run_script

import modules
from evaluation import panels, reconstruction, report, samples
from fitting.checkpoints import fingerprint, save_model
from fitting.run_directory import RunDirectory, write_history
from sources.folder import open_slices
from utils import InputError, write_json

EPOCH = {"ssim": 0.5, "codes_used": 9.0, "perplexity": 4.0, "loss": 2.0}
EPOCH["seconds"] = 1.0
EPOCH |= {f"val_{name}": value for name, value in EPOCH.items()}


@pytest.fixture(scope="module")
def untouched(slices_folder, tmp_path_factory):
    """A run directory as a training would leave it, of networks that learned nothing."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "untrained")
    blocks = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    vqvae = modules.VQVAE(IMAGE_SIZE, codebook_size=CODES, code_dim=4, width=8, **blocks)
    prior = make_prior(grid=4, blocks=2)
    prior.settings["vqvae"] = fingerprint(vqvae)
    save_model(vqvae, run.model("vqvae"))
    save_model(prior, run.model("prior"))
    counts = np.random.default_rng(0).integers(1, 9, (4, 4, CODES)).astype("int32")
    np.savez_compressed(run.code_counts, counts=counts)
    for stage in ("vqvae", "prior"):
        write_history(run.history(stage), [{"epoch": n, **EPOCH} for n in (1, 2)])
    data = {"name": "OASIS", "fingerprint": open_slices(slices_folder).fingerprint}
    write_json(run.config, {"settings": {}, "data": data, "versions": {}})
    return run.path


def run_predict(run, data, *flags):
    done = run_script("predict.py", "--run", run, "--data", data, *flags)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def evaluated(untouched, slices_folder, tmp_path_factory):
    """The run after an evaluation without `--evaluate-samples`, and with anomalies."""
    run = tmp_path_factory.mktemp("runs") / "evaluated"
    shutil.copytree(untouched, run)
    run_predict(
        run, slices_folder, "--samples", 5, "--write-reconstructions", "--complete", "--walk"
    )
    run_predict(run, slices_folder, "--anomaly", "--slice", 2)
    return run


@pytest.fixture
def run(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    return tmp_path / "run"


def contents(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# ---- drawing again -----------------------------------------------------------------------------


def test_redraw_gives_the_same_figures_without_tensorflow(run):
    out = run / "predict"
    before = contents(out)
    figures = {name for name in before if name.endswith(".png") and "/" not in name}
    of_many_subjects = {"closest.png", "ventricles.png", "anatomy.png"}
    drawn = {f"{name}.png" for name in report.FIGURES} - of_many_subjects
    assert figures == drawn | {"anomaly.png"}
    for name in figures - {"walk.png"}:
        (out / name).write_bytes(b"an older figure")
    (out / "walk.png").unlink()
    script = (
        "import sys, predict, utils\n"
        f"utils.command_line(predict.main, predict.parse(['--run', {str(run)!r}, '--redraw']))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "drawn again" in done.stdout, done.stderr
    assert contents(out) == before


def test_redraw_needs_saved_results(untouched, run, tmp_path):
    one_line(
        run_script("predict.py", "--run", untouched, "--redraw"), "run predict.py once without"
    )
    one_line(
        run_script("predict.py", "--run", tmp_path / "none", "--redraw"), "none/predict holds no"
    )
    one_line(
        run_script("predict.py", "--run", run, "--redraw", "--anomaly"),
        "argument --redraw: it draws the saved anomalies too",
    )


def test_redraw_of_what_there_is(run):
    out = run / "predict"
    before = contents(out)
    for name in ("anomaly.json", "anomaly.npz", "anomaly.png"):
        (out / name).unlink()
    assert run_script("predict.py", "--run", run, "--redraw").returncode == 0
    assert not (out / "anomaly.png").exists()
    for name in ("results.npz", "metrics.json", "codes.png"):
        (out / name).unlink()
    for name in ("anomaly.json", "anomaly.npz"):
        (out / name).write_bytes(before[name])
    assert run_script("predict.py", "--run", run, "--redraw").returncode == 0
    assert (out / "anomaly.png").read_bytes() == before["anomaly.png"]
    assert not (out / "codes.png").exists()


# ---- the folder of results ---------------------------------------------------------------------


@pytest.mark.parametrize("flags, place, error", [
    (["--samples", "3"], (samples, "write_samples"), KeyboardInterrupt()),
    (["--samples", "3", "--walk"], (report, "draw"), KeyboardInterrupt()),
    (["--samples", "0"], (report, "draw"), InputError("the disk is full.")),
    (["--anomaly"], (report, "draw_anomalies"), KeyboardInterrupt()),
])  # fmt: skip
def test_what_ends_in_the_middle_leaves_old_results(
    flags, place, error, run, slices_folder, monkeypatch
):
    before = contents(run)

    def fail(*args, **settings):
        staging = [path for path in (run / "predict").iterdir() if path.name.startswith(".")]
        assert len(staging) == 1  # results are made aside
        raise error

    monkeypatch.setattr(*place, fail)
    done = run_script("predict.py", "--run", run, "--data", slices_folder, *flags)
    assert done.returncode == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert contents(run) == before
    assert not [path for path in (run / "predict").iterdir() if path.name.startswith(".")]


def test_what_ends_in_the_middle_of_the_first_time_leaves_nothing(
    untouched, slices_folder, monkeypatch
):
    before = contents(untouched)
    monkeypatch.setattr(report, "save", lambda *args: 1 / 0)
    assert run_script("predict.py", "--run", untouched, "--data", slices_folder).returncode == 1
    assert contents(untouched) == before and not (untouched / "predict").exists()


def test_stale_results_go_and_what_is_not_ours_stays(run, slices_folder):
    out = run / "predict"
    mine = {"notes.txt": b"mine", "samples/best of all.png": b"mine", "samples/more/a.txt": b"mine"}
    for name, content in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    anomalies = {name: content for name, content in contents(out).items() if "anomaly" in name}
    assert len(anomalies) == 3 + 2 * 3
    run_predict(run, slices_folder, "--samples", 0, "--brains", 0)
    fresh = {"metrics.json", "results.npz", "reconstructions.png", "codes.png", "training.png"}
    after = contents(out)
    assert set(after) == {*fresh, *mine, *anomalies}
    assert {name: after[name] for name in (*mine, *anomalies)} == {**mine, **anomalies}
    run_predict(run, slices_folder, "--anomaly", "--slice", 1)
    assert set(contents(out)) == {
        *(name.replace("_2_", "_1_") for name in anomalies),
        *fresh,
        *mine,
    }


@pytest.mark.parametrize("name", ["predict", "predict/samples"])
def test_links_are_not_followed(name, run, slices_folder, tmp_path):
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    done = run_script("predict.py", "--run", run, "--data", slices_folder)
    one_line(done, f"{run / name} is a link")
    assert contents(tmp_path / "elsewhere") == before


# ---- saved results of a stranger ---------------------------------------------------------------


def rewrite(path, change):
    """Change the arrays of an `.npz` file."""
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def entry(path, name, content, **settings):
    """Replace an entry of an `.npz` file by other bytes."""
    with zipfile.ZipFile(path) as archive:
        others = {n: archive.read(n) for n in archive.namelist() if n != f"{name}.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for other, its_content in others.items():
            archive.writestr(other, its_content)
        archive.writestr(f"{name}.npy", content, **settings)


def header(shape, dtype="|u1"):
    buffer = io.BytesIO()
    value = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, value)
    return buffer.getvalue()


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


IMAGES = "reconstructions.images"
DAMAGED = {
    "text": lambda path: path.write_text("Dear Sir or Madam"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "array missing": lambda path: rewrite(path, lambda a: a.pop(IMAGES)),
    "part missing": lambda path: rewrite(path, lambda a: a.pop("model.trained_on")),
    "other type": lambda path: rewrite(path, lambda a: a.update({IMAGES: a[IMAGES] / 2})),
    "other shape": lambda path: rewrite(path, lambda a: a.update({IMAGES: a[IMAGES][:, :5]})),
    "no slices": lambda path: rewrite(path, lambda a: a.update({IMAGES: a[IMAGES][:0]})),
    "not finite": lambda path: rewrite(path, lambda a: a["reconstructions.ssim"].fill(np.nan)),
    "negative": lambda path: rewrite(path, lambda a: a["reconstructions.codes"].fill(-1)),
    "unknown code": lambda path: rewrite(path, lambda a: a["reconstructions.codes"].fill(99)),
    "no uses": lambda path: rewrite(path, lambda a: a["codes.uses"].fill(0)),
    "huge losses": lambda path: rewrite(path, lambda a: a["training.prior"].fill(1e308)),
    "pickle": lambda path: rewrite(
        path, lambda a: a.update({IMAGES: np.array([Trap(path.with_name("marker"))])})
    ),
    "giant claim": lambda path: entry(path, IMAGES, header((10**4, 10**4, 10**4))),
    "no header": lambda path: entry(path, IMAGES, b"\x93NUMPY\x01\x00\x10\x00{'descr': ((("),
    "unknown version": lambda path: entry(path, IMAGES, b"\x93NUMPY\x07\x00" + bytes(99)),
    "LZMA": lambda path: entry(path, IMAGES, bytes(99), compress_type=zipfile.ZIP_LZMA),
}


def one_line_and_nothing_drawn(run, *expected):
    before = contents(run)
    one_line(run_script("predict.py", "--run", run, "--redraw"), *expected)
    assert contents(run) == before


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_results_are_refused(kind, run):
    DAMAGED[kind](run / "predict" / "results.npz")
    one_line_and_nothing_drawn(run, run / "predict" / "results.npz", "without --redraw")
    assert not (run / "predict" / "marker").exists()


def test_an_array_that_is_there_twice_is_refused(run):
    path = run / "predict" / "results.npz"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"{IMAGES}.npy", header((1, 1, 1)) + bytes(1))
    one_line_and_nothing_drawn(run, "it holds an array twice")


@pytest.mark.parametrize("change", [
    lambda m: m.pop("codebook"),
    lambda m: m.update(data=[]),
    lambda m: m["codebook"].update(perplexity=None),
    lambda m: m["codebook"].update(perplexity="much"),
    lambda m: m["samples"].update(seed=-1),
    lambda m: m["prior"].update(position_bits_per_code=1e999),
])  # fmt: skip
def test_damaged_metrics_are_refused(change, run):
    path = run / "predict" / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))
    one_line_and_nothing_drawn(run, run / "predict", "metrics.json", "without --redraw")


@pytest.mark.parametrize("name", ["anomaly.json", "anomaly.npz"])
def test_damaged_anomalies_are_refused(name, run):
    (run / "predict" / name).write_text("{}")
    one_line_and_nothing_drawn(run, run / "predict" / name)


def test_names_are_no_mathematics_and_are_cut(run, monkeypatch):
    lines = []
    save = panels.save_figure

    def save_figure(figure, path, caption):
        lines.append(caption)
        save(figure, path, caption)

    for room in (report.plots, report.curves):
        monkeypatch.setattr(room, "save_figure", save_figure)
    path = run / "predict" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["data"]["name"] = "$\\frac{$ \ud800 \x1b[31m脳 " + "x" * 2**20
    path.write_text(json.dumps(metrics))
    report.redraw(run / "predict")
    assert len(lines) == 9 and max(map(len, lines)) < 900
    assert sum("$\\frac{$ ? ?[31m脳 xxxx" in line for line in lines) == 6


# ---- counts and histories of a stranger --------------------------------------------------------


SHAPE = (4, 4, CODES)
COUNTS = {
    "text": (lambda path: path.write_text("PK"), "cannot be read"),
    "another array": (lambda path: np.savez(path, other=np.ones(SHAPE, "int32")), "no counts"),
    "no uses": (lambda path: np.savez(path, counts=np.zeros(SHAPE, "int32")), "no counts"),
    "floats": (lambda path: np.savez(path, counts=np.ones(SHAPE)), "is float64"),
    "negative": (lambda path: np.savez(path, counts=-np.ones(SHAPE, "int32")), "negative"),
    "giant": (lambda path: giant(path, (10**4, 10**4, 10**4)), "take more than"),
    "one code": (lambda path: np.savez(path, counts=np.ones((4, 4, 1), "int32")), "has shape"),
    "another grid": (lambda path: np.savez(path, counts=np.ones((8, 8, CODES), "int32")), "shape"),
}


def giant(path, shape):
    np.savez(path, other=np.ones(1))
    entry(path, "counts", header(shape, "<i4"))


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_counts_are_refused(kind, tmp_path):
    spoil, expected = COUNTS[kind]
    path = tmp_path / "code_counts.npz"
    spoil(path)
    with pytest.raises(InputError, match=expected) as error:
        reconstruction.read_code_counts(path, SHAPE)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "without perplexity", "not finite"])
def test_damaged_histories_are_refused_before_the_work(kind, run, slices_folder):
    path = RunDirectory(run).history("vqvae")
    good = {"epoch": 1, **EPOCH}
    lacking = {name: value for name, value in good.items() if "perplexity" not in name}
    rows = {
        "empty": [],
        "without perplexity": [lacking],
        "not finite": [{**good, "val_ssim": float("nan")}],
    }
    path.unlink()
    if kind in rows:
        write_history(path, rows[kind])
    before = contents(run)
    expected = "vqvae_history.csv is damaged" if any(rows.get(kind, [])) else "lacks vqvae_history"
    one_line(run_script("predict.py", "--run", run, "--data", slices_folder), expected)
    assert contents(run) == before


# ---- the table ---------------------------------------------------------------------------------


def test_table(capsys):
    report.print_table(
        {
            "data": {"subjects": 17},
            "ssim": {"mean": 0.95, "ci95": [0.94, 0.96], "brain_mean": 0.8},
            "psnr": {"mean": 31.416},
            "detail": {"gradient_ratio": 0.9, "spectrum_ratio": 0.7, "fine_correlation": 0.6},
            "rate": {"prior_bytes": 212.4, "index_bits": 9216.0},
            "codebook": {"size": 512, "used": 510, "perplexity": 17.25},
            "prior": {
                "bits_per_code": 1.65,
                "bits_per_code_alone": 2.05,
                "uniform_bits_per_code": 9.0,
                "unigram_bits_per_code": 4.06,
                "position_bits_per_code": 2.25,
                "brain_bits_per_code": 4.5,
                "brain_position_bits_per_code": 6.5,
            },
            "samples": {"count": 16, "seconds": 3.21},
            "generation": {"samples": 100, "mmd": 0.0123},
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        "  SSIM              0.9500  (95 % interval over 17 subjects 0.9400 to 0.9600)",
        "  detail, energy    0.900 of the gradient, 0.700 of the fine spectrum",
        "  detail, in phase  correlation 0.600 of the fine spectrum",
        "  SSIM, brain only  0.8000",
        "  PSNR              31.42 dB",
        "  codes used        510 of 512, perplexity 17.2",
        "  bits a code       1.650  (alone 2.050, by position 2.250, unigram 4.060, uniform 9.000)",
        "    in the brain    4.500  (by position 6.500)",
        "  ideal bytes       212 a slice  (as plain indices 1152)",
        "  samples           16 in 3.2 s",
        "  mmd                                   0.0123",
    ]
