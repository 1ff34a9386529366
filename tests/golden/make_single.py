#!/usr/bin/env python3
"""Writes tests/golden/single.safetensors: what diffusers makes of whole models that lie in one file under their original names.

It installs nothing and needs diffusers 0.42.1, transformers 5.23.0 and torch:

    /tmp/golden/bin/python tests/golden/make_single.py        # some seconds

The files themselves are not kept: their weights follow from their names and shapes by a rule (`values`), which the test has too. Shapes are
those of latent-diffusion and OpenCLIP (make_original.py), weights come to diffusers through its own conversion, and the tokenizer is that of
make_pipelines.py.

In the file: for each case `noise` [n, 4, 8, 8], `latents` as the sampler leaves them and `image` [n, 3, h, w] from 0 to 1, in f32; in the
metadata `cases`, with the distance of f32 from f64 (`floor`), and `shapes`, by model.
"""

import json
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as S
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import make_original as O
import make_pipelines as P

HERE = pathlib.Path(__file__).resolve().parent
MASK = (1 << 64) - 1


def seed(name):
    """FNV-1a of the name."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def values(name, shape):
    """splitmix64 of the seed and the index; uniform, with a variance of a third to four thirds of 1 / fan-in, so that the scale is a
    power of two and every value is exact in f32. Gammas are about 1."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(seed(name)) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(54)).astype(np.float32) - np.float32(511.5)
    fan = 64 if len(shape) == 1 else int(np.prod(shape[1:]))
    log = 0
    while 4**log < fan:
        log += 1
    out = unit * np.float32(2.0 ** (1 - log - 9))
    if len(shape) == 1 and name.endswith("weight"):
        out = out + np.float32(1)
    return torch.from_numpy(out.reshape(shape).astype(np.float32))


def unet_config(linear, heads, cross, **more):
    return dict(sample_size=8, block_out_channels=(64, 128) if linear else (32, 64), layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=cross, attention_head_dim=heads, use_linear_projection=linear, **more)


def text_config(vocab, layers, act, **more):
    return CLIPTextConfig(vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=1,
                          hidden_act=act, max_position_embeddings=77, bos_token_id=vocab - 2, eos_token_id=vocab - 1, **more)


def open_clip(prefix, config, layers, projection=None):
    """OpenCLIP's text half with so many layers."""
    of = CLIPTextConfig(**{**config.to_dict(), "num_hidden_layers": layers - 1})
    shapes = {name.removeprefix("cond_stage_model.model."): shape for name, shape in O.open_clip(of).items()}
    if projection:
        shapes["text_projection"] = [config.hidden_size, projection]
    return {prefix + name: shape for name, shape in shapes.items()}


def load(network, converted):
    O.check(network, converted)
    return network.eval()


def make(name, folder):
    """The shapes of a model's file, and diffusers' pipeline of it."""
    pad = {"sd1": "<|endoftext|>", "sd2": "!", "sdxl": "<|endoftext|>"}[name]
    tokenizer, vocab = P.write_tokenizer(folder / name, pad)
    linear = name != "sd1"
    shapes = O.unet([64, 128] if linear else [32, 64], 1, [1, 0, 2 if name == "sdxl" else 1], 128 if name == "sdxl" else 64, linear,
                    32 + 6 * 256 if name == "sdxl" else None)
    shapes |= O.vae([32, 64], 1)
    first = text_config(vocab, 2, "gelu" if name == "sd2" else "quick_gelu")
    second = text_config(vocab, 3, "gelu", projection_dim=32)
    if name == "sd1":
        shapes |= O.clip(first)
    elif name == "sd2":
        shapes |= open_clip("cond_stage_model.model.", first, 3)
    else:
        clip = O.clip(first).items()
        shapes |= {n.replace("cond_stage_model.", "conditioner.embedders.0."): shape for n, shape in clip}
        shapes |= open_clip("conditioner.embedders.1.model.", second, 3, 32)
    file = {name: values(name, shape) for name, shape in shapes.items()}

    more = dict(transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=32 + 6 * 256) if name == "sdxl" else {}
    unet = UNet2DConditionModel(**unet_config(linear, (1, 2) if linear else 8, 128 if name == "sdxl" else 64, **more))
    load(unet, S.convert_ldm_unet_checkpoint(dict(file), dict(unet.config)))
    vae = AutoencoderKL(block_out_channels=[32, 64], layers_per_block=1, latent_channels=4, down_block_types=["DownEncoderBlock2D"] * 2,
                        up_block_types=["UpDecoderBlock2D"] * 2, sample_size=16, scaling_factor=0.13025 if name == "sdxl" else 0.18215)
    load(vae, S.convert_ldm_vae_checkpoint(dict(file), dict(vae.config)))
    # The layer that Stable Diffusion 2 doesn't use is the last of three here.
    S.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE[:] = [key.replace(".23.", ".2.") for key in S.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE]
    text = CLIPTextModel(first)
    if name == "sd1":
        load(text, S.convert_ldm_clip_checkpoint(dict(file)))
    elif name == "sd2":
        file.pop("cond_stage_model.model.text_projection")
        load(text, S.convert_open_clip_checkpoint(text, dict(file)))
    else:
        load(text, S.convert_ldm_clip_checkpoint(dict(file), remove_prefix="conditioner.embedders.0.transformer."))
    parts = dict(vae=vae, text_encoder=text.eval(), tokenizer=tokenizer, unet=unet)
    if name != "sdxl":
        # What diffusers takes for such files: of stable-diffusion-v1-5 and stable-diffusion-2-1.
        settings = dict(**P.BETAS, set_alpha_to_one=False, steps_offset=1)
        scheduler = PNDMScheduler(**settings, skip_prk_steps=True) if name == "sd1" else DDIMScheduler(
            **settings, clip_sample=False, prediction_type="v_prediction")
        return shapes, StableDiffusionPipeline(**parts, scheduler=scheduler, safety_checker=None, feature_extractor=None,
                                               requires_safety_checker=False)
    last = CLIPTextModelWithProjection(second)
    load(last, S.convert_open_clip_checkpoint(last, dict(file), prefix="conditioner.embedders.1.model."))
    tokenizer_2, _ = P.write_tokenizer(folder / "sdxl2", "!")
    scheduler = EulerDiscreteScheduler(**P.BETAS, steps_offset=1, timestep_spacing="leading")
    return shapes, StableDiffusionXLPipeline(**parts, text_encoder_2=last.eval(), tokenizer_2=tokenizer_2, scheduler=scheduler,
                                             force_zeros_for_empty_prompt=True, add_watermarker=False)


CASES = [
    {"model": "sd1", "prompt": "a photo of a red apple", "negative": None, "guidance": 7.5, "steps": 4},
    {"model": "sd1", "prompt": "the cat", "negative": "blurry", "guidance": 4.0, "steps": 3, "prediction": "v", "sampler": "ddim"},
    {"model": "sd2", "prompt": "a blue dog", "negative": None, "guidance": 7.5, "steps": 4},
    {"model": "sd2", "prompt": "a blue dog", "negative": "tree", "guidance": 3.0, "steps": 3, "prediction": "epsilon"},
    {"model": "sdxl", "prompt": "a drawing of the tree", "negative": None, "guidance": 5.0, "steps": 4},
    {"model": "sdxl", "prompt": "a drawing of the tree", "negative": "red", "guidance": 5.0, "steps": 3},
]


def main():
    import tempfile
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    assert transformers.__version__ == "5.23.0", transformers.__version__
    tensors, cases, shapes, pipes = {}, [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ["sd1", "sd2", "sdxl"]:
            shapes[name], pipes[name] = make(name, pathlib.Path(folder))
            pipes[name].set_progress_bar_config(disable=True)
            print(name, sum(int(np.prod(s)) for s in shapes[name].values()), "values")
        for i, case in enumerate(CASES):
            pipe = pipes[case["model"]]
            before = pipe.scheduler
            if "prediction" in case:
                kind = {"v": "v_prediction"}.get(case["prediction"], case["prediction"])
                pipe.scheduler = DDIMScheduler.from_config(before.config, prediction_type=kind, clip_sample=False)
            noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(200 + i))
            wide, _ = P.run(pipe, case, noise, torch.float64)
            latents, image = P.run(pipe, case, noise, torch.float32)
            pipe.scheduler = before
            floor = float((latents.double() - wide).norm() / wide.norm())
            cases.append({**case, "floor": floor})
            tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous(), f"{i:02}.image": image.contiguous()}
            print(case, f"floor {floor:.1e}", f"range {image.min():.2f} {image.max():.2f}", f"latents {latents.std():.3f}")
    save_file(tensors, HERE / "single.safetensors", {"cases": json.dumps(cases, ensure_ascii=False), "shapes": json.dumps(shapes)})


if __name__ == "__main__":
    main()
