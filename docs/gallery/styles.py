"""The styles of the gallery: emoji that emoji-sd saw, drawn in a style in which it never saw them."""
import json, pathlib, subprocess, sys, tempfile

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path += [str(ROOT / "tests/bench"), str(ROOT / "models/train")]
import edit, emoji_data as data

# Each with its variant, by emoji_data's numbers: 9 is pixel art, 10 a line drawing, 11 a black and white photo. All ten are held out in it.
PICTURES = [("small airplane", 9), ("snowflake", 9), ("roller skate", 9), ("smiling face with heart-eyes", 9), ("alarm clock", 10), ("dolphin", 10),
            ("jellyfish", 10), ("lime", 11), ("rocket", 11), ("donkey", 11)]


def make(name, options):
    """Makes docs/gallery/NAME.png: the pictures above, what became of them below. The style seen is the nearest of the picture's twelve variants."""
    images = [Image.open(HERE / f"inputs/emoji/{what.replace(' ', '-')}.png") for what, _ in PICTURES]
    before, after, seconds, right, former = [data.draw(image, 0) for image in images], [], 0.0, 0, 0
    for (what, variant), image, given in zip(PICTURES, images, before):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            Image.fromarray(given).save(folder / "given.png")
            command = [edit.UNFOG, "edit", folder / "given.png", "--model", ROOT / "models/emoji-sd", "--prompt", data.decorate(what, variant, False), "--backend", "cpu",
                       "--threads", "1", "--quiet", "--json", "--out", folder / "made.png", *[word.replace("NAME", what) for word in options]]
            report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds += json.loads(report)["sampling_seconds"] / len(PICTURES)
            after.append(np.asarray(Image.open(folder / "made.png").convert("RGB")))
        nearest = np.argmin([np.mean((after[-1] - data.draw(image, v).astype(float)) ** 2) for v in range(data.VARIANTS)])
        right, former = right + (nearest == variant), former + (nearest == 0)
    edit.sheet(before, after).save(HERE / f"{name}.png", optimize=True)
    shown = " ".join(["unfog edit PICTURE --model models/emoji-sd", '--prompt "STYLE of NAME"', *[f'"{word}"' if "NAME" in word else word for word in options]])
    figure = f"the picture in the asked style is the nearest of its twelve variants to {right} of {len(PICTURES)}, the plain one to {former}"
    return shown, round(seconds, 1), figure


BELOW = "Emoji of Noto (Apache License 2.0) above, what became of them below: four times pixel art, three line drawings, three black and white photos. None of these was seen in training."
STYLES = [
    ("style-invert", "A style by inversion, from words", f"The noise that leads back to the picture leads to the style that the prompt names.\n{BELOW}",
     lambda: make("style-invert", ["--invert", "--from-prompt", "NAME", "--guidance", "3", "--steps", "20"])),
]
