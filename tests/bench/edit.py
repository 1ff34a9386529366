#!/usr/bin/env python3
"""Edits the gallery's ten scans with mednist-ddpm, each into another class, and says in how many a classifier sees that class.

    edit.py OUT --classifier FILE [--only TASK,TASK] [--task NAME=OPTIONS] [--backend NAME]

FILE: the weights that models/train/classifier.py writes (it needs MedNIST's archives; the ten scans are none of those that it learns from).
OUT gets a sheet a task, scans above, what became of them below, and figures.json. The program is $UNFOG, or target/release/unfog. It counts the asked
class in what was made, and beside it the former one; `apart` is the root mean square distance from the scan, of 255. Seconds are those of the
program's sampling on one thread, a scan each.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "models/train"))
import classifier

INPUTS = ROOT / "docs/gallery/inputs"
MODEL = ROOT / "models/mednist-ddpm"
UNFOG = os.environ.get("UNFOG", str(ROOT / "target/release/unfog"))
CLASSES = classifier.CLASSES
# Each scan with its class and the one that it is to become.
SCANS = [("abdomenct-1", 0, 1), ("abdomenct-2", 0, 4), ("breastmri-1", 1, 2), ("breastmri-2", 1, 5), ("cxr-1", 2, 4), ("cxr-2", 2, 1),
         ("chestct-1", 3, 5), ("hand-1", 4, 5), ("hand-2", 4, 2), ("headct-1", 5, 4)]
TASKS = {
    "invert": "--invert --from-class {was} --class {asked} --guidance 3 --steps 20",
    "found": "--invert --mask auto --from-class {was} --class {asked} --guidance 3 --steps 20",
    "strength": "--class {asked} --strength 0.8 --guidance 2 --steps 20",
    "coarse": "--class {asked} --keep-coarse 32 --steps 20",
}


def read(path):
    return np.asarray(Image.open(path).convert("L"))


def edit(options, backend="cpu"):
    """What becomes of the scans by these options: pictures, masks where they are found, and seconds a scan."""
    made, masks, seconds = [], [], 0.0
    for name, was, asked in SCANS:
        with tempfile.TemporaryDirectory() as folder:
            out, latents = pathlib.Path(folder) / "made.png", pathlib.Path(folder) / "latents"
            command = [UNFOG, "edit", INPUTS / f"{name}.png", "--model", MODEL, "--backend", backend,
                       "--threads", "1", "--quiet", "--json",
                       "--out", out, "--latents-out", latents, *options.format(was=was, asked=asked).split()]
            report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds += json.loads(report)["sampling_seconds"] / len(SCANS)
            made.append(read(out))
            masks += [(255 * mask).astype(np.uint8) for mask in load_file(latents).get("mask", [])]
    return made, masks, seconds


@torch.no_grad()
def seen(net, pictures):
    """The classes that the classifier sees."""
    return net(torch.from_numpy(np.stack(pictures)).float()[:, None] / 127.5 - 1).argmax(1).tolist()


def figures(net, before, after):
    found = seen(net, after)
    apart = [np.sqrt(np.mean((a.astype(float) - b) ** 2)) for a, b in zip(after, before)]
    return dict(asked=sum(a == asked for a, (_, _, asked) in zip(found, SCANS)), of=len(SCANS),
                former=sum(a == was for a, (_, was, _) in zip(found, SCANS)), apart=round(float(np.mean(apart)), 1))


def sheet(*rows):
    return Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows if row]))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out", type=pathlib.Path), p.add_argument("--classifier", required=True)
    p.add_argument("--only", default=""), p.add_argument("--backend", default="cpu")
    p.add_argument("--task", action="append", default=[], help="NAME=OPTIONS: another task than those here")
    args = p.parse_args()
    torch.set_num_threads(1)
    net = classifier.load(args.classifier)
    args.out.mkdir(parents=True, exist_ok=True)
    before, all_figures = [read(INPUTS / f"{name}.png") for name, _, _ in SCANS], {}
    right = sum(a == was for a, (_, was, _) in zip(seen(net, before), SCANS))
    print(f"the scans themselves: {right} of {len(SCANS)} are named right")
    tasks = dict(task.split("=", 1) for task in args.task) or TASKS
    for task in args.only.split(",") if args.only else tasks:
        after, masks, seconds = edit(tasks[task], args.backend)
        own = figures(net, before, after)
        all_figures[task] = own | dict(seconds=round(seconds, 2), options=tasks[task])
        named = " ".join(f"{CLASSES[was]}>{CLASSES[asked]}:{CLASSES[a]}" for a, (_, was, asked) in zip(seen(net, after), SCANS))
        print(f"{task}: {own['asked']} of {own['of']} show the asked class, {own['former']} the former one, {own['apart']} apart, "
              f"{seconds:.1f} s: {tasks[task]}\n    {named}", flush=True)
        sheet(before, masks, after).save(args.out / f"{task}.png", optimize=True)
    (args.out / "figures.json").write_text(json.dumps(all_figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
