"""Evaluation, maps and files of a set that shows no brains: small slices, padded, some black."""

import dataclasses
import json
import types

import nibabel
import numpy as np
import pytest
from PIL import Image
from shared import CODES, TINY, contents, eager, make_prior, make_vqvae, one_line, run_script

from evaluation import brain_comparison, comparison, metrics, plots, suitability, two_sample
from evaluation.anatomy import compare_anatomy
from evaluation.comparison import SliceSet
from evaluation.metrics import content_box, not_black
from evaluation.reconstruction import evaluate, measures
from evaluation.report import named_for
from fitting.run_directory import RunDirectory
from modules import Models
from networks.losses import ssim
from sources.facts import OASIS, DataFacts, write_facts
from sources.folder import open_folder, open_slices
from sources.layout import slice_name, split_folder

SIDE, LEVELS, PADDING = 32, 3, 4
AFFINE = ((0.7, 0.0, 0.0, -9.0), (0.0, 0.7, 0.0, 9.0), (0.0, 0.0, 3.0, 5.0), (0.0, 0.0, 0.0, 1.0))
OWN_PLACE = np.diag([2.0, 2.0, 2.0, 1.0])  # of the case of the test split
CASES = {"train": (1, 2, 3), "validate": (4,), "test": (5,)}
KNEES = DataFacts(
    "knees",
    SIDE,
    LEVELS,
    mirror="none",
    residue=False,
    brain=False,
    content=(PADDING, 0, SIDE - PADDING, SIDE),
    affine=AFFINE,
    cases={5: {"subject": "K5", "split": "test", "affine": OWN_PLACE.tolist()}},
)


def draw_knee(case, level):
    """A bright bone, wider and brighter at one end, between black padding; the last is black."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    inside = np.abs(x - 0.02 * case) < 0.5 - 0.2 * y + 0.05 * level
    image = np.where(inside, 150 + 60 * y, 5) + np.random.default_rng((case, level)).normal(
        0, 2, x.shape
    )
    image[:PADDING] = image[-PADDING:] = 0
    return np.clip(image, 0, 255).astype("uint8") * (level < LEVELS - 1)


@pytest.fixture(scope="module")
def knees(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "knees"
    for split, cases in CASES.items():
        split_folder(directory, split).mkdir(parents=True)
        for case in cases:
            for level in range(LEVELS):
                path = split_folder(directory, split) / slice_name(case, level)
                Image.fromarray(draw_knee(case, level)).save(path)
    write_facts(directory, KNEES)
    return directory


@pytest.fixture(scope="module")
def run(knees, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "knees"
    few = ("--epochs", 1, "--prior-epochs", 1, "--texture-epochs", 0, "--rate-weight", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fitting.devices.compiled", eager)
        done = run_script("train.py", "--data", knees, "--run", run, *TINY, *few)
    assert done.returncode == 0, done.stderr
    return run


# ---- predict.py and compress.py ----------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(knees, run, tmp_path_factory):
    """What predict.py printed and wrote of a read-only run and a test split alone."""
    alone, out, captions = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("out"), {}
    split_folder(alone, "test").symlink_to(split_folder(knees, "test"))
    write_facts(alone, KNEES)
    before = contents(run)
    flags = ("--brains", 1, "--samples", 2, "--walk", "--complete", "--write-reconstructions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            plots, "save_figure", lambda _, path, text: captions.update({path.stem: text})
        )
        done = run_script("predict.py", "--run", run, "--data", alone, "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    assert contents(run) == before
    assert "trained on other data" not in done.stdout
    return done.stdout, out, captions


def test_nothing_is_called_a_brain(evaluated):
    printed, out, captions = evaluated
    assert "knees shows no brains, so their measures are left out" in printed
    for text in (printed.replace("shows no brains", ""), *captions.values()):
        text = text.replace("area of the brain", "")
        assert not {"OASIS", "brain", "head", "nose"} & set(text.replace(".", " ").split()), text
    assert len(captions) == 8
    assert "A generated stack" in captions["brains"] and "one stack" in captions["walk"]
    report = json.loads((out / "metrics.json").read_text())
    assert report["data"]["name"] == "knees" and report["data"]["black"] == 1
    names = json.dumps({name: part for name, part in report.items() if name != "made"})
    assert "brain_" not in names and "foreground_mean" in report["ssim"]
    assert report["rate"]["case_bytes"] > 0 and report["brains"]["slices"] == LEVELS


def test_stacks_lie_over_the_scans_of_the_set(evaluated):
    _, out, _ = evaluated
    volume = nibabel.load(out / "brains" / "brain_0000.nii.gz")
    assert volume.shape == (SIDE, SIDE, LEVELS)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    drawn, restored = (open_folder(out / name) for name in ("brains/slices", "reconstructions"))
    assert drawn.images.shape == restored.images.shape == (LEVELS, SIDE, SIDE)
    assert drawn.facts.name == "knees" and restored.subjects.tolist() == ["K5"] * LEVELS


def test_maps_lie_over_the_scan_of_their_case(run, knees, tmp_path):
    flags = "--run", run, "--anomaly", split_folder(knees, "test"), "--out", tmp_path / "out"
    done = run_script("predict.py", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "anomaly.json").read_text())
    assert report["draws"] == 3  # there is no mirror image
    volume = nibabel.load(tmp_path / "out" / "anomaly" / "case_005_map.nii.gz")
    np.testing.assert_allclose(volume.affine, OWN_PLACE)


def test_volumes_go_in_and_come_out(run, tmp_path):
    x, y, z = np.mgrid[-1:1:40j, -1:1:40j, -1:1:9j]
    values = np.where(x**2 + y**2 + z**2 < 1, 100 + 50 * x, 0).astype("int16")
    affine = np.diag([0.6, 0.6, 3.0, 1.0])
    affine[:3, 3] = 40, 50, 60
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    turned = image.as_reoriented([[0, -1], [2, 1], [1, 1]])
    nibabel.save(turned, tmp_path / "scan.nii.gz")
    facts = json.loads((run / "config.json").read_text())["data"]["facts"]
    assert facts["side"] == SIDE and "cases" not in facts
    done = run_script(
        "predict.py", "--run", run, "--anomaly", tmp_path / "scan.nii.gz", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    volume = nibabel.load(tmp_path / "out" / "anomaly" / "case_000_original.nii.gz")
    places = np.argwhere(np.asarray(volume.dataobj) > 200) @ volume.affine[:3, :3].T
    middle = (places + volume.affine[:3, 3]).mean(0)
    bright = np.argwhere(values > 118).mean(0)
    np.testing.assert_allclose(middle, affine[:3, :3] @ bright + affine[:3, 3], atol=1.0)
    file = tmp_path / "scan.bvq"
    done = run_script("compress.py", "encode", tmp_path / "scan.nii.gz", file, "--run", run)
    assert f"{LEVELS} slices in" in done.stdout, done.stderr
    done = run_script("compress.py", "decode", file, tmp_path / "back.nii.gz", "--run", run)
    assert done.returncode == 0, done.stderr
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert back.shape == (SIDE, SIDE, LEVELS)
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-5)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "nowhere.nii.gz")
    nowhere = tmp_path / "nowhere.nii.gz", "--run", run
    one_line(run_script("predict.py", "--anomaly", *nowhere), "--axcodes RAS")
    one_line(run_script("compress.py", "encode", *nowhere, file), "--axcodes RAS")


# ---- measures ----------------------------------------------------------------------------------


def test_padding_and_black_slices_do_not_flatter(knees):
    split = open_slices(knees).splits["test"]
    models = Models(make_vqvae(), make_prior(4, num_levels=LEVELS, blocks=1))
    results = evaluate(models, split)
    shown = not_black(results["images"])
    assert shown.tolist() == [True, True, False]
    pair = (
        results[name][:, PADDING:-PADDING, :, None] / np.float32(255)
        for name in ("images", "restored")
    )
    np.testing.assert_allclose(results["ssim"], ssim(*pair), atol=5e-3)
    counts = np.ones((4, 4, CODES), "int32")
    found = measures(results, split, counts, 0.0, models.vqvae.frame)
    assert found["ssim"]["mean"] == pytest.approx(results["ssim"][:2].mean())
    assert found["psnr"]["mean"] == pytest.approx(results["psnr"][:2].mean())
    assert "brain_mean" not in named_for(found, split.facts)["ssim"]
    assert named_for(found, OASIS) == found


@pytest.mark.parametrize("content, size, expected", [
    (None, 64, (0, 0, 64, 64)),
    ((8, 0, 24, 32), 64, (16, 0, 48, 64)),
    ((15, 15, 17, 17), 16, (5, 5, 16, 16)),  # at least the window of SSIM
])  # fmt: skip
def test_content_in_the_size_of_a_model(content, size, expected):
    facts = dataclasses.replace(KNEES, content=content)
    box = content_box(facts, size)
    assert box == expected


@pytest.mark.parametrize("mirror", ["rows", "none"])
def test_symmetry_is_about_the_axis_of_the_set(mirror, monkeypatch):
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 2)
    facts = dataclasses.replace(KNEES, mirror=mirror)
    images = np.stack([draw_knee(case, 0) for case in range(1, 13)])
    images = images.swapaxes(1, 2) if mirror == "rows" else images
    knees = SliceSet(images, np.zeros(12, int), np.arange(12).astype(str))
    names = "samples", "plain", "real", "reconstructions", "training", "validation"
    report, *_ = comparison.compare_slices(dict.fromkeys(names, knees), facts)
    damages = report["power"]["pyramid"]
    assert ("mirrored" in damages) == (mirror != "none")
    if mirror == "none":
        assert "anatomy" not in report
        return
    assert set(report["anatomy"]) == {"levels", "symmetry"}
    other = dataclasses.replace(facts, mirror={"rows": "columns", "columns": "rows"}[mirror])
    sets = {"real": (images, np.zeros(12, int), np.arange(12))}
    upright, turned = (compare_anatomy(sets, f)["symmetry"]["real"] for f in (facts, other))
    assert upright > turned + 0.05


def test_stacks_of_other_slices_have_no_ventricles(monkeypatch):
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 2)
    stacks = np.stack([[draw_knee(case, level) for level in (0, 1)] for case in range(1, 11)])
    names = "generated", "reconstructions", "real", "training"
    sets = dict.fromkeys(names, stacks)
    report = brain_comparison.compare_brains(sets, (0, 0, SIDE, SIDE), None, False)
    assert "ventricles" not in report and report["count"] == 10


# ---- slices that are unlike those of the training ----------------------------------------------


def test_unlikely_slices_and_slices_out_of_the_frame_are_told(tmp_path, capsys):
    counts = np.ones((2, 2, CODES), "int32")  # 4 bits a code without context
    run = RunDirectory(tmp_path)
    suitability.warn_of_unlikely(run, counts, np.full((3, 2, 2), 3.5))
    assert not capsys.readouterr().out
    suitability.warn_of_unlikely(run, counts, np.full((3, 2, 2), 3.7))
    assert (
        "WARNING: 3 of 3 slices look unlike those of the training (3.7" in capsys.readouterr().out
    )
    run.history("prior").write_text("epoch,seconds,loss,val_loss\n1,1,3,3\n")
    suitability.warn_of_unlikely(run, counts, np.full((3, 2, 2), 3.7))  # as in validation
    assert not capsys.readouterr().out
    images = np.zeros((2, 8, 8), "uint8")
    images[0, 2:6, 2:6], images[1, 2:6, 2:8] = 9, 9
    assert metrics.lost_pixels(images, (2, 2, 6, 6)).tolist() == [0, 1 / 3]


def test_black_slices_alone_are_all_shown():
    assert not_black(np.zeros((2, 4, 4))).all()
    split = types.SimpleNamespace(facts=OASIS, masked=False)
    suitability.warn_of_masking(None, split)
