#!/usr/bin/env python3
"""Writes the golden runs of edits by inversion, with masks that are found, and with a coarse part that is kept.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors pillow
    /tmp/golden/bin/python tests/golden/make_invert.py

Texts: diffusers' StableDiffusionDiffEditPipeline on the pipelines that make_pipelines.py wrote, and StableDiffusionPipeline with a callback that
is ILVR's; classes: diffusers' DDIMInverseScheduler and DDIMScheduler around models/mednist-ddpm. Networks run in f32, coefficients in f64.

    invert.safetensors   the runs: `picture` [3, h, w] (of texts) and `given` (a mask) [h, w] from 0 to 255, `noise` [draws, n, c, h, w] in the order of
                         unfog's draws, `mask` [n, h, w] where one is found, `latents` as the sampler leaves them, in f32; `floor` in a case is the
                         relative L2 distance of the latents from those of networks in f64.
"""
import json
import pathlib

import diffusers
import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline, StableDiffusionInpaintPipeline
from diffusers import StableDiffusionPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from make_edit import FOLDER, Drawn, patch, picture

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MAPS, N = 10, 2

CASES = [
    # Of texts. `from` absent: the empty text.
    dict(pipeline="sd1", kind="invert", steps=6, strength=0.8, guidance=3.0, source="a photo of a red apple", prompt="a dog"),
    dict(pipeline="sd2", kind="invert", steps=5, strength=1.0, guidance=3.0, prompt="a photo of a cat", negative="blurry"),
    dict(pipeline="sd1", kind="invert", steps=10, strength=0.35, guidance=1.0, source="the cat", prompt="the cat", size=[24, 16]),
    dict(pipeline="sd1", kind="invert", mask="auto", steps=6, strength=0.8, guidance=5.0, source="a red apple", prompt="a dog",
         size=[24, 16]),
    dict(pipeline="sd2", kind="invert", mask="auto", steps=5, strength=0.7, guidance=3.0, prompt="a dog", size=[16, 24]),
    dict(pipeline="sd1", kind="invert", mask="given", steps=5, strength=0.8, guidance=4.0, source="a cat", prompt="a dog"),
    dict(pipeline="sd2", kind="plain", mask="auto", steps=5, strength=1.0, guidance=3.0, source="a cat", prompt="a dog"),
    dict(pipeline="sd2", kind="plain", coarse=2, steps=5, strength=1.0, guidance=3.0, prompt="a dog"),
    dict(pipeline="sd2", kind="invert", coarse=4, steps=5, strength=0.8, guidance=3.0, prompt="a dog"),
    # Of classes. `from` absent: no class.
    dict(picture="hand-1", kind="invert", steps=6, strength=0.8, guidance=2.0, prompt="5"),
    dict(picture="cxr-1", kind="invert", mask="auto", steps=5, strength=0.6, guidance=1.5, source="2", prompt="4"),
    dict(picture="headct-1", kind="invert", mask="given", parity="table", steps=5, strength=0.8, guidance=1.0, source="5", prompt="1"),
    dict(picture="breastmri-1", kind="plain", coarse=8, steps=5, strength=1.0, guidance=1.5, prompt="0"),
    dict(picture="hand-2", kind="plain", coarse=16, mask="auto", steps=5, strength=0.8, guidance=1.0, source="4", prompt="5"),
]


def wide(scheduler):
    """The scheduler with coefficients in f64."""
    for name in ("alphas_cumprod", "final_alpha_cumprod", "initial_alpha_cumprod"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def low_pass(x, n):
    size = x.shape[-2:]
    small = [side // n for side in size]
    x = F.interpolate(x, size=small, mode="bicubic", antialias=True)
    return F.interpolate(x, size=size, mode="bicubic", antialias=True)


def by_texts(case, rgb, given, noise, dtype):
    """Latents and masks by diffusers' pipelines."""
    load = dict(torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
    plain = StableDiffusionPipeline.from_pretrained(FOLDER / case["pipeline"], **load).to(dtype=dtype)
    config = plain.scheduler.config
    parts = {name: part for name, part in plain.components.items() if name not in ("scheduler", "image_encoder")}
    # DDIM's class would clip latents where PNDM's file does not say; unfog keeps to the file.
    scheduler = wide(DDIMScheduler.from_config(config, clip_sample=False))
    inverse = wide(DDIMInverseScheduler.from_config(config, clip_sample=False))
    pipe = StableDiffusionDiffEditPipeline(**parts, scheduler=scheduler, inverse_scheduler=inverse, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    source, prompt, negative = case.get("source", ""), case["prompt"], case["negative"]
    negatives = None if negative is None else [negative] * N
    run = dict(num_inference_steps=case["steps"], guidance_scale=case["guidance"])
    invert, mask = case["kind"] == "invert", torch.ones(N, *noise.shape[-2:])
    if case["mask"] == "given":
        mask = (given[::2, ::2] >= 128).float().expand(N, -1, -1)
    if case["mask"] == "auto":
        maps = noise[1 if invert else 2:][:MAPS]
        found = []
        # Each image by itself: of several the pipeline would compare each place with the mean of all.
        for i in range(N):
            drawn = iter([noise[0, i:i + 1].repeat(MAPS, 1, 1, 1), maps[:, i]])
            patch(lambda shape, **more: next(drawn).reshape(tuple(shape)).to(dtype))
            found.append(pipe.generate_mask(image=rgb, target_prompt=prompt, source_prompt=source, target_negative_prompt=negative,
                                            source_negative_prompt=negative, **run))
        mask = torch.from_numpy(np.concatenate(found)).float()
    if invert and not case["coarse"]:
        patch(Drawn(noise))
        path = pipe.invert(prompt=[source] * N, image=[rgb] * N, num_inference_steps=case["steps"], inpaint_strength=case["strength"],
                           guidance_scale=1.0, num_reg_steps=0, lambda_auto_corr=0.0, lambda_kl=0.0).latents
        latents = pipe(prompt=[prompt] * N, negative_prompt=negatives, mask_image=mask[:, None].clone(), image_latents=path,
                       inpaint_strength=case["strength"], output_type="latent", **run).images
        return latents, mask
    if case["mask"] == "auto":
        # What a mask of the picture's size becomes is the mask that was found.
        shown = [Image.fromarray(np.kron(one.numpy(), np.ones((2, 2))).astype(np.uint8) * 255) for one in mask]
        paint = StableDiffusionInpaintPipeline(**parts, scheduler=scheduler, requires_safety_checker=False)
        paint.set_progress_bar_config(disable=True)
        patch(Drawn(torch.cat([noise[:2], noise[:1]])))
        latents = paint(prompt=[prompt] * N, negative_prompt=negatives, image=[rgb] * N, mask_image=shown, strength=case["strength"],
                        width=rgb.size[0], height=rgb.size[1], output_type="latent", **run).images
        return latents, mask
    # ILVR: the coarse part of what is known at the level that a step has reached.
    patch(Drawn(noise))
    known = pipe.prepare_image_latents(pipe.image_processor.preprocess(rgb).repeat(N, 1, 1, 1), N, dtype, None)
    steps, path, begin = case["steps"], None, noise[-1].to(dtype)
    scheduler.set_timesteps(steps)
    if invert:
        patch(Drawn(noise))
        path = pipe.invert(prompt=[source] * N, image=[rgb] * N, num_inference_steps=steps, inpaint_strength=case["strength"],
                           guidance_scale=1.0, num_reg_steps=0, lambda_auto_corr=0.0, lambda_kl=0.0).latents
        begin = path[:, 0]

    def keep(pipe, i, t, kwargs):
        x, left = kwargs["latents"], len(scheduler.timesteps) - i - 1
        if path is not None:
            known_now = path[:, i + 1] if i + 1 < path.shape[1] else known
        elif left:
            known_now = scheduler.add_noise(known, noise[1].to(dtype), scheduler.timesteps[i + 1])
        else:
            known_now = known
        return {"latents": x + low_pass(known_now - x, case["coarse"])}

    plain = StableDiffusionPipeline(**parts, scheduler=scheduler, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    made = int(steps * case["strength"])
    if made < steps:
        # Its timesteps are those of the run's end.
        scheduler.timesteps_all = scheduler.set_timesteps
        scheduler.set_timesteps = lambda n, device=None, **more: (
            scheduler.timesteps_all(n), setattr(scheduler, "timesteps", scheduler.timesteps[n - made:]))
    latents = plain(prompt=[prompt] * N, negative_prompt=negatives, latents=begin, callback_on_step_end=keep, output_type="latent", **run,
                    width=rgb.size[0], height=rgb.size[1]).images
    return latents, mask


def by_classes(case, grey, given, noise, dtype):
    """Images and masks by diffusers' schedulers around mednist-ddpm."""
    model = ROOT / "models/mednist-ddpm"
    net = UNet2DModel.from_pretrained(model / "unet", torch_dtype=torch.float32).to(dtype).eval()
    invert, mask = case["kind"] == "invert", None
    # What clipping takes away is not found again: inversion goes without, there and back.
    scheduler = wide(DDIMScheduler.from_pretrained(model / "scheduler", clip_sample=not invert))
    inverse = wide(DDIMInverseScheduler.from_config(scheduler.config))
    none, source, asked = 6, int(case.get("source", 6)), int(case["prompt"])
    steps, guidance, table = case["steps"], case["guidance"], case.get("parity") == "table"
    made = int(steps * case["strength"])
    scheduler.set_timesteps(steps), inverse.set_timesteps(steps)
    noise = noise.to(dtype)
    x0 = (grey / 127.5 - 1).to(dtype)[None].repeat(N, 1, 1, 1)

    def predict(x, t, label, guidance=1.0):
        of = lambda label: net(x, t, class_labels=torch.full((len(x),), label)).sample
        return of(label) if guidance == 1.0 else of(none) + guidance * (of(label) - of(none))

    if case["mask"] == "given":
        mask = (given >= 128).float().expand(N, -1, -1)
    if case["mask"] == "auto":
        maps, t = noise[0 if invert else 1:][:MAPS], scheduler.timesteps[steps - int(steps * 0.5)]
        found = []
        for i in range(N):
            x = scheduler.add_noise(x0[i:i + 1].repeat(MAPS, 1, 1, 1), maps[:, i], t)
            value = (predict(x, t, asked) - predict(x, t, source)).abs().mean([0, 1])
            found.append((value > 1.5 * value.mean()).float())
        mask = torch.stack(found)
    begin, path = steps - made, [x0]
    if invert:
        for t in inverse.timesteps[:made]:
            path.append(inverse.step(predict(path[-1], t, source), t, path[-1]).prev_sample)
        x = path[-1]
    elif case["strength"] == 1.0 and (mask is not None or case["coarse"]):
        x = noise[0]
    else:
        x = scheduler.add_noise(x0, noise[0], scheduler.timesteps[begin])

    def known(step):
        if invert:
            return path[steps - step]
        return x0 if step == steps else scheduler.add_noise(x0, noise[0], scheduler.timesteps[step])

    for step in range(begin, steps):
        t = scheduler.timesteps[step]
        x = scheduler.step(predict(x, t, asked, guidance), t, x).prev_sample
        if case["coarse"]:
            x = x + low_pass(known(step + 1) - x, case["coarse"])
        if mask is not None:
            # diffusers' DiffEdit puts back what was there a step before.
            late = invert and not table
            x = mask[:, None] * x + (1 - mask[:, None]) * known(step if late else step + 1)
    return x, mask


def main():
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        case = dict(negative=None, size=[16, 16], mask=None, coarse=None) | case
        own = "picture" in case
        shown, given = picture([64, 64] if own else case["size"], 500 + i)
        if own:
            shown = Image.open(ROOT / f"docs/gallery/inputs/{case['picture']}.png")
            values = torch.from_numpy(np.array(shown)).float()[None]
        else:
            values = torch.from_numpy(np.array(shown)).permute(2, 0, 1).float()
        given = torch.from_numpy(np.array(given)).float()
        w, h = shown.size
        latents = [1, h, w] if own else [4, h // 2, w // 2]
        invert, auto = case["kind"] == "invert", case["mask"] == "auto"
        draws = (0 if own else 1) + (0 if invert else 1) + (MAPS if auto else 0)
        run = lambda dtype: by_classes(case, values, given, noise, dtype) if own else by_texts(case, shown, given, noise, dtype)
        # Random networks may differ nowhere more than elsewhere: another seed.
        for seed in range(700 + i, 2000, 100):
            # What half floats hold: the file has half the size.
            noise = torch.randn((max(draws, 1), N, *latents), generator=torch.Generator().manual_seed(seed)).half().float()
            with torch.no_grad():
                made, mask = run(torch.float32)
            if mask is None or mask.amax([1, 2]).min() == 1:
                break
        with torch.no_grad():
            exact, same = run(torch.float64)
        if auto:
            assert torch.equal(same, mask), "a mask that rounding decides is no golden"
            tensors[f"{i:02}.mask"] = mask.half()
        floor = float((made.double() - exact).norm() / exact.norm())
        cases.append(case | {"floor": floor, "draws": draws})
        tensors |= {f"{i:02}.noise": noise.half(), f"{i:02}.latents": made.contiguous()}
        tensors |= {} if own else {f"{i:02}.picture": values.contiguous()}
        tensors |= {f"{i:02}.given": given.contiguous()} if case["mask"] == "given" else {}
        print(i, case, f"floor {floor:.1e} latents {made.std():.3f}", "" if mask is None else f"mask {mask.mean([1, 2]).tolist()}", flush=True)
    save_file(tensors, HERE / "invert.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
