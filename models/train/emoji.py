#!/usr/bin/env python3
"""Trains the network of emoji-sd on latents, and writes the whole pipeline. Goes on from its last checkpoint.

    emoji.py DATA OUT [--steps N]     OUT has tokenizer/, vae/ and text.pt by now (emoji_tokenizer.py, emoji_vae.py, emoji_text.py)

The network predicts v (Salimans and Ho 2022). What a caption decides is decided where there is much noise: times are drawn with a density that grows as t, and a
loss that is weighted by min(SNR, 5) / (SNR + 1) (Hang et al. 2023) would leave little of them. One caption in ten is empty.
"""
import argparse, json, os, random

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import emoji_data as data, emoji_vae as autoencoder, state

WIDTH = 192


def text_model(tokenizer):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=WIDTH, hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def trained_text(tokenizer, path):
    """The text encoder that emoji_text.py left."""
    text, saved = text_model(tokenizer), torch.load(path, weights_only=True)["average words"]
    text.load_state_dict({name.removeprefix("text."): value for name, value in saved.items() if name.startswith("text.")})
    return text.eval().requires_grad_(False)


def network():
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=(2, 4, 4), norm_num_groups=16, mid_block_type="UNetMidBlock2DCrossAttn")


def scheduler():
    return DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                         timestep_spacing="trailing")


def latents_of(vae, emoji, path):
    """Latents of every picture in every variant, [n, variants, 4, 16, 16], f16, kept in a file."""
    if os.path.exists(path):
        return np.load(path, mmap_mode="r")
    all_ = np.zeros((len(emoji), data.VARIANTS, 4, 16, 16), np.float16)
    with torch.no_grad():
        for i in range(0, len(emoji), 8):
            pairs = [(j, v) for j in range(i, min(i + 8, len(emoji))) for v in range(data.VARIANTS)]
            z = vae.encode(autoencoder.batch(emoji, pairs)).latent_dist.mean * vae.config.scaling_factor
            all_[i:i + 8] = z.half().numpy().reshape(-1, data.VARIANTS, 4, 16, 16)
    np.save(path, all_)
    return all_


def ids(tokenizer, texts):
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def v_loss(unet, states, x0, t, noise, alphas):
    a = alphas[t].view(-1, 1, 1, 1)
    x, v = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
    out = unet(x.contiguous(memory_format=torch.channels_last), t, states).sample
    return (out - v).square().mean()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("out")
    p.add_argument("--steps", type=int, default=20000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--rate", type=float, default=1e-3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    emoji = data.load(a.data)
    tokenizer = CLIPTokenizer.from_pretrained(os.path.join(a.out, "tokenizer"))
    vae = AutoencoderKL.from_pretrained(os.path.join(a.out, "vae")).eval().to(memory_format=torch.channels_last)
    latents = latents_of(vae, emoji, os.path.join(a.out, "latents.npy"))
    text, unet = trained_text(tokenizer, os.path.join(a.out, "text.pt")), network().to(memory_format=torch.channels_last)
    print(*(f"{name}: {sum(p.numel() for p in net.parameters())} parameters" for name, net in (("text", text), ("unet", unet), ("vae", vae))))
    run = state.Run(os.path.join(a.out, "train.pt"), {"unet": unet}, a.rate, a.steps)
    sampler = data.Sampler(emoji, f"{a.seed} {run.step}")
    rng, noise = random.Random(f"{a.seed} {run.step}"), torch.Generator().manual_seed(a.seed + run.step)
    alphas = scheduler().alphas_cumprod
    left_out = data.held_out(emoji)

    def test():
        """Loss on the held-out combinations, the same noise every time."""
        fixed, rng = torch.Generator().manual_seed(5), random.Random(5)
        x0 = torch.from_numpy(np.stack([latents[i, v] for i, v in left_out])).float()
        t = torch.linspace(5, 995, len(x0)).long()[torch.randperm(len(x0), generator=fixed)]
        with torch.no_grad():
            states = text(ids(tokenizer, [data.caption(emoji[i], v, rng) for i, v in left_out])).last_hidden_state
            return v_loss(run.average["unet"], states, x0, t, torch.randn(x0.shape, generator=fixed), alphas).item()

    while run.goes_on():
        pairs = sampler.draw(a.batch)
        x0 = torch.from_numpy(np.stack([latents[i, v] for i, v in pairs])).float()
        texts = ["" if rng.random() < 0.1 else data.caption(emoji[i], v, rng) for i, v in pairs]
        # Low-discrepancy times: one in each part of the chain.
        t = (1000 * ((torch.arange(len(pairs)) + torch.rand(1, generator=noise)) / len(pairs)) ** 0.5).long().clamp(max=999)
        with torch.no_grad():
            states = text(ids(tokenizer, texts)).last_hidden_state
        run.update(v_loss(unet, states, x0, t, torch.randn(x0.shape, generator=noise), alphas))
        if run.step % 500 == 0:
            run.log(held_out=round(test(), 5))
    run.save()
    print(json.dumps({"step": run.step, "held_out": test()}))
    StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=run.average["unet"],
                            scheduler=scheduler(), safety_checker=None, feature_extractor=None,
                            requires_safety_checker=False).to(torch.float16).save_pretrained(os.path.join(a.out, "pipeline"))


if __name__ == "__main__":
    main()
