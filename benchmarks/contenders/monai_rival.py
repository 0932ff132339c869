"""A rival of MONAI: its VQ-VAE with its decoder-only transformer, in PyTorch.

The VQ-VAE has the depth and the channels that are the class's defaults, which are those of Tudosiu
et al., and so 8 x 8 pixels a code. The 4 x 4 pixels of MONAI's tutorial of 64 x 64 images would
give the transformer 4,096 places a slice, more than its attention can hold here. All else is that
of the tutorial: 256 codes of 32 dimensions, absolute error, batches of 16, and the sizes and the
learning rates of both networks. Its small rotations, which work against overfitting, are left out.
So the prior's codes are computed once, as for the other contenders.

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
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, loss_of = self._vqvae() if stage == "vqvae" else self._prior()
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATES[stage])
        orders = shuffled(len(self.images["train"]), BATCH_SIZE)
        self.models[stage] = model

        def take(_share):
            model.train()
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(next(orders))
            loss.backward()
            optimizer.step()
            model.eval()
            return loss.item()

        return take

    def _vqvae(self):
        sizes = {"num_embeddings": self.codebook_size, "embedding_dim": CODE_DIM}
        model = VQVAE(spatial_dims=2, in_channels=1, out_channels=1, **sizes).to(self.device)

        def loss_of(order):
            images = self._scaled(self.images["train"][order])
            restored, quantization_loss = model(images)
            return functional.l1_loss(restored, images) + quantization_loss

        return model, loss_of

    def _prior(self):
        known = self.codes("train")
        self.grid, known = known.shape[1:], self._flat(known)
        model = DecoderOnlyTransformer(
            num_tokens=self.codebook_size + 1,  # one more says where a slice begins
            max_seq_len=math.prod(self.grid),
            use_flash_attention=True,  # the same attention in less memory
            **TRANSFORMER,
        ).to(self.device)

        return model, lambda order: self._nats(model, known[order]).mean()

    def _nats(self, prior, codes):
        """Nats of each code given those before it, `(B, H W)`, in raster order."""
        before = functional.pad(codes, (1, 0), value=self.codebook_size)[:, :-1]
        return functional.cross_entropy(prior(before).transpose(1, 2), codes, reduction="none")

    def describe(self):
        # As plain text, because the other process has no PyTorch.
        versions = {package.__name__: str(package.__version__) for package in (torch, monai)}
        return {**super().describe(), "versions": versions}

    def count_parameters(self, model):
        return sum(weight.numel() for weight in model.parameters())

    @torch.no_grad()
    def codes(self, name):
        encode = self.models["vqvae"].index_quantize
        return in_batches(lambda part: encode(self._scaled(part)).cpu(), self.images[name])

    @torch.no_grad()
    def restore(self, name):
        vqvae = self.models["vqvae"]

        def through(part):
            restored, _quantization_loss = vqvae(self._scaled(part))
            return _grey(restored)

        return in_batches(through, self.images[name])

    @torch.no_grad()
    def prior_bits(self):
        def measure(part):
            bits = self._nats(self.models["prior"], self._flat(part)) / math.log(2)
            return bits.sum(1).cpu()

        return {"prior_bits": in_batches(measure, self.codes("test"))}

    @torch.no_grad()
    def draw(self, count):
        begin = torch.full((count, 1), self.codebook_size, device=self.device)
        ordering = Ordering("raster_scan", 2, (1, *self.grid))
        models = self.models["vqvae"], self.models["prior"], ordering
        return _grey(VQVAETransformerInferer().sample(self.grid, begin, *models))

    def _scaled(self, images):
        """Slices, uint8 `(B, h, w)` -> float32 `(B, 1, h, w)` in [0, 1]."""
        return (torch.from_numpy(images[:, None]).float() / 255).to(self.device)

    def _flat(self, codes):
        """Codes `(B, H, W)` -> int64 `(B, H W)` in raster order."""
        return torch.from_numpy(codes).to(self.device).flatten(1).long()


def _grey(images: torch.Tensor) -> np.ndarray:
    """Float `(B, 1, h, w)` -> uint8 `(B, h, w)`."""
    return (images[:, 0].clamp(0, 1) * 255).round().byte().cpu().numpy()


if __name__ == "__main__":
    serve(Monai)
