#!/usr/bin/env python3
"""Trains the autoencoder of emoji-sd: 64x64 RGB to 16x16 latents of 4 channels and back. Goes on from its last checkpoint.

    emoji_vae.py DATA OUT [--steps N] [--minutes M] [--batch N] [--device cuda]
"""
import argparse, os

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import emoji_data as data, state


def model():
    return AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, sample_size=data.SIDE,
                         block_out_channels=(16, 32, 48), layers_per_block=1, norm_num_groups=8,
                         down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                         mid_block_add_attention=False, scaling_factor=1.0)


def values(pixels):
    """[n, 64, 64, 3] u8 to [n, 3, 64, 64] from -1 to 1, channels last."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(vae, x, noise):
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * noise
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
    state.arguments(p, 1500, 16, 1.5e-3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    torch.backends.cudnn.benchmark = True
    emoji = data.load(a.data)
    vae = model().to(a.device, memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in vae.parameters())} parameters, {len(emoji)} pictures")
    run = state.Run(os.path.join(a.out, "vae.pt"), {"vae": vae}, a)
    sampler = data.Sampler(emoji, f"{a.seed} {run.step}")
    rng = torch.Generator(a.device).manual_seed(a.seed + run.step)
    pictures = torch.from_numpy(data.pictures(emoji)).to(a.device)
    batch = lambda pairs: values(pictures[tuple(torch.tensor(pairs, device=a.device).T)])
    test = batch(data.held_out(emoji)[:64])
    while run.goes_on():
        noise = torch.randn((a.batch, 4, 16, 16), generator=rng, device=a.device)
        run.update(lambda x, noise: loss_of(vae, x, noise), batch(sampler.draw(a.batch)), noise)
        if run.step % 200 == 0:
            run.log(psnr=round(psnr(run.average["vae"], test), 2))
    run.save()
    vae = run.average["vae"]
    # The latents' standard deviation becomes 1, as SD's does.
    with torch.no_grad():
        pairs = data.Sampler(emoji, 7).draw(512)
        deviation = torch.cat([vae.encode(batch(pairs[i:i + 64])).latent_dist.mean for i in range(0, 512, 64)]).std()
    vae.register_to_config(scaling_factor=round(1 / deviation.item(), 5))
    print(f"scaling_factor {vae.config.scaling_factor}, {psnr(vae, batch(data.held_out(emoji))):.2f} dB on held-out pictures")
    vae.cpu().save_pretrained(os.path.join(a.out, "vae"))


if __name__ == "__main__":
    main()
