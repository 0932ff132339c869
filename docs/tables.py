"""The tables of the documents, each from the JSON file of its measurements.

python docs/tables.py            # write every table anew
python docs/tables.py --check    # fail where a table is not that of its file

The comment above a table calls a function of this module, and cogapp puts there what it prints. A
figure is looked up by its name, so a figure and the words beside it cannot drift apart.
"""

import json
import pathlib
import sys

from cogapp import Cog

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "pretrained/README.md")
MODELS = ("oasis-256", "oasis-256-fine")


def results(name, folder="benchmarks/results"):
    """Return a report of the benchmarks."""
    return json.loads((ROOT / folder / f"{name}.json").read_text())


def shipped(model="oasis-256-fine"):
    """Return the `metrics.json` of a shipped model."""
    return results("metrics", f"pretrained/{model}")


def cell(report, figure):
    """Show a figure of a report.

    Args:
        report: Nested dictionaries.
        figure: Names, `key/key` for nested ones, and last the format of a number, between commas.
            A name of two bounds puts these in brackets after the number before them.
    """
    *names, form = figure.split(", ")
    texts = []
    for name in names:
        value = report
        for key in name.split("/"):
            value = value.get(key, {})
        if isinstance(value, list):
            low, high = value
            texts[-1] += f" ({low:,{form}} to {high:,{form}})"
        else:
            text = "never" if value is None else str(value or "")
            texts.append(f"{value:,{form}}" if isinstance(value, float) else text)
    return "; ".join(texts)


def table(corner, reports, figures, by_column=False):
    """Print a table in Markdown.

    Args:
        corner: Heading of the first column.
        reports: Label -> report, one a row.
        figures: Label -> figure, as `cell` takes it, one a column.
        by_column: Whether each report is a column instead, and each figure a row.
    """
    cells = [[cell(report, figure) for figure in figures.values()] for report in reports.values()]
    lines = [[corner, *figures], *([label, *row] for label, row in zip(reports, cells))]
    lines = list(zip(*lines)) if by_column else lines
    lines.insert(1, ["---"] * len(lines[0]))
    for line in lines:
        print(f"| {' | '.join(line)} |")


def models(detailed=False):
    """What the shipped models reach on the test split."""
    code = "prior/bits_per_code"
    figures = {
        "SSIM (95 % interval over subjects)": "ssim/mean, ssim/ci95, .3f",
        "SSIM inside the brain": "ssim/brain_mean, .3f",
        "PSNR inside the brain, dB": "psnr/brain_mean, .1f",
        "bits per code, conditional; unconditional": f"{code}, {code}_alone, .2f",
        "ideal bytes per slice": "rate/prior_bytes, .0f",
        "ideal bytes of a brain of 32 slices": "rate/brain_bytes, .0f",
    }
    if detailed:
        figures |= {
            "SSIM of the lowest slice": "ssim/min, .3f",
            "energy of gradients in the brain, ratio": "detail/gradient_ratio, .2f",
            "energy of the fine spectrum, ratio": "detail/spectrum_ratio, .2f",
            "correlation of fine detail": "detail/fine_correlation, .2f",
            "codes used; perplexity": "codebook/used, codebook/perplexity, .0f",
            "bits per code, histogram per position": "prior/position_bits_per_code, .2f",
            "bits per pixel of the texture": "texture/bits_per_pixel, .2f",
        }
    reports = {f"`{model}`": shipped(model) for model in MODELS}
    table("test split: 512 slices, 16 subjects", reports, figures, by_column=True)


def two_sample():
    """How often a classifier distinguishes sets of slices from real test slices."""
    whole = shipped()["generation"]
    inside = {name.replace("_inside", ""): whole[name] for name in whole if "_inside" in name}
    sets = {
        "drawn slices": "two_sample_accuracy",
        "reconstructions with texture": "two_sample_accuracy_textured_reconstructions",
        "reconstructions without texture": "two_sample_accuracy_reconstructions",
        "real slices of other people": "two_sample_accuracy_real",
    }
    figures = {label: f"{name}, {name}_null95, .2f" for label, name in sets.items()}
    reports = {"whole slice": whole, "inside the brain": inside}
    table("accuracy (null range)", reports, figures, by_column=True)


def generation():
    """Drawn slices and brains beside real ones."""
    near, pairs, fluid = "brains/nearest", "brains/neighbour_ssim", "brains/ventricles"
    halves = "anatomy/symmetry"
    figures = {
        "distance to the nearest training slice": "nearest_mean, nearest_real_mean, .3f",
        "distance to the nearest training brain": f"{near}/generated_mean, {near}/real_mean, .3f",
        "diversity: mean MS-SSIM of slices of a level": "diversity, diversity_real, .3f",
        "SSIM of neighbouring slices": f"{pairs}/generated/mean, {pairs}/real/mean, .3f",
        "correlation of left and right half": f"{halves}/samples, {halves}/real, .2f",
        "ventricles, share of a brain": f"{fluid}/generated/mean, {fluid}/real/mean, .4f",
        "ventricles, training people": f"{fluid}/training/mean, .4f",
    }
    table("", {"drawn; real test": shipped()["generation"]}, figures, by_column=True)


def rates(measure, form, *levels):
    """Bytes per slice of the models and of codecs at equal quality."""
    rows = results("rates")["at_equal"][measure]
    codecs = ("AVIF sequences", "AVIF", "JPEG XL", "WebP", "JPEG 2000", "JPEG")
    figures = {"ours, stacks": "models, .0f", "ours, single slices": "single, .0f"}
    figures |= {codec: f"payload_bytes/{codec}, .0f" for codec in codecs}
    reports = {f"{row[measure]:{form}}": row for row in rows if row[measure] in levels}
    table({"ssim": "SSIM", "brain_psnr": "PSNR inside, dB"}[measure], reports, figures)


def rivals(**files):
    """Other people's models after the same minutes: name of a file -> what its rows add."""
    reports = {}
    for file, minutes in files.items():
        contenders = results(file.replace("_", "-"))["contenders"]
        reports |= {f"{name}, {minutes}": contender for name, contender in contenders.items()}
    figures = {
        "SSIM": "ssim, .3f",
        "inside the brain": "brain_ssim, .3f",
        "PSNR there, dB": "brain_psnr, .1f",
        "index bits": "index_bits, .0f",
        "prior bits": "prior_bits, .0f",
        "minutes to SSIM 0.90": "minutes_to/0.90, .1f",
    }
    table("model, minutes", reports, figures)


def compression():
    """Real files of the smaller model beside the ideal code length."""
    report = results("compression")
    figures = {
        "bytes per slice": "file_bytes_a_slice, .1f",
        "ideal bytes per slice": "ideal_bytes_a_slice, .1f",
        "slices; with the same codes again": "slices, round_trips, .0f",
        "seconds per slice to encode": "encoding_seconds_a_slice, .2f",
        "seconds per slice to decode": "decoding_seconds_a_slice, .2f",
    }
    reports = {"a file per stack": report["cases"], "a file per slice": report["alone"]}
    table("`oasis-256`, test split", reports, figures, by_column=True)


def anomaly():
    """Methods that look for planted lesions."""
    obvious = "by_strength/obvious"
    figures = {
        "AUROC, all": "auroc, auroc_ci95, .2f",
        "AUROC, obvious": f"{obvious}/auroc, {obvious}/auroc_ci95, .2f",
        "AUROC in the stack": "beside/auroc, beside/auroc_ci95, .2f",
        "average precision": "average_precision, average_precision_ci95, .2f",
        "Dice, obvious": f"{obvious}/dice, .2f",
    }
    methods = results("anomaly").items()
    table("method", {name: part for name, part in methods if "auroc" in part}, figures)


def lesions(grouping):
    """Slices, AUROC and Dice of healing by kind or size of the lesion."""
    groups = results("anomaly")["healing"][grouping]
    reports = {name.replace("_", " "): group for name, group in groups.items()}
    strengths = ("obvious", "moderate", "subtle")
    figures = {name: f"{name}/slices, {name}/auroc, {name}/dice, .2f" for name in strengths}
    table("slices; AUROC; Dice", reports, figures)


def ablation_vqvae():
    """Variants of the VQ-VAE."""
    figures = {
        "SSIM": "ssim, .4f",
        "gradients": "gradient_ratio, .3f",
        "fine spectrum": "spectrum_ratio, .3f",
        "codes used": "codes_used, .0f",
    }
    table("VQ-VAE", results("ablation")["vqvae"]["variants"], figures)


def ablation_prior():
    """Variants of the prior."""
    plain = {
        "as shipped, without a draft": "as shipped, without a first prior",
        "mirror images not told from slices": "without the mark of mirror images",
    }
    variants = results("ablation-prior")["prior"]["variants"]
    reports = {plain.get(name, name): variant for name, variant in variants.items()}
    figures = {"bits per code": "bits_per_code, .3f", "inside": "brain_bits_per_code, .3f"}
    table("prior", reports, figures)


def subjects():
    """Trainings on fewer subjects, by the names that the benchmark gives them."""
    figures = {
        "minutes": "minutes, .0f",
        "SSIM: training; test": "splits/train/ssim, splits/test/ssim, .3f",
        "bits per code, training": "splits/train/bits_per_code, .2f",
        "bits per code, test": "splits/test/bits_per_code, .2f",
    }
    trainings = results("subjects")["trainings"].items()
    reports = {name.replace("-", " "): report for name, report in trainings if name[0].isdigit()}
    table("training", reports, figures)


def training():
    """Seconds of a training step, and ratios of the same in other hands."""
    report = results("training")
    reports = {f"quantizer, {part['codebook_size']} codes": part for part in report["quantizer"]}
    reports |= {"VQ-VAE": report["vqvae"], "prior": report["prior"]}
    figures = {"ours, seconds per step": "ours/seconds, .3f"}
    figures |= {"one-hot quantizer": "one-hot/ratio, .2f", "PyTorch": "torch/ratio, .2f"}
    table("part", reports, figures | {"PyTorch, compiled": "compiled/ratio, .2f"})


def sampling():
    """Time of the cached sampler beside the naive loop."""
    figures = {"seconds, sampler": "cached_seconds, .2f", "naive loop": "naive_seconds, .0f"}
    cases = results("sampling")["cases"]
    table(
        "code maps",
        {"{batch} of {grid} x {grid}".format(**c): c for c in cases},
        figures | {"ratio": "ratio, .0f"},
    )


def stacks():
    """Seconds of whole brains, drawn as a wavefront and slice by slice."""
    figures = {"wavefront": "wavefront_seconds, .1f", "by slice": "slice_by_slice_seconds, .1f"}
    cases = {"{} of {} x {}".format(c["batch"], *c["grid"]): c for c in results("stacks")["stacks"]}
    table("brains of code maps", cases, figures)


if __name__ == "__main__":
    files = [str(path) for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    setup = ["-r", "-P", "--verbosity=1", "-I", str(ROOT / "docs"), "-p", "import tables"]
    sys.exit(Cog().main(["cog", *setup, *sys.argv[1:], *files]))
