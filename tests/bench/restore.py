#!/usr/bin/env python3
"""How well unfog restores, beside what others do: a table in Markdown.

    restore.py UNFOG MODEL IMAGES FOLDER [--each 20] [--tasks denoise25,...] [--calibrate] [--seams]

IMAGES has a folder a class with grey pictures of the model's size (MedNIST's test pictures); the first EACH of each are taken. FOLDER keeps what is made, so
that a run goes on where it ended. Needs numpy, scipy, Pillow, scikit-image, bm3d and safetensors.

Measurements are made here, in f32 and not cut off at black and white (so that noise is Gaussian), with numpy's generator seeded by the picture's number; every
method gets the same. Results are cut off to black and white and compared in f64.

--calibrate: how often the truth lies in the band of 90 % that the samples' standard deviation speaks of (1.645 of it to each side), once that is multiplied
by one factor, which is fitted on the EACH pictures that follow the first EACH. Of a hole, its pixels alone count.

--seams: pictures of 192 pixels (62 of the 64, from a place between pixels, enlarged bicubically) are restored by a model of 64, in tiles; how much larger
differences of neighbours are where tiles end than 8 and 16 pixels from there, both as shares of the truth's, and how far that would differ by chance (bootstrap over
pictures). Those places lie where one tile alone decides, for the mean of two is smoother, and in step with that tile's network, whose convolutions of stride 2 leave a
pattern of 8 pixels; with a picture enlarged by a whole number, that number's pattern would come on top.
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


def rician(sigma):
    return lambda x, rng: np.hypot(x + rng.normal(0, sigma / 255, x.shape), rng.normal(0, sigma / 255, x.shape))


def counted(gain, sigma):
    return lambda x, rng: rng.poisson(x * 255 / gain) * gain / 255 + rng.normal(0, sigma / 255, x.shape)


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
# The class of each picture follows.
TOLD = ["--class"]
EIGHT_OF_THREE = ["--task", "denoise", "--steps", "3", *MEAN8]
TASKS = {
    f"denoise{s}": (noisy(s), denoisers(s), {
        "unfog, one evaluation": ["--task", "denoise", "--noise", str(s), "--method", "mean"],
        "unfog, one sample": ["--task", "denoise", "--noise", str(s), "--steps", "3"],
        "unfog, mean of 8": ["--task", "denoise", "--noise", str(s), "--steps", "3", *MEAN8],
    }) for s in (25, 50)
} | {
    "rician25": (rician(25), denoisers(25), {
        "unfog, mean of 8, as Gaussian": [*EIGHT_OF_THREE, "--noise", "25"],
        "unfog, mean of 8, as Rician": [*EIGHT_OF_THREE, "--noise", "25", "--noise-model", "rician"],
    }),
    "poisson8": (counted(8, 5), denoisers(25), {
        "unfog, mean of 8, as Gaussian, estimated": EIGHT_OF_THREE,
        "unfog, mean of 8, as Gaussian of 25": [*EIGHT_OF_THREE, "--noise", "25"],
        "unfog, mean of 8, as Poisson-Gaussian": [*EIGHT_OF_THREE, "--noise", "5", "--noise-model", "poisson-gaussian", "--gain", "8"],
    }),
    "upscale4": (lambda x, rng: x.reshape(SIDE // FACTOR, FACTOR, -1, FACTOR).mean((1, 3)), {"bicubic": bicubic}, {
        "unfog, one sample": ["--task", "upscale", "--steps", "25"],
        "unfog, mean of 8": ["--task", "upscale", "--steps", "25", *MEAN8],
        "unfog, mean of 8, told the class": ["--task", "upscale", "--steps", "25", *MEAN8, *TOLD],
    }),
    "inpaint24": (lambda x, rng: np.where(hole(), 0, x), {"biharmonic": lambda y: inpaint_biharmonic(y, hole())}, {
        "unfog, one sample": ["--task", "inpaint", "--steps", "25"],
        "unfog, mean of 8": ["--task", "inpaint", "--steps", "25", *MEAN8],
        "unfog, mean of 8, told the class": ["--task", "inpaint", "--steps", "25", *MEAN8, *TOLD],
    }),
    "deblur2": (blurred, {f"Wiener, balance {b}": lambda y, b=b: wiener(y, window(), b) for b in (0.01, 0.03, 0.1)}, {
        "unfog, one sample": ["--task", "deblur", "--blur", str(BLUR), "--noise", "5", "--steps", "25"],
        "unfog, mean of 8": ["--task", "deblur", "--blur", str(BLUR), "--noise", "5", "--steps", "25", *MEAN8],
        "unfog, mean of 8, told the class": ["--task", "deblur", "--blur", str(BLUR), "--noise", "5", "--steps", "25", *MEAN8, *TOLD],
    }),
}


def read(images, first, count):
    truths = {}
    for kind in sorted(os.listdir(images)):
        folder = os.path.join(images, kind)
        if os.path.isdir(folder):
            for name in sorted(os.listdir(folder))[first : first + count]:
                truths[f"{kind}-{name.rsplit('.', 1)[0]}"] = np.asarray(Image.open(os.path.join(folder, name)).convert("L"), np.float64) / 255
    return truths


class Runs:
    """Runs of unfog over one task's measurements of pictures, in a folder of their own."""

    def __init__(self, a, task, label, truths):
        self.a, self.task, self.folder, self.truths, self.ys = a, task, a.folder / task, truths, {}
        self.given = self.folder / label
        self.given.mkdir(parents=True, exist_ok=True)
        for number, (name, x) in enumerate(truths.items()):
            self.ys[name] = TASKS[task][0](x, np.random.default_rng(number)).astype(np.float32)
            save_file({"image": self.ys[name][None]}, self.given / f"{name}.safetensors")
        self.hole = a.folder / "hole.png"
        Image.fromarray(hole().astype(np.uint8) * 255).save(self.hole)

    def run(self, method, args):
        """Returns a function that reads a result by its name, and one that reads its uncertainty."""
        out = self.folder / f"{self.given.name}-{method.replace(' ', '-').replace(',', '')}"
        # What is made of one picture goes into a folder that is there.
        out.mkdir(exist_ok=True)
        mask = ["--mask", str(self.hole)] if self.task.startswith("inpaint") else []
        end = ["--model", self.a.model, "--backend", "cpu", "--quiet", "--out", str(out)]
        told = sorted({name.split("-")[0] for name in self.truths}) if args[-1:] == TOLD else []
        # The whole folder at once, or each class' pictures.
        groups = [(self.given.glob(f"{kind}-*.safetensors"), [kind]) for kind in told] or [([self.given], [])]
        for given, kind in groups:
            subprocess.run([self.a.unfog, "restore", *sorted(given), *args, *kind, *mask, *end], check=True)
        return [lambda name, end=end: np.asarray(Image.open(out / f"{name}{end}.png"), np.float64) / 65535 for end in ("", ".uncertainty")]


def table(a, task):
    runs = Runs(a, task, f"given{a.each}", read(a.images, 0, a.each))

    def row(method, result):
        near = np.array([quality(result(name), x) for name, x in runs.truths.items()]).mean(0)
        print(f"| {task} | {method} | {near[0]:.2f} | {near[1]:.4f} |", flush=True)

    for method, f in TASKS[task][1].items():
        row(method, lambda name: f(runs.ys[name].astype(np.float64)))
    for method, args in TASKS[task][2].items():
        row(method, runs.run(method, args)[0])


def calibrate(a, task):
    args = TASKS[task][2][[name for name in TASKS[task][2] if "mean of 8" in name][0]]
    counts = hole() if task.startswith("inpaint") else np.ones((SIDE, SIDE), bool)

    def scores(label, first):
        runs = Runs(a, task, label, read(a.images, first, a.each))
        mean, spread = runs.run("calibrate", [*args, "--uncertainty"])
        apart = np.concatenate([np.abs(mean(name) - x)[counts] for name, x in runs.truths.items()])
        return apart, np.concatenate([spread(name)[counts] for name in runs.truths])

    apart, spread = scores(f"fit{a.each}", a.each)
    factor = np.quantile(apart / np.maximum(spread, 1e-6), 0.9) / 1.645
    apart, spread = scores(f"given{a.each}", 0)
    inside, before = [100 * np.mean(apart <= 1.645 * by * spread) for by in (factor, 1)]
    print(f"| {task} | {before:.1f} % | {factor:.2f} | {inside:.1f} % |", flush=True)


def seams(a, task):
    side, large = 3 * SIDE, {}
    for number, (name, x) in enumerate(read(a.images, 0, a.each).items()):
        left, top = np.random.default_rng(number).uniform(0, 2, 2)
        picture = Image.fromarray(x).resize((side, side), Image.BICUBIC, (left, top, left + 62, top + 62))
        large[name] = np.asarray(picture, np.float64).clip(0, 1)
    runs = Runs(a, task, f"large{a.each}", large)
    result = runs.run("seams", TASKS[task][2]["unfog, one sample"])[0]
    # Tiles of 64 in 192 begin at 0, 42, 85 and 128 and end where others go on.
    ends = [(begin, -1) for begin in (42, 85, 128)] + [(begin + SIDE, 1) for begin in (0, 42, 85)]
    at, beside = [end for end, _ in ends], [end + way * far for end, way in ends for far in (8, 16)]

    def difference(picture, places):
        return sum(np.abs(np.diff(turned, axis=1, prepend=turned[:, :1]))[:, places].mean() for turned in (picture, picture.T))

    # [pictures, found and true, at and beside]
    steps = np.array([[[difference(picture, places) for places in (at, beside)] for picture in (result(name), x)] for name, x in large.items()])

    def larger(chosen):
        (at, beside), (true_at, true_beside) = steps[chosen].sum(0)
        return 100 * (at / beside / (true_at / true_beside) - 1)

    rng = np.random.default_rng(0)
    chance = np.std([larger(rng.integers(0, len(steps), len(steps))) for _ in range(1000)])
    print(f"| {task} | {larger(slice(None)):+.2f} % | {chance:.2f} % |", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("unfog"), p.add_argument("model"), p.add_argument("images"), p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--each", type=int, default=20)
    p.add_argument("--tasks", default=",".join(TASKS))
    p.add_argument("--calibrate", action="store_true")
    p.add_argument("--seams", action="store_true")
    a = p.parse_args()
    heads = {calibrate: "task | in the band as it is | factor | in the band", seams: "task | larger at seams | standard error", table: "task | method | PSNR, dB | SSIM"}
    work = calibrate if a.calibrate else seams if a.seams else table
    print(f"| {heads[work]} |\n| {' | '.join('---' for _ in heads[work].split('|'))} |")
    for task in a.tasks.split(","):
        work(a, task)


if __name__ == "__main__":
    main()
