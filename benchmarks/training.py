"""How fast training is: the quantizer alone, then a step of both stages, beside what is usually written, timed in turn in one run.

python benchmarks/training.py [--precision P] [--json FILE] [--profile]

"one-hot" has the quantizer of the common Keras tutorial of VQ-VAE: codes are looked up by a product with a one-hot matrix, and the codebook is a
weight that the optimizer trains by the gradient of the codebook loss. "torch" is the same networks, losses and optimizer in PyTorch
(`torch_networks.py`) with the quantizer of vector-quantize-pytorch, on as many threads; it is left out where these are not installed
(`pip install torch vector-quantize-pytorch`). Ratios are medians over rounds, in each of which every contender is timed once.
The machine should be idle: threads of PyTorch wait for each other at work, and beside another process that costs it several times its time.
--profile says instead what the time of a step of either stage goes to.
"""

import collections
import importlib.util
import pathlib
import pickle
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from timing import in_turn, timed
from utils import Parser, command_line, device, import_tensorflow, use_precision, write_json

QUANTIZERS = [dict(codebook_size=512, code_dim=64, vectors=2**14), dict(codebook_size=4096, code_dim=64, vectors=2**14)]
NETWORK = dict(image_size=256, codebook_size=512, code_dim=16, width=128, blocks=8, batch=8)  # train.py's for OASIS
LEVELS, DROPOUT = 32, 0.1
ROUNDS, STEPS = 18, 3
LARGEST = 10  # items of a profile


def one_hot_quantizer(codebook_size, code_dim):
    import keras
    import tensorflow as tf

    class OneHotQuantizer(keras.layers.Layer):
        """As in https://keras.io/examples/generative/vq_vae, in float32 like ours."""

        def build(self, input_shape):
            self.codebook = self.add_weight(shape=(code_dim, codebook_size), initializer="random_uniform", name="codebook")

        def call(self, latents):
            vectors = tf.reshape(latents, (-1, code_dim))
            distances = tf.reduce_sum(vectors**2, 1, keepdims=True) + tf.reduce_sum(self.codebook**2, 0) - 2 * tf.matmul(vectors, self.codebook)
            chosen = tf.one_hot(tf.argmin(distances, 1), codebook_size)
            embeddings = tf.reshape(tf.matmul(chosen, self.codebook, transpose_b=True), tf.shape(latents))
            self.add_loss(0.25 * tf.reduce_mean((tf.stop_gradient(embeddings) - latents) ** 2))
            self.add_loss(tf.reduce_mean((embeddings - tf.stop_gradient(latents)) ** 2))
            return latents + tf.stop_gradient(embeddings - latents)

    return OneHotQuantizer(dtype="float32")


def quantizer_step(layer, latents):
    """Function that takes one training step of a quantizer alone: forward, backward, codebook update."""
    import keras
    import tensorflow as tf

    layer.build(latents.shape)
    weights = layer.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(weights)
    options = {} if weights else {"training": True}  # ours moves its codebook itself

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


def quantizers(codebook_size, code_dim, vectors):
    """Timers of both quantizers, on the same vectors."""
    import tensorflow as tf

    import modules

    latents = tf.random.stateless_normal((16, 32, vectors // 512, code_dim), (0, 1))
    layers = {"ours": modules.VectorQuantizer(codebook_size, code_dim), "one-hot": one_hot_quantizer(codebook_size, code_dim)}
    return {name: timer(quantizer_step(layer, latents)) for name, layer in layers.items()}


def random_images(batch, image_size):
    import tensorflow as tf

    return tf.random.stateless_uniform((batch, image_size, image_size, 1), (0, 1))


def random_codes(batch, grid, codebook_size):
    import tensorflow as tf

    return tf.random.stateless_uniform((batch, grid, grid), (0, 1), maxval=codebook_size, dtype=tf.int32)


def model_step(model, inputs, targets, loss=None):
    """Function that takes one training step of a Keras model, as `fit` does, and returns its loss."""
    import keras
    import tensorflow as tf

    model.compile(keras.optimizers.Adam(1e-3, beta_2=0.99, global_clipnorm=1.0), loss=loss)
    model.optimizer.build(model.trainable_variables)
    # what is trained on goes in as arguments, because what follows from constants would be computed once and for all
    step = tf.function(lambda inputs, targets: model.train_step((inputs, targets))["loss"])
    return lambda: step(inputs, targets).numpy()


def vqvae_step(image_size, codebook_size, code_dim, width, batch, **_):
    import metrics
    import modules

    images = random_images(batch, image_size)
    return model_step(modules.VQVAE(image_size, codebook_size, code_dim, width), images, images, metrics.ReconstructionLoss())


def one_hot_step(image_size, codebook_size, code_dim, width, batch, **_):
    import keras

    import metrics
    import modules

    images = random_images(batch, image_size)
    usual = modules.VQVAE(image_size, codebook_size, code_dim, width)
    return model_step(keras.Sequential([usual.encoder, one_hot_quantizer(codebook_size, code_dim), usual.decoder]), images, images, metrics.ReconstructionLoss())


def prior_step(image_size, codebook_size, width, blocks, batch, **_):
    import tensorflow as tf

    import pixelcnn

    codes = random_codes(batch, image_size // 8, codebook_size)
    prior = pixelcnn.PixelCNN(image_size // 8, codebook_size, LEVELS, width, blocks, DROPOUT)
    return model_step(prior, {"codes": codes, "levels": tf.range(batch) % LEVELS}, codes)


def torch_vqvae(dtype, image_size, codebook_size, code_dim, width, batch, **_):
    import metrics
    import modules

    settings = modules.VQVAE(image_size, codebook_size, code_dim, width).settings
    ssim = metrics._window_matrix(image_size), metrics.C1, metrics.C2
    return torch_timer("vqvae", dtype, images=random_images(batch, image_size).numpy(), ssim=ssim,
                       **{name: settings[name] for name in ("codebook_size", "code_dim", "width", "encoder_blocks", "decoder_blocks")})


def torch_prior(dtype, image_size, codebook_size, width, blocks, batch, **_):
    import pixelcnn

    return torch_timer("prior", dtype, codes=random_codes(batch, image_size // 8, codebook_size).numpy(), codebook_size=codebook_size, levels=LEVELS,
                       width=width, dilations=[pixelcnn.PixelCNN.DILATIONS[i % 8] for i in range(blocks)], dropout=DROPOUT)


def has_torch():
    return all(importlib.util.find_spec(name) for name in ("torch", "vector_quantize_pytorch"))


def timer(step):
    """Function without arguments to the seconds of a step."""
    return lambda: timed(step, STEPS) / STEPS


def torch_timer(stage, dtype, **arguments):
    """The same for a step of `torch_networks.py`, which runs in a process of its own."""
    server = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("torch_networks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pickle.dump((stage, dtype, arguments), server.stdin)

    def seconds():
        server.stdin.write(b"%d\n" % STEPS)
        server.stdin.flush()
        return float(server.stdout.readline()) / STEPS

    return seconds


def profile(step, count=4):
    """Share of each kind of operation in the time of a step, of all threads together, largest first."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2  # what the profiler writes; a reader comes with TensorBoard's plug-in only

    for _ in range(3):
        step()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(count):
                step()
        space = xplane_pb2.XSpace.FromString(next(pathlib.Path(folder).rglob("*.xplane.pb")).read_bytes())
    total = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            operation, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if operation and not operation.endswith(":") and kind.isidentifier():  # the rest, such as Executor::Process, is the runtime itself
                total[kind] += event.duration_ps
    return {kind: duration / total.total() for kind, duration in total.most_common()}


def main(args):
    import_tensorflow()
    dtype = use_precision(args.precision)
    print(f"On the {' '.join(device())}, {dtype}.")
    if args.profile:
        results = {stage: profile(make(**NETWORK)) for stage, make in (("vqvae", vqvae_step), ("prior", prior_step))}
        for stage, shares in results.items():
            print(f"{stage}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in list(shares.items())[:LARGEST]))
    else:
        if not has_torch():
            print("PyTorch is left out: torch or vector-quantize-pytorch is not installed.")
        results = {"device": device(), "precision": dtype, "network": NETWORK, "quantizer": []}
        print("                                   images or vectors a second   ours is faster by")
        for case in QUANTIZERS:
            figures = in_turn(quantizers(**case), "ours", ROUNDS)
            results["quantizer"].append({**case, **figures})
            show(f"quantizer, K {case['codebook_size']}, D {case['code_dim']}", figures, case["vectors"])
        for stage, makes, rival in (("vqvae", {"ours": vqvae_step, "one-hot": one_hot_step}, torch_vqvae), ("prior", {"ours": prior_step}, torch_prior)):
            timers = {name: timer(make(**NETWORK)) for name, make in makes.items()}
            if has_torch():
                timers["torch"] = rival(dtype, **NETWORK)
            results[stage] = in_turn(timers, "ours", ROUNDS)
            show(stage, results[stage], NETWORK["batch"])
    if args.json:
        write_json(args.json, results)


def show(what, figures, count):
    for name, figure in figures.items():
        print(f"  {what:<26}{name:<10}{count / figure['seconds']:>24.1f}{figure['ratio']:>20.2f}", flush=True)


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of all contenders (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--profile", action="store_true", help="say what the time of a step goes to")
    command_line(main, parser.parse_args())
