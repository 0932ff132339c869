"""What is said of who is shown: what `--given` understands, and what it changes."""

import dataclasses
import json
import shutil

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from shared import (
    CODES,
    LEVELS,
    make_prior,
    make_vqvae,
    one_line,
    predict,
    run_script,
    write_slices,
)

from coding import container
from evaluation import anomalies, brains, classification, samples
from evaluation.attributes import entities, people, read_given
from evaluation.context import SamplingOptions
from evaluation.reconstruction import choose_codes
from fitting import checkpoints
from fitting.run_directory import RunDirectory
from modules import Models, PixelCNN
from networks.attributes import Attributes, labelled, learn
from networks.logits import draw, redraw, uniforms
from networks.order import arrange
from networks.raster import numbered_seed
from sources.folder import make_split, open_folder
from utils import InputError

ATTRIBUTES = [
    {
        "name": "cdr", "labels": ["0", "0.5", "1"], "groups": [[0.0], [0.5], [1.0, 2.0]],
        "edges": [], "counts": [[[20, 0, 0], [0, 10, 0], [0, 0, 5]], [[20, 0], [5, 5], [0, 5]]],
    },
    {
        "name": "ventricles", "labels": ["0.01 to 0.02", "0.02 to 0.06"], "groups": [],
        "edges": [0.01, 0.02, 0.06], "counts": [[[20, 5, 0], [0, 5, 5]], [[25, 0], [0, 10]]],
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def prior():
    return make_prior(4, blocks=2, attributes=ATTRIBUTES)


@pytest.fixture(scope="module")
def models(prior):
    return Models(make_vqvae(), prior)


def some_run(path, attributes):
    """Give the prior of a run such attributes, and weights through which they show."""
    file = RunDirectory(path).model("prior")
    prior = checkpoints.load_model(file)
    told = PixelCNN(**{**prior.settings, "attributes": attributes})
    rng = np.random.default_rng(0)
    for variable in told.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    checkpoints.save_model(told, file)
    return path


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    """A finished run whose prior knows attributes, and into which predict.py may write."""
    return some_run(
        shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "told"), ATTRIBUTES
    )


# ---- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs, numbers", [
    (["cdr=0"], [1, 0]),
    (["cdr=2", "ventricles=0.02"], [3, 2]),
    (["ventricles=.06", "cdr=0.50"], [2, 2]),
    (["ventricles=0.01"], [0, 1]),
])  # fmt: skip
def test_values_are_read(prior, pairs, numbers):
    assert read_given("run", prior, pairs).tolist() == numbers
    assert read_given("run", prior, None) is None


@pytest.mark.parametrize("pairs, words", [
    (["cdr"], "takes NAME=VALUE"),
    (["age=7"], "names one of cdr, ventricles for run. Received: age"),
    (["cdr=3"], "knows 0, 0.5, 1, 2 of cdr. Received: cdr=3"),
    (["cdr=many"], "knows 0, 0.5, 1, 2 of cdr"),
    (["ventricles=0.07"], "knows 0.01 to 0.06 of ventricles"),
    (["ventricles=nan"], "knows 0.01 to 0.06 of ventricles"),
    (["ventricles=large"], "knows 0.01 to 0.06 of ventricles"),
    (["cdr=0", "cdr=1"], "gives cdr twice"),
])  # fmt: skip
def test_what_is_unknown_is_refused(prior, pairs, words):
    with pytest.raises(InputError) as refused:
        read_given("run", prior, pairs)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(InputError, match="knows no attributes"):
        read_given("run", make_prior(4, blocks=1), ["cdr=0"])


def test_words_are_read_and_names_of_files_are_safe():
    one = {"name": "sex", "labels": ["F", "M"], "groups": [["F"], ["M"]], "edges": []}
    prior = make_prior(4, blocks=1, attributes=[{**one, "counts": [[[5, 0], [0, 5]]]}])
    assert read_given("run", prior, ["sex=M"]).tolist() == [2]
    with pytest.raises(InputError, match="knows F, M of sex"):
        read_given("run", prior, ["sex=m/../x"])
    values = {"cdr": "1", "ventricles": "0.01 to 0.02", "../a b": "/etc/x"}
    assert entities(values) == "_cdr-1_ventricles-0.01to0.02_..ab-etcx"
    assert not entities({}) and len(entities({"a" * 500: "b"})) <= 100


# ---- drawing -----------------------------------------------------------------------------------


def test_what_is_not_given_is_drawn_as_people_have_it():
    attributes, numbers = Attributes.from_json(ATTRIBUTES), np.arange(300)
    everybody = people(attributes, SamplingOptions(1), numbers)
    assert everybody.min() == 1 and abs((everybody[:, 0] == 1).mean() - 20 / 35) < 0.1
    told = SamplingOptions(1, given=np.array([3, 0]))
    demented = people(attributes, told, numbers)
    assert (demented[:, 0] == 3).all() and (demented[:, 1] == 2).mean() > 0.8
    np.testing.assert_array_equal(people(attributes, told, numbers[7:8]), demented[7:8])
    assert people(Attributes(), SamplingOptions(1), numbers[:2]).shape == (2, 0)


def test_a_brain_is_drawn_given_its_attributes(prior):
    """The same noise draws other codes of another person, and the same of the same."""

    def drawn_as(given):
        options = SamplingOptions(3, given=None if given is None else np.array(given))
        return next(brains.draw_brain_codes(prior, 2, options))

    (codes, numbers), (other, _) = drawn_as([1, 1]), drawn_as([3, 2])
    assert (codes != other).mean() > 0.2
    drawn, _ = drawn_as(None)
    shown = people(prior.attributes, SamplingOptions(3), numbers[:, 0])
    again = [drawn_as(person)[0][i] for i, person in enumerate(shown)]
    np.testing.assert_array_equal(drawn, again)
    slices = brains.GivenSlices(np.array([2]), codes[0, [2]])  # of nobody known
    around, _ = next(brains.draw_brain_codes(prior, 1, SamplingOptions(3), slices))
    unknown, _ = next(
        brains.draw_brain_codes(prior, 1, SamplingOptions(3, given=np.zeros(2, int)), slices)
    )
    np.testing.assert_array_equal(around, unknown)
    alone = [
        next(samples.draw_slice_codes(prior, np.array([1]), SamplingOptions(3, given=np.array(n))))
        for n in ([1, 1], [3, 2])
    ]
    assert (alone[0][0] != alone[1][0]).any()


def test_unknown_is_what_is_not_said(models):
    """Codes and anomaly maps are those of a prior that is told nothing."""
    split = make_split("some", [(1, level, f"slice {level}") for level in range(3)])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), "uint8")
    told = np.array([3, 0]), np.zeros(2, int), None
    codes = [choose_codes(models, split.cases, split.levels, images, given) for given in told]
    np.testing.assert_array_equal(codes[1], codes[2])
    maps = [anomalies.analyse(models, images / 255, split, 1, given)["surprise"] for given in told]
    np.testing.assert_allclose(maps[1], maps[2], atol=1e-6)
    assert np.abs(maps[0] - maps[2]).max() > 1e-3
    assert labelled(split.levels, None) is split.levels


# ---- the scripts -------------------------------------------------------------------------------


def test_what_is_given_is_said(run, slices_folder):
    flags = "--samples", 1, "--brains", 2, "--given", "cdr=2", "--no-texture"
    _, report = predict(run, slices_folder, *flags)
    out = run / "predict"
    assert report["given"] == {"cdr": "1"}
    of_brains = report["brains"]["attributes"]
    assert [person["cdr"] for person in of_brains] == ["1", "1"] and "ventricles" in of_brains[0]
    names = sorted(path.name for path in (out / "brains").glob("*.nii.gz"))
    assert names == ["brain_0000_cdr-1.nii.gz", "brain_0001_cdr-1.nii.gz"]
    header = nibabel.load(out / "brains" / names[0]).header
    assert header["descrip"].item() == b"generated given cdr 1"
    assert (out / "samples" / "sample_0000_slice_0_cdr-1.png").exists()
    _, report = predict(run, slices_folder, "--samples", 0, "--brains", 1, "--no-texture")
    assert report["given"] == {} and set(report["brains"]["attributes"][0]) == {"cdr", "ventricles"}
    assert not (out / "samples.png").exists() and not (out / "brains" / names[1]).exists()


def test_files_hold_what_was_given(run, slices_folder, tmp_path):
    folder = slices_folder / "keras_png_slices_test"
    sizes = {}
    for kind, flags in {"none": [], "told": ["--given", "cdr=1"]}.items():
        file, out = tmp_path / f"{kind}.bvq", tmp_path / kind
        done = run_script("compress.py", "encode", folder, file, "--run", run, *flags)
        assert done.returncode == 0, done.stderr
        done = run_script("compress.py", "decode", file, out, "--run", run)
        assert done.returncode == 0, done.stderr
        assert ("of whom was given, cdr 1" in done.stdout) == bool(flags)
        assert len(open_folder(out)) == 2 * LEVELS
        sizes[kind] = file.read_bytes()
    assert container.unpack(sizes["told"], "file", LEVELS)[4] == [3, 0]
    altered = tmp_path / "altered.bvq"
    altered.write_bytes(sizes["told"].replace(b"\2\3\0", b"\2\4\0", 1))
    refused = run_script("compress.py", "decode", altered, tmp_path / "out", "--run", run)
    one_line(refused, "attributes that nobody has")
    done = run_script("compress.py", "encode", folder, file, "--run", run, "--given", "age=3")
    one_line(done, "--given names one of cdr, ventricles")


# ---- classification ----------------------------------------------------------------------------


def test_likelihoods_are_those_of_codes_that_know_nothing(models):
    split = make_split(
        "some", [(case, level, f"{case} {level}") for case in (3, 7) for level in (0, 2)]
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), "uint8")
    split = dataclasses.replace(split, images=images)
    cases, logs = classification.log_likelihoods(models, split, 0)
    assert cases.tolist() == [3, 7] and logs.shape == (2, 3)
    codes = choose_codes(models, split.cases, split.levels, images)
    order = arrange(split.cases, split.levels, 1)
    for value in range(3):
        told = labelled(split.levels, np.array([1 + value, 0]))
        bits = models.prior.bits(codes, told, order).numpy().sum((1, 2))
        expected = -np.log(2) * bits.reshape(2, 2).sum(1)
        np.testing.assert_allclose(logs[:, value], expected, rtol=1e-3)


def test_a_scale_makes_probabilities_honest():
    """Of log likelihoods that are ten times too sure, about a tenth is right."""
    rng, prior = np.random.default_rng(0), np.array([0.5, 0.5])
    values = rng.integers(0, 2, 2000)
    evidence = rng.normal(np.where(values, 1.0, -1.0), 1.0)  # its log odds are twice that
    logs = 10 * np.stack([-evidence, evidence], axis=1)
    scale = classification.fit_scale(logs, prior, values)
    assert 0.08 < scale < 0.12
    found = classification.probabilities(logs, prior, scale)
    np.testing.assert_allclose(found.sum(1), 1)
    sure = found.max(1) > 0.8
    right = found[sure].argmax(1) == values[sure]
    assert abs(right.mean() - found[sure].max(1).mean()) < 0.03
    known = classification.probabilities(np.zeros((1, 2)), np.array([0.9, 0.1]), scale)
    np.testing.assert_allclose(known, [[0.9, 0.1]])
    assert classification.fit_scale(logs, prior, 1 - values) == classification.SCALES[0]


def test_people_are_classified(run, slices_folder, tmp_path):
    """Once the scale is known, no data are needed; the values are those of the table."""

    def classify(*arguments):
        return run_script("predict.py", "--run", run, "--classify", *arguments, cwd=tmp_path)

    folder = slices_folder / "keras_png_slices_test"
    one_line(
        classify("cdr", folder), "by 5 people or more of a validation split whose cdr is known"
    )
    one_line(classify("age", folder), "--classify names one of cdr, ventricles")
    one_line(classify("cdr", folder, folder), "--classify takes NAME and perhaps FOLDER")
    data = write_slices(tmp_path / "data", {"validate": range(5), "test": (5,)}, levels=2)
    facts = {"cases": {str(case): {"cdr": [0, 0.5, 2][case % 3]} for case in range(5)}}
    (data / "dataset.json").write_text(json.dumps(facts))
    done = classify("cdr", folder, "--data", data)
    assert done.returncode == 0, done.stderr
    assert "This is no diagnosis" in done.stdout and "case 005  cdr   0: 0." in done.stdout
    first = (run / "predict" / "classify_cdr.json").read_text()
    report = json.loads(first)
    assert report["calibration"]["people"] == 5 and report["training"]["0"] == 20 / 35
    for row, case in zip(report["cases"], (5, 6), strict=True):
        assert row["case"] == case and list(row["p"]) == ["0", "0.5", "1"]
        assert sum(row["p"].values()) == pytest.approx(1)
    assert classify("cdr", folder).returncode == 0
    again = json.loads((run / "predict" / "classify_cdr.json").read_text())
    assert again["cases"] == report["cases"]
    assert classify("cdr", "--data", data).returncode == 0  # of its test split
    (run / "calibration.json").write_text('{"cdr": {"scale": 7}}')
    one_line(classify("cdr", folder), "calibration.json cannot be read")
    (run / "calibration.json").unlink()


def test_bins_have_names_of_their_own():
    values = {case: 0.5 + case / 1e6 for case in range(80)}
    found, _ = learn({"size": values}, {case: str(case) for case in values})
    (attribute,) = found.each
    assert len(set(attribute.labels)) == 8


# ---- counterfactuals ---------------------------------------------------------------------------


def test_noise_behind_codes_draws_from_other_logits_as_these_say():
    rng, count = np.random.default_rng(0), 20000
    logits, others = (np.tile(rng.normal(0, 1.5, 5), (count, 1)) for _ in range(2))
    codes = draw(logits, rng.random(count)).numpy()
    uniform = rng.random((count, 5)).astype("float32")
    drawn = redraw(logits, codes, uniform, others).numpy()
    expected = np.exp(others[0]) / np.exp(others[0]).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / count, expected, atol=0.012)
    independent = (np.bincount(codes, minlength=5) / count) @ expected
    assert (drawn == codes).mean() > independent + 0.1  # what need not change stays
    np.testing.assert_array_equal(redraw(logits, codes, uniform, logits + 1e-5), codes)
    np.testing.assert_array_equal(redraw(logits, codes, 0 * uniform, logits), codes)
    # A code whose probability rises is kept.
    raised = logits + 3.0 * tf.one_hot(codes, 5, dtype="float64")
    np.testing.assert_array_equal(redraw(logits, codes, uniform, raised), codes)


@pytest.fixture(scope="module")
def brain(prior):
    """Codes of a brain that was drawn, and the neighbours of its slices."""
    order = arrange([0] * LEVELS, range(LEVELS), 1)
    codes, _ = next(brains.draw_brain_codes(prior, 1, SamplingOptions(3, given=np.array([3, 2]))))
    return codes[0], order


def imagine(prior, brain, own, given, strength=1.0):
    levels = np.arange(LEVELS)
    told = [labelled(levels, np.array(numbers)) for numbers in (own, given)]
    seeds = numbered_seed(5, levels)
    return prior.counterfactual(brain[0], *told, seeds, float(strength), brain[1]).numpy()


def test_own_attributes_change_nothing(prior, brain):
    for own in ([3, 2], [1, 0], [0, 0]):
        np.testing.assert_array_equal(imagine(prior, brain, own, own, 50.0), brain[0])
    np.testing.assert_array_equal(imagine(prior, brain, [3, 2], [1, 0], 0.0), brain[0])
    changed = [(imagine(prior, brain, [3, 2], [1, 1], s) != brain[0]).mean() for s in (0.2, 1, 5)]
    assert 0 < changed[0] < changed[1] < changed[2]


def test_a_counterfactual_reads_its_own_neighbours(prior, brain):
    """Every code is what the noise draws given all earlier codes of the counterfactual."""
    codes, order = brain
    drawn, levels = imagine(prior, brain, [3, 0], [1, 0]), np.arange(LEVELS)
    own, others = (labelled(levels, np.array([n, 0])) for n in (3, 1))
    noise = uniforms(numbered_seed(5, levels), (4, 4, CODES)).numpy().reshape(-1, CODES)
    logits = [
        prior.logits(*of, order).numpy().reshape(-1, CODES)
        for of in ((codes, own), (drawn, others))
    ]
    expected = redraw(logits[0], codes.ravel(), noise, logits[1]).numpy()
    np.testing.assert_array_equal(drawn.ravel(), expected)
    assert (drawn != codes).any()


def test_people_are_drawn_as_they_would_look(run, slices_folder, tmp_path):
    def imagine(*flags):
        return run_script("predict.py", "--run", run, "--counterfactual", *flags, cwd=tmp_path)

    folder = shutil.copytree(slices_folder / "keras_png_slices_test", tmp_path / "some")
    (folder / "dataset.json").write_text('{"cases": {"5": {"cdr": 2}}}')
    done = imagine(folder, "--given", "cdr=0")
    assert done.returncode == 0, done.stderr
    out = run / "predict"
    report = json.loads((out / "counterfactual.json").read_text())
    assert report["given"] == {"cdr": "0"} and (out / "counterfactual.png").exists()
    assert [row["own"] for row in report["cases"]] == [{"cdr": "1"}, {}]
    assert all(row["changed_codes"] > 0 for row in report["cases"])
    kinds = {"original", "reconstruction", "counterfactual"}
    assert all(set(row["ventricles"]) == kinds for row in report["cases"])
    volumes = {
        kind: np.asarray(nibabel.load(out / "counterfactual" / f"case_006_{kind}.nii.gz").dataobj)
        for kind in ("reconstruction", "counterfactual_cdr-0", "difference_cdr-0")
    }
    restored, drawn, difference = (values.astype(int) for values in volumes.values())
    np.testing.assert_array_equal(difference, drawn - restored)
    assert difference.shape == (256, 256, LEVELS) and difference.min() < 0 < difference.max()
    done = imagine(folder, "--given", "cdr=1", "--own", "cdr=1", "--strength", 9)
    assert "case 006  0.0% of its codes change" in done.stdout
    assert not (out / "counterfactual" / "case_006_difference_cdr-0.nii.gz").exists()
    one_line(imagine(folder), "--counterfactual needs --given")
    one_line(imagine(folder, "--given", "cdr=0", "--own", "age=3"), "--own names one of cdr")
    one_line(imagine(folder, "--given", "cdr=0", "--anomaly"), "one of --anomaly, --classify")
