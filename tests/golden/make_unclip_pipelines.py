#!/usr/bin/env python3
"""Writes the golden runs of unCLIP as a whole (Ramesh et al. 2022, as Karlo has it): small random pipelines, and what diffusers makes of them
from given noise. Needs what make_pipelines.py needs, and Pillow:

    /tmp/golden/bin/python tests/golden/make_unclip_pipelines.py

What it writes:

    unclip-pipelines/NAME/             an UnCLIPPipeline and an UnCLIPImageVariationPipeline, as diffusers saves them (f16 weights)
    unclip-pipelines.safetensors       their runs, in f32. Given: the noise of each stage in the order of its draws, `prior_noise`
                                       [draws, n, dim, 1, 1], `decoder_noise` and `super_res_noise` [draws, n, 3, h, w]; of a variation
                                       `picture` [3, h, w], from 0 to 255. Made: `image_embedding` [n, dim], `decoded` [n, 3, h, w],
                                       `latents` and `image` (from 0 to 1) [n, 3, h, w]. The first three again as `exact_...`, with the
                                       coefficients of each step in f64: in f32 the scheduler's `1 - (1 - ratio)` loses all of the
                                       noise's factor at t = 999, which is 1e-4. `floors` in a case: the relative L2 distance of
                                       these from f64, `rounding`: that of `latents` from `exact_latents`.
"""

import copy
import json
import shutil

import numpy as np
import torch
from diffusers import PriorTransformer, UnCLIPImageVariationPipeline, UnCLIPPipeline, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel, pipeline_unclip, pipeline_unclip_image_variation
from diffusers.schedulers import scheduling_unclip
from diffusers.utils import logging
from PIL import Image
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPImageProcessor, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from make import HERE
from make_pipelines import halved, text_config, write_tokenizer
from make_unclip import PLAIN, SIMPLE

FOLDER = HERE / "unclip-pipelines"
DIM, CROSS, TIME, EXTRA = 32, 12, 32, 3
SMALL, LARGE = 8, 20
SCHEDULERS = ("prior_scheduler", "decoder_scheduler", "super_res_scheduler")


def lively(module, gen):
    """As `halved`, with random values where a new network has zeros."""
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim > 1 and p.abs().max() == 0:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.3)
    return halved(module)


def decoder_parts(folder, gen, schedule=dict(clip_sample_range=1.0)):
    tokenizer, vocab = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    text = CLIPTextModelWithProjection(text_config(vocab, hidden_act="quick_gelu", projection_dim=DIM))
    decoder = UNet2DConditionModel(sample_size=SMALL, in_channels=3, out_channels=6, block_out_channels=(8, 16), layers_per_block=1,
                                   cross_attention_dim=CROSS, attention_head_dim=4, norm_num_groups=4, class_embed_type="identity",
                                   resnet_time_scale_shift="scale_shift", **SIMPLE)
    enlarger = lambda: UNet2DModel(sample_size=LARGE, in_channels=6, out_channels=3, block_out_channels=(8, 12), layers_per_block=1,
                                   norm_num_groups=4, resnet_time_scale_shift="scale_shift", **PLAIN)
    proj = UnCLIPTextProjModel(clip_extra_context_tokens=EXTRA, clip_embeddings_dim=DIM, time_embed_dim=TIME, cross_attention_dim=CROSS)
    return dict(
        decoder=lively(decoder, gen), text_encoder=lively(text, gen), tokenizer=tokenizer, text_proj=lively(proj, gen),
        super_res_first=lively(enlarger(), gen), super_res_last=lively(enlarger(), gen),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon", **schedule),
        super_res_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="epsilon"))


def karlo(folder):
    """As Karlo's text to image."""
    torch.manual_seed(31)
    gen = torch.Generator().manual_seed(31)
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=12, num_layers=2, embedding_dim=DIM, num_embeddings=77)
    prior = lively(prior, gen)
    with torch.no_grad():
        prior.clip_std.copy_((prior.clip_std.abs() + 0.2).half())
    return UnCLIPPipeline(
        prior=prior, prior_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0),
        **decoder_parts(folder, gen))


def variation(folder):
    """As Karlo's variations of a picture: another vision tower, other statistics, a picture that is cut."""
    torch.manual_seed(32)
    gen = torch.Generator().manual_seed(32)
    config = CLIPVisionConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=14,
                              patch_size=4, projection_dim=DIM, hidden_act="quick_gelu")
    extractor = CLIPImageProcessor(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
    return UnCLIPImageVariationPipeline(
        image_encoder=lively(CLIPVisionModelWithProjection(config), gen), feature_extractor=extractor,
        **decoder_parts(folder, gen, dict(clip_sample_range=0.8)))


PIPELINES = {"karlo": karlo, "variation": variation}
CASES = [
    dict(pipeline="karlo", prompt="a photo of a red apple", prior_steps=5, steps=4, super_res_steps=3, prior_guidance=4.0, guidance=8.0),
    dict(pipeline="karlo", prompt="the green cat", prior_steps=3, steps=3, super_res_steps=4, prior_guidance=1.0, guidance=1.0),
    dict(pipeline="karlo", prompt="빨간 사과", prior_steps=2, steps=6, super_res_steps=3, prior_guidance=1.0, guidance=3.0),
    dict(pipeline="variation", steps=4, super_res_steps=3, guidance=8.0, size=(23, 31)),
    dict(pipeline="variation", steps=3, super_res_steps=4, guidance=1.0, size=(9, 9)),
]


class Given:
    """Draws once and gives the same noise again, in whatever precision it is asked for."""

    def __init__(self, seed):
        self.generator, self.drawn, self.place = torch.Generator().manual_seed(seed), [], 0

    def __call__(self, shape, dtype=None, **_):
        if self.place == len(self.drawn):
            self.drawn.append(torch.randn(tuple(shape), generator=self.generator))
        noise = self.drawn[self.place]
        assert noise.shape == tuple(shape)
        self.place += 1
        return noise.to(dtype)


def run(pipe, case, given, picture, dtype):
    """The embedding of each picture, what the decoder made of it, what the sampler left, and the pictures."""
    pipe = pipe.to(dtype=dtype)
    given.place, seen = 0, {}
    for module in (scheduling_unclip, pipeline_unclip, pipeline_unclip_image_variation):
        module.randn_tensor = given
    project, decode, enlarge = pipe.text_proj.forward, pipe.decoder_scheduler.step, pipe.super_res_scheduler.step

    def kept(name, step):
        def wrapped(*args, **more):
            out = step(*args, **more)
            seen[name] = out.prev_sample
            return out
        return wrapped

    def projected(**args):
        seen["image_embedding"] = args["image_embeddings"]
        return project(**args)

    pipe.text_proj.forward = projected
    pipe.decoder_scheduler.step, pipe.super_res_scheduler.step = kept("decoded", decode), kept("latents", enlarge)
    args = dict(decoder_num_inference_steps=case["steps"], super_res_num_inference_steps=case["super_res_steps"],
                decoder_guidance_scale=case["guidance"], output_type="np")
    if "prompt" in case:
        args |= dict(prompt=[case["prompt"]] * 2, prior_num_inference_steps=case["prior_steps"],
                     prior_guidance_scale=case["prior_guidance"])
    else:
        args |= dict(image=picture, num_images_per_prompt=2)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        image = pipe(**args).images
    pipe.text_proj.forward = project
    pipe.decoder_scheduler.step, pipe.super_res_scheduler.step = decode, enlarge
    seen["decoded"] = seen["decoded"].clamp(-1, 1)
    return seen, torch.from_numpy(image).permute(0, 3, 1, 2)


def in_f64(pipe):
    """Widens the schedulers' tables, whose values stay."""
    for name in SCHEDULERS:
        if scheduler := getattr(pipe, name, None):
            for table in ("betas", "alphas", "alphas_cumprod"):
                setattr(scheduler, table, getattr(scheduler, table).double())


def stacked(given, case):
    """The noise of each stage."""
    drawn, noise = list(given.drawn), {}
    for stage, steps in (("prior", case.get("prior_steps", 0)), ("decoder", case["steps"]), ("super_res", case["super_res_steps"])):
        # At the end of a stage, at timestep 0, none is drawn.
        draws, drawn = drawn[:steps], drawn[steps:]
        if draws:
            noise[f"{stage}_noise"] = torch.stack(draws).reshape(steps, len(draws[0]), draws[0].shape[1], *draws[0].shape[2:] or (1, 1))
    assert not drawn
    return noise


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    tensors, cases, pipes = {}, [], {}
    for name, make in PIPELINES.items():
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        pipe = make(FOLDER / name)
        pipe.to(torch.float16).save_pretrained(FOLDER / name)
        pipes[name] = pipe.to(torch.float32)
        pipe.set_progress_bar_config(disable=True)
    for i, case in enumerate(CASES):
        pipe, given, picture = pipes[case["pipeline"]], Given(200 + i), None
        if "size" in case:
            rng = np.random.default_rng(i)
            waves = np.stack([np.add.outer(np.sin(np.arange(case["size"][0]) * f), np.cos(np.arange(case["size"][1]) * g))
                              for f, g in ((0.3, 0.2), (0.5, 0.1), (0.1, 0.7))], axis=-1)
            pixels = (127 + 50 * waves + rng.normal(0, 9, waves.shape)).clip(0, 255).astype(np.uint8)
            picture = Image.fromarray(pixels)
            tensors[f"{i:02}.picture"] = torch.from_numpy(pixels).permute(2, 0, 1).float().contiguous()
        seen, image = run(pipe, case, given, picture, torch.float32)
        schedulers = {name: copy.deepcopy(getattr(pipe, name, None)) for name in SCHEDULERS}
        in_f64(pipe)
        exact, _ = run(pipe, case, given, picture, torch.float32)
        wide, _ = run(pipe, case, given, picture, torch.float64)
        pipe.to(torch.float32)
        for name, scheduler in schedulers.items():
            setattr(pipe, name, scheduler)
        rel = lambda a, b: float((a.double() - b).norm() / b.norm())
        floors = {k: rel(v, wide[k]) for k, v in exact.items()}
        cases.append(case | dict(floors=floors, rounding=rel(seen["latents"], exact["latents"].double())))
        made = {k: v.contiguous() for k, v in seen.items()} | dict(image=image.contiguous()) | stacked(given, case)
        made |= {f"exact_{k}": v.contiguous() for k, v in exact.items()}
        tensors |= {f"{i:02}.{k}": v.clone() for k, v in made.items()}
        print(cases[-1], {k: f"{v.std():.2f}" for k, v in seen.items()}, f"clipped {(seen['decoded'].abs() == 1).float().mean():.2f}",
              f"range {image.min():.2f} {image.max():.2f}")
    save_file(tensors, HERE / "unclip-pipelines.safetensors", {"cases": json.dumps(cases, ensure_ascii=False)})


if __name__ == "__main__":
    main()
