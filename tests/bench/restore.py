#!/usr/bin/env python3
"""How well unfog restores, beside what others do: a table in Markdown.

    restore.py UNFOG MODEL IMAGES FOLDER [--each 20] [--tasks denoise25,...]

IMAGES has a folder a class with grey pictures of the model's size (MedNIST's test pictures); the first EACH of each are taken. FOLDER keeps what is made, so
that a run goes on where it ended. Needs numpy, scipy, Pillow, scikit-image, bm3d and safetensors.

Measurements are made here, in f32 and not cut off at black and white (so that noise is Gaussian), with numpy's generator seeded by the picture's number; every
method gets the same. Results are cut off to black and white and compared in f64.
"""
import argparse, os, pathlib, subprocess

import bm3d
import numpy as np
import scipy.ndimage as ndimage
from PIL import Image
from safetensors.numpy import save_file
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means, inpaint_biharmonic, wiener

SIDE, HOLE, FACTOR, BLUR = 64, slice(20, 44), 4, 2.0


def quality(result, truth):
    result = np.clip(result, 0, 1)
    psnr = -10 * np.log10(np.mean((result - truth) ** 2))
    return psnr, structural_similarity(result, truth, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)


def noisy(sigma):
    return lambda x, rng: x + rng.normal(0, sigma / 255, x.shape)


def blurred(x, rng):
    return ndimage.gaussian_filter(x, BLUR, mode="reflect", truncate=4.0) + rng.normal(0, 5 / 255, x.shape)


def hole():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[HOLE, HOLE] = True
    return mask


def bicubic(y):
    return np.asarray(Image.fromarray(y.astype(np.float32)).resize((SIDE, SIDE), Image.BICUBIC), np.float64)


def window():
    k = np.exp(-0.5 * (np.arange(-8, 9) / BLUR) ** 2)
    return np.outer(k, k) / k.sum() ** 2


def denoisers(sigma):
    s = sigma / 255
    best = dict(patch_size=5, patch_distance=11, sigma=s, fast_mode=True)
    return {"BM3D": lambda y: bm3d.bm3d(y, s), "non-local means": lambda y: denoise_nl_means(y, h=0.6 * s, **best),
            "median 3x3": lambda y: ndimage.median_filter(y, 3), "nothing": lambda y: y}


MEAN8 = ["--samples", "8"]
TASKS = {
    f"denoise{s}": (noisy(s), denoisers(s), {
        "unfog, one evaluation": ["--task", "denoise", "--noise", str(s), "--method", "mean"],
        "unfog, one sample": ["--task", "denoise", "--noise", str(s), "--steps", "3"],
        "unfog, mean of 8": ["--task", "denoise", "--noise", str(s), "--steps", "3", *MEAN8],
    }) for s in (25, 50)
} | {
    "upscale4": (lambda x, rng: x.reshape(SIDE // FACTOR, FACTOR, -1, FACTOR).mean((1, 3)), {"bicubic": bicubic}, {
        "unfog, one sample": ["--task", "upscale", "--steps", "25"],
        "unfog, mean of 8": ["--task", "upscale", "--steps", "25", *MEAN8],
    }),
    "inpaint24": (lambda x, rng: np.where(hole(), 0, x), {"biharmonic": lambda y: inpaint_biharmonic(y, hole())}, {
        "unfog, one sample": ["--task", "inpaint", "--steps", "25"],
        "unfog, mean of 8": ["--task", "inpaint", "--steps", "25", *MEAN8],
        "unfog, mean of 8, travel 5x3": ["--task", "inpaint", "--steps", "25", "--travel", "5x3", *MEAN8],
    }),
    "deblur2": (blurred, {f"Wiener, balance {b}": lambda y, b=b: wiener(y, window(), b) for b in (0.01, 0.03, 0.1)}, {
        "unfog, one sample": ["--task", "deblur", "--blur", str(BLUR), "--noise", "5", "--steps", "25"],
        "unfog, mean of 8": ["--task", "deblur", "--blur", str(BLUR), "--noise", "5", "--steps", "25", *MEAN8],
    }),
}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("unfog"), p.add_argument("model"), p.add_argument("images"), p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--each", type=int, default=20)
    p.add_argument("--tasks", default=",".join(TASKS))
    a = p.parse_args()
    truths = {}
    for kind in sorted(os.listdir(a.images)):
        folder = os.path.join(a.images, kind)
        if os.path.isdir(folder):
            for name in sorted(os.listdir(folder))[: a.each]:
                truths[f"{kind}-{name.rsplit('.', 1)[0]}"] = np.asarray(Image.open(os.path.join(folder, name)).convert("L"), np.float64) / 255
    print(f"{len(truths)} pictures\n\n| task | method | PSNR, dB | SSIM |\n| --- | --- | --- | --- |")
    for task in a.tasks.split(","):
        measure, others, runs = TASKS[task]
        given = a.folder / task / f"given{a.each}"
        given.mkdir(parents=True, exist_ok=True)
        ys = {}
        for number, (name, x) in enumerate(truths.items()):
            ys[name] = measure(x, np.random.default_rng(number)).astype(np.float32)
            save_file({"image": ys[name][None]}, given / f"{name}.safetensors")
        Image.fromarray(hole().astype(np.uint8) * 255).save(a.folder / "hole.png")

        def row(method, result):
            near = np.array([quality(result(name), x) for name, x in truths.items()]).mean(0)
            print(f"| {task} | {method} | {near[0]:.2f} | {near[1]:.4f} |", flush=True)

        for method, f in others.items():
            row(method, lambda name: f(ys[name].astype(np.float64)))
        for method, args in runs.items():
            out = a.folder / task / method.replace(" ", "-").replace(",", "")
            mask = ["--mask", str(a.folder / "hole.png")] if task.startswith("inpaint") else []
            subprocess.run([a.unfog, "restore", str(given), *args, *mask, "--model", a.model, "--backend", "cpu", "--quiet", "--out", str(out)], check=True)
            row(method, lambda name: np.asarray(Image.open(out / f"{name}.png"), np.float64) / 65535)


if __name__ == "__main__":
    main()
