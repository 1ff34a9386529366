#!/usr/bin/env python3
"""Writes tests/golden/original.json: the names of Stable Diffusion's weights in its own files and in diffusers.

It installs nothing and needs diffusers 0.42.1, transformers 5.23.0 and torch:

    /tmp/golden/bin/python tests/golden/make_original.py        # some seconds

The original names and shapes follow from the networks of latent-diffusion and OpenCLIP, which are walked through here (`unet`, `vae`,
`clip`, `open_clip`). Which of diffusers' names is which is what diffusers' own conversion does with a file of such tensors, each of which
holds its number; that the result fits the network is checked by loading it, strictly.

In the file, by model (`sd1`, `sd2`, `sdxl`: small, but with the marks of the real ones): `shapes`, those of the original file, and for
`unet`, `vae` and `text`: `config`, diffusers', and `names`, from diffusers' name to the original one, or to that, a part and of how many.
"""

import argparse
import json
import pathlib

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as S
from transformers import CLIPTextConfig, CLIPTextModel

HERE = pathlib.Path(__file__).resolve().parent


def linear(name, outputs, inputs, bias=True):
    return {f"{name}.weight": [outputs, inputs], **({f"{name}.bias": [outputs]} if bias else {})}


def conv(name, outputs, inputs, size):
    return {f"{name}.weight": [outputs, inputs, size, size], f"{name}.bias": [outputs]}


def norm(name, channels):
    return {f"{name}.weight": [channels], f"{name}.bias": [channels]}


def transformer(name, c, context, depth, is_linear):
    project = linear if is_linear else lambda name, outputs, inputs: conv(name, outputs, inputs, 1)
    shapes = norm(f"{name}.norm", c) | project(f"{name}.proj_in", c, c)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, keys in [("attn1", c), ("attn2", context)]:
            shapes |= linear(f"{block}.{attention}.to_q", c, c, False) | linear(f"{block}.{attention}.to_out.0", c, c)
            for part in "kv":
                shapes |= linear(f"{block}.{attention}.to_{part}", c, keys, False)
        shapes |= linear(f"{block}.ff.net.0.proj", 8 * c, c) | linear(f"{block}.ff.net.2", c, 4 * c)
        for i in range(1, 4):
            shapes |= norm(f"{block}.norm{i}", c)
    return shapes | project(f"{name}.proj_out", c, c)


def unet(channels, layers, depths, context, is_linear, adm=None, inputs=4):
    """latent-diffusion's UNetModel: `depths` are the transformer blocks of each level, the last one's those in the middle."""
    time = 4 * channels[0]

    def resnet(name, c_in, c_out):
        shapes = norm(f"{name}.in_layers.0", c_in) | conv(f"{name}.in_layers.2", c_out, c_in, 3)
        shapes |= linear(f"{name}.emb_layers.1", c_out, time)
        shapes |= norm(f"{name}.out_layers.0", c_out) | conv(f"{name}.out_layers.3", c_out, c_out, 3)
        return shapes | (conv(f"{name}.skip_connection", c_out, c_in, 1) if c_in != c_out else {})

    attention = lambda name, c, depth: transformer(name, c, context, depth, is_linear) if depth else {}
    shapes = linear("time_embed.0", time, channels[0]) | linear("time_embed.2", time, time)
    if adm:
        shapes |= linear("label_emb.0.0", time, adm) | linear("label_emb.0.2", time, time)
    shapes |= conv("input_blocks.0.0", channels[0], inputs, 3)
    c, skips, block = channels[0], [channels[0]], 1
    for level, width in enumerate(channels):
        for _ in range(layers):
            shapes |= resnet(f"input_blocks.{block}.0", c, width)
            shapes |= attention(f"input_blocks.{block}.1", width, depths[level])
            c, block = width, block + 1
            skips.append(c)
        if level + 1 < len(channels):
            shapes |= conv(f"input_blocks.{block}.0.op", c, c, 3)
            block += 1
            skips.append(c)
    shapes |= resnet("middle_block.0", c, c) | attention("middle_block.1", c, depths[-1]) | resnet("middle_block.2", c, c)
    block = 0
    for level, width in reversed(list(enumerate(channels))):
        for i in range(layers + 1):
            shapes |= resnet(f"output_blocks.{block}.0", c + skips.pop(), width)
            shapes |= attention(f"output_blocks.{block}.1", width, depths[level])
            c = width
            if level and i == layers:
                shapes |= conv(f"output_blocks.{block}.{2 if depths[level] else 1}.conv", c, c, 3)
            block += 1
    shapes |= norm("out.0", c) | conv("out.2", 4, c, 3)
    return {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()}


def vae(channels, layers, latents=4):
    """latent-diffusion's AutoencoderKL."""

    def resnet(name, c_in, c_out):
        shapes = norm(f"{name}.norm1", c_in) | conv(f"{name}.conv1", c_out, c_in, 3)
        shapes |= norm(f"{name}.norm2", c_out) | conv(f"{name}.conv2", c_out, c_out, 3)
        return shapes | (conv(f"{name}.nin_shortcut", c_out, c_in, 1) if c_in != c_out else {})

    def middle(half, c):
        shapes = resnet(f"{half}.mid.block_1", c, c) | resnet(f"{half}.mid.block_2", c, c) | norm(f"{half}.mid.attn_1.norm", c)
        for part in ["q", "k", "v", "proj_out"]:
            shapes |= conv(f"{half}.mid.attn_1.{part}", c, c, 1)
        return shapes

    c = channels[0]
    shapes = conv("encoder.conv_in", c, 3, 3)
    for level, width in enumerate(channels):
        for i in range(layers):
            shapes |= resnet(f"encoder.down.{level}.block.{i}", c, width)
            c = width
        if level + 1 < len(channels):
            shapes |= conv(f"encoder.down.{level}.downsample.conv", c, c, 3)
    shapes |= middle("encoder", c) | norm("encoder.norm_out", c) | conv("encoder.conv_out", 2 * latents, c, 3)
    shapes |= conv("decoder.conv_in", c, latents, 3) | middle("decoder", c)
    for level, width in reversed(list(enumerate(channels))):
        for i in range(layers + 1):
            shapes |= resnet(f"decoder.up.{level}.block.{i}", c, width)
            c = width
        if level:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", c, c, 3)
    shapes |= norm("decoder.norm_out", c) | conv("decoder.conv_out", 3, c, 3)
    shapes |= conv("quant_conv", 2 * latents, 2 * latents, 1) | conv("post_quant_conv", latents, latents, 1)
    return {f"first_stage_model.{name}": shape for name, shape in shapes.items()}


def clip(config):
    """transformers' CLIPTextModel as it was when these files were made: everything in `text_model`."""
    with torch.device("meta"):
        names = CLIPTextModel(config).state_dict()
    bare = {name.removeprefix("text_model."): list(tensor.shape) for name, tensor in names.items()}
    return {f"cond_stage_model.transformer.text_model.{name}": shape for name, shape in bare.items()}


def open_clip(config):
    """OpenCLIP's text half, with the last layer that Stable Diffusion 2 doesn't use."""
    c, inner = config.hidden_size, config.intermediate_size
    shapes = {"token_embedding.weight": [config.vocab_size, c], "positional_embedding": [config.max_position_embeddings, c]}
    for layer in range(config.num_hidden_layers + 1):
        block = f"transformer.resblocks.{layer}"
        shapes |= norm(f"{block}.ln_1", c) | norm(f"{block}.ln_2", c)
        shapes |= {f"{block}.attn.in_proj_weight": [3 * c, c], f"{block}.attn.in_proj_bias": [3 * c]}
        shapes |= linear(f"{block}.attn.out_proj", c, c)
        shapes |= linear(f"{block}.mlp.c_fc", inner, c) | linear(f"{block}.mlp.c_proj", c, inner)
    shapes |= norm("ln_final", c) | {"text_projection": [c, c]}
    return {f"cond_stage_model.model.{name}": shape for name, shape in shapes.items()}


def numbered(shapes):
    """A file whose tensors hold their number, and in thirds of a first side that has thirds, 0.25 more each time."""
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        tensors[name] = torch.full(shape, float(number))
        if ".in_proj_" in name:
            for part, third in enumerate(tensors[name].chunk(3)):
                third += 0.25 * part
    return tensors


def names(converted, shapes):
    """From diffusers' name to the original one that its number says."""
    originals = list(shapes)
    found = {}
    for name, tensor in converted.items():
        number = tensor.unique()
        assert len(number) == 1, name
        number = number.item()
        original = originals[int(number)]
        found[name] = [original, round(4 * (number % 1)), 3] if ".in_proj_" in original else original
    return found


def check(network, converted):
    """Loads it, strictly, and gives the config."""
    state = network.state_dict()
    # transformers has left out the prefix since version 5.
    have = {name if name in state else name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    network.load_state_dict({name: t for name, t in have.items() if not name.endswith("position_ids")}, strict=True)


def model(channels, layers, depths, context, is_linear, adm, text, unet_config):
    shapes = unet(channels, layers, depths, context, is_linear, adm)
    shapes |= vae([32, 64], 1)
    if text:
        shapes |= open_clip(text) if is_linear else clip(text)
    file = numbered(shapes)
    parts = {}

    cross = lambda depth, kind: f"CrossAttn{kind}Block2D" if depth else f"{kind}Block2D"
    config = dict(
        block_out_channels=channels, layers_per_block=layers, cross_attention_dim=context, use_linear_projection=is_linear,
        down_block_types=[cross(d, "Down") for d in depths[: len(channels)]],
        up_block_types=[cross(d, "Up") for d in reversed(depths[: len(channels)])],
        transformer_layers_per_block=[max(d, 1) for d in depths[: len(channels)]], **unet_config,
    )
    network = UNet2DConditionModel(**config)
    converted = S.convert_ldm_unet_checkpoint(dict(file), dict(network.config))
    # Where projections are convolutions in the network, they are in the file.
    check(network, converted)
    parts["unet"] = dict(config=config, names=names(converted, shapes))

    config = dict(
        block_out_channels=[32, 64], layers_per_block=1, latent_channels=4, down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, sample_size=unet_config["sample_size"] * 8, scaling_factor=0.13025 if context == 2048 else 0.18215,
    )
    network = AutoencoderKL(**config)
    converted = S.convert_ldm_vae_checkpoint(dict(file), dict(network.config))
    check(network, converted)
    parts["vae"] = dict(config=config, names=names(converted, shapes))

    if text:
        network = CLIPTextModel(text)
        if is_linear:
            S.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE[:] = [
                key.replace(".23.", f".{text.num_hidden_layers}.") for key in S.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE
            ]
            file.pop("cond_stage_model.model.text_projection")
            converted = S.convert_open_clip_checkpoint(network, file)
        else:
            converted = S.convert_ldm_clip_checkpoint(file)
        check(network, converted)
        keys = ["vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "hidden_act", "layer_norm_eps"]
        parts["text"] = dict(config={key: getattr(text, key) for key in keys}, names=names(converted, shapes))
    return dict(shapes=shapes, **parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    assert transformers.__version__ == "5.23.0", transformers.__version__
    text = dict(vocab_size=20, hidden_size=128, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    models = dict(
        sd1=model([32, 64], 2, [1, 0, 1], 768, False, None, CLIPTextConfig(hidden_act="quick_gelu", **text),
                  dict(attention_head_dim=8, sample_size=64)),
        sd2=model([64, 128, 128], 1, [1, 1, 0, 1], 1024, True, None, CLIPTextConfig(hidden_act="gelu", **text),
                  dict(attention_head_dim=[1, 2, 2], sample_size=96)),
        sdxl=model([64, 64, 128], 1, [0, 1, 2, 2], 2048, True, 1280 + 6 * 256, None,
                   dict(attention_head_dim=[1, 1, 2], sample_size=128, addition_embed_type="text_time",
                        addition_time_embed_dim=256, projection_class_embeddings_input_dim=1280 + 6 * 256)),
    )
    (HERE / "original.json").write_text(json.dumps(models, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
