"""Both networks, layer for layer, in PyTorch with the quantizer of vector-quantize-pytorch: a rival for `training.py`.

Layers, losses and what stays in float32 (latents, quantizer, logits, losses) are those of `modules.py`, `pixelcnn.py` and `metrics.py`; bfloat16 is
by autocast, and the layout channels-last. It runs as a process of its own, because TensorFlow and PyTorch each bring an LLVM, and one process
cannot hold both: a pickle of the step to make comes in, then numbers of steps, and their seconds go out.
"""

import math
import os
import pickle
import sys
import time

import torch
import vector_quantize_pytorch
from torch import nn
from torch.nn import functional


class Residual(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x):
        return x + super().forward(x)


class VQVAE(nn.Module):
    """Images `(B, 1, S, S)` -> reconstructions of the same shape and the commitment loss, with a reduction of 8."""

    def __init__(self, codebook_size, code_dim, width, encoder_blocks, decoder_blocks):
        super().__init__()
        half = width // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(1, half, 8, stride=4, padding=2), *(Residual(half) for _ in range(encoder_blocks[0])),
            nn.Conv2d(half, width, 4, stride=2, padding=1), *(Residual(width) for _ in range(encoder_blocks[1])))
        self.latents = nn.Conv2d(width, code_dim, 1)
        self.quantizer = vector_quantize_pytorch.VectorQuantize(code_dim, codebook_size, decay=0.99, commitment_weight=0.25)
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, width, 3, padding=1), *(Residual(width) for _ in range(decoder_blocks[0])),
            nn.Conv2d(width, 2 * width, 1), nn.PixelShuffle(2), *(Residual(half) for _ in range(decoder_blocks[1])),
            nn.ReLU(), nn.Conv2d(half, 16, 5, padding=2), nn.PixelShuffle(4))

    def forward(self, images):
        features = self.encoder(images)
        with torch.autocast("cpu", enabled=False):
            latents = self.latents(features.float()).permute(0, 2, 3, 1)
            batch, height, width, dim = latents.shape
            quantized, _, loss = self.quantizer(latents.reshape(batch, height * width, dim))
        quantized = quantized.reshape(batch, height, width, dim).permute(0, 3, 1, 2)
        return self.decoder(quantized).float(), loss


class ReconstructionLoss(nn.Module):
    """`metrics.ReconstructionLoss` with its usual weights."""

    def __init__(self, window, c1, c2):
        super().__init__()
        self.window, self.c1, self.c2 = torch.tensor(window), c1, c2

    def mean(self, values):
        return self.window @ values @ self.window.T

    def forward(self, images, reconstructions):
        error = images - reconstructions
        loss = (3 * error**2 + 0.3 * error.abs()).mean()
        x, y = images[:, 0], reconstructions[:, 0]
        mean_x, mean_y = self.mean(x), self.mean(y)
        variance_x, variance_y = self.mean(x * x) - mean_x**2, self.mean(y * y) - mean_y**2
        covariance = self.mean(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + self.c1) / (mean_x**2 + mean_y**2 + self.c1)
        ssim = luminance * (2 * covariance + self.c2) / (variance_x + variance_y + self.c2)
        u, v = (variance.clamp(min=0) + self.c2 / 2 for variance in (variance_x, variance_y))
        contrast = 2 * torch.sqrt(u * v) / (u + v)
        return loss + (1 - ssim + 3 * (1 - contrast)).mean()


class GatedBlock(nn.Module):
    """`pixelcnn.GatedBlock` on `(B, C, H, W)` in the channels-last layout, where a 1 x 1 convolution is a plain product."""

    def __init__(self, width, dilation, dropout):
        super().__init__()
        self.dilation = dilation
        self.look_up = nn.Conv2d(2 * width, 2 * width, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.look_left = nn.Conv2d(2 * width, 2 * width, 1)
        self.hand_over = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(width, width, 1))

    def forward(self, vertical, horizontal, condition):
        up, left = condition.chunk(2, dim=1)
        vertical = vertical + gate(self.look_up(torch.cat([vertical, shift(vertical, rows=self.dilation)], 1)) + up)
        told = self.hand_over(vertical) + left
        seen = self.look_left(torch.cat([horizontal, shift(horizontal, columns=self.dilation)], 1)) + told
        return vertical, horizontal + self.project(gate(seen))


def shift(x, rows=0, columns=0):
    return functional.pad(x, (columns, 0, rows, 0))[:, :, : x.shape[2], : x.shape[3]]


def gate(x):
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class PixelCNN(nn.Module):
    """Codes `(B, H, W)` and levels `(B,)` -> logits `(B, K, H, W)`."""

    def __init__(self, grid, codebook_size, levels, width, dilations, dropout):
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, width)
        self.conditions, self.mirror = (nn.Embedding(rows, len(dilations) * 4 * width) for rows in (levels, 2))
        self.levels = levels
        self.positions = nn.Parameter(0.05 * torch.randn(width, grid, grid))
        self.blocks = nn.ModuleList(GatedBlock(width, dilation, dropout) for dilation in dilations)
        self.hidden = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(2 * width, codebook_size, 1)

    def forward(self, codes, levels):
        embedded = self.embedding(codes).permute(0, 3, 1, 2)
        positions = self.positions
        vertical, horizontal = shift(embedded, rows=1) + positions, shift(embedded, columns=1) + positions
        both = self.conditions(levels % self.levels) + self.mirror(levels // self.levels)
        conditions = both[:, :, None, None].chunk(len(self.blocks), dim=1)
        for block, condition in zip(self.blocks, conditions):
            vertical, horizontal = block(vertical, horizontal, condition)
        hidden = functional.relu(self.hidden(functional.relu(horizontal)))
        with torch.autocast("cpu", enabled=False):
            return self.out(hidden.float())


def vqvae(images, ssim, codebook_size, code_dim, width, encoder_blocks, decoder_blocks):
    """Model of the first stage and its forward pass on images, float32 `(B, S, S, 1)`; `ssim` is the loss's window matrix, C1 and C2."""
    images = torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    model = VQVAE(codebook_size, code_dim, width, encoder_blocks, decoder_blocks)
    criterion = ReconstructionLoss(*ssim)

    def loss():
        reconstructions, commitment = model(images)
        with torch.autocast("cpu", enabled=False):
            return criterion(images, reconstructions) + commitment.sum()

    return model, loss


def prior(codes, codebook_size, levels, width, dilations, dropout):
    """Model of the second stage and its forward pass on codes `(B, H, W)`."""
    codes = torch.tensor(codes).long()
    at = torch.arange(len(codes)) % levels
    model = PixelCNN(codes.shape[-1], codebook_size, levels, width, dilations, dropout)
    return model, lambda: functional.cross_entropy(model(codes, at), codes) / math.log(2)


def main():
    torch.set_num_threads(os.cpu_count())  # what TensorFlow takes
    stage, dtype, arguments = pickle.load(sys.stdin.buffer)
    model, loss_of = {"vqvae": vqvae, "prior": prior}[stage](**arguments)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.9, 0.99), fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    for line in sys.stdin.buffer:
        begin = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
