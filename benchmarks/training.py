"""Measure how fast training is, beside the usual ways to write it.

python benchmarks/training.py [--json FILE] [--profile]

It times the quantizer alone and then a step of both stages, each contender in turn.

"one-hot" has the quantizer of the common Keras tutorial of VQ-VAE: a product with a one-hot matrix
looks up the codes, and the optimizer trains the codebook.

"torch" has the same networks, losses and optimizer in PyTorch, with the quantizer of
vector-quantize-pytorch, on as many threads, and "compiled" is the same after `torch.compile`. Both
have as many trainable parameters as ours, or the benchmark stops. They are left out where these
packages are not installed (`pip install -r benchmarks/requirements-rivals.txt`).

Every round times every contender once, and ratios are medians over rounds. Let the machine be idle:
threads of PyTorch wait for each other, so another process makes them several times as slow.

--profile says instead where the time of a step of either stage goes.
"""

import collections
import dataclasses
import importlib.metadata
import math
import pathlib
import tempfile

from common import has_packages, in_turn, make_parser, show, timed, write_report

# isort: split
import keras
import tensorflow as tf
from contenders.keras_rivals import OneHotQuantizer
from contenders.remote import Failure, Remote
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # TensorFlow has no reader of profiles

import modules
from fitting.devices import compute_device, use_precision
from networks import losses
from utils import command_line

REDUCTION = 8  # pixels of a side that share one code
NUM_LEVELS, DROPOUT = 32, 0.1
QUANTIZERS = [dict(codebook_size=size, code_dim=64, vectors=2**14) for size in (512, 4096)]
ROUNDS, STEPS = 18, 3
TORCH_PACKAGES = ("torch", "vector-quantize-pytorch")
WARM_UP = 3  # steps before a profile
LARGEST = 10  # operations printed of a profile


@dataclasses.dataclass(frozen=True)
class Network:
    """Sizes of both networks; the defaults are those of train.py for masked OASIS slices.

    The VQ-VAE sees the frame of a slice: first row, first column, and those after the last.
    """

    image_size: int = 256
    frame: tuple[int, ...] = (56, 40, 200, 216)
    codebook_size: int = 512
    code_dim: int = 16
    width: int = 128
    blocks: int = 8
    batch: int = 8

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of pixels that the VQ-VAE sees."""
        top, left, bottom, right = self.frame
        return bottom - top, right - left

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the code map."""
        return self.size[0] // REDUCTION, self.size[1] // REDUCTION

    def images(self) -> tf.Tensor:
        """Return random frames, `(B, h, w, 1)` in [0, 1]."""
        return tf.random.stateless_uniform((self.batch, *self.size, 1), (0, 1))

    def codes(self) -> tf.Tensor:
        """Return random codes, int32 `(B, H, W)`."""
        shape = (self.batch, *self.grid)
        return tf.random.stateless_uniform(shape, (0, 1), maxval=self.codebook_size, dtype=tf.int32)

    def vqvae(self) -> modules.VQVAE:
        """Return an untrained VQ-VAE."""
        sizes = self.codebook_size, self.code_dim, self.width
        return modules.VQVAE(self.image_size, *sizes, frame=self.frame)

    def prior(self) -> modules.PixelCNN:
        """Return an untrained prior. It reads no neighbours, because that of PyTorch does not."""
        sizes = self.codebook_size, NUM_LEVELS, self.width, self.blocks
        return modules.PixelCNN(self.grid, *sizes, DROPOUT)


NETWORK = Network()


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--json")
    parser.add_argument("--profile", action="store_true", help="say where the time of a step goes")
    return parser.parse_args(arguments)


def main(args):
    """Time all contenders, or profile the steps of both stages, and write the figures."""
    dtype = use_precision("auto")
    print(f"On the {' '.join(compute_device())}, {dtype}.", flush=True)
    write_report(args.json, profiles() if args.profile else speeds(dtype))


def speeds(dtype):
    """Time the quantizers and a step of both stages in turn, and print a line for each."""
    results = {
        "device": compute_device(),
        "precision": dtype,
        "network": dataclasses.asdict(NETWORK),
        "quantizer": [],
    }
    with_torch = has_torch()
    if with_torch:
        results["versions"] = {name: importlib.metadata.version(name) for name in TORCH_PACKAGES}
    for case in QUANTIZERS:
        title = f"quantizer, K {case['codebook_size']}, D {case['code_dim']}"
        figures = in_turn(quantizers(**case), ROUNDS, title)
        results["quantizer"].append({**case, **figures})
        show(title, figures)
    vqvae = {"ours": vqvae_step(NETWORK), "one-hot": vqvae_step(NETWORK, one_hot=True)}
    stages = {"vqvae": (vqvae, torch_vqvae), "prior": ({"ours": prior_step(NETWORK)}, torch_prior)}
    for stage, (steps, rival) in stages.items():
        timers = {name: timer(step) for name, step in steps.items()}
        if with_torch:
            timers |= torch_timers(rival, dtype)
        results[stage] = in_turn(timers, ROUNDS, stage)
        show(stage, results[stage])
    return results


def timer(step):
    """Make a function without arguments that returns the seconds of a step."""
    return lambda: timed(step, STEPS) / STEPS


def quantizers(codebook_size: int, code_dim: int, vectors: int) -> dict:
    """Return timers of both quantizers, on the same vectors."""
    latents = tf.random.stateless_normal((16, 32, vectors // 512, code_dim), (0, 1))
    layers = {
        "ours": modules.VectorQuantizer(codebook_size, code_dim),
        "one-hot": OneHotQuantizer(codebook_size, code_dim),
    }
    return {name: timer(quantizer_step(layer, latents)) for name, layer in layers.items()}


def quantizer_step(layer, latents):
    """Make a function that takes one training step of a quantizer alone.

    A step is forward, backward and the update of the codebook.
    """
    layer.build(latents.shape)
    weights = layer.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(weights)
    options = {} if weights else {"training": True}  # our quantizer moves its codebook itself

    @tf.function
    def step(latents):
        with tf.GradientTape() as tape:
            tape.watch(latents)
            loss = tf.reduce_mean(layer(latents, **options) ** 2) + tf.add_n(layer.losses)
        gradient, *gradients = tape.gradient(loss, [latents, *weights])
        if weights:
            optimizer.apply(gradients, weights)
        return tf.reduce_sum(gradient)

    return lambda: step(latents).numpy()


def vqvae_step(network: Network, one_hot: bool = False):
    """Make a function that takes one training step of the VQ-VAE and returns its loss.

    With `one_hot` it has the quantizer of the tutorial.
    """
    images, model = network.images(), network.vqvae()
    if one_hot:
        quantizer = OneHotQuantizer(network.codebook_size, network.code_dim)
        model = keras.Sequential([model.encoder, quantizer, model.decoder])
    return model_step(model, images, images, losses.ReconstructionLoss())


def prior_step(network: Network):
    """Make a function that takes one training step of the prior and returns its loss."""
    codes = network.codes()
    inputs = {
        "codes": codes,
        "levels": tf.range(network.batch) % NUM_LEVELS,
        "neighbours": tf.zeros((network.batch, 0, *network.grid), tf.int32),
        "distances": tf.zeros((network.batch, 0), tf.int32),
    }
    return model_step(network.prior(), inputs, codes)


def model_step(model, inputs, targets, loss=None):
    """Make a function that takes one training step of a Keras model, as `fit` does."""
    optimizer = keras.optimizers.Adam(1e-3, beta_2=0.99, global_clipnorm=1.0)
    model.compile(optimizer, loss=loss)
    model.optimizer.build(model.trainable_variables)
    # Inputs are arguments, because TensorFlow computes what follows from constants only once.
    step = tf.function(lambda inputs, targets: model.train_step((inputs, targets))["loss"])
    return lambda: step(inputs, targets).numpy()


def has_torch() -> bool:
    """Whether PyTorch and its vector quantizer are installed."""
    return has_packages(*(name.replace("-", "_") for name in TORCH_PACKAGES))


def torch_timers(rival, dtype: str) -> dict:
    """Return timers of the training in PyTorch, eager and compiled."""
    timers = {}
    for name, compiled in (("torch", False), ("compiled", True)):
        try:
            timers[name] = timer(rival(dtype, NETWORK, compiled).step)
        except Failure as failure:
            print(f'"{name}" is left out: {failure}.', flush=True)
    return timers


def torch_vqvae(dtype: str, network: Network, compiled: bool = False) -> Remote:
    """Start the training of the VQ-VAE in PyTorch."""
    model = network.vqvae()
    names = ("codebook_size", "code_dim", "width", "encoder_blocks", "decoder_blocks")
    arguments = {
        "images": network.images().numpy(),
        "ssim": (*map(losses._window_matrix, network.size), losses.C1, losses.C2),
        **{name: model.settings[name] for name in names},
    }
    return torch_training(model, "vqvae", dtype, compiled, arguments)


def torch_prior(dtype: str, network: Network, compiled: bool = False) -> Remote:
    """Start the training of the prior in PyTorch."""
    pattern = modules.PixelCNN.DILATIONS
    arguments = {
        "codes": network.codes().numpy(),
        "codebook_size": network.codebook_size,
        "num_levels": NUM_LEVELS,
        "width": network.width,
        "dilations": [pattern[block % len(pattern)] for block in range(network.blocks)],
        "dropout": DROPOUT,
    }
    return torch_training(network.prior(), "prior", dtype, compiled, arguments)


def torch_training(model, stage: str, dtype: str, compiled: bool, arguments: dict) -> Remote:
    """Start a training in PyTorch, and check that it trains as many parameters as ours."""
    settings = {"stage": stage, "dtype": dtype, "compiled": compiled, "arguments": arguments}
    rival = Remote("contenders.torch_networks", **settings)
    ours = sum(math.prod(weight.shape) for weight in model.trainable_variables)
    theirs = rival.parameters()
    assert ours == theirs, f"{stage}: {ours} trainable parameters, in PyTorch {theirs}"
    return rival


def profiles():
    """Profile a step of both stages, and print the operations that take longest."""
    results = {"vqvae": profile(vqvae_step(NETWORK)), "prior": profile(prior_step(NETWORK))}
    for stage, shares in results.items():
        show(stage, dict(list(shares.items())[:LARGEST]))
    return results


def profile(step, count: int = 4) -> dict[str, float]:
    """Measure the share of each kind of operation in the time of `count` steps of all threads."""
    for _ in range(WARM_UP):
        step()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(count):
                step()
        record = next(pathlib.Path(folder).rglob("*.xplane.pb"))
        space = xplane_pb2.XSpace.FromString(record.read_bytes())
    total = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            operation, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            # All other events, such as Executor::Process, belong to the runtime itself.
            if operation and not operation.endswith(":") and kind.isidentifier():
                total[kind] += event.duration_ps
    return {kind: duration / total.total() for kind, duration in total.most_common()}


if __name__ == "__main__":
    command_line(main, parse())
