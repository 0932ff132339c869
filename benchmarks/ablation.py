"""What each ingredient of the two models is worth: variants without it, trained briefly and scored on the validation split.

python benchmarks/ablation.py --data DIR --run DIR [--stage vqvae|prior] [--steps N] [--json FILE]

A variant is the run's settings but for what `variants` lists. All start from the same seed, see the same batches, take the same number of
steps, and their learning rate rises and falls within these as in train.py. Scores are over at most 256 validation slices, spread
evenly, and "another seed" is the yardstick of chance. A brief training is no finished one: mirroring and dropout, which act against
overfitting, cannot show their worth within the first pass over the data, nor a larger network all of its own.

With --json every figure is written as soon as it is there, and a variant that the file holds is not trained again.
"""

import dataclasses
import functools
import math
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import dataset
import train
from utils import InputError, Parser, between, command_line, import_tensorflow, read_config, read_json, use_precision, write_json

STEPS = {"vqvae": 600, "prior": 500}  # both tables in about an hour on two cores
PRIOR_WIDTH = 64  # half of what is shipped, for more steps in the same time
MOST_VALIDATION = 256  # slices, so that scoring stays small beside so short a training

# What can be changed beside the settings of train.py, as it is in train.py.
SHIPPED = {"mirror": True, "told": True, "codebook": "restarted", "level": True, "position": True, "dilations": None, "averaging": None}

COLUMNS = {
    "vqvae": {"ssim": ".4f", "psnr": ".2f", "gradient_ratio": ".3f", "spectrum_ratio": ".3f", "codes_used": ".0f", "index_bytes": ".0f"},
    "prior": {"bits_per_code": ".3f", "brain_bits_per_code": ".3f"},
}
COMMON_COLUMNS = {"parameters": ",.0f", "seconds_per_step": ".3f"}


def variants(base):
    """For each stage the settings that every variant changes, by the variant's name."""
    half = base["width"] // 4 * 2
    return {
        "vqvae": {
            "as shipped": {},
            "another seed": {"seed": base["seed"] + 1},
            "without the contrast term": {"contrast_weight": 0.0},
            "squared and absolute error alone": {"ssim_weight": 0.0, "contrast_weight": 0.0},
            "without mirroring": {"mirror": False},
            "dead codes not restarted": {"codebook": "from data"},
            "nor started from data": {"codebook": "random"},
            "codes of 64 dimensions": {"code_dim": 64},
            "codes of 4 dimensions": {"code_dim": 4},
            f"{4 * base['codebook_size']} codes": {"codebook_size": 4 * base["codebook_size"]},
            "a code for 4 x 4 pixels": {"reduction": 4, "width": half},  # as wide there as what is shipped
            "half the width": {"width": half},
            "float32": {"precision": "float32"},
        },
        "prior": {
            "as shipped, without a draft": {},
            "another seed": {"seed": base["seed"] + 1},
            "without the level": {"level": False},
            "without the position": {"position": False},
            "without mirroring": {"mirror": False},
            "mirror images not told from slices": {"told": False},
            "without dropout": {"prior_dropout": 0.0},
            "all dilations 1": {"dilations": [1]},
            "half the blocks": {"prior_blocks": max(1, base["prior_blocks"] // 2)},
            "averaged weights": {"averaging": 0.99},
        },
    }


def spread(split):
    """`(indices, split)` of at most `MOST_VALIDATION` slices at even distances."""
    import numpy as np

    chosen = np.linspace(0, len(split) - 1, min(len(split), MOST_VALIDATION)).round().astype(int)
    arrays = {name: getattr(split, name)[chosen] for name in ("cases", "levels", "subjects")}
    return chosen, dataclasses.replace(split, paths=tuple(split.paths[i] for i in chosen), **arrays)


def fit(make, example, count, settings, peak):
    """Train a model for `settings["steps"]` steps: `(model, median seconds a step)`.

    Args:
        make: function of a learning-rate schedule to a compiled model.
        example: from `pipeline`, of `count` slices.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import pipeline

    batch_size, steps, seed = settings["batch_size"], settings["steps"], settings["seed"]
    seen = example if settings["mirror"] else lambda index, mirror: example(index, tf.constant(False))
    epochs = [pipeline.training_batches(seen, count, batch_size, seed, epoch) for epoch in range(math.ceil(steps / (count // batch_size)))]
    use_precision(settings["precision"])
    keras.utils.set_random_seed(seed)
    model, ends = make(train.learning_rates(peak, steps)), []
    # the loss is read first, which waits for the device
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append((float(logs["loss"]), time.perf_counter())))
    model.fit(functools.reduce(tf.data.Dataset.concatenate, epochs).take(steps), shuffle=False, callbacks=[clock], verbose=0)
    return model, float(np.median(np.diff([end for _, end in ends])))


def hold_codebook(quantizer, latents, start):
    """Let no code be restarted, from a start on vectors of a batch ("from data") or where the initializer put it ("random")."""
    if start == "from data":
        quantizer(latents, training=True)  # restarts every code, as the first step does
    else:
        share = math.prod(latents.shape[:-1]) / quantizer.codebook_size
        quantizer.counts.assign(quantizer.counts * 0 + share)  # or a code without vectors in the first batch would become zero
        quantizer.sums.assign(quantizer.codebook * share)
    quantizer.restart_below = 0.0


def vqvae_bench(slices, base, run):
    """Function of a variant's settings to its figures."""
    import numpy as np

    import evaluation
    import metrics
    import pipeline

    count, (_, split) = len(slices.splits["train"]), spread(slices.splits["validate"])
    example, validation = (pipeline.images_of(pipeline.image_source(part, base["image_size"])) for part in (slices.splits["train"], split))

    def measure(settings):
        def make(schedule):
            model = train.make_vqvae(settings, schedule)
            if settings["codebook"] != "restarted":
                images, _ = next(iter(pipeline.training_batches(example, count, settings["batch_size"], settings["seed"], 0)))
                hold_codebook(model.quantizer, model.encoder(images), settings["codebook"])
            return model

        model, seconds = fit(make, example, count, settings, settings["learning_rate"])
        results = []
        for images, _ in pipeline.evaluation_batches(validation, len(split), evaluation.BATCH):
            codes = model.encode(images)
            restored = model.decode(codes)
            results.append((metrics.ssim(images, restored), metrics.psnr(images, restored), codes, *map(evaluation.grey, (images, restored))))
        ssim, psnr, codes, images, restored = (np.concatenate(values) for values in zip(*results))
        return {"ssim": float(ssim.mean()), "psnr": float(psnr.mean()), **metrics.detail(images, restored), "codes_used": len(np.unique(codes)),
                "index_bytes": codes[0].size * math.log2(settings["codebook_size"]) / 8,
                "parameters": model.count_params(), "seconds_per_step": seconds}

    return measure


def prior_bench(slices, base, run):
    """Function of a variant's settings to its figures, on the codes that the run's training left."""
    import numpy as np

    import evaluation
    import metrics
    import pipeline
    import pixelcnn

    if not (run / "codes.npz").is_file():
        raise InputError(f"{run / 'codes.npz'} is not there, and the priors learn from these codes: name the run directory that train.py wrote.")
    chosen, split = spread(slices.splits["validate"])
    images = evaluation.decoded(split, base["image_size"])

    def measure(settings):
        with np.load(run / "codes.npz", allow_pickle=False) as file:
            codes, held = file["train"], file["validate"][:, chosen]
        levels, held_levels = (part.levels * settings["level"] for part in (slices.splits["train"], split))
        kind = type("PixelCNN", (pixelcnn.PixelCNN,), {"DILATIONS": settings["dilations"] or pixelcnn.PixelCNN.DILATIONS})

        def make(schedule):
            model = kind(codes.shape[-1], settings["codebook_size"], slices.levels, settings["prior_width"], settings["prior_blocks"],
                         settings["prior_dropout"])
            if not settings["position"]:
                model.positions.assign(model.positions * 0)
                model.positions.trainable = False
            optimizer = train.optimizer(schedule)
            if settings["averaging"]:
                optimizer = type(optimizer).from_config({**optimizer.get_config(), "use_ema": True, "ema_momentum": settings["averaging"]})
            model.compile(optimizer)
            return model

        apart = slices.levels * settings["told"]
        model, seconds = fit(make, pipeline.codes_of(codes, levels, apart), len(levels), settings, settings["prior_learning_rate"])
        batches = pipeline.evaluation_batches(pipeline.codes_of(held, held_levels, apart), len(split), evaluation.BATCH)
        bits = np.concatenate([model.bits(inputs["codes"], inputs["levels"]) for inputs, _ in batches])
        brain = metrics.brain_places(images, bits.shape[1])
        return {"bits_per_code": float(bits.mean()), "brain_bits_per_code": float(bits[brain].mean()), "parameters": model.count_params(),
                "seconds_per_step": seconds}

    return measure


def main(args):
    slices = dataset.open_slices(dataset.find_slices(args.data))
    config = read_config(args.run)
    if slices.fingerprint != config["data"]["fingerprint"]:
        raise InputError(f"{args.run} was trained on other slices than those in {args.data}: give its own with --data.")
    import_tensorflow()
    kind = use_precision("auto")
    # a run may be older than a setting, and was then trained as its default is
    settings = {**train.resolve(train.parse([]), slices), **config["settings"], **SHIPPED, "precision": kind, "prior_width": args.prior_width}
    report = read_json(args.json, advice="name another --json file") if args.json and args.json.exists() else {}
    for stage in [args.stage] if args.stage else STEPS:
        base = {**settings, "steps": args.steps or STEPS[stage]}
        conditions = {"data": slices.fingerprint, "validation_slices": len(spread(slices.splits["validate"])[1]), "settings": base}
        table = report.setdefault(stage, {"conditions": conditions, "variants": {}})
        if table["conditions"] != conditions:
            raise InputError(f"{args.json} holds figures of other steps, settings or data: name another --json file.")
        columns, measure = {**COLUMNS[stage], **COMMON_COLUMNS}, None
        print(f"{stage}, {base['steps']} steps of {base['batch_size']}, {kind}, {conditions['validation_slices']} validation slices\n"
              f"{'':<38}" + "".join(f"{name:>{len(name) + 2}}" for name in columns), flush=True)
        for name, changes in variants(base)[stage].items():
            row = table["variants"].get(name)
            if not row or row["changes"] != changes:
                measure = measure or {"vqvae": vqvae_bench, "prior": prior_bench}[stage](slices, base, args.run)
                row = table["variants"][name] = {"changes": changes, **measure({**base, **changes})}
                if args.json:
                    write_json(args.json, report)
            figures = {column: math.nan if row[column] is None else row[column] for column in columns}
            print(f"{name:<38}" + "".join(f"{figures[column]:>{len(column) + 2}{style}}" for column, style in columns.items()), flush=True)


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--run", metavar="DIR", type=pathlib.Path, required=True, help="finished run of train.py: its settings and codes")
    parser.add_argument("--data", metavar="DIR", required=True, help="folder with the three splits")
    parser.add_argument("--stage", choices=STEPS, help="only this table (default: both)")
    parser.add_argument("--steps", type=between(int, 10, 10**6), metavar="N", help=f"a variant (default: {STEPS['vqvae']} and {STEPS['prior']})")
    parser.add_argument("--prior-width", type=between(int, 2, 1024), default=PRIOR_WIDTH, metavar="C", help="channels (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all figures here, and continue from those that it holds")
    command_line(main, parser.parse_args())
