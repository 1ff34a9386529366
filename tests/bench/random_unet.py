#!/usr/bin/env python3
"""Writes the folder of a full-size UNet2DConditionModel with random weights: config.json as published, and safetensors. The configs
are those in unets/: of stable-diffusion-v1-5, stable-diffusion-2-1 and stable-diffusion-xl-base-1.0.

    tests/bench/random_unet.py {sd15,sd21,sdxl} FOLDER [--dtype f16|f32]

For measurements and for comparisons with other programs: the shapes and the cost are those of the published models, and what
comes out is noise. Needs numpy. Every weight is written before the next is made, so memory stays small. The same bytes each time.

Weights are normal with the variance 1 / fan-in, and the last layer of every residual branch is a third of that, so that activations
stay of the size of their input; gammas are 1, betas and biases small.
"""

import argparse
import json
import pathlib
import struct
import zlib

import numpy as np

CONFIGS = pathlib.Path(__file__).resolve().parent / "unets"


class Net:
    """The names and shapes of a network's weights."""

    def __init__(self, config):
        self.weights = {}
        self.config = config
        channels = config["block_out_channels"]
        count = len(channels)
        each = lambda value: value if isinstance(value, list) else [value] * count
        depth = each(config.get("transformer_layers_per_block", 1))
        self.time_dim = 4 * channels[0]
        self.conv("conv_in", config["in_channels"], channels[0], 3)
        self.mlp("time_embedding", channels[0])
        if config.get("addition_embed_type") == "text_time":
            self.mlp("add_embedding", config["projection_class_embeddings_input_dim"])
        skips, c = [channels[0]], channels[0]
        for i, kind in enumerate(config["down_block_types"]):
            for j in range(config["layers_per_block"]):
                self.resnet(f"down_blocks.{i}.resnets.{j}", c, channels[i])
                c = channels[i]
                if kind.startswith("CrossAttn"):
                    self.transformer(f"down_blocks.{i}.attentions.{j}", c, depth[i])
                skips.append(c)
            if i + 1 < count:
                self.conv(f"down_blocks.{i}.downsamplers.0.conv", c, c, 3)
                skips.append(c)
        self.resnet("mid_block.resnets.0", c, c)
        self.transformer("mid_block.attentions.0", c, depth[-1])
        self.resnet("mid_block.resnets.1", c, c)
        for i, kind in enumerate(config["up_block_types"]):
            level = count - 1 - i
            for j in range(config["layers_per_block"] + 1):
                self.resnet(f"up_blocks.{i}.resnets.{j}", c + skips.pop(), channels[level])
                c = channels[level]
                if kind.startswith("CrossAttn"):
                    self.transformer(f"up_blocks.{i}.attentions.{j}", c, depth[level])
            if i + 1 < count:
                self.conv(f"up_blocks.{i}.upsamplers.0.conv", c, c, 3)
        self.norm("conv_norm_out", c)
        self.conv("conv_out", c, config["out_channels"], 3)

    def conv(self, name, in_c, out_c, kernel):
        self.weights[f"{name}.weight"] = (out_c, in_c, kernel, kernel)
        self.weights[f"{name}.bias"] = (out_c,)

    def linear(self, name, in_c, out_c, bias=True):
        self.weights[f"{name}.weight"] = (out_c, in_c)
        if bias:
            self.weights[f"{name}.bias"] = (out_c,)

    def norm(self, name, c):
        self.weights[f"{name}.weight"] = (c,)
        self.weights[f"{name}.bias"] = (c,)

    def mlp(self, name, in_c):
        self.linear(f"{name}.linear_1", in_c, self.time_dim)
        self.linear(f"{name}.linear_2", self.time_dim, self.time_dim)

    def resnet(self, name, in_c, out_c):
        self.norm(f"{name}.norm1", in_c)
        self.conv(f"{name}.conv1", in_c, out_c, 3)
        self.linear(f"{name}.time_emb_proj", self.time_dim, out_c)
        self.norm(f"{name}.norm2", out_c)
        self.conv(f"{name}.conv2", out_c, out_c, 3)
        if in_c != out_c:
            self.conv(f"{name}.conv_shortcut", in_c, out_c, 1)

    def transformer(self, name, c, depth):
        linear = self.config.get("use_linear_projection", False)
        project = (lambda n: self.linear(n, c, c)) if linear else (lambda n: self.conv(n, c, c, 1))
        self.norm(f"{name}.norm", c)
        project(f"{name}.proj_in")
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for n, source in ((1, c), (2, self.config["cross_attention_dim"])):
                self.norm(f"{block}.norm{n}", c)
                self.linear(f"{block}.attn{n}.to_q", c, c, bias=False)
                self.linear(f"{block}.attn{n}.to_k", source, c, bias=False)
                self.linear(f"{block}.attn{n}.to_v", source, c, bias=False)
                self.linear(f"{block}.attn{n}.to_out.0", c, c)
            self.norm(f"{block}.norm3", c)
            self.linear(f"{block}.ff.net.0.proj", c, 8 * c)
            self.linear(f"{block}.ff.net.2", 4 * c, c)
        project(f"{name}.proj_out")


BRANCH_ENDS = ("conv2.weight", "proj_out.weight", "to_out.0.weight", "ff.net.2.weight")


def values(name, shape, kind):
    """The values of a weight, from a seed that is made of its name."""
    if len(shape) == 1:
        std, mean = 0.02, 1.0 if "norm" in name and name.endswith("weight") else 0.0
    else:
        std, mean = np.prod(shape[1:]) ** -0.5 / (3 if name.endswith(BRANCH_ENDS) else 1), 0.0
    gen = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return (gen.standard_normal(shape, np.float32) * np.float32(std) + np.float32(mean)).astype(kind)


def write(path, weights, dtype):
    kind = {"f16": np.float16, "f32": np.float32}[dtype]
    size = np.dtype(kind).itemsize
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in weights.items():
        start, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": dtype.upper(), "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in weights.items():
            file.write(values(name, shape, kind).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(folder.name for folder in CONFIGS.iterdir()))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", choices=("f16", "f32"), default="f16")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    text = (CONFIGS / args.model / "config.json").read_text()
    (args.folder / "config.json").write_text(text)
    weights = Net(json.loads(text)).weights
    write(args.folder / "diffusion_pytorch_model.safetensors", weights, args.dtype)
    print(f"{args.model}: {sum(int(np.prod(s)) for s in weights.values()):,} parameters")


if __name__ == "__main__":
    main()
