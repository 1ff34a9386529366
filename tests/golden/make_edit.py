#!/usr/bin/env python3
"""Writes the golden runs of pipelines that begin from a picture: what diffusers makes of one from given noise.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors pillow
    /tmp/golden/bin/python tests/golden/make_edit.py

The models are those that make_pipelines.py wrote, with some parts in place of their own. What it writes:

    edit/NAME/           those parts: small random networks and autoencoders, as diffusers saves them (f16 weights that are exact in f32)
    edit.safetensors     the runs: `picture` [3, h, w] and `mask` [h, w] from 0 to 255, `noise` [draws, n, c, h, w] in the order of drawing,
                         where there is a control its picture `hint` [3, h, w], where latents are given these, `given` [1, c, h, w],
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
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

import make_control
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
    # Velocities with PNDM, which diffusers extrapolates as they are.
    dict(pipeline="sd2", kind="", parts="plms-v", guidance=5.0, steps=6),
    dict(pipeline="sd2", kind="Img2Img", parts="plms-v", guidance=5.0, steps=6, strength=0.7),
    dict(pipeline="sd2", kind="Inpaint", parts="plms-v", guidance=3.0, steps=5, strength=0.8),
    dict(pipeline="sd2", kind="", parts="pndm-v", guidance=3.0, steps=6),
    # A named sampler reads the folder's config as its own class does.
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, sampler="dpmpp-2s"),
    dict(pipeline="sd1", kind="", guidance=3.0, steps=7, sampler="deis"),
    dict(pipeline="sd1", kind="Img2Img", guidance=3.0, steps=8, strength=0.7, parts="lms"),
    dict(pipeline="sd1", kind="LCMImg2Img", parts="consistency", guidance=4.0, steps=4, strength=0.5),
    dict(pipeline="sd1", kind="LCMImg2Img", parts="consistency", guidance=8.5, steps=3, strength=0.75),
    dict(pipeline="sd2", kind="ControlNetInpaint", parts="inpaint", guidance=5.0, steps=4, strength=1.0, control="net"),
    dict(pipeline="sd2", kind="ControlNetInpaint", parts="inpaint", guidance=3.0, steps=5, strength=0.8, control="net", scale=0.75,
         share=[0.0, 0.5], size=[16, 24]),
    dict(pipeline="sd2", kind="InstructPix2Pix", parts="instruct", guidance=4.0, image_guidance=1.2, steps=4, control="net",
         share=[0.25, 1.0]),
    dict(pipeline="sd2", kind="Upscale", parts="upscale", guidance=5.0, noise_level=20, steps=4, size=[8, 8], control="net-upscale"),
    dict(pipeline="sdxl", kind="InstructPix2Pix", parts="instruct-xl", guidance=5.0, image_guidance=1.5, steps=4),
    dict(pipeline="sdxl", kind="InstructPix2Pix", parts="instruct-xl", guidance=3.0, image_guidance=1.2, steps=4, negative="blurry"),
    dict(pipeline="sdxl", kind="InstructPix2Pix", parts="cosxl", guidance=4.0, image_guidance=1.5, steps=3),
    # Latents of this size, made larger, in place of the picture.
    dict(pipeline="sd1", kind="Img2Img", guidance=5.0, steps=6, strength=0.6, latents=[4, 4]),
    dict(pipeline="sdxl", kind="Img2Img", guidance=3.0, steps=5, strength=0.7, size=[24, 16], latents=[5, 8]),
]
SAMPLERS = {
    "dpmpp-2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpmpp-2s": (diffusers.DPMSolverSinglestepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
}
# Where a pipeline has another name than its kind.
NAMES = {"LCMImg2Img": "LatentConsistencyModelImg2ImgPipeline"}
# Keys of model_index.json that differ from those of the pipeline's folder, by the name of the parts.
INDEX = {"consistency": ("sd1", {"_class_name": "LatentConsistencyModelPipeline"}),
         "instruct-xl": ("sdxl", {"_class_name": "StableDiffusionXLInstructPix2PixPipeline"}),
         "cosxl": ("sdxl", {"_class_name": "StableDiffusionXLInstructPix2PixPipeline", "is_cosxl_edit": True})}
DRAWS = 10


def small_unet(seed, **more):
    torch.manual_seed(seed)
    own = dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=32, norm_num_groups=4,
               down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
               attention_head_dim=2)
    return halved(UNet2DConditionModel(**own | more))


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
        "plms-v": dict(scheduler=diffusers.PNDMScheduler(**BETAS, **PNDM, skip_prk_steps=True)),
        "pndm-v": dict(scheduler=diffusers.PNDMScheduler(**BETAS, **PNDM, skip_prk_steps=False)),
        "lms": dict(scheduler=diffusers.LMSDiscreteScheduler(**BETAS)),
        "consistency": dict(unet=small_unet(15, time_cond_proj_dim=10), scheduler=diffusers.LCMScheduler(**BETAS)),
        "instruct-xl": dict(unet=small_unet(16, in_channels=8, **XL)),
        "cosxl": dict(unet=small_unet(17, in_channels=8, **XL)),
    }


PNDM = dict(prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1)
XL = dict(use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
          projection_class_embeddings_input_dim=6 * 8 + 24, cross_attention_dim=64)


def nets():
    """ControlNets for those networks; what begins as zeros has something to do."""
    own = dict(in_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
               down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=32)
    made = {}
    for i, (name, more) in enumerate({"net": dict(conditioning_embedding_out_channels=(4, 8)),
                                      "net-upscale": dict(conditioning_embedding_out_channels=(4, 8, 8), num_class_embeds=30)}.items()):
        torch.manual_seed(70 + i)
        made[name] = make_control.halved(ControlNetModel(**own, **more), 80 + i, zeros=0.5)
    return made


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


def given(case):
    """Latents in place of a picture."""
    return torch.randn((1, 4, *case["latents"]), generator=torch.Generator().manual_seed(5))


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


def steer(pipe, net, case, hint, dtype):
    """Steers a pipeline that has no control of its own, by the rule of those that have: the ControlNet sees the noisy channels."""
    if not hasattr(pipe.unet, "plain"):
        pipe.unet.plain = pipe.unet.forward
    n, (start, end), made = case["steps"], case.get("share", [0.0, 1.0]), [0]
    shown = torch.from_numpy(np.array(hint)).permute(2, 0, 1).to(dtype)[None] / 255

    def forward(sample, t, encoder_hidden_states, class_labels=None, **more):
        i, made[0] = made[0] % n, made[0] + 1
        on = 1.0 - float(i / n < start or (i + 1) / n > end)
        told = dict(encoder_hidden_states=encoder_hidden_states, class_labels=class_labels)
        down, mid = net(sample[:, :4], t, controlnet_cond=shown.expand(len(sample), -1, -1, -1),
                        conditioning_scale=case.get("scale", 1.0) * on, return_dict=False, **told)
        return pipe.unet.plain(sample, t, **told, **more, down_block_additional_residuals=down, mid_block_additional_residual=mid)

    pipe.unet.forward = forward


def open_pipeline(case, own, nets):
    folder = FOLDER / case["pipeline"]
    name = NAMES.get(case["kind"], CLASSES[case["pipeline"]] + case["kind"] + "Pipeline")
    if case["kind"] == "ControlNetInpaint":
        own = own | dict(controlnet=nets[case["control"]])
    more = {} if case["pipeline"] == "sdxl" else dict(safety_checker=None, requires_safety_checker=False)
    more |= own
    pipe = getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32, **more)
    if "sampler" in case:
        kind, options = SAMPLERS[case["sampler"]]
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    if case.get("parts") == "cosxl":
        pipe.is_cosxl_edit = True
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, case, rgb, mask, hint, nets, noise, dtype):
    """The latents that the sampler leaves for each image, the pictures from 0 to 1, and the draws that were made."""
    pipe = pipe.to(dtype=dtype)
    if "control" in case:
        net = nets[case["control"]].to(dtype=dtype)
        if case["kind"] != "ControlNetInpaint":
            steer(pipe, net, case, hint, dtype)
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
    if "latents" in case:
        sides = [side // 2 for side in reversed(case["size"])]
        args["image"] = torch.nn.functional.interpolate(given(case).to(dtype), sides, mode="bilinear").repeat(n, 1, 1, 1)
    if "image_guidance" in case:
        args["image_guidance_scale"] = case["image_guidance"]
    if "noise_level" in case:
        args["noise_level"] = case["noise_level"]
    if case["kind"] == "ControlNetInpaint":
        start, end = case.get("share", [0.0, 1.0])
        args |= {"control_image": [hint] * n, "controlnet_conditioning_scale": case.get("scale", 1.0),
                 "control_guidance_start": start, "control_guidance_end": end}
    if "Inpaint" in case["kind"]:
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
    for name, (pipeline, keys) in INDEX.items():
        index = json.loads((FOLDER / pipeline / "model_index.json").read_text()) | keys
        (PARTS / name / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    steering = nets()
    for name, net in steering.items():
        net.to(torch.float16).save_pretrained(PARTS / name)
        net.to(torch.float32)
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        case = dict(prompt="a photo of a red apple", negative=None, size=[16, 16], strength=None) | case
        rgb, mask = picture(case["size"], i)
        w, h = case["size"]
        h, w = (h, w) if case["kind"] == "Upscale" else (h // 2, w // 2)
        noise = torch.randn((DRAWS, 2, 4, h, w), generator=torch.Generator().manual_seed(300 + i))
        # A control's picture has the size of what is made.
        hint, _ = picture([4 * side for side in case["size"]] if case["kind"] == "Upscale" else case["size"], 1000 + i)
        pipe = open_pipeline(case, own.get(case.get("parts"), {}), steering)
        wide, _, _ = run(pipe, case, rgb, mask, hint, steering, noise, torch.float64)
        latents, image, made = run(pipe, case, rgb, mask, hint, steering, noise, torch.float32)
        floor = float((latents.double() - wide).norm() / wide.norm())
        cases.append(case | {"floor": floor, "draws": made})
        tensors |= {f"{i:02}.noise": noise[:made].contiguous(), f"{i:02}.latents": latents.contiguous(),
                    f"{i:02}.image": image.contiguous(),
                    f"{i:02}.picture": torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float().contiguous(),
                    f"{i:02}.mask": torch.from_numpy(np.array(mask)).float().contiguous()}
        if "latents" in case:
            tensors[f"{i:02}.given"] = given(case)
        if "control" in case:
            tensors[f"{i:02}.hint"] = torch.from_numpy(np.array(hint)).permute(2, 0, 1).float().contiguous()
        for part, module in own.get(case.get("parts"), {}).items():
            if "scheduler" not in part:
                module.to(torch.float32)
            if part == "unet" and hasattr(module, "plain"):
                module.forward = module.plain
        print(i, case, f"floor {floor:.1e}", f"range {image.min():.2f} {image.max():.2f}", f"latents {latents.std():.3f}", made)
    for name, size in [("smaller", (9, 7)), ("larger", (40, 23))]:
        rgb, _ = picture((16, 16), 0)
        resized = torch.from_numpy(np.array(rgb.resize(size, resample=Image.Resampling.LANCZOS)))
        tensors[name] = resized.permute(2, 0, 1).float().contiguous()
    save_file(tensors, HERE / "edit.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
