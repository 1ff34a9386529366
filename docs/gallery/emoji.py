#!/usr/bin/env python3
"""Makes docs/emoji.md and its pictures: what emoji-sd draws, under which guidance, and with which sampler. The program is $UNFOG, or target/release/unfog."""
import pathlib, re, subprocess, sys, tempfile

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests/bench"))
import edit

MODEL = edit.ROOT / "models/emoji-sd"
STEPS, GUIDANCE, SAMPLER = 20, 3, "dpmpp-2m"

# One line of the sheet each.
PROMPTS = [
    ["red apple", "빨간 사과", "cat face", "고양이 얼굴", "automobile", "자동차", "guitar", "기타"],
    ["red apple on a blue background", "파란 배경의 빨간 사과", "cat face on a green background", "초록 배경의 고양이 얼굴",
     "automobile on a yellow background", "노란 배경의 자동차", "guitar on a black background", "검은 배경의 기타"],
    ["pixel art of red apple", "빨간 사과, 픽셀 아트", "line drawing of cat face", "고양이 얼굴, 선 그림",
     "black and white photo of automobile", "자동차, 흑백 사진", "pixel art of guitar", "기타, 픽셀 아트"],
    ["hamburger", "pizza", "soccer ball", "rocket", "sun", "rose", "tropical fish", "umbrella"],
]
SCALES = [1, 2, 3, 5, 8]
PICTURES = 8


def samplers():
    """All but the one that goes from pictures to noise, as the program names them."""
    said = subprocess.run([edit.UNFOG, "sample", "--sampler", "?"], capture_output=True, text=True).stderr
    return [name for name in re.search("known: (.*)", said)[1].split(", ") if name != "ddim-inverse"]


def draw(prompt, number=0, guidance=GUIDANCE, sampler=SAMPLER, more=()):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/picture.png"
        subprocess.run([edit.UNFOG, "sample", "--model", MODEL, "--prompt", prompt, "--steps", str(STEPS), "--guidance", str(guidance), "--sampler", sampler, *more,
                        "--first", str(number), "--backend", "cpu", "--quiet", "--out", path], check=True)
        return np.asarray(Image.open(path).convert("RGB"))


def sheet(name, rows):
    blank, wide = np.full_like(rows[0][0], 255), max(map(len, rows))
    edit.sheet(*[row + [blank] * (wide - len(row)) for row in rows]).save(HERE / f"emoji-{name}.png", optimize=True)


def main():
    names = samplers()
    sheet("prompts", [[draw(prompt) for prompt in row] for row in PROMPTS])
    guided = [[draw("cat face on a red background", i, scale) for i in range(PICTURES)] for scale in SCALES]
    apples = [[draw("apple", i, more=more) for i in range(PICTURES)] for more in ([], ["--negative", "green apple"], ["--negative", "red apple"])]
    sheet("guidance", guided + apples)
    each = [draw("cat face on a blue background", sampler=name) for name in names]
    sheet("samplers", [each[i:i + 9] for i in range(0, len(each), 9)])
    lines = "\n".join(f"{number}. {'; '.join(row)}" for number, row in enumerate(PROMPTS, 1))
    listed = "\n".join(f"{number}. {', '.join(names[i:i + 9])}" for number, i in enumerate(range(0, len(names), 9), 1))
    (HERE.parent / "emoji.md").write_text(f"""# What emoji-sd draws

Made by [gallery/emoji.py](gallery/emoji.py) with [emoji-sd](../models/emoji-sd/README.md), which says what it can't do: seed 0, {STEPS} steps of {SAMPLER}, guidance
{GUIDANCE} where nothing else is said, none picked from several. The pictures are under the Apache License 2.0, as those are that it learned from.

```
unfog sample --model models/emoji-sd --prompt "red apple" --sampler {SAMPLER} --steps {STEPS} --guidance {GUIDANCE}
```

## Prompts

![Prompts](gallery/emoji-prompts.png)

{lines}

## Guidance and what is not wanted

"cat face on a red background" with `--guidance` of {', '.join(map(str, SCALES))} from above, {PICTURES} pictures each. The last three rows are "apple", "apple" with
`--negative "green apple"`, and with `--negative "red apple"`.

![Guidance](gallery/emoji-guidance.png)

## Samplers

"cat face on a blue background" from the same noise with every sampler, {STEPS} steps each:

![Samplers](gallery/emoji-samplers.png)

{listed}
""")


if __name__ == "__main__":
    main()
