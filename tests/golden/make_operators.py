#!/usr/bin/env python3
"""Writes tests/golden/operators.safetensors: what linear operators make of a picture, by Pillow, scipy and numpy in f64 where they can.

Needs numpy, scipy, Pillow and safetensors:

    python3 tests/golden/make_operators.py

Tensor `x`: the picture, planar [3, 16, 32]; one tensor an operator: the measurement in the layout of core's `solve::operator`.
"""
import pathlib

import numpy as np
import scipy.fft
import scipy.linalg
import scipy.ndimage
from PIL import Image
from safetensors.numpy import save_file

C, H, W = 3, 16, 32


def planes(x, f):
    return np.stack([f(plane) for plane in x])


def bicubic(factor):
    size = (W // factor, H // factor)
    # Pillow works in f64 and keeps f32.
    return lambda plane: np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.BICUBIC))


def cosine(plane):
    blocks = plane.reshape(H // 8, 8, W // 8, 8)
    return scipy.fft.dctn(blocks, axes=(1, 3), norm="ortho").reshape(H, W)


x = np.random.default_rng(1).standard_normal((C, H, W)).astype(np.float32).astype(np.float64)
hadamard = scipy.linalg.hadamard(H * W) / np.sqrt(H * W)
tensors = {
    "x": x,
    "bicubic2": planes(x, bicubic(2)),
    "bicubic4": planes(x, bicubic(4)),
    "bicubic8": planes(x, bicubic(8)),
    "gaussian": planes(x, lambda plane: scipy.ndimage.gaussian_filter(plane, 1.2, mode="reflect", truncate=4.0)),
    "pool4": x.reshape(C, H // 4, 4, W // 4, 4).mean((2, 4)),
    "grey": np.tensordot([0.299, 0.587, 0.114], x, 1),
    "hadamard": planes(x, lambda plane: (hadamard @ plane.ravel()).reshape(H, W)),
    "cosine": planes(x, cosine),
}
path = pathlib.Path(__file__).resolve().parent / "operators.safetensors"
save_file({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, path)
print(path.stat().st_size, "bytes")
