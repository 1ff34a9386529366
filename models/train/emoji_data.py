"""Pictures and captions of emoji: what each variant of a picture looks like and what it is called in English and Korean.

A picture is drawn on a background of one of nine colours, or in one of three styles on white. Every pair of a picture and a variant
is a caption combination; `held_out` names the 200 of them that no training sees, in either language.
"""
import csv, hashlib, io, random, re, tarfile

import numpy as np
from PIL import Image, ImageFilter

SIDE = 64
# Name, Korean name, RGB.
COLOURS = [
    ("white", "하얀", (255, 255, 255)),
    ("red", "빨간", (228, 84, 80)),
    ("orange", "주황색", (244, 164, 84)),
    ("yellow", "노란", (248, 224, 112)),
    ("green", "초록", (120, 190, 120)),
    ("blue", "파란", (104, 152, 224)),
    ("purple", "보라색", (168, 124, 200)),
    ("grey", "회색", (160, 160, 160)),
    ("black", "검은", (24, 24, 24)),
]
STYLES = [("pixel art", "픽셀 아트"), ("line drawing", "선 그림"), ("black and white photo", "흑백 사진")]
VARIANTS = len(COLOURS) + len(STYLES)
HELD_OUT = 200
# People, flags, keys and buttons are left out: faces of 64x64 that differ in a few pixels are too much for a network this small.
LEFT_OUT = re.compile(
    r"^(flag|keycap|family)\b|skin tone|\b(man|men|woman|women|person|people|boy|girl|child|adult|baby|couple|kiss|hands?|fingers?|fist|index|thumbs"
    r"|prince|princess|Claus|angel|hair|ear|nose|foot|leg|biceps|beard|bride|button|arrow|input|o.clock|thirty|superhero|supervillain|mage"
    r"|fairy|vampire|mer\w+|elf|genie|zombie|troll|silhouette|detective|guard|officer|worker|singer|artist|pilot|student|teacher|judge"
    r"|cook|farmer|mechanic|scientist|technologist|firefighter|astronaut|ninja)\b")


class Emoji:
    """One picture: RGBA, its names and its keywords."""

    def __init__(self, file, name, korean, keywords, korean_keywords, image):
        self.file, self.name, self.korean, self.image = file, name, korean, image
        self.keywords, self.korean_keywords = keywords, korean_keywords


def load(folder):
    """The emoji of captions.tsv, in its order, but for those that are left out."""
    images = {}
    with tarfile.open(f"{folder}/noto-png72.tar") as tar:
        for member in tar:
            if member.name.endswith(".png"):
                images[member.name.rsplit("/", 1)[-1]] = tar.extractfile(member).read()
    emoji = []
    with open(f"{folder}/captions.tsv", newline="") as f:
        for row in csv.DictReader(f, delimiter="\t"):
            name = row["name_en"]
            if LEFT_OUT.search(name) or row["file"] not in images:
                continue
            image = Image.open(io.BytesIO(images[row["file"]])).convert("RGBa").resize((SIDE, SIDE), Image.LANCZOS)
            split = lambda text: [word for word in text.split("|") if word]
            emoji.append(Emoji(row["file"], name, row["name_ko"], split(row["keywords_en"]),
                               split(row["keywords_ko"]), image.convert("RGBA")))
    return emoji


def draw(image, variant):
    """The picture of a variant: [64, 64, 3], u8."""
    colour = COLOURS[variant][2] if variant < len(COLOURS) else (255, 255, 255)
    flat = Image.new("RGBA", image.size, colour + (255,))
    flat.alpha_composite(image)
    flat = flat.convert("RGB")
    if variant == len(COLOURS):
        flat = flat.resize((16, 16), Image.BOX).resize((SIDE, SIDE), Image.NEAREST)
    elif variant == len(COLOURS) + 1:
        grey = flat.convert("L")
        wide = grey.filter(ImageFilter.GaussianBlur(1.6))
        edges = np.asarray(grey.filter(ImageFilter.GaussianBlur(0.6)), np.float32) - np.asarray(wide, np.float32)
        alpha = np.asarray(image.getchannel("A").filter(ImageFilter.GaussianBlur(0.8)), np.float32)
        rim = np.abs(alpha - np.asarray(image.getchannel("A").filter(ImageFilter.GaussianBlur(2)), np.float32))
        ink = np.clip(np.abs(edges) * 8 + rim * 2.2, 0, 255).astype(np.uint8)
        flat = Image.merge("RGB", [Image.fromarray(255 - ink)] * 3)
    elif variant == len(COLOURS) + 2:
        flat = flat.convert("L").convert("RGB")
    return np.asarray(flat)


def pictures(emoji):
    """Every picture in every variant: [n, variants, 64, 64, 3], u8."""
    return np.stack([[draw(one.image, variant) for variant in range(VARIANTS)] for one in emoji])


def decorate(text, variant, korean):
    """What a variant of `text` is called."""
    if variant < len(COLOURS):
        colour = COLOURS[variant]
        return f"{colour[1]} 배경의 {text}" if korean else f"{text} on a {colour[0]} background"
    style = STYLES[variant - len(COLOURS)]
    return f"{text}, {style[1]}" if korean else f"{style[0]} of {text}"


def caption(emoji, variant, rng):
    """One of the captions of a variant, in either language. White is often left unsaid."""
    korean = rng.random() < 0.5
    name, words = (emoji.korean, emoji.korean_keywords) if korean else (emoji.name, emoji.keywords)
    how = rng.random()
    if how < 0.1 and words:
        text = ", ".join([name] + rng.sample(words, min(len(words), rng.randint(1, 2))))
    elif how < 0.15 and len(words) > 2:
        text = ", ".join(rng.sample(words, rng.randint(2, 3)))
    else:
        text = name
    if variant == 0 and rng.random() < 0.7:
        return text
    return decorate(text, variant, korean)


def held_out(emoji):
    """The pairs (index, variant) that are left out of all training: not plain ones, one a picture, the same on every machine."""
    order = sorted(range(len(emoji)), key=lambda i: hashlib.sha256(emoji[i].file.encode()).hexdigest())
    digest = lambda i: hashlib.sha256(f"variant {emoji[i].file}".encode()).digest()
    return [(i, 1 + digest(i)[0] % (VARIANTS - 1)) for i in order[:HELD_OUT]]


class Sampler:
    """Draws (index, variant) for training, plain white more often, never a held-out pair."""

    def __init__(self, emoji, seed):
        self.rng, self.count = random.Random(seed), len(emoji)
        self.left_out = set(held_out(emoji))

    def pair(self):
        while True:
            variant = 0 if self.rng.random() < 0.4 else self.rng.randrange(VARIANTS)
            pair = (self.rng.randrange(self.count), variant)
            if pair not in self.left_out:
                return pair

    def draw(self, n):
        return [self.pair() for _ in range(n)]
