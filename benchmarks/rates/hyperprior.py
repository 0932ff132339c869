"""A learned codec as a rival: the scale hyperprior of CompressAI, in PyTorch.

It has the published sizes of its lower rates and one channel instead of three. The published loss
is squared error or MS-SSIM. Here it is squared error, absolute error and SSIM, which ours learns as
well, because codecs are compared by SSIM. Ours has a term of contrast too. As for ours, half of the
slices are mirrored. Bytes are those of its real bit streams.

This file runs as a process of its own (`contenders.remote`), in the environment of
requirements-codec.txt, and serves a `Hyperprior`.

References:
    Ballé et al. 2018, Variational Image Compression with a Scale Hyperprior.
    Bégaint et al. 2020, CompressAI: a PyTorch library and evaluation platform.
"""

import math
import os
import pathlib
import time
import zlib

import compressai
import numpy as np
import torch
from compressai.models import ScaleHyperprior
from contenders.contender import in_batches, shuffled
from contenders.remote import serve
from contenders.torch_images import grey, scaled
from pytorch_msssim import ssim
from torch.nn import functional

CHANNELS = 128, 192  # of most layers, and of the latents
BATCH_SIZE = 8
LEARNING_RATE, LEAST_RATE = 4e-4, 1e-5  # it falls along half a cosine
AUXILIARY_RATE = 1e-3  # of the quantiles of the hyperlatents


class Hyperprior:
    """A scale hyperprior that is trained by the minute, for one weight after the other.

    Args:
        images: Training slices, uint8 `(N, h, w)`. Both sides are multiples of 64.
        folder: Where its weights are kept. What is there is not trained again.
    """

    def __init__(self, images: np.ndarray, folder: str):
        torch.set_num_threads(os.cpu_count())
        torch.manual_seed(0)
        self.images, self.folder = images, pathlib.Path(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        recipe = pathlib.Path(__file__).read_bytes()  # weights of another one are not taken
        self.digest = zlib.crc32(recipe, zlib.crc32(np.ascontiguousarray(images)))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = ScaleHyperprior(*CHANNELS)
        first, last = self.model.g_a[0], self.model.g_s[-1]
        self.model.g_a[0] = type(first)(1, CHANNELS[0], 5, stride=2, padding=2)
        self.model.g_s[-1] = type(last)(CHANNELS[0], 1, 5, stride=2, padding=2, output_padding=1)
        self.model.to(self.device)

    def train(self, weight: float, minutes: float) -> dict:
        """Train for one weight of the distortion, from the weights of the call before.

        Args:
            weight: Bits a pixel that a distortion of 1 is worth.
            minutes: Minutes of training.

        Returns:
            What was done: `weight`, `minutes`, `steps`, `learning_rate`, `loss` of the last tenth,
            `parameters`, `device`, and `versions`.
        """
        path = self.folder / f"{weight:g}-{minutes:g}-{self.digest:08x}.pt"
        if path.exists():
            saved = torch.load(path, map_location=self.device)
        else:
            saved = {"about": self._train(weight, minutes), "model": self.model.state_dict()}
            torch.save(saved, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        self.model.load_state_dict(saved["model"])
        self.model.eval().update(force=True)
        return saved["about"]

    def _train(self, weight, minutes):
        self.model.train()
        named = dict(self.model.named_parameters())
        quantiles = {name for name in named if name.endswith(".quantiles")}
        networks = [value for name, value in named.items() if name not in quantiles]
        optimizer = torch.optim.Adam(networks, LEARNING_RATE)
        auxiliary = torch.optim.Adam([named[name] for name in quantiles], AUXILIARY_RATE)
        orders, losses = shuffled(len(self.images), BATCH_SIZE), []
        chance = np.random.default_rng(0)
        begin = time.perf_counter()
        while (share := (time.perf_counter() - begin) / (60 * minutes)) < 1:
            rate = LEAST_RATE + (LEARNING_RATE - LEAST_RATE) * (1 + math.cos(math.pi * share)) / 2
            optimizer.param_groups[0]["lr"] = rate
            batch = self.images[next(orders)]
            mirrored = chance.random(len(batch)) < 0.5
            batch[mirrored] = batch[mirrored, ::-1]  # left and right are along the rows
            images = scaled(batch).to(self.device)
            out = self.model(images)
            bits = sum(-torch.log2(each).sum() for each in out["likelihoods"].values())
            loss = weight * distortion(images, out["x_hat"]) + bits / images.numel()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(networks, 1.0)
            optimizer.step()
            auxiliary.zero_grad()
            self.model.aux_loss().backward()
            auxiliary.step()
            losses.append(loss.item())
        return {
            "weight": weight,
            "minutes": minutes,
            "steps": len(losses),
            "learning_rate": LEARNING_RATE,
            "loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
            "parameters": sum(value.numel() for value in named.values()),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU",
            "versions": {"torch": str(torch.__version__), "compressai": compressai.__version__},
        }

    @torch.no_grad()
    def code(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compress and decompress slices, each by itself.

        Args:
            images: uint8 `(N, h, w)`.

        Returns:
            Bytes of each `(N,)`, and the decompressed slices, uint8 `(N, h, w)`.
        """
        sizes = []

        def both(part):
            coded = self.model.compress(scaled(part).to(self.device))
            sizes.extend(sum(map(len, streams)) for streams in zip(*coded["strings"]))
            decoded = self.model.decompress(coded["strings"], coded["shape"])["x_hat"]
            return grey(decoded.cpu())

        restored = in_batches(both, images)
        return np.array(sizes), restored


def distortion(images: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Squared and absolute error and SSIM, weighted as in `losses.ReconstructionLoss`."""
    similar = ssim(images, restored, data_range=1.0)
    squared, absolute = functional.mse_loss(restored, images), functional.l1_loss(restored, images)
    return 3 * squared + 0.3 * absolute + 1 - similar


if __name__ == "__main__":
    serve(Hyperprior)
