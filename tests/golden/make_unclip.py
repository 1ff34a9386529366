#!/usr/bin/env python3
"""Writes the goldens of unCLIP's networks (Ramesh et al. 2022, as Karlo has them): small random models, and what diffusers makes of them.
Needs what make_pipelines.py needs:

    /tmp/golden/bin/python tests/golden/make_unclip.py

What it writes:

    unclip/NAME/          small random networks, as diffusers saves them (f16 weights)
    unclip.safetensors    one evaluation of each: `x`, `out`, and for those that take a condition `embedding`, all of its parts one after
                          the other; in f32, with `floor` in a case, the relative L2 distance of `out` from f64
"""

import json
import shutil

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.utils import logging
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from make import HERE, rand, rel
from make_dit import randomise

FOLDER = HERE / "unclip"
# What diffusers adds to the scores of padding.
UNSEEN = -10000.0

SIMPLE = dict(down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
              up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
              mid_block_type="UNetMidBlock2DSimpleCrossAttn")
PLAIN = dict(down_block_types=("ResnetDownsampleBlock2D",) * 2, up_block_types=("ResnetUpsampleBlock2D",) * 2,
             downsample_type="resnet", upsample_type="resnet", add_attention=False)

PRIORS = {
    "prior": dict(t=937, config=dict(num_attention_heads=2, attention_head_dim=12, num_layers=2, embedding_dim=14,
                                     num_embeddings=9)),
    "prior-odd": dict(t=4, config=dict(num_attention_heads=3, attention_head_dim=5, num_layers=1, embedding_dim=10,
                                       num_embeddings=5, time_embed_act_fn="gelu", time_embed_dim=22, embedding_proj_dim=7,
                                       clip_embed_dim=10)),
}
DECODERS = {
    # As Karlo's decoder: the class embedding is the condition's, the variance is learned.
    "decoder": dict(t=500, tokens=7, size=(8, 8),
                    config=dict(sample_size=8, in_channels=3, out_channels=6, block_out_channels=(8, 16), layers_per_block=1,
                                cross_attention_dim=10, attention_head_dim=4, norm_num_groups=4, class_embed_type="identity",
                                resnet_time_scale_shift="scale_shift", **SIMPLE)),
    # Attention at every resolution, a size that is not square, no class.
    "decoder-odd": dict(t=3, tokens=4, size=(6, 10),
                        config=dict(sample_size=8, in_channels=2, out_channels=2, block_out_channels=(6, 12), layers_per_block=2,
                                    cross_attention_dim=5, attention_head_dim=3, norm_num_groups=3, mid_block_scale_factor=1.5,
                                    **(SIMPLE | dict(down_block_types=("SimpleCrossAttnDownBlock2D",) * 2,
                                                     up_block_types=("SimpleCrossAttnUpBlock2D",) * 2)))),
}
# As Karlo's two enlarging networks: the noisy picture and the small one, three channels each.
ENLARGERS = {
    "first": dict(t=700, size=(8, 12), config=dict(sample_size=16, in_channels=6, out_channels=6, block_out_channels=(8, 16),
                                                   layers_per_block=1, norm_num_groups=4,
                                                   resnet_time_scale_shift="scale_shift", **PLAIN)),
    "last": dict(t=0, size=(12, 8), config=dict(sample_size=16, in_channels=6, out_channels=3, block_out_channels=(8, 12),
                                                layers_per_block=2, norm_num_groups=4,
                                                resnet_time_scale_shift="scale_shift", **PLAIN)),
}


def masked(tokens):
    """Which tokens are text: all of the first, two or three of the second."""
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, 2 + tokens % 2:] = False
    return mask, (1.0 - mask.float()) * UNSEEN


def evaluated(name, kind, spec, x, given, parts, tensors, cases, gen):
    model, key = kind.from_pretrained(FOLDER / name, torch_dtype=torch.float32).eval(), f"{len(cases):02}"
    run = lambda dtype: model.to(dtype)(x.to(dtype), spec["t"], **given(dtype))[0]
    wide, out = run(torch.float64), run(torch.float32)
    case = dict(net=name, t=spec["t"], floor=rel(out, wide)) | ({"tokens": spec["tokens"]} if "tokens" in spec else {})
    tensors |= {f"{key}.x": x.reshape(len(x), x.shape[1], *x.shape[2:] or (1, 1)), f"{key}.out": out.contiguous()}
    if parts:
        tensors[f"{key}.embedding"] = torch.cat([part.flatten(1) for part in parts], dim=1).contiguous()
    cases.append(case)
    print(f"{name}: floor {case['floor']:.1e}, std {out.std():.2f}, {sum(p.numel() for p in model.parameters())} parameters")


@torch.no_grad()
def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    shutil.rmtree(FOLDER, ignore_errors=True)
    tensors, cases, gen = {}, [], torch.Generator().manual_seed(21)
    with sdpa_kernel(SDPBackend.MATH):
        for kinds, kind in ((PRIORS, PriorTransformer), (DECODERS, UNet2DConditionModel), (ENLARGERS, UNet2DModel)):
            for name, spec in kinds.items():
                randomise(kind(**spec["config"]), gen, 1.2).half().save_pretrained(FOLDER / name)
        for name, spec in PRIORS.items():
            config = spec["config"]
            tokens, dim = config["num_embeddings"], config["embedding_dim"]
            x, whole = rand(gen, 2, dim).float(), rand(gen, 2, config.get("embedding_proj_dim", dim)).float()
            text, (mask, bias) = rand(gen, 2, tokens, dim).float(), masked(tokens)
            given = lambda dtype: dict(proj_embedding=whole.to(dtype), encoder_hidden_states=text.to(dtype), attention_mask=mask)
            evaluated(name, PriorTransformer, spec, x, given, [whole, text, bias], tensors, cases, gen)
        for name, spec in DECODERS.items():
            config = spec["config"]
            x = rand(gen, 2, config["in_channels"], *spec["size"]).float()
            text, (mask, bias) = rand(gen, 2, spec["tokens"], config["cross_attention_dim"]).float(), masked(spec["tokens"])
            label = rand(gen, 2, 4 * config["block_out_channels"][0]).float() if "class_embed_type" in config else None
            given = lambda dtype: dict(encoder_hidden_states=text.to(dtype), attention_mask=mask,
                                       class_labels=None if label is None else label.to(dtype))
            parts = [text] + ([] if label is None else [label]) + [bias]
            evaluated(name, UNet2DConditionModel, spec, x, given, parts, tensors, cases, gen)
        for name, spec in ENLARGERS.items():
            x = rand(gen, 2, 6, *spec["size"]).float()
            evaluated(name, UNet2DModel, spec, x, lambda dtype: {}, [], tensors, cases, gen)
    save_file(tensors, HERE / "unclip.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
