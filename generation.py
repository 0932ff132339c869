"""How good generated slices are: can they be told from real ones, are they diverse, are they copies, is their anatomy possible.

Images are uint8 or float `(N, S, S)`, 0 to 255 or 0 to 1, the nose to the right; all functions take either and use [0, 1].
"""

import numpy as np
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
DARK, TISSUE = 0.35, 0.15  # of the image's 95th percentile in the brain: below the first is fluid, above the second is head


def unit(images):
    images = np.asarray(images)
    return images.astype("float32") / 255.0 if images.dtype == np.uint8 else images.astype("float32")


def _pool(images, size):
    """Mean over cells that cover the image, equal to within a pixel: `(N, S, S)` -> `(N, size, size)`, S at least `size`."""
    edges = np.linspace(0, images.shape[1], size + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(images, edges[:-1], axis=1), edges[:-1], axis=2)
    return sums / np.outer(np.diff(edges), np.diff(edges))


def features(images):
    """Fixed features of each image: layout, and texture at four scales, `(N, 512)`.

    Layout is the image at 16 x 16. Texture is the log energy of four octaves of a difference-of-Gaussians pyramid over 8 x 8
    cells, so that blur, noise and a broken cortex show.
    """
    images = unit(images)
    parts = [_pool(images, 16).reshape(len(images), -1)]
    before = images
    for octave in range(4):
        after = ndimage.gaussian_filter(images, (0, 2.0**octave, 2.0**octave))
        parts.append(np.log(_pool((before - after) ** 2, 8) + 1e-5).reshape(len(images), -1))
        before = after
    return np.concatenate(parts, axis=1)


def two_sample(one, other, one_groups, other_groups, seed=0):
    """Held-out accuracy of a classifier that tells two sets of features apart; 0.5 is indistinguishable.

    Lopez-Paz and Oquab 2017, with a logistic regression on principal components. All slices of a group (a subject) are in one
    fold, so that knowing a brain is no help; the classes weigh the same whatever their sizes.

    Args:
        one, other: features `(N, F)` and `(M, F)`.
        one_groups, other_groups: group of each row. Equal numbers are the same group on both sides.

    Returns:
        `(accuracy, [low, high])`: the interval is a 95 % bootstrap over groups.
    """
    x, y = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
    groups = np.concatenate([one_groups, other_groups])
    right = np.zeros(len(x))
    shuffled = np.random.default_rng(seed).permutation(len(x))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(x[shuffled], y[shuffled], groups[shuffled]):
        train, test = shuffled[train], shuffled[test]
        model = make_pipeline(StandardScaler(), PCA(min(50, len(train) - 1, x.shape[1]), random_state=seed), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"))
        right[test] = model.fit(x[train], y[train]).predict(x[test]) == y[test]
    numbers = np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(numbers[y == c], right[y == c], numbers.max() + 1) for c in (0, 1)])  # (2, groups)
    counts = np.stack([np.bincount(numbers[y == c], minlength=numbers.max() + 1) for c in (0, 1)])
    draws = np.random.default_rng(seed).multinomial(sums.shape[1], np.full(sums.shape[1], 1 / sums.shape[1]), 1000)  # (1000, groups)
    resampled = ((draws @ sums.T) / np.maximum(draws @ counts.T, 1)).mean(1)
    return float((sums.sum(1) / counts.sum(1)).mean()), [float(v) for v in np.percentile(resampled, (2.5, 97.5))]


def mmd(one, other):
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3), Gaussian kernel of median bandwidth."""
    pooled = StandardScaler().fit_transform(np.concatenate([one, other]).astype("float64"))
    one, other = pooled[: len(one)], pooled[len(one) :]

    def squares(a, b):
        return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)

    bandwidth = np.median(squares(pooled, pooled)[np.triu_indices(len(pooled), 1)])
    within = [(np.exp(-squares(s, s) / bandwidth).sum() - len(s)) / (len(s) * (len(s) - 1)) for s in (one, other)]
    return float(sum(within) - 2 * np.exp(-squares(one, other) / bandwidth).mean())


def diversity(images, levels, pairs=20, seed=0):
    """Mean multi-scale SSIM of pairs of slices of one level (Wang et al. 2003); higher is less diverse. NaN without a pair.

    Args:
        pairs: at most so many random pairs of a level.
    """
    import tensorflow as tf

    rng, first, second = np.random.default_rng(seed), [], []
    for level in np.unique(levels):
        here = np.flatnonzero(levels == level)
        couples = np.stack(np.triu_indices(len(here), 1), 1)
        for a, b in rng.permutation(couples)[:pairs]:
            first.append(here[a])
            second.append(here[b])
    if not first:
        return float("nan")
    images = unit(images)[..., None]
    factors = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[: max(1, int(np.log2(images.shape[1] / 11)) + 1)]
    values = [tf.image.ssim_multiscale(images[first[i : i + 32]], images[second[i : i + 32]], 1.0, [f / sum(factors) for f in factors])
              for i in range(0, len(first), 32)]
    return float(np.concatenate(values).mean())


def nearest(images, others, size=64):
    """Distance of each image to its nearest among `others`, root mean square at `size` x `size`, and which that is."""
    def flat(values):
        return _pool(unit(values), min(size, values.shape[1])).reshape(len(values), -1)

    a, b = flat(images), flat(others)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    which = squares.argmin(1)
    return np.sqrt(np.mean((a - b[which]) ** 2, axis=1)), which


def anatomy(images):
    """Figures of a slice: dict of `brain_area` and `ventricle_area` (shares of the image), `symmetry` (correlation of the
    halves), `white_over_grey` (90th over 40th percentile in the brain), each `(N,)`.

    Ventricles are the fluid in the middle: dark, at least a fifth of the brain's height away from its outline.
    """
    figures = {name: [] for name in ("brain_area", "ventricle_area", "symmetry", "white_over_grey")}
    for image in unit(images):
        smooth = ndimage.gaussian_filter(image, image.shape[0] / 256)
        level = np.percentile(smooth[smooth > 0.05], 95) if (smooth > 0.05).any() else 1.0
        head = ndimage.binary_fill_holes(smooth > TISSUE * level)
        rows = np.flatnonzero(head.any(1))
        height = len(rows) or 1
        depth = ndimage.distance_transform_edt(head)
        figures["brain_area"].append(head.mean())
        figures["ventricle_area"].append(((smooth < DARK * level) & (depth > 0.2 * height)).mean())
        middle = (rows[0] + rows[-1]) if len(rows) else image.shape[0] - 1
        mirror = np.clip(middle - np.arange(image.shape[0]), 0, image.shape[0] - 1)
        blurred = ndimage.gaussian_filter(image, image.shape[0] / 64)
        both = head & head[mirror]
        figures["symmetry"].append(np.corrcoef(blurred[both], blurred[mirror][both])[0, 1] if both.sum() > 2 else 0.0)
        grey, white = np.percentile(smooth[head], (40, 90)) if head.any() else (1.0, 1.0)
        figures["white_over_grey"].append(white / max(grey, 1e-3))
    return {name: np.nan_to_num(np.array(values)) for name, values in figures.items()}


def evaluate(samples, sample_levels, test, training, validation, restore):
    """All figures of generated slices, for `metrics.json`.

    Args:
        samples: generated images; `sample_levels` their levels.
        test, training, validation: dicts of `images`, `levels`, `subjects` of the real slices.
        restore: function of images `(N, S, S)` and their levels to their reconstructions.

    Returns:
        `(report, copies)`: the report, and for the figure of the closest pairs `(sample, training slice, distance)`, closest first.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(training["images"]))[: max(len(samples), 100)]  # from many subjects: a few can be told apart by themselves
    owners = training["subjects"]
    subjects = rng.permutation(np.unique(owners))
    half = np.isin(owners[chosen], subjects[: len(subjects) // 2])
    drawn, real, restored = features(samples), features(training["images"][chosen]), features(restore(training["images"][chosen], training["levels"][chosen]))
    own = np.array([f"sample {i}" for i in range(len(samples))])  # each is a subject of its own
    report = {"samples": len(samples)}
    for name, (one, other, one_groups, other_groups) in {
        "two_sample_accuracy": (drawn, real, own, owners[chosen]),
        "two_sample_accuracy_prior": (drawn, restored, own, owners[chosen]),
        "two_sample_accuracy_reconstructions": (restored, real, owners[chosen], owners[chosen]),
        "two_sample_accuracy_real": (real[half], real[~half], owners[chosen][half], owners[chosen][~half]),
    }.items():
        report[name], report[f"{name}_ci95"] = two_sample(one, other, one_groups, other_groups)
    test_features = features(test["images"])
    report |= {
        "mmd": mmd(drawn, test_features), "mmd_real": mmd(features(validation["images"]), test_features),
        "diversity": diversity(samples, sample_levels), "diversity_real": diversity(test["images"], test["levels"]),
        "diversity_validation": diversity(validation["images"], validation["levels"]),
    }
    distances, which = nearest(samples, training["images"])
    real_distances, _ = nearest(test["images"], training["images"])
    report |= {"nearest_min": float(distances.min()), "nearest_mean": float(distances.mean()),
               "nearest_real_p1": float(np.percentile(real_distances, 1)), "nearest_real_mean": float(real_distances.mean())}
    made, range_of = anatomy(samples), anatomy(test["images"])
    checked = anatomy(validation["images"])
    report["anatomy"] = {}
    for name, values in range_of.items():
        low, high = np.percentile(values, (1, 99))
        report["anatomy"][name] = {
            "samples": float(made[name].mean()), "real": float(values.mean()), "validation": float(checked[name].mean()),
            "real_range": [float(low), float(high)],
            "inside": float(np.mean((made[name] >= low) & (made[name] <= high))), "inside_validation": float(np.mean((checked[name] >= low) & (checked[name] <= high))),
        }
    order = np.argsort(distances)
    return report, [(int(i), int(which[i]), float(distances[i])) for i in order]
