"""Slices as tensors of PyTorch, and back. Only processes that have PyTorch import this."""

import sys

import numpy as np
import torch

# MONAI would load TensorFlow, whose LLVM and that of PyTorch's compiler crash in one process.
sys.modules["tensorflow"] = None


def scaled(images: np.ndarray) -> torch.Tensor:
    """Slices, uint8 `(B, h, w)` -> float32 `(B, 1, h, w)` in [0, 1]."""
    return torch.from_numpy(images[:, None]).float() / 255


def grey(images: torch.Tensor) -> np.ndarray:
    """Float `(B, 1, h, w)` -> uint8 `(B, h, w)`."""
    return (images[:, 0].clamp(0, 1) * 255).round().byte().numpy()
