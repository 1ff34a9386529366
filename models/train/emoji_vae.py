#!/usr/bin/env python3
"""Trains the autoencoder of emoji-sd: 64x64 RGB to 16x16 latents of 4 channels and back. Goes on from its last checkpoint.

    emoji_vae.py DATA OUT [--steps N]
"""
import argparse, json, os, random, time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import emoji_data as data, state


def model():
    return AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, sample_size=data.SIDE,
                         block_out_channels=(16, 32, 48), layers_per_block=1, norm_num_groups=8,
                         down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                         mid_block_add_attention=False, scaling_factor=1.0)


def batch(emoji, pairs):
    pixels = np.stack([data.draw(emoji[i].image, variant) for i, variant in pairs])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(vae, x, rng):
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng)
    y = vae.decode(z).sample
    # Edges too, or what is small blurs.
    edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (2, 3))
    return F.l1_loss(y, x) + F.mse_loss(y, x) + edges + 1e-5 * posterior.kl().mean() / z[0].numel() * 16


def psnr(vae, x):
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return (10 * torch.log10(4 / (y - x).square().flatten(1).mean(1))).mean().item()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("out")
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--rate", type=float, default=1.5e-3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    emoji = data.load(a.data)
    vae = model().to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in vae.parameters())} parameters, {len(emoji)} pictures")
    run = state.Run(os.path.join(a.out, "vae.pt"), {"vae": vae}, a.rate, a.steps)
    sampler = data.Sampler(emoji, f"{a.seed} {run.step}")
    rng = torch.Generator().manual_seed(a.seed + run.step)
    test = batch(emoji, data.held_out(emoji)[:64])
    while run.goes_on():
        loss = loss_of(vae, batch(emoji, sampler.draw(a.batch)).contiguous(memory_format=torch.channels_last), rng)
        run.update(loss)
        if run.step % 200 == 0:
            run.log(psnr=round(psnr(run.average["vae"], test), 2))
    run.save()
    vae = run.average["vae"]
    # The latents' standard deviation becomes 1, as SD's does.
    with torch.no_grad():
        pairs = data.Sampler(emoji, 7).draw(512)
        deviation = torch.cat([vae.encode(batch(emoji, pairs[i:i + 64])).latent_dist.mean for i in range(0, 512, 64)]).std()
    vae.register_to_config(scaling_factor=round(1 / deviation.item(), 5))
    vae.save_pretrained(os.path.join(a.out, "vae"))
    print(f"scaling_factor {vae.config.scaling_factor}, {psnr(vae, batch(emoji, data.held_out(emoji))):.2f} dB on held-out pictures")


if __name__ == "__main__":
    main()
