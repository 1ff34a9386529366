#!/usr/bin/env python3
"""Writes tests/golden/tiles.safetensors: what diffusers' tiled decoding makes of latents, beside what its decoder makes of them as a whole.

It installs nothing and needs diffusers 0.42.1 and torch:

    /tmp/golden/bin/python tests/golden/make_tiles.py        # some seconds

The autoencoders are those in parts/ and pipelines/. In the file: for each case `latents` [1, c, h, w] as the decoder takes them, `whole` and
`tiled` [1, 3, m h, m w] in f32; `cases` in the metadata, with the side of the tiles in pixels (`tile`).
"""

import json
import pathlib

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
CASES = [
    {"net": "pipelines/sd1/vae", "tile": 16, "size": [12, 20], "kind": "random"},
    {"net": "pipelines/sd1/vae", "tile": 24, "size": [26, 12], "kind": "smooth"},
    {"net": "pipelines/sdxl/vae", "tile": 32, "size": [33, 15], "kind": "smooth"},
    {"net": "parts/kl3", "tile": 16, "size": [9, 14], "kind": "random"},
]


def latents(kind, channels, h, w, number):
    """Noise, or a slope and a wave in each channel."""
    if kind == "random":
        return torch.randn((1, channels, h, w), generator=torch.Generator().manual_seed(400 + number))
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.stack([torch.sin(2 * y + c) + x * (c - 1) / 2 for c in range(channels)])[None]


@torch.no_grad()
def main():
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        vae = AutoencoderKL.from_pretrained(HERE / case["net"], torch_dtype=torch.float32).eval()
        z = latents(case["kind"], vae.config.latent_channels, *case["size"], i)
        whole = vae.decode(z).sample
        vae.enable_tiling()
        vae.tile_sample_min_size = case["tile"]
        vae.tile_latent_min_size = case["tile"] // 2 ** (len(vae.config.block_out_channels) - 1)
        tiled = vae.decode(z).sample
        assert tiled.shape == whole.shape, (tiled.shape, whole.shape)
        far = float((tiled - whole).norm() / whole.norm())
        cases.append({**case, "far": far})
        tensors |= {f"{i:02}.latents": z.contiguous(), f"{i:02}.whole": whole.contiguous(), f"{i:02}.tiled": tiled.contiguous()}
        print(case, tuple(whole.shape), f"tiles are {far:.1e} from the whole, at most {(tiled - whole).abs().max():.3f}")
    save_file(tensors, HERE / "tiles.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
