"""The restorations of the gallery: what tests/bench/restore.py measures, on one scan of each class."""
import pathlib, subprocess, sys, tempfile, time

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests/bench"))
import edit, restore as bench

SCANS = ["abdomenct-1", "breastmri-1", "cxr-1", "chestct-1", "hand-1", "headct-1"]


def picture(values):
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def make(name, task, method):
    """Makes docs/gallery/NAME.png: what was given, what became of it, five times the samples' deviation, and the scan."""
    measure, _, runs = bench.TASKS[task]
    args = runs[method]
    truths = [np.asarray(Image.open(HERE / f"inputs/{scan}.png").convert("L"), np.float64) / 255 for scan in SCANS]
    given = [measure(x, np.random.default_rng(i)) for i, x in enumerate(truths)]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "in").mkdir()
        for scan, y in zip(SCANS, given):
            save_file({"image": y.astype(np.float32)[None]}, folder / f"in/{scan}.safetensors")
        mask = []
        if task.startswith("inpaint"):
            Image.fromarray(picture(bench.hole())).save(folder / "mask.png")
            mask = ["--mask", str(folder / "mask.png")]
        began = time.time()
        subprocess.run([edit.UNFOG, "restore", folder / "in", *args, *mask, "--uncertainty", "--model", edit.MODEL, "--backend", "cpu", "--threads", "1",
                        "--quiet", "--out", folder / "out"], check=True)
        seconds = (time.time() - began) / len(SCANS)

        def read(end):
            return [np.asarray(Image.open(folder / f"out/{scan}{end}.png"), np.float64) / 65535 for scan in SCANS]

        made, spread = read(""), read(".uncertainty")
    larger = [y if y.shape == x.shape else np.kron(y, np.ones((bench.FACTOR, bench.FACTOR))) for x, y in zip(truths, given)]
    rows = [np.concatenate([picture(v) for v in row], 1) for row in (larger, made, [5 * s for s in spread], truths)]
    Image.fromarray(np.concatenate(rows)).save(HERE / f"{name}.png", optimize=True)
    was, now = [np.mean([bench.quality(a, x) for a, x in zip(pictures, truths)], 0) for pictures in (larger, made)]
    shown = " ".join(["unfog restore SCANS --model models/mednist-ddpm", *args, *(["--mask MASK"] if mask else []), "--uncertainty"])
    return shown, round(seconds, 1), f"PSNR {was[0]:.1f} dB before and {now[0]:.1f} dB after, SSIM {was[1]:.2f} and {now[1]:.2f}"


BELOW = "From above: what is given, what becomes of it (the mean of 8), five times the samples' deviation, the scan."
RESTORES = [
    ("denoise", "Noise taken off (`restore --task denoise`)", f"Gaussian noise of 25 of 255. {BELOW}", "denoise25", "unfog, mean of 8"),
    ("rician", "Noise of magnitudes taken off (`--noise-model rician`)",
     f"Rician noise of 25 of 255, which brightens what is dark. {BELOW}", "rician25", "unfog, mean of 8, as Rician"),
    ("inpaint", "A hole filled (`restore --task inpaint`)",
     f"24 by 24 pixels are missing. What is made up there fits its surroundings, and is not what was there: samples lie apart. {BELOW}", "inpaint24", "unfog, mean of 8"),
    ("upscale", "Four times as large (`restore --task upscale`)", f"Each pixel given is the mean of 4 by 4. {BELOW}", "upscale4", "unfog, mean of 8"),
    ("deblur", "Sharpened (`restore --task deblur`)", f"A Gaussian blur of 2 pixels and noise of 5 of 255. {BELOW}", "deblur2", "unfog, mean of 8"),
]
RESTORES = [(name, title, says, lambda name=name, task=task, method=method: make(name, task, method)) for name, title, says, task, method in RESTORES]
