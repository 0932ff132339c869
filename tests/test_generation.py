"""Each figure must move as it should: real against real, blurred, copied, lopsided."""

import numpy as np
import pytest
from conftest import LEVELS, draw_slice
from scipy import ndimage

from evaluation import comparison, curves, judges, selection, two_sample
from sources.images import to_grey


@pytest.fixture(scope="module")
def real():
    cases, levels = np.repeat(np.arange(24), LEVELS), np.tile(np.arange(LEVELS), 24)
    images = np.stack(
        [draw_slice(int(case), level)[::2, ::2] for case, level in zip(cases, levels)]
    )
    return images, cases, levels


@pytest.fixture(scope="module")
def blurred(real):
    return ndimage.gaussian_filter(real[0].astype("float32") / 255, (0, 1.5, 1.5))


def halves(cases):
    return cases % 2 == 0


def test_a_classifier_tells_blurred_from_real_but_not_real_from_real(real, blurred):
    """Real from real by chance: neither better, nor worse, which would be as suspicious.

    Halves are drawn. Heads grow with their number, so every second head would lie between two of
    the other half, and be taken for one of them.
    """
    images, cases, _ = real
    half = np.isin(cases, np.random.default_rng(0).permutation(24)[:12])
    x = two_sample.features(images)
    accuracy, (low, high) = two_sample.two_sample(x[half], x[~half], cases[half], cases[~half])
    assert 0.35 < accuracy < 0.65 and low < 0.5 < high and low <= accuracy <= high
    accuracy, (low, _) = two_sample.two_sample(
        two_sample.features(blurred)[half], x[~half], cases[half], cases[~half]
    )
    assert accuracy > 0.95 and low > 0.9


def test_knowing_the_subject_is_no_help():
    """Features that only name the subject, on both sides alike, give chance.

    Without groups they would give 1.
    """
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 8)
    names = rng.normal(size=(40, 30))[subjects] + rng.normal(0, 0.01, (320, 30))
    one = subjects < 20
    accuracy, _ = two_sample.two_sample(names[one], names[~one], subjects[one], subjects[~one])
    assert accuracy < 0.7


def test_the_null_range_is_of_groups_that_change_sides():
    """Groups differ, the two sets do not. Then accuracy lies in the range, else far above it."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(16), 6)
    rows = rng.normal(size=(16, 20))[groups] + rng.normal(0, 0.3, (96, 20))
    one, other = groups < 8, groups >= 8
    low, high = two_sample.null_range(rows[one], rows[other], groups[one], groups[other])
    accuracy, _ = two_sample.two_sample(rows[one], rows[other], groups[one], groups[other])
    assert low < accuracy < high and 0.1 < low < 0.4 and 0.5 < high < 0.8
    moved = rows[one] + 3, rows[other]
    assert two_sample.two_sample(*moved, groups[one], groups[other])[0] > 0.95


def test_few_groups_of_one_set_are_no_error(monkeypatch):
    """Each fold must then do without a set now and then."""
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 50)
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 6, 3)), rng.normal(size=(17, 6, 3))
    for few in (1, 2):
        rows = one[:few].reshape(-1, 3), other.reshape(-1, 3)
        groups = np.repeat(["a", "b"][:few], 6), np.repeat(np.arange(17).astype(str), 6)
        accuracy, _ = two_sample.two_sample(*rows, *groups)
        low, high = two_sample.null_range(*rows, *groups)
        assert 0 <= accuracy <= 1 and 0 <= low <= high <= 1


def test_groups_change_sides_as_wholes():
    """Two groups of each side are dealt out. The one of both sides swaps its rows or keeps them."""
    groups = np.array(["a", "a", "b", "c", "c", "d", "e", "e"])
    y = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    seen = {tuple(sides.tolist()) for sides in two_sample._permuted_labels(y, groups, 0)}
    assert len(seen) == 6 * 2 and tuple(y) in seen
    for sides in map(np.array, seen):
        assert sides[0] == sides[1] and sides[3] == sides[4] and sides[6] != sides[7]
        assert sides[[0, 2, 3, 5]].sum() == 2


def test_mmd_grows_with_the_difference(real, blurred):
    images, cases, _ = real
    even, x = halves(cases), two_sample.features(images)
    same = two_sample.mmd(x[even], x[~even])
    assert abs(same) < 0.05
    assert two_sample.mmd(two_sample.features(blurred)[even], x[~even]) > 5 * abs(same) + 0.05


def test_diversity_is_one_for_copies_of_one_image(real):
    images, _, levels = real
    one_each = np.stack([images[levels == level][0] for level in levels])
    assert comparison.diversity(one_each, levels) == pytest.approx(1.0, abs=1e-4)
    assert comparison.diversity(images, levels) < 0.98
    assert np.isnan(comparison.diversity(images[:1], levels[:1]))


def test_copies_are_found(real):
    images, cases, _ = real
    even = halves(cases)
    distances, which = comparison.nearest(images[even], images)
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    assert np.array_equal(images[which], images[even])
    apart, _ = comparison.nearest(images[even], images[~even])
    assert apart.min() > 0.01


def test_anatomy_of_a_known_head():
    image = np.zeros((256, 256), "float32")
    y, x = np.mgrid[:256, :256]
    image[(y - 128) ** 2 + (x - 128) ** 2 < 80**2] = 0.8
    whole = comparison.anatomy(image[None])
    assert whole["brain_area"][0] == pytest.approx(np.pi * 80**2 / 256**2, rel=0.03)
    assert whole["ventricle_area"][0] == 0
    image[(y - 128) ** 2 + (x - 128) ** 2 < 20**2] = 0.1
    with_ventricle = comparison.anatomy(image[None])
    assert with_ventricle["ventricle_area"][0] == pytest.approx(np.pi * 20**2 / 256**2, rel=0.1)
    assert with_ventricle["brain_area"][0] == pytest.approx(whole["brain_area"][0])
    lopsided = image.copy()
    lopsided[60:110, 100:160] = 0.3
    assert comparison.anatomy(lopsided[None])["symmetry"][0] < with_ventricle["symmetry"][0] - 0.05


def test_report_on_real_blurred_and_copied_slices(real, blurred, monkeypatch, tmp_path):
    images, cases, levels = real
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 8)
    monkeypatch.setattr(judges, "JUDGES", {"pyramid": judges.JUDGES["pyramid"]})
    sets = {
        name: np.isin(cases % 4, rest)
        for name, rest in (("training", (0, 1)), ("other", (2,)), ("real", (3,)))
    }
    data = {
        name: comparison.Held(images[mask], levels[mask], cases[mask])
        for name, mask in sets.items()
    }
    blurred = to_grey(blurred)

    def report(mask, pixels):
        maps = two_sample.CodeMaps(images[mask], images[mask], cases[mask].astype(str))
        drawn = comparison.Drawn(pixels[mask], blurred[mask], levels[mask], maps)
        restored = {"reconstructions": blurred[sets["real"]]}
        return comparison.evaluate(drawn, **data, restored=restored)

    monkeypatch.setattr(judges, "SHARES", {"pyramid": (0.5,)})
    monkeypatch.setattr(judges, "FEATURE_NETWORKS", 2)
    monkeypatch.setattr(judges, "FEATURE_EPOCHS", 1)
    good, _ = report(sets["other"], images)
    for slow in ("feature_distances", "power", "_anatomy_report"):
        monkeypatch.setattr(comparison, slow, lambda *_: {})
    bad, _ = report(sets["other"], blurred)
    copied, pairs = report(sets["training"], images)
    assert good["two_sample_accuracy"] < 0.75 < bad["two_sample_accuracy"]
    assert good["two_sample_accuracy_inside"] < 0.75 < bad["two_sample_accuracy_inside"]
    assert bad["two_sample_accuracy_prior"] < bad["two_sample_accuracy"]
    assert bad["two_sample_accuracy_reconstructions"] > 0.9
    assert bad["two_sample_accuracy_real"] < 0.75
    low, high = bad["judges"]["real"]["pyramid_null95"]
    assert low < high < bad["two_sample_accuracy"] and bad["two_sample_accuracy_real"] < high
    assert bad["judges"]["samples"]["pyramid"] == bad["two_sample_accuracy"]
    assert bad["mmd"] > good["mmd"] + 0.02
    assert copied["nearest_min"] == pytest.approx(0, abs=1e-6)
    assert good["nearest_min"] > 0.01 and pairs[0][2] == copied["nearest_min"]
    assert set(good["features"]) == {"samples", "reconstructions", "validation"}
    assert good["features"]["samples"] == good["features"]["validation"]  # the same slices
    low, high = good["features"]["samples"]["frechet_range"]
    assert low < good["features"]["samples"]["frechet"] < high  # of two networks
    assert set(good["energy"]) == set(good["features"])
    assert good["energy"]["samples"]["gradient_ratio"] == pytest.approx(1, abs=0.1)
    assert set(good["quality"]) == {"reconstructions"}
    assert 0.5 < good["quality"]["reconstructions"]["ssim"] < 1
    area = good["anatomy"]["brain_area"]
    assert area["wasserstein"] < area["wasserstein_null95"][1]
    assert area["wasserstein"] == area["wasserstein_validation"]  # the same slices
    assert good["anatomy"]["levels"] == list(range(LEVELS))
    assert len(area["samples_by_level"]) == len(area["samples_by_level_ci95"]) == LEVELS
    for mean, (low, high) in zip(area["samples_by_level"], area["samples_by_level_ci95"]):
        assert low < mean < high
    ranges = list(zip(area["wasserstein_by_level"], area["wasserstein_by_level_null95"]))
    assert len(ranges) == LEVELS and np.mean([d <= high for d, (_, high) in ranges]) > 0.8
    assert np.mean(area["wasserstein_by_level"]) == pytest.approx(area["wasserstein"])
    part = selection.anatomy_parts(good["anatomy"])["anatomy"]
    assert part["real"].shape == (4, LEVELS, 3)
    assert (part["samples"][..., 1] <= part["samples"][..., 2]).all()
    curves.anatomy(tmp_path / "anatomy.png", part, "A caption.")
    assert (tmp_path / "anatomy.png").stat().st_size > 10_000


def test_codes_are_judged_by_their_bits_and_their_neighbours(monkeypatch):
    """Real codes are rows of one number each, so that neighbours to the right are equal."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 8, (480, 12, 1)).repeat(12, 2)
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 20)
    bits, groups = rng.gamma(2, 1, rows.shape), np.repeat(np.arange(120).astype(str), 4)
    maps = two_sample.CodeMaps(rows, bits, groups)
    real, drawn = maps.pick(np.arange(480) % 8 < 4), maps.pick(np.arange(480) % 8 >= 4)
    same = two_sample.judge_codes(drawn, real)
    shuffled = rng.permuted(rows, axis=1).transpose(0, 2, 1)[:240]
    other = two_sample.judge_codes(
        two_sample.CodeMaps(shuffled, 0.5 * drawn.bits, drawn.groups), real
    )
    for name in ("bits", "pairs"):
        assert 0.35 < same[name] < 0.65 and 0.35 < same[f"{name}_real"] < 0.7
        assert other[name] > 0.95 and other[f"{name}_ci95"][0] > 0.9
        low, high = same[f"{name}_null95"]
        assert low < same[name] < high < other[name]
        assert other[f"{name}_real"] == same[f"{name}_real"]
    few = maps.pick(np.arange(8))  # two subjects
    assert "bits" not in two_sample.judge_codes(few, few)


def test_wasserstein_is_the_shift_of_a_shifted_set():
    rng = np.random.default_rng(0)
    values, levels, groups = rng.normal(size=60), np.tile([0, 1, 2], 20), np.repeat(range(20), 3)
    known = values, levels, groups

    def compare(values, groups, levels=levels):
        found = two_sample.wasserstein((values, levels, groups), known)
        assert all(len(found[f"wasserstein_by_level{end}"]) == 3 for end in ("", "_null95"))
        return found

    same = compare(values, groups)  # the same people on both sides
    assert same["wasserstein"] == 0 and same["wasserstein_null95"] == [0, 0]
    assert compare(values + 2.5, groups)["wasserstein"] == pytest.approx(2.5)
    drawn = np.char.add("drawn ", groups.astype(str))
    moved = compare(values + 2.5, drawn)
    low, high = moved["wasserstein_null95"]
    assert moved["wasserstein"] == pytest.approx(2.5) and 0 < low < high < 2
    chance = compare(rng.normal(size=60), drawn)
    low, high = chance["wasserstein_null95"]
    assert 0 < low < chance["wasserstein"] < high
    one_moved = compare(values + 2.5 * (levels == 1), drawn)  # only that level is told
    apart = [
        distance > high
        for distance, (_, high) in zip(
            one_moved["wasserstein_by_level"], one_moved["wasserstein_by_level_null95"]
        )
    ]
    assert apart == [False, True, False]


def test_wasserstein_of_levels_that_one_side_lacks_is_undefined():
    one = np.zeros(2), np.array([0, 1]), np.array(["a", "a"])
    found = two_sample.wasserstein(one, (np.ones(2), np.array([1, 2]), np.array(["b", "b"])))
    assert found["wasserstein"] == 1 and len(found["wasserstein_by_level"]) == 1
    nowhere = two_sample.wasserstein(one, (np.ones(1), np.array([5]), np.array(["b"])))
    assert np.isnan(nowhere["wasserstein"]) and nowhere["wasserstein_by_level"] == []


@pytest.mark.slow
def test_each_judge_tells_blurred_from_real_inside_too(real, blurred, monkeypatch):
    monkeypatch.setattr(two_sample, "PERMUTATIONS", 40)
    monkeypatch.setattr(judges, "EPOCHS", 6)
    images, cases, _ = real
    groups = cases.astype(str)
    found = judges.judge(
        judges.Pictures(to_grey(blurred), groups), judges.Pictures(images, groups), "blurred"
    )
    assert found["slices"] == len(images)
    by_judge = found["judges"]
    ranges = [by_judge.pop(f"pyramid{place}_null95") for place in ("", "_inside")]
    assert set(by_judge) == {"pyramid", "network", "pyramid_inside", "network_inside"}
    assert min(by_judge.values()) > 0.8 > max(high for _, high in ranges)
    assert found["accuracy"] == max(by_judge[name] for name in ("pyramid", "network"))


def test_the_network_tells_blurred_from_real_each_time_alike(real, blurred):
    half = halves(real[1])
    x = np.concatenate([real[0], to_grey(blurred)])[:, ::2, ::2]
    y, learned = np.repeat([0, 1], len(half)), np.tile(half, 2)
    found = [judges.classify_by_network(x[learned], y[learned], x[~learned]) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert (found[0] == y[~learned]).mean() > 0.8


def test_the_more_slices_are_damaged_the_better_they_are_told_apart(real, monkeypatch):
    images, cases, _ = real
    same = judges.Pictures(images, cases.astype(str))

    def quick(x, y, unseen, seed):
        """In place of a network, which takes minutes. It sees the same pixels."""
        return two_sample.logistic(two_sample.features(x), y, two_sample.features(unseen), seed)

    monkeypatch.setitem(judges.JUDGES, "network", (judges._content, quick))
    by_judge = judges.power(same, same)
    assert list(by_judge["network"]["mirrored"]) == ["0", "0.2", "0.5"]
    assert set(by_judge) == {"pyramid", "pyramid_inside", "network"}
    for judge, found in by_judge.items():
        assert set(found) == {"mirrored", "lower_half_of_another", "blurred"}
        for by_share in found.values():
            assert list(by_share) == ["0", *map(str, judges.SHARES[judge])]
            assert by_share["0"] == 0.5
        assert 0.7 < found["blurred"]["0.5"] < 0.8  # half of the slices cannot be told apart
        assert found["blurred"]["0.2"] < found["blurred"]["0.5"]
    for judge in ("pyramid", "pyramid_inside"):
        assert list(by_judge[judge]["mirrored"]) == ["0", "0.05", "0.1", "0.2", "0.5"]
        assert by_judge[judge]["blurred"]["0.1"] < by_judge[judge]["blurred"]["0.2"]


def test_distances_of_known_features():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2000, 4))
    near = judges._distances(one, other)
    assert near["frechet"] < 0.05 and abs(near["kernel"]) < 0.02
    assert near["precision"] > 0.9 and near["recall"] > 0.9
    far = judges._distances(one + np.array([3, 0, 0, 0]), other)
    assert far["frechet"] == pytest.approx(9, rel=0.1) and far["kernel"] > 1
    narrow = judges._distances(0.1 * one, other)  # all like real ones, and few of their kinds
    assert narrow["precision"] > 0.95 and narrow["recall"] < 0.2


def test_inside_looks_at_the_eroded_brain_alone():
    image = np.zeros((1, 256, 256), "uint8")
    image[0, 50:200, 60:190] = 100
    image[0, 120:130, 120:130] = 0  # a hole belongs to the brain
    inside = judges.inside_brain(image)
    expected = np.zeros_like(image)
    expected[0, 56:194, 66:184] = image[0, 56:194, 66:184]
    np.testing.assert_array_equal(inside, expected)
