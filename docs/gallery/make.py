#!/usr/bin/env python3
"""Makes docs/gallery.md and its pictures, from the scans in docs/gallery/inputs: each task's command, pictures, time and figure.

    make.py --classifier FILE [--only TASK,TASK] [--backend NAME]

FILE: the weights of models/train/classifier.py. The program is $UNFOG, or target/release/unfog. With --only the other tasks' pictures and figures
(gallery/figures.json) stay as they are. A task is a line in EDITS, STYLES or RESTORES; the figure of the latter two is a text that their functions return.
"""
import argparse, json, pathlib, sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests/bench"))
import edit as bench
# Name, title, what it shows, and a function that makes docs/gallery/NAME.png and returns (command, seconds, figure).
from restores import RESTORES
from styles import STYLES

# Name, title, what it shows.
EDITS = [
    ("strength", "Changed from noise (`--strength`)",
     "A share of the noise is added and taken off again under another class (SDEdit). At this strength little but shades is left of the scan; less of it keeps more,\nand changes the class less surely."),
    ("mask", "A part made anew (`--mask IMAGE`)",
     "The lower right quarter (the mask between) is made anew under the scan's own class; all else stays to the bit."),
    ("invert", "Another class by inversion (`--invert`)",
     "The noise that leads back to the scan is found by DDIM backwards, and leads to another class from there."),
    ("found", "A mask that is found (`--invert --mask auto`)",
     "Where the predictions for both classes differ (the masks between) is made anew from the inverted scan; the rest is held to it (DiffEdit).\nSuch masks are for edits of a part. Here another class is another picture, so that most results are patchwork: the example shows what is found."),
    ("coarse", "The style of another class (`--keep-coarse`)",
     "From noise alone under another class, while the coarse part of the content, 32 by 32 pixels, is put back after every step (ILVR).\nWith 16 by 16 more of the content stays, and fewer show the class. Guidance pulls against what is put back: at 3 four of ten show it."),
]
OPTIONS = bench.TASKS | {"mask": "--mask {inputs}/mask.png --class {was} --guidance 2 --steps 20"}


def edits(net, name, backend):
    before = [bench.read(bench.INPUTS / f"{scan}.png") for scan, _, _ in bench.SCANS]
    options = OPTIONS[name].replace("{inputs}", str(bench.INPUTS))
    after, masks, seconds = bench.edit(options, backend)
    if name == "mask":
        masks = [bench.read(bench.INPUTS / "mask.png")] * len(after)
    bench.sheet(before, masks, after).save(HERE / f"{name}.png", optimize=True)
    own = bench.figures(net, before, after)
    figure = f"{own['apart']:.0f} of 255 from the scans (root mean square)"
    if name != "mask":
        figure = f"a classifier sees the asked class in {own['asked']} of {own['of']} and the former one in {own['former']}; {figure}"
    shown = OPTIONS[name].replace("{inputs}", "docs/gallery/inputs").format(was="WAS", asked="ASKED")
    return dict(command=f"unfog edit SCAN --model models/mednist-ddpm {shown}", seconds=round(seconds, 1), figure=figure)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--classifier", required=True), p.add_argument("--only", default=""), p.add_argument("--backend", default="cpu")
    args = p.parse_args()
    net = bench.classifier.load(args.classifier)
    kept = HERE / "figures.json"
    figures = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = args.only.split(",") if args.only else [name for name, *_ in EDITS + STYLES + RESTORES]
    for name, *_ in EDITS:
        if name in wanted:
            figures[name] = edits(net, name, args.backend)
            print(name, figures[name], flush=True)
    for name, _, _, make in STYLES + RESTORES:
        if name in wanted:
            figures[name] = dict(zip(("command", "seconds", "figure"), make()))
    kept.write_text(json.dumps(figures, indent=2) + "\n")
    arrows = ", ".join(f"{bench.CLASSES[was]} to {bench.CLASSES[asked]}" for _, was, asked in bench.SCANS)
    text = f"""# Gallery

Made by [gallery/make.py](gallery/make.py) from [ten scans](gallery/inputs/README.md) that no model here has seen in training, with the small model
[mednist-ddpm](../models/mednist-ddpm/README.md), all with seed 0, none picked from several. Each edit has another class to go to:
{arrows}.
Scans are above, what became of them below. Times are seconds of sampling a scan on one thread of a small server that had other work beside it. Classes are seen by
[a classifier](../models/train/classifier.py) that names 99.2 % of MedNIST's 600 test scans right.
The pictures are under CC BY-SA 4.0, as the scans are, but for those of emoji. They are not for diagnosis.
"""
    for name, title, says, *_ in EDITS + STYLES + RESTORES:
        if name in figures:
            own = figures[name]
            text += f"\n## {title}\n\n{says}\n\n```\n{own['command']}\n```\n\n![{title}](gallery/{name}.png)\n\n{own['seconds']} s; {own['figure']}.\n"
    (HERE.parent / "gallery.md").write_text(text)


if __name__ == "__main__":
    main()
