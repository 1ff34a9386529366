#!/usr/bin/env python3
"""Writes guidance.safetensors: what guidance makes of predictions, from diffusers' guiders and from the papers' formulas.

The golden is committed, so neither the build nor the tests need this script. It installs nothing. To run it again:

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 torch numpy safetensors
    /tmp/golden/bin/python tests/golden/make_guidance.py

The metadata key `cases` holds the parameters of each case NN. Its tensors: NN.wanted, NN.none and NN.negative hold the predictions,
[evaluations, images, c, h, w] (random, mostly alike, as predictions under two conditions are), NN.x what was evaluated, NN.out
what guidance makes of them, computed in f64 and stored in f32.
"""

import argparse
import json
import math
import pathlib

import torch
from diffusers import DDIMScheduler
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.guider_utils import rescale_noise_cfg
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
IMAGES = 2


class Cases:
    def __init__(self):
        self.gen = torch.Generator().manual_seed(11)
        self.tensors, self.cases = {}, []

    def predictions(self, evaluations, shape):
        def rand(std):
            return torch.randn((evaluations, IMAGES, *shape), generator=self.gen) * std

        common = rand(1.0)
        return {"wanted": common + rand(0.3), "none": common + rand(0.2), "negative": common + rand(0.3), "x": rand(1.5)}

    def add(self, case, tensors):
        for key, value in tensors.items():
            self.tensors[f"{len(self.cases):02}.{key}"] = value.float().contiguous()
        self.cases.append(case)

    def rule(self, rule, scale, combine, rescale=0.0, evaluations=1, shape=(3, 5, 7), image=(0.0, 1.0), **params):
        """`combine(c, u, n, x, step)` works in f64 on [images, c, h, w]."""
        given = self.predictions(evaluations, shape)
        out = []
        for step in range(evaluations):
            c, u, n, x = (given[key][step].double() for key in ("wanted", "none", "negative", "x"))
            guided = combine(c, u, n, x, step)
            out.append(rescale_noise_cfg(guided, c, rescale) if rescale else guided)
        case = {"kind": "rule", "rule": rule, "scale": scale, "rescale": rescale, "image": list(image)} | params
        self.add(case, given | {"out": torch.stack(out)})


def plain(scale):
    return lambda c, u, n, x, step: u + scale * (c - u)


def projected(scale, parallel, threshold, momentum, image=None):
    """diffusers' APG in the paper's formulation, whose scale counts from the wanted prediction. `image`: of the image a x + b c."""
    buffer = MomentumBuffer(momentum) if momentum else None

    def combine(c, u, n, x, step):
        a, b = image or (0.0, 1.0)
        args = (scale - 1, buffer, parallel, threshold)
        guided = normalized_guidance(a * x + b * c, a * x + b * u, *args, use_original_formulation=True)
        return (guided - a * x) / b

    return combine


def zero_star(scale, zero_steps):
    def combine(c, u, n, x, step):
        if step < zero_steps:
            return torch.zeros_like(c)
        dot, square = (c * u).flatten(1).sum(1), (u * u).flatten(1).sum(1) + 1e-8
        star = (dot / square).view(-1, 1, 1, 1)
        # The same in diffusers, which works in f32.
        theirs = cfg_zero_star_scale(c.flatten(1), u.flatten(1)).view(-1, 1, 1, 1)
        assert torch.allclose(star, theirs.double(), rtol=1e-5)
        return star * u + scale * (c - star * u)

    return combine


def perpendicular(scale, weight):
    """Armandpour et al. 2023, equation 7."""

    def combine(c, u, n, x, step):
        p, q = c - u, n - u
        along = (p * q).flatten(1).sum(1) / (p * p).flatten(1).sum(1)
        return u + scale * (p - weight * (q - along.view(-1, 1, 1, 1) * p))

    return combine


def make_rules(cases):
    for scale in (0.0, 0.5, 1.0, 7.5, -2.0):
        cases.rule("plain", scale, plain(scale))
    cases.rule("plain", 7.5, plain(7.5), rescale=0.7)
    cases.rule("plain", 3.0, plain(3.0), rescale=1.0, shape=(1, 1, 2))
    cases.rule("plain", 2.0, plain(2.0), rescale=0.25, shape=(4, 12, 12))
    for parallel, threshold, momentum in ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 2.5, 0.0), (0.5, 100.0, 0.0), (0.0, 3.0, -0.5), (-0.3, 0.0, 0.75)):
        params = dict(parallel=parallel, threshold=threshold, momentum=momentum)
        evaluations = 4 if momentum else 1
        cases.rule("projected", 6.0, projected(6.0, **params), evaluations=evaluations, **params)
        # Of the image, for a network that predicts noise, alpha-bar 0.3, and one that predicts velocity.
        for image in ((1 / math.sqrt(0.3), -math.sqrt(0.7 / 0.3)), (math.sqrt(0.3), -math.sqrt(0.7))):
            combine = projected(6.0, **params, image=image)
            cases.rule("projected", 6.0, combine, evaluations=evaluations, image=image, **params)
    params = dict(parallel=0.0, threshold=2.5, momentum=-0.5)
    cases.rule("projected", 12.0, projected(12.0, **params), rescale=0.5, evaluations=3, **params)
    cases.rule("zero-star", 4.0, zero_star(4.0, 0), zero_steps=0)
    cases.rule("zero-star", 4.0, zero_star(4.0, 2), evaluations=4, zero_steps=2)
    cases.rule("zero-star", 9.0, zero_star(9.0, 0), rescale=0.7, zero_steps=0)
    for scale, weight in ((7.5, 1.0), (3.0, 0.4), (1.0, 1.5)):
        cases.rule("perpendicular", scale, perpendicular(scale, weight), weight=weight)
    cases.rule("perpendicular", 7.5, perpendicular(7.5, 1.0), rescale=0.7, weight=1.0)


def make_intervals(cases):
    for n in (1, 2, 3, 7, 10, 50):
        for start, stop in ((0.0, 1.0), (0.0, 0.5), (0.3, 0.8), (0.1, 0.1), (0.29, 0.58), (0.99, 1.0), (0.0, 0.0), (0.7, 1.0)):
            guider = ClassifierFreeGuidance(guidance_scale=7.5, start=start, stop=stop)
            guider._num_inference_steps = n
            enabled = []
            for step in range(n):
                guider._step = step
                enabled.append(guider._is_cfg_enabled())
            cases.add({"kind": "interval", "steps": n, "start": start, "stop": stop, "enabled": enabled}, {})


def make_curves(cases):
    for n in (1, 2, 3, 10):
        for first, last in ((7.5, 1.0), (0.0, 4.0)):
            linear = torch.linspace(first, last, n, dtype=torch.float64).tolist()
            cosine = [last + (first - last) * (1 + math.cos(math.pi * i / max(n - 1, 1))) / 2 for i in range(n)]
            cases.add({"kind": "curve", "curve": "linear", "first": first, "last": last, "scales": linear}, {})
            cases.add({"kind": "curve", "curve": "cosine", "first": first, "last": last, "scales": cosine}, {})


def make_plus_plus(cases):
    """CFG++, Chung et al. 2024, algorithm 2: DDIM whose image is guided and whose noise is not. Predictions of noise."""
    steps, scale = 4, 0.6
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(steps)
    given = cases.predictions(steps, (1, 4, 4))
    x = given["x"][0].double()
    given["x"] = given["x"][:1].clone()
    for i, t in enumerate(scheduler.timesteps.tolist()):
        c, u = given["wanted"][i].double(), given["none"][i].double()
        before = t - scheduler.config.num_train_timesteps // steps
        a = scheduler.alphas_cumprod[t].double()
        a_next = scheduler.alphas_cumprod[before].double() if before >= 0 else scheduler.final_alpha_cumprod.double()
        x0 = (x - (1 - a).sqrt() * (u + scale * (c - u))) / a.sqrt()
        x = a_next.sqrt() * x0 + (1 - a_next).sqrt() * u
    cases.add({"kind": "plus-plus", "steps": steps, "scale": scale}, given | {"out": x})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases()
    make_rules(cases)
    make_intervals(cases)
    make_curves(cases)
    make_plus_plus(cases)
    save_file(cases.tensors, args.to / "guidance.safetensors", {"cases": json.dumps(cases.cases)})
    print(f"guidance: {len(cases.cases)} cases")


if __name__ == "__main__":
    main()
