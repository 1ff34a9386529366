#!/usr/bin/env python3
"""Writes the folder of a full-size text-to-image pipeline with random f16 weights, as diffusers would save Stable Diffusion 1.5: the
network (random_unet.py), CLIP's text encoder (ViT-L/14), the autoencoder, the tokenizer's config and the scheduler's.

    tests/bench/random_pipeline.py FOLDER --vocabulary FOLDER

For measurements: the shapes and the cost are those of the published model, and what comes out is noise. The vocabulary is a folder with CLIP's
vocab.json and merges.txt. Needs numpy. Every weight is written before the next is made, so memory stays small. The same bytes each time.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

import random_unet

TEXT = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 768,
        "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 77,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "projection_dim": 768, "eos_token_id": 2, "bos_token_id": 0}
CHANNELS = [128, 256, 512, 512]
VAE = {"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": CHANNELS, "down_block_types": ["DownEncoderBlock2D"] * 4,
       "up_block_types": ["UpDecoderBlock2D"] * 4, "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2,
       "norm_num_groups": 32, "sample_size": 512, "scaling_factor": 0.18215}
SCHEDULER = {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
             "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1}
TOKENIZER = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
             "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
INDEX = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"],
         "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
         "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


class Net(random_unet.Net):
    """Names and shapes alone."""

    def __init__(self):
        self.weights = {}


def text_encoder():
    net, c = Net(), TEXT["hidden_size"]
    net.weights["text_model.embeddings.token_embedding.weight"] = (TEXT["vocab_size"], c)
    net.weights["text_model.embeddings.position_embedding.weight"] = (TEXT["max_position_embeddings"], c)
    for i in range(TEXT["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            net.linear(f"{layer}.self_attn.{part}", c, c)
        net.norm(f"{layer}.layer_norm1", c)
        net.linear(f"{layer}.mlp.fc1", c, TEXT["intermediate_size"])
        net.linear(f"{layer}.mlp.fc2", TEXT["intermediate_size"], c)
        net.norm(f"{layer}.layer_norm2", c)
    net.norm("text_model.final_layer_norm", c)
    return net.weights


def vae():
    net, latents = Net(), VAE["latent_channels"]

    def resnet(name, in_c, out_c):
        net.norm(f"{name}.norm1", in_c)
        net.conv(f"{name}.conv1", in_c, out_c, 3)
        net.norm(f"{name}.norm2", out_c)
        net.conv(f"{name}.conv2", out_c, out_c, 3)
        if in_c != out_c:
            net.conv(f"{name}.conv_shortcut", in_c, out_c, 1)

    def middle(half, c):
        resnet(f"{half}.mid_block.resnets.0", c, c)
        net.norm(f"{half}.mid_block.attentions.0.group_norm", c)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            net.linear(f"{half}.mid_block.attentions.0.{part}", c, c)
        resnet(f"{half}.mid_block.resnets.1", c, c)

    def blocks(half, kind, order, layers, sampler):
        c = order[0]
        for i, width in enumerate(order):
            for j in range(layers):
                resnet(f"{half}.{kind}_blocks.{i}.resnets.{j}", c, width)
                c = width
            if i + 1 < len(order):
                net.conv(f"{half}.{kind}_blocks.{i}.{sampler}.0.conv", c, c, 3)

    net.conv("encoder.conv_in", 3, CHANNELS[0], 3)
    blocks("encoder", "down", CHANNELS, VAE["layers_per_block"], "downsamplers")
    middle("encoder", CHANNELS[-1])
    net.norm("encoder.conv_norm_out", CHANNELS[-1])
    net.conv("encoder.conv_out", CHANNELS[-1], 2 * latents, 3)
    net.conv("quant_conv", 2 * latents, 2 * latents, 1)
    net.conv("post_quant_conv", latents, latents, 1)
    net.conv("decoder.conv_in", latents, CHANNELS[-1], 3)
    middle("decoder", CHANNELS[-1])
    blocks("decoder", "up", CHANNELS[::-1], VAE["layers_per_block"] + 1, "upsamplers")
    net.norm("decoder.conv_norm_out", CHANNELS[0])
    net.conv("decoder.conv_out", CHANNELS[0], 3, 3)
    return net.weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--vocabulary", type=pathlib.Path, required=True, help="folder with CLIP's vocab.json and merges.txt")
    args = parser.parse_args()
    put = lambda name, value: (args.folder / name).write_text(json.dumps(value, indent=2) + "\n")
    for part in ("unet", "text_encoder", "vae", "tokenizer", "scheduler"):
        (args.folder / part).mkdir(parents=True, exist_ok=True)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(args.vocabulary / file, args.folder / "tokenizer" / file)
    put("model_index.json", INDEX)
    put("scheduler/scheduler_config.json", SCHEDULER)
    put("tokenizer/tokenizer_config.json", TOKENIZER)
    put("text_encoder/config.json", TEXT)
    put("vae/config.json", VAE)
    text = (random_unet.CONFIGS / "sd15" / "config.json").read_text()
    (args.folder / "unet/config.json").write_text(text)
    parts = {"unet/diffusion_pytorch_model": random_unet.Net(json.loads(text)).weights, "text_encoder/model": text_encoder(),
             "vae/diffusion_pytorch_model": vae()}
    for name, weights in parts.items():
        random_unet.write(args.folder / f"{name}.safetensors", weights, "f16")
        print(f"{name}: {sum(int(np.prod(shape)) for shape in weights.values()):,} parameters")


if __name__ == "__main__":
    main()
