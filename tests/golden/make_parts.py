#!/usr/bin/env python3
"""Writes the goldens of the networks beside the denoiser: text encoders and autoencoders, by transformers and diffusers on the CPU.

Needs what make.py needs, and transformers==5.23.0:

    /tmp/golden/bin/python tests/golden/make_parts.py
    /tmp/golden/bin/python tests/golden/make_parts.py --taef2 FOLDER --to DIR     # see below

What it writes (safetensors; the metadata key `cases` holds the parameters as JSON):

    parts/NAME/         small random CLIPTextModels, AutoencoderKLs and AutoencoderTinys, as transformers and diffusers save them
    parts.safetensors   one evaluation of each of them in f32, with `floor`, the relative L2 distance of that from f64

With --taef2, taef2.safetensors instead: a smooth picture through the real autoencoder of that name, whose weights (MIT licence, taesd's
taef2_encoder.pth and taef2_decoder.pth as safetensors) lie in FOLDER. The weights are not committed, the result is.
"""

import argparse
import json
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from make import HERE, rand, randomise, rel

# ------------------------------------------------------------------------------------------------------ text encoders

TEXTS = {
    # As Stable Diffusion 1's: quick_gelu, the old eos_token_id, names with the prefix; half floats.
    "clip1": dict(model=CLIPTextModel, store=torch.float16, prefix=True, eos=60,
                  config=dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                              num_attention_heads=3, max_position_embeddings=77, eos_token_id=2, bos_token_id=59)),
    # As Stable Diffusion 2's: gelu, heads that vectors don't divide, names as transformers 5 has them, a shorter text.
    "clip2": dict(model=CLIPTextModel, tokens=21, eos=33,
                  config=dict(vocab_size=37, hidden_size=10, intermediate_size=18, num_hidden_layers=2,
                              num_attention_heads=2, max_position_embeddings=30, hidden_act="gelu", layer_norm_eps=1e-4,
                              eos_token_id=33, bos_token_id=32)),
    # As Stable Diffusion XL's second: projected; tokens beyond the end's id.
    "clip-projection": dict(model=CLIPTextModelWithProjection, store=torch.bfloat16, eos=49,
                            config=dict(vocab_size=53, hidden_size=16, intermediate_size=20, num_hidden_layers=3,
                                        num_attention_heads=4, max_position_embeddings=77, hidden_act="gelu",
                                        projection_dim=11, eos_token_id=49, bos_token_id=48)),
    # One long head, which kernels cut into blocks; the projection is as wide as the states.
    "clip-wide": dict(model=CLIPTextModelWithProjection, eos=19, tokens=40,
                      config=dict(vocab_size=20, hidden_size=68, intermediate_size=36, num_hidden_layers=1,
                                  num_attention_heads=1, max_position_embeddings=40, projection_dim=68, eos_token_id=2,
                                  bos_token_id=18)),
}


def small(folder, store, values, gen, model):
    """Random weights, stored as `store`; the folder as `save_pretrained` writes it."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.3 + (1.0 if name.endswith("weight") else 0.0))
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=gen) * 0.3)
            else:
                fan_in = 1 if "embedding" in name else p[0].numel()
                p.copy_(torch.randn(p.shape, generator=gen) * values * fan_in ** -0.5)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(store).save_pretrained(folder)


def text_ids(spec, count, gen):
    """A start, some tokens, the end, and padding: with the end's id, or (where that is the largest) with others."""
    rows = []
    for i in range(count):
        config, tokens = spec["config"], spec.get("tokens", 77)
        length = tokens - 2 if i == 0 else 3 + i
        body = torch.randint(config["bos_token_id"], (length,), generator=gen)
        pad = spec["eos"] if i % 2 == 0 else 0
        row = [config["bos_token_id"], *body.tolist(), spec["eos"]]
        if config["vocab_size"] > spec["eos"] + 1:
            row[2] = spec["eos"] + 1
        rows.append(row + [pad] * (tokens - len(row)))
    return torch.tensor(rows)


@torch.no_grad()
def make_texts(to, tensors, cases, gen):
    for name, spec in TEXTS.items():
        folder = to / "parts" / name
        small(folder, spec.get("store", torch.float32), 1.2, gen, spec["model"](CLIPTextConfig(**spec["config"])))
        file = folder / "model.safetensors"
        weights = load_file(file)
        bare = [key for key in weights if not key.startswith("text_")]
        if spec.get("prefix") and bare:
            # As transformers 4 saved them.
            ids = {"text_model.embeddings.position_ids": torch.arange(spec["config"]["max_position_embeddings"])[None]}
            save_file({f"text_model.{key}": value for key, value in weights.items()} | ids, file, {"format": "pt"})
        model = spec["model"].from_pretrained(folder, dtype=torch.float32).eval()
        ids = text_ids(spec, 3, gen)

        def run(dtype):
            out = model.to(dtype)(input_ids=ids, output_hidden_states=True)
            layers = out.hidden_states
            norm = (model.text_model if hasattr(model, "text_model") else model).final_layer_norm
            pooled = out.text_embeds if "text_embeds" in out else out.pooler_output
            return dict(last=out.last_hidden_state, pooled=pooled, before=layers[-1], penultimate=layers[-2],
                        skipped=norm(layers[-2]))

        wide, out = run(torch.float64), run(torch.float32)
        key = f"{len(cases):02}"
        tensors[f"{key}.ids"] = ids.int()
        tensors |= {f"{key}.{part}": value.contiguous() for part, value in out.items()}
        floor = max(rel(out[part], wide[part]) for part in out)
        cases.append(dict(net=name, kind="text", floor=floor))
        names = sorted(load_file(file))
        print(f"{name}: floor {floor:.1e}, states' std {float(out['last'].std()):.2f}, {names[0]}, {names[-1]}")


# ------------------------------------------------------------------------------------------------------- autoencoders

KLS = {
    # As Stable Diffusion 1's; half floats, names from before diffusers 0.15.
    "kl1": dict(store=torch.float16, deprecated=True, size=(16, 24),
                config=dict(down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                            block_out_channels=(8, 12, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4)),
    # As Stable Diffusion 3's and Flux's: a shift, no linear layers around the latents, more layers, another activation.
    "kl3": dict(store=torch.bfloat16, size=(12, 8),
                config=dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                            block_out_channels=(6, 9), layers_per_block=2, norm_num_groups=3, latent_channels=16,
                            use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609,
                            act_fn="mish")),
    # No attention in the middle; means and deviations of the latents; one grey channel in, two out.
    "kl-plain": dict(size=(6, 10),
                     config=dict(in_channels=1, out_channels=2, down_block_types=("DownEncoderBlock2D",) * 2,
                                 up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(5, 10), norm_num_groups=5,
                                 latent_channels=3, mid_block_add_attention=False, scaling_factor=0.5,
                                 latents_mean=(0.25, -1.0, 0.5), latents_std=(2.0, 0.5, 1.5), use_quant_conv=False)),
    # Attention in every block, one resolution, an odd size.
    "kl-attention": dict(size=(7, 5),
                         config=dict(down_block_types=("AttnDownEncoderBlock2D",), up_block_types=("AttnUpDecoderBlock2D",),
                                     block_out_channels=(20,), layers_per_block=1, norm_num_groups=5, latent_channels=1,
                                     use_post_quant_conv=False, act_fn="gelu")),
}

TINIES = {
    # As TAESD.
    "tiny": dict(store=torch.float16, size=(16, 24),
                 config=dict(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)),
    # Other numbers of blocks and channels, larger steps, another activation.
    "tiny-odd": dict(size=(9, 18), encode=(4, 6),
                     config=dict(in_channels=1, out_channels=2, encoder_block_out_channels=(5, 5),
                                 decoder_block_out_channels=(6, 6, 6), num_encoder_blocks=(2, 0), latent_channels=3,
                                 num_decoder_blocks=(1, 2, 0), upsampling_scaling_factor=3, act_fn="silu",
                                 scaling_factor=0.75, shift_factor=0.125)),
}


def old_names(file):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in load_file(file).items():
        for new, was in old.items():
            key = key.replace(f".{new}.", f".{was}.")
        renamed[key] = value
    save_file(renamed, file, {"format": "pt"})


@torch.no_grad()
def autoencoder(name, model, spec, tensors, cases, gen, scaled):
    """A picture encoded, and latents scaled for a network decoded. `scaled` makes the decoder's latents of those."""
    config = model.config
    picture = rand(gen, 2, config.in_channels, *spec.get("encode", spec["size"]), std=0.5)
    factor = getattr(config, "upsampling_scaling_factor", 2) ** (len(config.block_out_channels) - 1)
    latents = rand(gen, 2, config.latent_channels, *(side // factor for side in spec["size"]), std=1.5)

    def run(dtype):
        wide = model.to(dtype)
        encoded = wide.encode(picture.to(dtype))
        decoded = wide.decode(scaled(latents.to(dtype))).sample
        if hasattr(encoded, "latents"):
            return dict(encoded=encoded.latents, decoded=decoded)
        return dict(encoded=encoded.latent_dist.mean, log_variance=encoded.latent_dist.logvar, decoded=decoded)

    wide, out = run(torch.float64), run(torch.float32)
    key = f"{len(cases):02}"
    tensors |= {f"{key}.picture": picture, f"{key}.latents": latents}
    tensors |= {f"{key}.{part}": value.contiguous() for part, value in out.items()}
    floor = max(rel(out[part], wide[part]) for part in out)
    cases.append(dict(net=name, kind="autoencoder", floor=floor))
    print(f"{name}: floor {floor:.1e}, std " + ", ".join(f"{part} {float(v.std()):.2f}" for part, v in out.items()))


def make_autoencoders(to, tensors, cases, gen):
    for name, spec in KLS.items():
        folder = to / "parts" / name
        small(folder, spec.get("store", torch.float32), 1.2, gen, AutoencoderKL(**spec["config"]))
        if spec.get("deprecated"):
            old_names(folder / "diffusion_pytorch_model.safetensors")
        model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
        config = model.config
        if config.latents_mean:
            # As StableDiffusionXLPipeline does it.
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
            scaled = lambda z: z * std.to(z.dtype) / config.scaling_factor + mean.to(z.dtype)
        else:
            scaled = lambda z: z / config.scaling_factor + (config.shift_factor or 0.0)
        autoencoder(name, model, spec, tensors, cases, gen, scaled)
    for name, spec in TINIES.items():
        folder = to / "parts" / name
        small(folder, spec.get("store", torch.float32), 1.5, gen, AutoencoderTiny(**spec["config"]))
        model = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32).eval()
        config = model.config
        autoencoder(name, model, spec, tensors, cases, gen, lambda z: z / config.scaling_factor + config.shift_factor)


# -------------------------------------------------------------------------------------------------------------- taef2


class Block(nn.Module):
    """taesd's block, with the normalised layer that its autoencoder of FLUX.2 latents has in the middle."""

    def __init__(self, c, middle):
        super().__init__()
        convs = [nn.Conv2d(c, c, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.pool = None
        if middle:
            self.pool = nn.Sequential(nn.Conv2d(c, 4 * c, 1, bias=False), nn.GroupNorm(4, 4 * c), nn.ReLU(),
                                      nn.Conv2d(4 * c, c, 1, bias=False))

    def forward(self, x):
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Bend(nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


def taesd(latent_channels, c=64):
    """Encoder and decoder by taesd's numbers of layers: pictures are between 0 and 1."""
    half = lambda: nn.Conv2d(c, c, 3, padding=1, stride=2, bias=False)
    encoder = [nn.Conv2d(3, c, 3, padding=1), Block(c, False)]
    for i in range(3):
        encoder += [half(), *(Block(c, i == 2) for _ in range(3))]
    decoder = [Bend(), nn.Conv2d(latent_channels, c, 3, padding=1), nn.ReLU()]
    for i in range(3):
        decoder += [*(Block(c, i == 0) for _ in range(3)), nn.Upsample(scale_factor=2),
                    nn.Conv2d(c, c, 3, padding=1, bias=False)]
    decoder += [Block(c, False), nn.Conv2d(c, 3, 3, padding=1)]
    return nn.Sequential(*encoder, nn.Conv2d(c, latent_channels, 3, padding=1)), nn.Sequential(*decoder)


def diffusers_names(encoder, decoder):
    """Weights by diffusers' names: there the bend is no layer."""
    names = {f"encoder.layers.{key}": value for key, value in encoder.items()}
    for key, value in decoder.items():
        number, rest = key.split(".", 1)
        names[f"decoder.layers.{int(number) - 1}.{rest}"] = value
    return names


@torch.no_grad()
def make_middle(to, tensors, cases, gen):
    """A small autoencoder in taef2's layout."""
    folder, (encoder, decoder) = to / "parts" / "tiny-middle", taesd(5, 8)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for p in (*encoder.parameters(), *decoder.parameters()):
        fan_in = p[0].numel()
        p.copy_(torch.randn(p.shape, generator=gen) * (1.5 * fan_in ** -0.5 if p.dim() > 1 else 0.4))
    save_file(diffusers_names(encoder.state_dict(), decoder.state_dict()), folder / "diffusion_pytorch_model.safetensors",
              {"format": "pt"})
    config = dict(_class_name="AutoencoderTiny", latent_channels=5, use_midblock_gn=True,
                  encoder_block_out_channels=[8] * 4, decoder_block_out_channels=[8] * 4)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    picture, latents = rand(gen, 2, 3, 16, 8, std=0.5), rand(gen, 2, 5, 2, 1, std=3.0)

    def run(dtype):
        e, d = encoder.to(dtype), decoder.to(dtype)
        return dict(encoded=e(picture.to(dtype) / 2 + 0.5), decoded=d(latents.to(dtype)) * 2 - 1)

    wide, out = run(torch.float64), run(torch.float32)
    key = f"{len(cases):02}"
    tensors |= {f"{key}.picture": picture, f"{key}.latents": latents}
    tensors |= {f"{key}.{part}": value.contiguous() for part, value in out.items()}
    floor = max(rel(out[part], wide[part]) for part in out)
    cases.append(dict(net="tiny-middle", kind="autoencoder", floor=floor))
    print(f"tiny-middle: floor {floor:.1e}")


@torch.no_grad()
def make_taef2(folder, to):
    encoder, decoder = taesd(32)
    for net, name in ((encoder, "encoder"), (decoder, "decoder")):
        net.load_state_dict({k: v.float() for k, v in load_file(folder / f"taef2_{name}.safetensors").items()})
    # Soft light, a few coloured discs with edges of a pixel or two, stripes.
    y, x = torch.meshgrid(torch.arange(96) / 96, torch.arange(64) / 64, indexing="ij")
    picture = torch.stack([0.3 + 0.4 * x, 0.5 - 0.3 * y, 0.4 + 0.3 * x * y])
    for cx, cy, r, colour in ((0.3, 0.3, 0.2, (0.9, 0.5, 0.2)), (0.7, 0.6, 0.25, (0.2, 0.4, 0.8)), (0.4, 0.8, 0.1, (0.95, 0.95, 0.9))):
        inside = torch.sigmoid((r - ((x - cx) ** 2 + (y - cy) ** 2).sqrt()) * 80)
        picture = picture * (1 - inside) + torch.tensor(colour).view(3, 1, 1) * inside
    picture = (picture + 0.05 * torch.sin(40 * (x + 0.5 * y))).clamp(0, 1)
    picture = (picture * 255).round() / 255
    latents = encoder(picture[None])
    decoded = decoder(latents)
    psnr = float(-10 * (decoded[0].clamp(0, 1) - picture).square().mean().log10())
    print(f"taef2: latents' std {float(latents.std()):.2f}, PSNR {psnr:.2f} dB")
    save_file(dict(picture=(picture[None] * 255).round().to(torch.int32), latents=latents.contiguous(),
                   decoded=decoded.contiguous()), to / "taef2.safetensors", {"cases": json.dumps([dict(psnr=psnr)])})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    parser.add_argument("--taef2", type=pathlib.Path, help="the folder of taef2's weights")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    with sdpa_kernel(SDPBackend.MATH):
        if args.taef2:
            make_taef2(args.taef2, args.to)
            return
        tensors, cases, gen = {}, [], torch.Generator().manual_seed(5)
        make_texts(args.to, tensors, cases, gen)
        make_autoencoders(args.to, tensors, cases, gen)
        make_middle(args.to, tensors, cases, gen)
        save_file(tensors, args.to / "parts.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
