#!/usr/bin/env python3
"""Trains emoji-sd's text encoder on its own: a caption and its picture's latents are to agree more than with any other of a batch.

    emoji_text.py DATA OUT [--steps N] [--minutes M] [--batch N] [--device cuda]

OUT has tokenizer/ and vae/ by now (emoji_tokenizer.py, emoji_vae.py)

Contrastive training as CLIP's (Radford et al. 2021), with a small convolutional network for the pictures, which is thrown away. From the diffusion loss alone
an encoder learns backgrounds and styles, and what things are called hardly at all. emoji.py takes OUT/text.pt and leaves it as it is. The log
has the share of the 200 held-out captions, in English and Korean, that find their picture among those of all emoji in the same variant.
"""
import argparse, os, random

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

import emoji, emoji_data as data, state


class Pictures(nn.Module):
    """Latents [n, 4, 16, 16] to vectors."""

    def __init__(self, width):
        super().__init__()
        layers, channels = [], 4
        for out, stride in ((48, 1), (96, 2), (192, 2)):
            layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(192 * 16, width))

    def forward(self, x):
        return nn.functional.normalize(self.body(x), dim=-1)


class Words(nn.Module):
    """Ids [n, tokens] to vectors: the state at the end of the text, projected."""

    def __init__(self, text, width):
        super().__init__()
        self.text, self.projection = text, nn.Linear(emoji.WIDTH, width, bias=False)
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def forward(self, ids):
        return nn.functional.normalize(self.projection(self.text(ids).pooler_output), dim=-1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("out")
    state.arguments(p, 3000, 192, 1e-3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    all_ = data.load(a.data)
    tokenizer = CLIPTokenizer.from_pretrained(os.path.join(a.out, "tokenizer"))
    vae = AutoencoderKL.from_pretrained(os.path.join(a.out, "vae")).eval().to(a.device, memory_format=torch.channels_last)
    latents = emoji.latents_of(vae, all_, a.device)
    words, pictures = Words(emoji.text_model(tokenizer), 128).to(a.device), Pictures(128).to(a.device)
    run = state.Run(os.path.join(a.out, "text.pt"), {"words": words, "pictures": pictures}, a)
    rng, left_out = random.Random(f"{a.seed} {run.step}"), data.held_out(all_)
    never = set(left_out)

    def pairs():
        """One variant each of emoji that differ."""
        for i in rng.sample(range(len(all_)), a.batch):
            while (i, variant := 0 if rng.random() < 0.3 else rng.randrange(data.VARIANTS)) in never:
                pass
            yield i, variant

    def draw():
        """Pairs, and the ids of their captions."""
        chosen = list(pairs())
        return torch.tensor(chosen), emoji.ids(tokenizer, [data.caption(all_[i], v, rng) for i, v in chosen])

    def loss_of(ids, x0):
        scores = words.temperature.clamp(max=4.6).exp() * words(ids) @ pictures(x0).T
        target = torch.arange(len(ids), device=ids.device)
        return (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)) / 2

    def test():
        words, pictures = run.average["words"], run.average["pictures"]
        right = []
        with torch.no_grad():
            table = [pictures(latents[:, v].float()) for v in range(data.VARIANTS)]
            for korean in (False, True):
                texts = [data.decorate(all_[i].korean if korean else all_[i].name, v, korean) for i, v in left_out]
                found = words(emoji.ids(tokenizer, texts).to(a.device))
                right += [(table[v] @ one).argmax().item() == i for (i, v), one in zip(left_out, found)]
        return round(sum(right) / len(right), 4)

    drawn = state.ahead(draw)
    while run.goes_on():
        chosen, ids = (x.to(a.device) for x in next(drawn))
        run.update(loss_of, ids, latents[tuple(chosen.T)].float())
        if run.step % 250 == 0:
            run.log(held_out=test())
    run.save()


if __name__ == "__main__":
    main()
