"""Both networks in PyTorch, layer for layer: a rival for `training.py`.

Layers, losses and what stays in float32 (latents, quantizer, logits, losses) are those of
`modules.py` and `networks/losses.py`. The quantizer is that of vector-quantize-pytorch. Autocast
gives bfloat16, and the layout is channels-last.

Both have as many trainable parameters as the networks in Keras. The codebook is none of them: it
follows its data and gets no gradient, here and there.

This file runs as a process of its own (`contenders.remote`) and serves a `Training`.
"""

import math
import os

import torch
import vector_quantize_pytorch
from torch import nn
from torch.nn import functional

from contenders.remote import serve


class Residual(nn.Sequential):
    """Residual block of one 3 x 3 and one 1 x 1 convolution."""

    def __init__(self, width):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x):
        return x + super().forward(x)


class VQVAE(nn.Module):
    """VQ-VAE with a reduction of 8.

    Call: images `(B, 1, S, S)` -> reconstructions of the same shape, and the commitment loss.
    """

    def __init__(self, codebook_size, code_dim, width, encoder_blocks, decoder_blocks):
        super().__init__()
        half = width // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(1, half, 8, stride=4, padding=2),
            *(Residual(half) for _ in range(encoder_blocks[0])),
            nn.Conv2d(half, width, 4, stride=2, padding=1),
            *(Residual(width) for _ in range(encoder_blocks[1])),
        )
        self.latents = nn.Conv2d(width, code_dim, 1)
        self.quantizer = vector_quantize_pytorch.VectorQuantize(
            code_dim,
            codebook_size,
            decay=0.99,
            commitment_weight=0.25,
            rotation_trick=False,  # its default, and more work than a straight-through gradient
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, width, 3, padding=1),
            *(Residual(width) for _ in range(decoder_blocks[0])),
            nn.Conv2d(width, 2 * width, 1),
            nn.PixelShuffle(2),
            *(Residual(half) for _ in range(decoder_blocks[1])),
            nn.ReLU(),
            nn.Conv2d(half, 16, 5, padding=2),
            nn.PixelShuffle(4),
        )

    def forward(self, images):
        features = self.encoder(images)
        with torch.autocast("cpu", enabled=False):
            latents = self.latents(features.float()).permute(0, 2, 3, 1)  # (B, H, W, D)
            batch, height, width, dim = latents.shape
            quantized, _, loss = self.quantizer(latents.reshape(batch, height * width, dim))
        quantized = quantized.reshape(batch, height, width, dim).permute(0, 3, 1, 2)
        return self.decoder(quantized).float(), loss


class ReconstructionLoss(nn.Module):
    """`losses.ReconstructionLoss` with its default weights."""

    def __init__(self, down, across, c1, c2):
        super().__init__()
        self.down, self.across = torch.tensor(down), torch.tensor(across)
        self.c1, self.c2 = c1, c2

    def mean(self, values):
        return self.down @ values @ self.across.T

    def forward(self, images, reconstructions):
        error = images - reconstructions
        loss = (3 * error**2 + 0.3 * error.abs()).mean()
        x, y = images[:, 0], reconstructions[:, 0]
        mean_x, mean_y = self.mean(x), self.mean(y)
        variance_x = self.mean(x * x) - mean_x**2
        variance_y = self.mean(y * y) - mean_y**2
        covariance = self.mean(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + self.c1) / (mean_x**2 + mean_y**2 + self.c1)
        ssim = luminance * (2 * covariance + self.c2) / (variance_x + variance_y + self.c2)
        u = variance_x.clamp(min=0) + self.c2 / 2
        v = variance_y.clamp(min=0) + self.c2 / 2
        contrast = 2 * torch.sqrt(u * v) / (u + v)
        return loss + (1 - ssim + 3 * (1 - contrast)).mean()


class GatedBlock(nn.Module):
    """`modules.GatedBlock` on `(B, C, H, W)`.

    In the channels-last layout a 1 x 1 convolution is a plain matrix product.
    """

    def __init__(self, width, dilation, dropout):
        super().__init__()
        self.dilation = dilation
        self.look_up = nn.Conv2d(
            2 * width, 2 * width, (1, 3), padding=(0, dilation), dilation=(1, dilation)
        )
        self.look_left = nn.Conv2d(2 * width, 2 * width, 1)
        self.hand_over = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.project = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(width, width, 1))

    def forward(self, vertical, horizontal, condition):
        vertical_condition, horizontal_condition = condition.chunk(2, dim=1)
        rows = torch.cat([vertical, shift(vertical, rows=self.dilation)], 1)
        vertical = vertical + gate(self.look_up(rows) + vertical_condition)
        vertical_message = self.hand_over(vertical) + horizontal_condition
        columns = torch.cat([horizontal, shift(horizontal, columns=self.dilation)], 1)
        features = self.look_left(columns) + vertical_message
        return vertical, horizontal + self.project(gate(features))


def shift(x, rows=0, columns=0):
    """Move `(B, C, H, W)` down and right; zeros come in, and the shape stays."""
    return functional.pad(x, (columns, 0, rows, 0))[:, :, : x.shape[2], : x.shape[3]]


def gate(x):
    """Return tanh(a) * sigmoid(b) of the two halves of the channels."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class PixelCNN(nn.Module):
    """Gated PixelCNN.

    Call: codes `(B, H, W)` and levels `(B,)` -> logits `(B, K, H, W)`.
    """

    def __init__(self, grid, codebook_size, num_levels, width, dilations, dropout):
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, width)
        channels = len(dilations) * 4 * width
        self.conditions = nn.Embedding(num_levels, channels)
        self.mirror = nn.Embedding(2, channels)
        self.num_levels = num_levels
        self.positions = nn.Parameter(0.05 * torch.randn(width, *grid))
        self.blocks = nn.ModuleList(GatedBlock(width, rate, dropout) for rate in dilations)
        self.hidden = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(2 * width, codebook_size, 1)

    def forward(self, codes, levels):
        embedded = self.embedding(codes).permute(0, 3, 1, 2)  # (B, C, H, W)
        vertical = shift(embedded, rows=1) + self.positions
        horizontal = shift(embedded, columns=1) + self.positions
        level_condition = self.conditions(levels % self.num_levels)
        condition = level_condition + self.mirror(levels // self.num_levels)  # (B, 4C blocks)
        conditions = condition[:, :, None, None].chunk(len(self.blocks), dim=1)
        for block, condition in zip(self.blocks, conditions):
            vertical, horizontal = block(vertical, horizontal, condition)
        hidden = functional.relu(self.hidden(functional.relu(horizontal)))
        with torch.autocast("cpu", enabled=False):
            return self.out(hidden.float())


def vqvae(images, ssim, **sizes):
    """Make a `VQVAE`, and a function without arguments that returns its loss on images.

    Args:
        images: Float32 `(B, S, S, 1)`.
        ssim: Window matrices of rows and of columns, C1 and C2 of the loss.
        **sizes: Arguments of `VQVAE`.
    """
    images = torch.tensor(images).permute(0, 3, 1, 2)  # (B, 1, S, S)
    images = images.contiguous(memory_format=torch.channels_last)
    model, criterion = VQVAE(**sizes), ReconstructionLoss(*ssim)

    def loss():
        reconstructions, commitment = model(images)
        with torch.autocast("cpu", enabled=False):
            return criterion(images, reconstructions) + commitment.sum()

    return model, loss


def prior(codes, **sizes):
    """Make a `PixelCNN`, and a function without arguments that returns its loss on codes.

    Args:
        codes: Codes `(B, H, W)`.
        **sizes: Arguments of `PixelCNN`.
    """
    codes = torch.tensor(codes).long()
    model = PixelCNN(codes.shape[1:], **sizes)
    levels = torch.arange(len(codes)) % model.num_levels
    return model, lambda: functional.cross_entropy(model(codes, levels), codes) / math.log(2)


class Training:
    """The training of a stage, "vqvae" or "prior", in "float32" or "bfloat16".

    Where it is `compiled`, `torch.compile` compiles the loss, and so its gradient. The arguments
    are those of `vqvae` or of `prior`.
    """

    def __init__(self, stage: str, dtype: str, compiled: bool, arguments: dict):
        torch.set_num_threads(os.cpu_count())  # TensorFlow takes as many
        torch.manual_seed(0)
        self.model, loss_of = {"vqvae": vqvae, "prior": prior}[stage](**arguments)
        self.model.to(memory_format=torch.channels_last).train()
        self.loss_of = torch.compile(loss_of) if compiled else loss_of
        weights = self.model.parameters()
        self.optimizer = torch.optim.Adam(weights, 1e-3, betas=(0.9, 0.99), fused=True)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        self.step()  # it compiles

    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def step(self) -> float:
        """Take a step and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss = self.loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


if __name__ == "__main__":
    serve(Training)
