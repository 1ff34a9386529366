#!/usr/bin/env python3
"""Writes tests/golden/tokens.safetensors: what transformers' CLIPTokenizer makes of 2,000 texts.

It installs nothing and needs transformers 5.23.0, numpy and safetensors, and the emoji's names in English and Korean (CLDR's) as a table
with the columns emoji, name_en and name_ko, separated by tabs:

    /tmp/golden/bin/python tests/golden/make_tokens.py captions.tsv        # half a minute

In the file: `text` u8, the texts in UTF-8 one after the other, `text.lengths` u16, their bytes; `sd1.ids` and `sd1.lengths` u16, the ids
that the tokenizer of clip/sd1 makes (start and end included, cut at 77); for `sd2`, `listed` and `bare` (no config at all) the same for
those texts alone where the ids are others, whose numbers are in `NAME.which` u16. A tokenizer.json that transformers saves of each gives
the same ids, which is checked here.
"""

import argparse
import csv
import json
import pathlib
import random
import shutil
import tempfile
import unicodedata

import numpy as np
import transformers
from safetensors.numpy import save_file
from transformers import CLIPTokenizer

HERE = pathlib.Path(__file__).resolve().parent
COUNT = 2000

# Blocks of letters and marks, by script.
SCRIPTS = dict(
    latin=[(0x41, 0x5A), (0x61, 0x7A)], latin_extended=[(0xC0, 0x24F), (0x1E00, 0x1EFF)], greek=[(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    cyrillic=[(0x400, 0x52F)], armenian=[(0x531, 0x587)], hebrew=[(0x591, 0x5F4)], arabic=[(0x610, 0x6FF), (0xFB50, 0xFDFF)],
    devanagari=[(0x900, 0x97F)], bengali=[(0x980, 0x9FF)], tamil=[(0xB80, 0xBFF)], thai=[(0xE01, 0xE5B)], tibetan=[(0xF00, 0xFBC)],
    georgian=[(0x10A0, 0x10FF), (0x1C90, 0x1CBF)], hangul=[(0xAC00, 0xD7A3)], jamo=[(0x1100, 0x11FF)], ethiopic=[(0x1200, 0x137C)],
    cherokee=[(0x13A0, 0x13FD), (0xAB70, 0xABBF)], khmer=[(0x1780, 0x17F9)], mongolian=[(0x1800, 0x18AA)], hiragana=[(0x3041, 0x309F)],
    katakana=[(0x30A0, 0x30FF), (0xFF66, 0xFF9D)], han=[(0x4E00, 0x9FFF), (0x20000, 0x2A6DF)], gothic=[(0x10330, 0x1034A)],
    deseret=[(0x10400, 0x1044F)], adlam=[(0x1E900, 0x1E959)], mathematical=[(0x1D400, 0x1D7FF)], full_width=[(0xFF01, 0xFF5E)],
)

# Separated by broken bars.
EDGES = r"""
a photo of an astronaut riding a horse on mars¦A PHOTO OF AN ASTRONAUT¦masterpiece, best quality, (detailed:1.2), [blurry]¦it's we're I've
I'm he'll she'd can't IT'S WE'RE I'VE I'M HE'LL SHE'D CAN'T¦rock'n'roll 'twas 's's 'ts 're're o'clock's¦‘it’s’ “quoted” it‛s
!¦!!¦!!!¦hello! wow!!!¦! ! !¦a!b¦¡hola!¦8k, 4K, 1080p¦1234567890¦3.14159 1,000,000 1e-5 0x1F¦½ ¾ ² ³ ① ⑳ Ⅷ ⅷ ㊿ 〇 一二三¦١٢٣ ۴۵۶ १२३ ๑๒๓ ０１２
<|startoftext|>¦<|endoftext|>¦a <|endoftext|> b¦<|STARTOFTEXT|>¦A <|EndOfText|> B¦<|endoftext|><|endoftext|>¦<|endoftext|x¦<|startoftext |>
<cat-toy>¦a <Cat-Toy> and a <CAT-TOY>¦<cat toy>¦&amp; &lt;b&gt; &#39; &amp;amp;¦http://example.com/a_b?c=d&e=f#g¦user@example.com¦C++ C# .NET
a_b __init__ snake_case camelCase kebab-case¦...¦…¦--- — – ‐¦/\\|~`@#$%^&*()_+-={}[]:;"'<>,.?¦£€¥₩₿¢¦©®™℠¦←↑→↓⇔∀∃∈∑∫√∞≠≤≥
naïve café résumé¦nai\u0308ve cafe\u0301¦\u1e9b\u0323¦q\u0307\u0323¦\u212b \u2126 \u212a¦\ufb01\ufb02 \u0132¦İstanbul ISPARTA ıi¦STRASSE Straße ẞ¦ΣΊΣΥΦΟΣ ΌΔΟΣ¦ſtop
\u1112\u1161\u11ab\u1100\u116e\u11a8¦한국어 문장입니다. 고양이가 창가에 앉아 있다!¦ㅋㅋㅋ ㅎㅎ ㅠㅠ¦日本語のテキスト、猫が窓辺に座っている。¦ｶﾞｷﾞｸﾞ ガギグ¦中文：一只猫坐在窗边。¦漢字かな交じり文
Кот сидит на окне.¦Γάτα στο παράθυρο¦חתול על החלון¦قطة على النافذة¦खिड़की पर बिल्ली¦แมวบนหน้าต่าง¦მზე და მთვარე¦Կատուն պատուհանին¦ድመት በመስኮት
👍👍🏽👨‍👩‍👧‍👦🏳️‍🌈🇰🇷🇺🇸¦❤️❤︎¦1️⃣#️⃣¦👩🏿‍🚀 in space¦🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f¦🫨🪿¦😀😀😀 😀
a\u200bb¦a\u200db¦a\ufeffb¦\ufeffa¦a\u00adb¦a\u2060b¦\u202eabc\u202c¦a\u0000b¦a\u0001\u0002b¦a\u007fb¦a\u0085b¦a\u001cb\u001fc¦\ufffd¦\uffff\ufffe¦\U0010ffff¦\ue000
a\tb¦a\nb¦a\r\nb¦  a   b  ¦\u00a0a\u00a0¦a\u2003b\u3000c\u2028d\u2029e¦a\u1680b\u180ec\u205fd¦¦¦\u0301¦a\u0301\u0302\u0303\u0304¦\u0301a¦\u20dd
supercalifragilisticexpialidocious¦pneumonoultramicroscopicsilicovolcanoconiosis¦Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft
""".strip("\n").replace("\n", "¦").encode("latin-1", "backslashreplace").decode("unicode_escape").split("¦")


def texts(captions):
    """The texts, each once, in a fixed order."""
    draw = random.Random(77)
    found = dict.fromkeys(EDGES)
    found |= dict.fromkeys(["a" * 1000, "ab " * 200, "가" * 200, "😀" * 100, "a, " * 60, "1" * 200, "x " * 75, "x " * 76])
    found |= dict.fromkeys(f"a{chr(c)}b{chr(c)}" for c in [*range(0x21), *range(0x7F, 0xA1)])
    spaces = [chr(c) for c in range(0x110000) if chr(c).isspace()]
    found |= dict.fromkeys(f"x{c}{c}y {c}z" for c in spaces)
    rows = list(csv.DictReader(open(captions, encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE))
    for row in draw.sample(rows, 250):
        found |= dict.fromkeys([f"{row['emoji']} {row['name_en']}", row["name_ko"], f"a photo of {row['name_en']}{row['emoji']}"])
    scripts = {
        name: [chr(c) for a, b in blocks for c in range(a, b + 1) if unicodedata.category(chr(c))[0] in "LMN"]
        for name, blocks in SCRIPTS.items()
    }
    word = lambda letters: "".join(draw.choices(letters, k=draw.randint(1, 9)))
    between = lambda: draw.choice([" "] * 8 + [", ", ". ", "-", "'", "\u3001", "  ", "\n", "/", "1", "!", "'s "])
    names = sorted(scripts)
    for name in names * 30:
        if len(found) >= COUNT - 150:
            break
        found[" ".join(word(scripts[name]) for _ in range(draw.randint(1, 4)))] = None
    while len(found) < COUNT:
        mixed = [word(scripts[draw.choice(names)]) + between() for _ in range(draw.randint(2, 8))]
        found["".join(mixed)] = None
    return list(found)[:COUNT]


def vocabulary(merges):
    """CLIP's: the bytes as printable characters, the same at a word's end, the merges, start and end."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(0x100 - len(printable))]
    tokens = characters + [c + "</w>" for c in characters] + ["".join(m.split()) for m in merges]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=pathlib.Path, help="table of emoji and their names")
    parser.add_argument("--vocab", type=pathlib.Path, help="a vocab.json that the one made of the merges must equal")
    args = parser.parse_args()
    assert transformers.__version__ == "5.23.0", transformers.__version__
    merges = (HERE / "clip/merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    vocab = vocabulary(merges)
    assert len(vocab) == 49408
    if args.vocab:
        assert json.loads(args.vocab.read_text(encoding="utf-8")) == vocab
    lines = texts(args.captions)
    utf8 = [line.encode() for line in lines]
    assert len(set(utf8)) == COUNT
    u16 = lambda values: np.array(values, dtype=np.uint16)
    tensors = {"text": np.frombuffer(b"".join(utf8), dtype=np.uint8), "text.lengths": u16([len(t) for t in utf8])}
    first = None
    for name in ["sd1", "sd2", "listed", "bare"]:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            if name != "bare":
                shutil.copytree(HERE / "clip" / name, folder, dirs_exist_ok=True)
            shutil.copy(HERE / "clip/merges.txt", folder)
            (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            ids = [tokenizer(line, truncation=True, max_length=77)["input_ids"] for line in lines]
            tokenizer.save_pretrained(folder / "saved")
            again = CLIPTokenizer.from_pretrained(folder / "saved")
            assert ids == [again(line, truncation=True, max_length=77)["input_ids"] for line in lines], name
        which = range(COUNT) if first is None else [i for i in range(COUNT) if ids[i] != first[i]]
        if first is None:
            first = ids
        else:
            tensors[f"{name}.which"] = u16(which)
        tensors[f"{name}.ids"] = u16([id for i in which for id in ids[i]])
        tensors[f"{name}.lengths"] = u16([len(ids[i]) for i in which])
        print(name, len(which), "texts,", len(tensors[f"{name}.ids"]), "ids")
    save_file(tensors, HERE / "tokens.safetensors")


if __name__ == "__main__":
    main()
