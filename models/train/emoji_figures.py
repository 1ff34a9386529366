#!/usr/bin/env python3
"""How well emoji-sd draws the 200 caption combinations that it never saw, in English and in Korean, and how far it is from copying.

    emoji_figures.py DATA MODEL --unfog PROGRAM [--steps N] [--guidance G] [--count N] [--out FOLDER]

unfog makes the pictures, one a caption, seed 0, picture number i for caption i. A picture is compared with what the caption means, as emoji_data.py draws it,
and with all other emoji drawn in the same way: `emoji` is the share of pictures that are nearest to the right one of 1135 (chance:
0.1 %), `five` the share where that is among the nearest five, `variant` the share whose background or style is nearest to the right
one of 12. The distance is the mean squared difference of pictures shrunk to 16x16 (so that edges a pixel off count little), colours
from 0 to 1; pixel art is as the plain picture there. `own` is the mean distance to the right picture, `seen` that to the nearest picture of the training set, `others` that of the
right picture itself to the nearest of the training set: a model that copies has a `seen` of nearly 0.
"""
import argparse, json, os, random, subprocess, sys, tempfile

import numpy as np
from PIL import Image

import emoji_data as data


def small(pixels):
    """[64, 64, 3] u8 as [768] from 0 to 1: 16x16 means."""
    return (pixels.reshape(16, 4, 16, 4, 3).mean((1, 3)) / 255).astype(np.float32).ravel()


def distances(a, table):
    return ((table - a) ** 2).mean(-1)


def measure(emoji, table, seen, made):
    """`made`: {(index, variant): pixels}; `table`: [emoji, variants, 768]; `seen`: the training set's rows."""
    figures = {name: [] for name in ("emoji", "five", "variant", "own", "seen", "others")}
    for (i, v), pixels in made.items():
        a = small(pixels)
        nearest = np.argsort(distances(a, table[:, v]))
        figures["emoji"].append(nearest[0] == i)
        figures["five"].append(i in nearest[:5])
        figures["variant"].append(np.argmin(distances(a, table[i])) == v)
        figures["own"].append(distances(a, table[i, v]))
        figures["seen"].append(distances(a, seen).min())
        figures["others"].append(distances(table[i, v], seen).min())
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("model")
    p.add_argument("--unfog", required=True)
    p.add_argument("--steps", default="20")
    p.add_argument("--guidance", default="3")
    p.add_argument("--sampler", default="dpmpp-2m")
    p.add_argument("--count", type=int, default=data.HELD_OUT)
    p.add_argument("--out", help="keep the pictures there, as one sheet a language")
    a = p.parse_args()
    emoji = data.load(a.data)
    left_out = data.held_out(emoji)[: a.count]
    table = np.stack([[small(picture) for picture in variants] for variants in data.pictures(emoji)])
    keep = np.ones(table.shape[:2], bool)
    for i, v in data.held_out(emoji):
        keep[i, v] = False
    result = {}
    for korean in (False, True):
        made = {}
        with tempfile.TemporaryDirectory() as folder:
            for number, (i, v) in enumerate(left_out):
                text = data.decorate(emoji[i].korean if korean else emoji[i].name, v, korean)
                path = os.path.join(folder, "picture.png")
                subprocess.run([a.unfog, "sample", "--model", a.model, "--prompt", text, "--steps", a.steps, "--guidance", a.guidance,
                                "--sampler", a.sampler, "--first", str(number), "--backend", "cpu", "--quiet", "--out", path], check=True)
                made[i, v] = np.asarray(Image.open(path).convert("RGB"))
        result["Korean" if korean else "English"] = measure(emoji, table, table[keep], made)
        if a.out:
            os.makedirs(a.out, exist_ok=True)
            pairs = [np.concatenate([pixels, data.draw(emoji[i].image, v)]) for (i, v), pixels in list(made.items())[:60]]
            rows = [np.concatenate(pairs[r:r + 15], 1) for r in range(0, len(pairs) - 14, 15)]
            Image.fromarray(np.concatenate(rows)).save(os.path.join(a.out, "korean.png" if korean else "english.png"))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
