#!/usr/bin/env python3
"""Writes small random ControlNets and T2I adapters for the pipelines of make_pipelines.py, and what diffusers makes with them from given
noise.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors pillow
    /tmp/golden/bin/python tests/golden/make_control.py

What it writes:

    control/NAME/          controls as diffusers saves them (f16 weights that are exact in f32); control/unet-xl is a network of Stable
                           Diffusion XL whose first block has no attention, for the pipeline `sdxl` in place of its own
    control/NAME.png       the pictures that they see
    control.safetensors    runs: `noise` [n, c, h, w] and `latents` as the sampler leaves them, in f32; in a case `floor` is the relative L2
                           distance of the latents in f32 from those in f64, `effect` how far they are from those without control
"""

import json
import pathlib
import shutil

import torch
from diffusers import ControlNetModel, MultiAdapter, StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline
from diffusers import StableDiffusionPipeline, StableDiffusionXLAdapterPipeline, StableDiffusionXLControlNetPipeline
from diffusers import StableDiffusionXLPipeline, T2IAdapter, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "control"
PLAIN = {"sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def halved(module, seed, zeros=0.0):
    """Rounds every weight to one that f16 holds, and gives norms, biases and what begins as zeros something to do."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim == 1:
                mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                p.copy_(torch.randn(p.shape, generator=gen) * 0.1 + mean)
            elif name.startswith(("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")):
                p.copy_(torch.randn(p.shape, generator=gen) * zeros / p[0].numel() ** 0.5)
            p.copy_(p.half().float())
    return module.eval()


def pipeline(case, dtype):
    kind = PLAIN[case["pipeline"]]
    pipe = kind.from_pretrained(HERE / "pipelines" / case["pipeline"], torch_dtype=dtype)
    if case.get("unet"):
        pipe.register_modules(unet=UNet2DConditionModel.from_pretrained(FOLDER / case["unet"], torch_dtype=dtype))
    return pipe


def write():
    for name, seed, mode in [("a", 1, "RGB"), ("b", 2, "RGB"), ("grey", 3, "L")]:
        gen = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (16, 16, 3 if mode == "RGB" else 1), generator=gen).to(torch.uint8).numpy()
        Image.fromarray(pixels.squeeze(), mode).save(FOLDER / f"{name}.png")
    # One for each family; the first takes blue first.
    nets = [("sd1", "net-sd1", "bgr"), ("sd2", "net-sd2", "rgb"), ("sdxl", "net-sdxl", "rgb")]
    for i, (name, to, order) in enumerate(nets):
        torch.manual_seed(20 + i)
        unet = UNet2DConditionModel.from_pretrained(HERE / "pipelines" / name / "unet")
        net = ControlNetModel.from_unet(unet, controlnet_conditioning_channel_order=order,
                                        conditioning_embedding_out_channels=(4, 8), load_weights_from_unet=False)
        halved(net, 30 + i, zeros=0.5).to(torch.float16).save_pretrained(FOLDER / to)
    torch.manual_seed(40)
    xl = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 2, 4),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24)
    halved(xl, 41).to(torch.float16).save_pretrained(FOLDER / "unet-xl")
    adapters = [
        ("adapter-full", dict(adapter_type="full_adapter", in_channels=1, channels=[16, 32], downscale_factor=2)),
        ("adapter-light", dict(adapter_type="light_adapter", in_channels=3, channels=[16, 32], downscale_factor=2)),
        ("adapter-xl", dict(adapter_type="full_adapter_xl", in_channels=3, channels=[8, 16, 16, 16], downscale_factor=4)),
    ]
    for i, (name, config) in enumerate(adapters):
        torch.manual_seed(50 + i)
        halved(T2IAdapter(num_res_blocks=2, **config), 60 + i).to(torch.float16).save_pretrained(FOLDER / name)


CASES = [
    {"pipeline": "sd1", "controls": ["net-sd1"], "images": ["a"], "scales": [1.0], "prompt": "a photo of a red apple"},
    {"pipeline": "sd1", "controls": ["net-sd1"], "images": ["b"], "scales": [0.625], "prompt": "the green cat", "negative": "blurry"},
    {"pipeline": "sd1", "controls": ["net-sd1", "net-sd2"], "images": ["a", "b"], "scales": [0.75, 0.5], "prompt": "a blue dog"},
    {"pipeline": "sd2", "controls": ["net-sd2"], "images": ["grey"], "scales": [1.0], "prompt": "a blue dog"},
    {"pipeline": "sdxl", "controls": ["net-sdxl"], "images": ["a"], "scales": [0.75], "prompt": "a drawing of the tree"},
    {"pipeline": "sd1", "controls": ["adapter-full"], "images": ["grey"], "scales": [1.0], "prompt": "a photo of a red apple"},
    {"pipeline": "sd1", "controls": ["adapter-light"], "images": ["a"], "scales": [0.75], "prompt": "the green cat", "negative": "blurry"},
    {"pipeline": "sdxl", "unet": "unet-xl", "controls": ["adapter-xl"], "images": ["b"], "scales": [0.875],
     "prompt": "a drawing of the tree"},
    # For a part of the run: PLMS makes 5 evaluations in 4 steps.
    {"pipeline": "sd1", "controls": ["net-sd1"], "images": ["a"], "scales": [1.0], "shares": [[0.0, 0.5]], "prompt": "a blue dog"},
    {"pipeline": "sd1", "controls": ["net-sd1", "net-sd2"], "images": ["a", "b"], "scales": [0.75, 0.5],
     "shares": [[0.0, 0.6], [0.25, 1.0]], "prompt": "the green cat"},
    {"pipeline": "sdxl", "controls": ["net-sdxl"], "images": ["a"], "scales": [0.75], "shares": [[0.5, 1.0]],
     "prompt": "a drawing of the tree"},
    {"pipeline": "sdxl", "unet": "unet-xl", "controls": ["adapter-xl"], "images": ["b"], "scales": [0.875], "shares": [[0.0, 0.5]],
     "prompt": "a drawing of the tree"},
]


def run(case, noise, dtype, steered):
    pipe, more = pipeline(case, dtype), {}
    images = [Image.open(FOLDER / f"{name}.png") for name in case["images"]]
    xl, adapter = case["pipeline"] == "sdxl", case["controls"][0].startswith("adapter")
    parts = {k: v for k, v in pipe.components.items() if k not in ("image_encoder",)}
    if steered and adapter:
        net = T2IAdapter.from_pretrained(FOLDER / case["controls"][0], torch_dtype=dtype)
        kind = StableDiffusionXLAdapterPipeline if xl else StableDiffusionAdapterPipeline
        parts |= {} if xl else {"requires_safety_checker": False}
        pipe = kind(**parts, adapter=net)
        more = {"image": images[0], "adapter_conditioning_scale": case["scales"][0]}
        if "shares" in case:
            more["adapter_conditioning_factor"] = case["shares"][0][1]
    elif steered:
        nets = [ControlNetModel.from_pretrained(FOLDER / name, torch_dtype=dtype) for name in case["controls"]]
        one = len(nets) == 1
        kind = StableDiffusionXLControlNetPipeline if xl else StableDiffusionControlNetPipeline
        parts |= {"add_watermarker": False} if xl else {"requires_safety_checker": False}
        pipe = kind(**parts, controlnet=nets[0] if one else nets)
        more = {"image": images[0] if one else images, "controlnet_conditioning_scale": case["scales"][0] if one else case["scales"]}
        starts, ends = zip(*case.get("shares", [[0.0, 1.0]] * len(nets)))
        more |= {"control_guidance_start": list(starts), "control_guidance_end": list(ends)}
    pipe.set_progress_bar_config(disable=True)
    args = {"prompt": case["prompt"], "negative_prompt": case.get("negative"), "guidance_scale": case["guidance"],
            "num_inference_steps": case["steps"], "latents": noise.to(dtype), "height": 16, "width": 16}
    with torch.no_grad():
        return pipe(**args, **more, output_type="latent").images


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    write()
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        case = {**case, "guidance": 5.0, "steps": 4}
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(400 + i))
        latents, wide = [run(case, noise, dtype, True) for dtype in [torch.float32, torch.float64]]
        plain = run(case, noise, torch.float32, False)
        apart = lambda a, b: float((a.double() - b).norm() / b.norm())
        case |= {"floor": apart(latents, wide), "effect": apart(latents, plain.double())}
        print(case)
        cases.append(case)
        tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous()}
    save_file(tensors, HERE / "control.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
