#!/usr/bin/env python3
"""Writes tests/golden/solvers.safetensors: one step of restoration by a diffusion prior, with operators as dense matrices in f64.

Needs numpy, scipy, Pillow and safetensors:

    python3 tests/golden/make_solvers.py

Written from the papers' equations as core's `solve::update` names them, but on whole matrices: A has rows for what is measured, numpy decomposes
it, and a rule is a function of A's singular values that is applied to pictures. (Directions of equal singular values may be turned among
themselves; such a function doesn't depend on it.) Metadata `cases`: operator, solver and numbers; tensors NN.x, NN.x0, NN.eps, NN.z,
NN.y (in the layout of `solve::operator`) and NN.out.
"""
import json
import pathlib

import numpy as np
import scipy.ndimage
from PIL import Image
from safetensors.numpy import save_file

C, H, W = 3, 8, 16
N = C * H * W


def matrix(f):
    """A linear function of pictures as a matrix."""
    return np.stack([f(row.reshape(C, H, W)).ravel() for row in np.eye(N)], 1)


def bicubic(x):
    return np.stack([np.asarray(Image.fromarray(p.astype(np.float32)).resize((W // 4, H // 4), Image.BICUBIC)) for p in x])


def mask(x):
    return x * (np.arange(H * W).reshape(H, W) % 3 != 1)


OPERATORS = {
    "identity": lambda x: x,
    "mask": mask,
    "pool4": lambda x: x.reshape(C, H // 4, 4, W // 4, 4).mean((2, 4)),
    "grey": lambda x: np.tensordot([0.299, 0.587, 0.114], x, 1),
    "bicubic4": bicubic,
    "gaussian": lambda x: np.stack([scipy.ndimage.gaussian_filter(p, 0.8, mode="reflect", truncate=4.0) for p in x]),
}


def step(solver, A, y, sigma_y, at, to, x, x0, eps, z):
    U, s, Vt = np.linalg.svd(A, full_matrices=True)
    full = np.zeros(N)
    full[: len(s)] = np.where(s > 1e-6 * s.max(), s, 0)
    known = full > 0
    inverse = np.where(known, 1 / np.where(known, full, 1), 0)
    told = np.zeros(N)
    told[: len(s)] = (U.T @ y)[: len(s)]
    told *= inverse
    spread = np.where(known, sigma_y * inverse, np.inf)
    x, x0, eps, z = (Vt @ v for v in (x, x0, eps, z))
    if solver["name"] == "ddrm":
        eta, eta_b, sigma = solver["eta"], solver["eta_b"], np.sqrt((1 - to) / to)
        lost = x0 + np.sqrt(1 - eta**2) * sigma * eps + eta * sigma * z
        with np.errstate(all="ignore"):
            less = x0 + np.sqrt(1 - eta**2) * sigma * (told - x0) / spread + eta * sigma * z
            more = (1 - eta_b) * x0 + eta_b * told + np.sqrt(np.maximum(sigma**2 - (spread * eta_b) ** 2, 0)) * z
        out = np.sqrt(to) * np.where(~known, lost, np.where(sigma < spread, less, more))
    elif solver["name"] == "ddnm":
        eta, a, sigma = solver["eta"], np.sqrt(to), np.sqrt(1 - to)
        scale, fresh, own = np.ones(N), np.full(N, sigma * eta), np.full(N, sigma * np.sqrt(1 - eta**2))
        if sigma_y > 0:
            less, more = known & (sigma < a * spread), known & (sigma >= a * spread)
            scale[less] = full[less] * sigma * np.sqrt(1 - eta**2) / a / sigma_y
            own[less] = 0
            fresh[more] = np.sqrt(sigma**2 - (a * spread[more]) ** 2)
            own[more] = 0
        corrected = x0 - scale * known * (x0 - told)
        out = a * corrected + fresh * z + own * eps
    elif solver["name"] == "diffpir":
        rho = solver["lambda"] * sigma_y**2 / ((1 - at) / at)
        # The minimiser of |y - A x|^2 + rho |x - x0|^2, solved as a system.
        inside = Vt.T @ x0
        if rho > 0:
            solved = Vt @ np.linalg.solve(A.T @ A + rho * np.eye(N), A.T @ y + rho * inside)
        else:
            solved = np.where(known, told, x0)
        again = (x - np.sqrt(at) * solved) / np.sqrt(1 - at)
        out = np.sqrt(to) * solved + np.sqrt(1 - to) * (np.sqrt(1 - solver["zeta"]) * again + np.sqrt(solver["zeta"]) * z)
    else:
        beta = 1 - at / to
        mean = np.sqrt(to) * beta / (1 - at) * x0 + np.sqrt(at / to) * (1 - to) / (1 - at) * x
        lost = mean + np.sqrt((1 - to) / (1 - at) * beta) * z
        out = np.where(known, np.sqrt(to) * told + np.sqrt(1 - to) * z, lost)
    return Vt.T @ out


rng = np.random.default_rng(2)
tensors, cases = {}, []
SOLVERS = [dict(name="ddrm", eta=0.85, eta_b=1.0), dict(name="ddnm", eta=0.85), {"name": "diffpir", "lambda": 8.0, "zeta": 0.3}, dict(name="replace")]
for name, f in OPERATORS.items():
    A = matrix(f)
    for solver in SOLVERS:
        for sigma_y, at, to in ((0.0, 0.3, 0.5), (0.1, 0.05, 0.2), (0.3, 0.8, 0.95)):
            x, x0, eps, z = rng.standard_normal((4, N)).astype(np.float32).astype(np.float64)
            y = (A @ rng.standard_normal(N)).astype(np.float32).astype(np.float64)
            key = f"{len(cases):02}"
            out = step(solver, A, y, np.float64(np.float32(sigma_y)), np.float64(np.float32(at)), np.float64(np.float32(to)), x, x0, eps, z)
            tensors |= {f"{key}.{k}": v for k, v in dict(x=x, x0=x0, eps=eps, z=z, y=y, out=out).items()}
            cases.append(dict(operator=name, solver=solver, sigma_y=sigma_y, at=at, to=to))
path = pathlib.Path(__file__).resolve().parent / "solvers.safetensors"
save_file({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}, path, {"cases": json.dumps(cases)})
print(len(cases), "cases,", path.stat().st_size, "bytes")
