#!/usr/bin/env python3
"""Writes tests/golden/restored.safetensors: whole restorations by a diffusion prior, how much noise pictures have, and how near they are to others.

Needs torch, diffusers, numpy, scipy, scikit-image (0.26), PyWavelets and safetensors:

    python3 tests/golden/make_restored.py

The chains are DDRM and DDNM/DDNM+ as their papers have them, in f64, with the network of models of diffusers; A is a matrix along each side, which numpy
decomposes. Fresh noise is given in pixels. Metadata `cases`: operator, solver, numbers; tensors `noise` [draws, 1, 1, 16, 16], NN.y, NN.out. Then
`level.NN` with `levels`, the noise that scikit-image's estimate_sigma finds in each, and `near.a`, `near.b` with `near`, its PSNR and SSIM.
"""
import json
import pathlib

import numpy as np
import scipy.ndimage
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import estimate_sigma

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent.parent / "host/models/glyph-tiny"
N, STEPS = 16, 10

network = UNet2DModel.from_pretrained(MODEL / "unet").double().eval()
scheduler = DDIMScheduler.from_pretrained(MODEL / "scheduler")
alphas = scheduler.alphas_cumprod.double().numpy()

rows = np.eye(N)
POOL = rows.reshape(N // 4, 4, N).mean(1)
BLUR = scipy.ndimage.gaussian_filter1d(rows, 0.8, axis=0, mode="reflect", truncate=4.0)
MASK = np.arange(N * N).reshape(N, N) % 3 != 1


def operator(name):
    """Singular values [N * N] (0 where lost), what turns a picture into its spectrum and back, and a measurement into its spectrum."""
    if name in ("identity", "mask"):
        s = MASK.ravel().astype(float) if name == "mask" else np.ones(N * N)
        flat = lambda x: np.asarray(x).ravel()
        return s, flat, flat, lambda y: np.asarray(y).ravel() * s
    A = POOL if name == "pool4" else BLUR
    U, s, Vt = np.linalg.svd(A)
    k = len(s)
    full = np.zeros(N)
    full[:k] = s
    whole = np.zeros((N, N))

    def measured(y):
        whole[:k, :k] = (U.T @ y.reshape(k, k) @ U)
        return whole.ravel().copy()

    return (np.outer(full, full).ravel(), lambda x: (Vt @ x.reshape(N, N) @ Vt.T).ravel(),
            lambda v: (Vt.T @ v.reshape(N, N) @ Vt).ravel(), measured)


def chain(solver, name, y, sigma_y, noise):
    s, spectrum, picture, measured = operator(name)
    known = s > 0
    told = np.where(known, measured(y) / np.where(known, s, 1), 0)
    spread = np.where(known, sigma_y / np.where(known, s, 1), np.inf)
    eta = 0.85
    keep = np.sqrt(1 - eta**2)
    scheduler.set_timesteps(STEPS)
    times = [int(t) for t in scheduler.timesteps]
    x = noise[0].ravel()
    for i, t in enumerate(times):
        at, to = alphas[t], alphas[times[i + 1]] if i + 1 < STEPS else 1.0
        with torch.no_grad():
            eps = network(torch.from_numpy(x.reshape(1, 1, N, N)), t).sample.numpy().ravel()
        x0 = np.clip((x - np.sqrt(1 - at) * eps) / np.sqrt(at), -1, 1)
        x0, eps, z = (spectrum(v) for v in (x0, eps, noise[i + 1].ravel()))
        if solver == "ddrm":
            sigma = np.sqrt((1 - to) / to)
            with np.errstate(all="ignore"):
                lost = x0 + keep * sigma * eps + eta * sigma * z
                less = x0 + keep * sigma * (told - x0) / spread + eta * sigma * z
                more = told + np.sqrt(np.maximum(sigma**2 - spread**2, 0)) * z
            new = np.sqrt(to) * np.where(~known, lost, np.where(sigma < spread, less, more))
        else:
            a, sigma = np.sqrt(to), np.sqrt(1 - to)
            scale, fresh, own = np.ones(N * N), np.full(N * N, sigma * eta), np.full(N * N, sigma * keep)
            if sigma_y > 0:
                less, more = known & (sigma < a * spread), known & (sigma >= a * spread)
                scale[less] = s[less] * sigma * keep / a / sigma_y
                own[less] = 0
                fresh[more] = np.sqrt(sigma**2 - (a * spread[more]) ** 2)
                own[more] = 0
            new = a * (x0 - scale * known * (x0 - told)) + fresh * z + own * eps
        x = picture(new)
    return x


rng = np.random.default_rng(4)
noise = rng.standard_normal((STEPS + 1, 1, 1, N, N)).astype(np.float32)
tensors, cases = {"noise": noise}, []
truth = np.clip(scipy.ndimage.gaussian_filter(rng.standard_normal((N, N)), 1.5) * 5, -1, 1)
APPLY = {"identity": lambda x: x, "mask": lambda x: x * MASK, "pool4": lambda x: POOL @ x @ POOL.T, "gaussian": lambda x: BLUR @ x @ BLUR.T}
for name, f in APPLY.items():
    for solver in ("ddrm", "ddnm"):
        for sigma_y in (0.0, 0.2):
            if name == "gaussian" and sigma_y == 0:
                continue  # What a blur leaves nothing of would be divided by nothing.
            y = f(truth)
            y = (y + sigma_y * rng.standard_normal(y.shape)).astype(np.float32)
            sigma = float(np.float32(sigma_y))
            key = f"{len(cases):02}"
            tensors |= {f"{key}.y": y, f"{key}.out": chain(solver, name, y.astype(np.float64), sigma, noise.astype(np.float64))}
            cases.append(dict(operator=name, solver=solver, sigma_y=sigma))

levels = []
for height, width, channels, sigma in ((64, 64, 1, 0.1), (33, 46, 3, 0.02), (7, 5, 1, 0.3)):
    smooth = scipy.ndimage.gaussian_filter(rng.standard_normal((channels, height, width)), (0, 4, 4)) * 4
    picture = (smooth + sigma * rng.standard_normal(smooth.shape)).astype(np.float32)
    tensors[f"level.{len(levels):02}"] = picture
    levels.append(float(estimate_sigma(picture.astype(np.float64), channel_axis=0, average_sigmas=True)))
a = np.clip(rng.standard_normal((3, 21, 18)) * 0.5, -1, 1).astype(np.float32)
b = np.clip(a + 0.2 * rng.standard_normal(a.shape), -1, 1).astype(np.float32)
tensors |= {"near.a": a, "near.b": b}
ua, ub = ((v.astype(np.float64) + 1) / 2 for v in (a, b))
tensors["near"] = np.array([
    peak_signal_noise_ratio(ua, ub, data_range=1),
    structural_similarity(ua, ub, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)])
tensors["levels"] = np.array(levels)
path = HERE / "restored.safetensors"
save_file({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}, path,
          {"cases": json.dumps(cases)})
print(len(cases), "cases,", path.stat().st_size, "bytes", levels, tensors["near"])
