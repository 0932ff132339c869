"""A rival of MONAI: its VQ-VAE with its decoder-only transformer, in PyTorch.

The VQ-VAE has the depth and the channels that are the class's defaults, which are those of Tudosiu
et al., and so 8 x 8 pixels a code. The 4 x 4 pixels of MONAI's tutorial of 64 x 64 images would
give the transformer 4,096 places a slice, more than its attention can hold here. All else is that
of the tutorial: 256 codes of 32 dimensions, absolute error, batches of 16, and the sizes and the
learning rates of both networks. Its small rotations, which work against overfitting, are left out.

This file runs as a process of its own (`contenders.remote`) and serves a `Monai`.

References:
    https://github.com/Project-MONAI/tutorials, generation/2d_vqvae_transformer.
    Tudosiu et al. 2022, Morphology-preserving Autoregressive 3D Generative Modelling of the Brain.
    Pinaya et al. 2022, Unsupervised brain imaging 3D anomaly detection.
"""

import math
import os

import monai
import numpy as np
import torch
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import VQVAE, DecoderOnlyTransformer
from monai.utils.ordering import Ordering
from torch.nn import functional

from contenders.contender import Contender, in_batches, shuffled
from contenders.remote import serve

CODE_DIM, BATCH_SIZE = 32, 16
LEARNING_RATES = {"vqvae": 1e-4, "prior": 5e-4}
TRANSFORMER = {"attn_layers_dim": 96, "attn_layers_depth": 12, "attn_layers_heads": 8}


class Monai(Contender):
    """VQ-VAE and transformer of MONAI. Their arithmetic is float32."""

    codebook_size = 256

    def start(self, stage):
        torch.set_num_threads(os.cpu_count())  # TensorFlow takes as many
        torch.manual_seed(0)
        model, loss_of = self._vqvae() if stage == "vqvae" else self._prior()
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATES[stage])
        images = self.images["train"]
        orders = shuffled(len(images), BATCH_SIZE)
        self.models[stage] = model

        def take(_share):
            model.train()
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(scaled(images[next(orders)]))
            loss.backward()
            optimizer.step()
            model.eval()
            return loss.item()

        return take

    def _vqvae(self):
        sizes = {"num_embeddings": self.codebook_size, "embedding_dim": CODE_DIM}
        model = VQVAE(spatial_dims=2, in_channels=1, out_channels=1, **sizes)

        def loss_of(images):
            restored, quantization_loss = model(images)
            return functional.l1_loss(restored, images) + quantization_loss

        return model, loss_of

    def _prior(self):
        with torch.no_grad():
            one = self.models["vqvae"].index_quantize(scaled(self.images["test"][:1]))
        self.grid = tuple(one.shape[1:])
        self.ordering = Ordering("raster_scan", 2, (1, *self.grid))
        self.inferer = VQVAETransformerInferer()
        model = DecoderOnlyTransformer(
            num_tokens=self.codebook_size + 1,  # one more says where a slice begins
            max_seq_len=math.prod(self.grid),
            use_flash_attention=True,  # the same attention in less memory
            **TRANSFORMER,
        )

        def loss_of(images):
            logits, codes = self._logits(model, images)
            return functional.cross_entropy(logits.transpose(1, 2), codes)

        return model, loss_of

    def _logits(self, prior, images):
        vqvae = self.models["vqvae"]
        return self.inferer(images, vqvae, prior, self.ordering, return_latent=True)[:2]

    def describe(self):
        # As plain text, because the other process has no PyTorch.
        versions = {package.__name__: str(package.__version__) for package in (torch, monai)}
        return {**super().describe(), "versions": versions}

    def count_parameters(self, model):
        return sum(weight.numel() for weight in model.parameters())

    @torch.no_grad()
    def codes(self, name):
        vqvae = self.models["vqvae"]
        return in_batches(lambda part: vqvae.index_quantize(scaled(part)), self.images[name])

    @torch.no_grad()
    def restore(self, name):
        vqvae = self.models["vqvae"]
        return in_batches(lambda part: grey(vqvae(scaled(part))[0]), self.images[name])

    @torch.no_grad()
    def prior_bits(self):
        def measure(part):
            logits, codes = self._logits(self.models["prior"], scaled(part))
            nats = functional.cross_entropy(logits.transpose(1, 2), codes, reduction="none")
            return nats.sum(1) / math.log(2)

        return {"prior_bits": in_batches(measure, self.images["test"])}

    @torch.no_grad()
    def draw(self, count):
        begin = torch.full((count, 1), self.codebook_size)
        models = self.models["vqvae"], self.models["prior"], self.ordering
        return grey(self.inferer.sample(self.grid, begin, *models))


def scaled(images: np.ndarray) -> torch.Tensor:
    """Slices, uint8 `(B, S, S)` -> float32 `(B, 1, S, S)` in [0, 1]."""
    return torch.from_numpy(images[:, None]).float() / 255


def grey(images: torch.Tensor) -> np.ndarray:
    """Float `(B, 1, S, S)` -> uint8 `(B, S, S)`."""
    return (images[:, 0].clamp(0, 1) * 255).round().byte().numpy()


if __name__ == "__main__":
    serve(Monai)
