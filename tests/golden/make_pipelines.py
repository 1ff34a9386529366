#!/usr/bin/env python3
"""Writes the golden runs of whole text-to-image pipelines: small random models, and what diffusers makes of them from given noise.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors
    /tmp/golden/bin/python tests/golden/make_pipelines.py

What it writes:

    pipelines/NAME/          small random StableDiffusionPipelines, as diffusers saves them (f16 weights that are exact in f32)
    pipelines.safetensors    their runs: `noise` [n, c, h, w], `latents` as the sampler leaves them, `image` [n, 3, h, w] from 0 to 1, in f32;
                             `floor` in a case is the relative L2 distance of the latents in f32 from those in f64
"""

import json
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "pipelines"

# What the vocabulary merges; everything else is spelled byte by byte.
WORDS = "red green blue apple cat dog tree a the of photo drawing blurry".split()


def bytes_to_unicode():
    """The printable characters that stand for bytes (Radford et al. 2019)."""
    known = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in known]
    return [chr(b) for b in known] + [chr(256 + i) for i in range(len(rest))]


def write_tokenizer(folder, pad):
    """A byte-pair vocabulary in CLIP's form, of a few hundred entries. Returns the tokenizer and the number of entries."""
    symbols = bytes_to_unicode()
    vocab = symbols + [s + "</w>" for s in symbols]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            joined = "".join(pair)
            if joined not in vocab:
                vocab.append(joined)
            parts = [joined, *parts[2:]]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(vocab)}, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>",
              "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    special = {key: config[key] for key in ["bos_token", "eos_token", "unk_token", "pad_token"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder), len(vocab)


def halved(module):
    """Rounds every weight to one that f16 holds, and gives norms and biases something to do."""
    gen = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim == 1:
                mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                p.copy_(torch.randn(p.shape, generator=gen) * 0.1 + mean)
            p.copy_(p.half().float())
    return module.eval()


def text_config(vocab, **more):
    return CLIPTextConfig(vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                          max_position_embeddings=77, bos_token_id=vocab - 2, eos_token_id=vocab - 1, **more)


def vae(scaling, **more):
    return AutoencoderKL(block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
                         up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, norm_num_groups=8,
                         sample_size=16, scaling_factor=scaling, **more)


def unet(cross, **more):
    return UNet2DConditionModel(sample_size=8, block_out_channels=(16, 32), layers_per_block=1,
                                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=cross,
                                norm_num_groups=8, **more)


BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd1(folder):
    """As Stable Diffusion 1: quick GELU, epsilon, PNDM."""
    torch.manual_seed(1)
    tokenizer, vocab = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=halved(vae(0.18215)), text_encoder=halved(CLIPTextModel(text_config(vocab, hidden_act="quick_gelu"))),
        tokenizer=tokenizer, unet=halved(unet(32, attention_head_dim=4)), scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)


def sd2(folder):
    """As Stable Diffusion 2.1: GELU, v, DDIM, linear projections, padded with "!"."""
    torch.manual_seed(2)
    tokenizer, vocab = write_tokenizer(folder / "tokenizer", "!")
    scheduler = DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=halved(vae(0.18215)), text_encoder=halved(CLIPTextModel(text_config(vocab, hidden_act="gelu"))),
        tokenizer=tokenizer, unet=halved(unet(32, attention_head_dim=(2, 4), use_linear_projection=True)),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def sdxl(folder):
    """As Stable Diffusion XL: two text encoders, their last but one states, pooled text and sizes as conditions, Euler."""
    torch.manual_seed(3)
    tokenizer, vocab = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    tokenizer_2, _ = write_tokenizer(folder / "tokenizer_2", "!")
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading", use_karras_sigmas=False)
    network = unet(64, attention_head_dim=(2, 4), use_linear_projection=True, transformer_layers_per_block=(1, 2),
                   addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 24)
    second = text_config(vocab, hidden_act="gelu", projection_dim=24)
    return StableDiffusionXLPipeline(
        vae=halved(vae(0.13025)), text_encoder=halved(CLIPTextModel(text_config(vocab, hidden_act="quick_gelu"))),
        text_encoder_2=halved(CLIPTextModelWithProjection(second)), tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        unet=halved(network), scheduler=scheduler, force_zeros_for_empty_prompt=True, add_watermarker=False)


CASES = [
    {"pipeline": "sd1", "prompt": "a photo of a red apple", "negative": None, "guidance": 7.5, "steps": 5},
    {"pipeline": "sd1", "prompt": "빨간 사과", "negative": "blurry drawing", "guidance": 5.0, "steps": 4},
    {"pipeline": "sd1", "prompt": "the green cat", "negative": None, "guidance": 1.0, "steps": 3},
    {"pipeline": "sd2", "prompt": "a blue dog", "negative": None, "guidance": 7.5, "steps": 5},
    {"pipeline": "sdxl", "prompt": "a drawing of the tree", "negative": None, "guidance": 5.0, "steps": 4},
    {"pipeline": "sdxl", "prompt": "a drawing of the tree", "negative": "red", "guidance": 5.0, "steps": 4},
]


def run(pipe, case, noise, dtype):
    """The latents that the sampler leaves for each image, and the pictures from 0 to 1."""
    pipe = pipe.to(dtype=dtype)
    args = {"prompt": [case["prompt"]] * len(noise), "guidance_scale": case["guidance"], "num_inference_steps": case["steps"],
            "latents": noise.to(dtype), "height": 16, "width": 16}
    if case["negative"] is not None:
        args["negative_prompt"] = [case["negative"]] * len(noise)
    with torch.no_grad():
        latents = pipe(**args, output_type="latent").images
        image = pipe(**args, output_type="pt").images
    return latents, image


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    tensors, cases, pipes = {}, [], {}
    for make in [sd1, sd2, sdxl]:
        folder = FOLDER / make.__name__
        pipe = make(folder)
        pipe.to(torch.float16).save_pretrained(folder)
        pipe.to(torch.float32)
        pipe.set_progress_bar_config(disable=True)
        pipes[make.__name__] = pipe
    for i, case in enumerate(CASES):
        pipe = pipes[case["pipeline"]]
        noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(100 + i))
        wide, _ = run(pipe, case, noise, torch.float64)
        latents, image = run(pipe, case, noise, torch.float32)
        floor = float((latents.double() - wide).norm() / wide.norm())
        cases.append({**case, "floor": floor})
        tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous(), f"{i:02}.image": image.contiguous()}
        print(case, f"floor {floor:.1e}", f"range {image.min():.2f} {image.max():.2f}", f"latents {latents.std():.3f}")
    save_file(tensors, HERE / "pipelines.safetensors", {"cases": json.dumps(cases, ensure_ascii=False)})


if __name__ == "__main__":
    main()
