#!/usr/bin/env python3
"""Writes the golden runs of pipelines that begin from a picture: what diffusers makes of one from given noise.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors pillow
    /tmp/golden/bin/python tests/golden/make_edit.py

The models are those that make_pipelines.py wrote, with some parts in place of their own. What it writes:

    edit/NAME/           those parts: small random networks and autoencoders, as diffusers saves them (f16 weights that are exact in f32)
    edit.safetensors     the runs: `picture` [3, h, w] and `mask` [h, w] from 0 to 255, `noise` [draws, n, c, h, w] in the order of drawing,
                         `latents` as the sampler leaves them, `image` [n, 3, h, w] from 0 to 1, in f32; `floor` in a case is the relative L2
                         distance of the latents in f32 from those in f64. `resized` is the first picture by PIL's Lanczos filter.
"""

import json
import pathlib
import shutil
import sys

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

from make_pipelines import BETAS, FOLDER, halved

HERE = pathlib.Path(__file__).resolve().parent
PARTS = HERE / "edit"
# What stands in for the file's own parts, by the name of the folder in edit/.
CLASSES = {"sd1": "StableDiffusion", "sd2": "StableDiffusion", "sdxl": "StableDiffusionXL"}

CASES = [
    dict(pipeline="sd1", kind="Img2Img", guidance=7.5, steps=5, strength=0.6),
    dict(pipeline="sd1", kind="Img2Img", guidance=4.0, steps=6, strength=0.34, size=[24, 16]),
    dict(pipeline="sd2", kind="Img2Img", guidance=5.0, steps=5, strength=0.8, negative="blurry"),
    dict(pipeline="sd2", kind="Img2Img", guidance=1.0, steps=3, strength=1.0),
    dict(pipeline="sdxl", kind="Img2Img", guidance=5.0, steps=5, strength=0.5),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, sampler="dpmpp-2m"),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, sampler="unipc"),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, parts="single"),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, parts="deis"),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, sampler="heun"),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, sampler="euler-a"),
    dict(pipeline="sd2", kind="Inpaint", guidance=7.5, steps=4, strength=1.0),
    dict(pipeline="sd2", kind="Inpaint", guidance=3.0, steps=5, strength=0.6, negative="red"),
    dict(pipeline="sdxl", kind="Inpaint", guidance=5.0, steps=4, strength=0.75),
    dict(pipeline="sd1", kind="Inpaint", guidance=3.0, steps=5, strength=0.8, sampler="euler-a"),
    dict(pipeline="sd1", kind="Inpaint", guidance=7.5, steps=4, strength=1.0),
    dict(pipeline="sd1", kind="Inpaint", guidance=3.0, steps=6, strength=0.7),
    dict(pipeline="sd1", kind="Inpaint", guidance=3.0, steps=5, strength=0.8, sampler="heun"),
    dict(pipeline="sd2", kind="Inpaint", parts="inpaint", guidance=7.5, steps=4, strength=1.0),
    dict(pipeline="sd2", kind="Inpaint", parts="inpaint", guidance=3.0, steps=5, strength=0.8, size=[16, 24]),
    dict(pipeline="sd1", kind="InstructPix2Pix", parts="instruct", guidance=7.5, image_guidance=1.5, steps=4, sampler="euler-a"),
    dict(pipeline="sd2", kind="InstructPix2Pix", parts="instruct", guidance=4.0, image_guidance=1.2, steps=4, negative="blurry"),
    dict(pipeline="sd2", kind="InstructPix2Pix", parts="instruct", guidance=1.0, image_guidance=1.5, steps=3),
    dict(pipeline="sd2", kind="Upscale", parts="upscale", guidance=5.0, noise_level=20, steps=4, size=[8, 12]),
    dict(pipeline="sd2", kind="Upscale", parts="upscale", guidance=1.0, noise_level=0, steps=3, size=[8, 8]),
    dict(pipeline="sd1", kind="Img2Img", parts="lcm", guidance=4.0, steps=6, strength=0.5),
    dict(pipeline="sd1", kind="", parts="lcm", guidance=8.5, steps=4),
    dict(pipeline="sd1", kind="", parts="turbo", guidance=1.0, steps=1),
    dict(pipeline="sd1", kind="Img2Img", parts="turbo", guidance=1.0, steps=2, strength=0.5),
]
SAMPLERS = {
    "dpmpp-2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}),
}
DRAWS = 10


def small_unet(seed, **more):
    torch.manual_seed(seed)
    return halved(UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, norm_num_groups=4, attention_head_dim=2, **more))


def parts():
    """The parts that stand in for a pipeline's own, by name."""
    torch.manual_seed(12)
    large = AutoencoderKL(block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3,
                          up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, latent_channels=4, norm_num_groups=4,
                          sample_size=32, scaling_factor=0.08333)
    return {
        "inpaint": dict(unet=small_unet(11, in_channels=9)),
        "instruct": dict(unet=small_unet(13, in_channels=8)),
        "upscale": dict(unet=small_unet(14, in_channels=7, num_class_embeds=30), vae=halved(large),
                        low_res_scheduler=diffusers.DDPMScheduler(**BETAS)),
        "lcm": dict(unet=small_unet(15, time_cond_proj_dim=10), scheduler=diffusers.LCMScheduler(**BETAS)),
        "single": dict(scheduler=diffusers.DPMSolverSinglestepScheduler(**BETAS)),
        "deis": dict(scheduler=diffusers.DEISMultistepScheduler(**BETAS)),
        "turbo": dict(scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")),
    }


def picture(size, seed):
    """A picture with shapes in it, and a mask whose edges are grey."""
    w, h = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    planes = [np.sin(x / 3 + c) * 60 + np.cos(y / (2 + c)) * 50 + 128 + rng.normal(0, 12, (h, w)) for c in range(3)]
    rgb = np.stack(planes, -1).clip(0, 255).round().astype(np.uint8)
    distance = np.hypot(x - w * 0.6, y - h * 0.4)
    mask = ((0.35 * w - distance) * 60 + 128).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(rgb), Image.fromarray(mask)


class Drawn:
    """Hands out noise in the order in which diffusers draws it."""

    def __init__(self, noise):
        self.noise, self.made = noise, 0

    def __call__(self, shape, generator=None, device=None, dtype=None, layout=None):
        draw = self.noise[self.made]
        self.made += 1
        return draw.flatten(1)[:, : int(np.prod(tuple(shape)[1:]))].reshape(tuple(shape)).to(dtype)


def patch(drawn):
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.") and "randn_tensor" in vars(module):
            module.randn_tensor = drawn


def open_pipeline(case, own):
    folder = FOLDER / case["pipeline"]
    name = CLASSES[case["pipeline"]] + case["kind"] + "Pipeline"
    more = {} if case["pipeline"] == "sdxl" else dict(safety_checker=None, requires_safety_checker=False)
    more |= own
    pipe = getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32, **more)
    if "sampler" in case:
        kind, options = SAMPLERS[case["sampler"]]
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, case, rgb, mask, noise, dtype):
    """The latents that the sampler leaves for each image, the pictures from 0 to 1, and the draws that were made."""
    pipe = pipe.to(dtype=dtype)
    n = noise.shape[1]
    args = {"prompt": [case["prompt"]] * n, "guidance_scale": case["guidance"], "num_inference_steps": case["steps"]}
    if case["negative"] is not None:
        args["negative_prompt"] = [case["negative"]] * n
    if case["strength"] is not None:
        args["strength"] = case["strength"]
    if case["kind"] == "":
        args |= {"width": rgb.size[0], "height": rgb.size[1]}
    else:
        args["image"] = [rgb] * n
    if "image_guidance" in case:
        args["image_guidance_scale"] = case["image_guidance"]
    if "noise_level" in case:
        args["noise_level"] = case["noise_level"]
    if case["kind"] == "Inpaint":
        args |= {"mask_image": [mask] * n, "width": rgb.size[0], "height": rgb.size[1]}
    results = []
    for output in ["latent", "pt"]:
        drawn = Drawn(noise)
        patch(drawn)
        with torch.no_grad():
            results.append(pipe(**args, output_type=output).images)
    return *results, drawn.made


def main():
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    shutil.rmtree(PARTS, ignore_errors=True)
    own = parts()
    for name, modules in own.items():
        for part, module in modules.items():
            if "scheduler" in part:
                module.save_pretrained(PARTS / name / part)
                continue
            module.to(torch.float16).save_pretrained(PARTS / name / part)
            module.to(torch.float32)
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        case = dict(prompt="a photo of a red apple", negative=None, size=[16, 16], strength=None) | case
        rgb, mask = picture(case["size"], i)
        w, h = case["size"]
        h, w = (h, w) if case["kind"] == "Upscale" else (h // 2, w // 2)
        noise = torch.randn((DRAWS, 2, 4, h, w), generator=torch.Generator().manual_seed(300 + i))
        pipe = open_pipeline(case, own.get(case.get("parts"), {}))
        wide, _, _ = run(pipe, case, rgb, mask, noise, torch.float64)
        latents, image, made = run(pipe, case, rgb, mask, noise, torch.float32)
        floor = float((latents.double() - wide).norm() / wide.norm())
        cases.append(case | {"floor": floor, "draws": made})
        tensors |= {f"{i:02}.noise": noise[:made].contiguous(), f"{i:02}.latents": latents.contiguous(),
                    f"{i:02}.image": image.contiguous(),
                    f"{i:02}.picture": torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float().contiguous(),
                    f"{i:02}.mask": torch.from_numpy(np.array(mask)).float().contiguous()}
        for part, module in own.get(case.get("parts"), {}).items():
            if "scheduler" not in part:
                module.to(torch.float32)
        print(i, case, f"floor {floor:.1e}", f"range {image.min():.2f} {image.max():.2f}", f"latents {latents.std():.3f}", made)
    for name, size in [("smaller", (9, 7)), ("larger", (40, 23))]:
        rgb, _ = picture((16, 16), 0)
        resized = torch.from_numpy(np.array(rgb.resize(size, resample=Image.Resampling.LANCZOS)))
        tensors[name] = resized.permute(2, 0, 1).float().contiguous()
    save_file(tensors, HERE / "edit.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
