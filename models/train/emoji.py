#!/usr/bin/env python3
"""Trains the network of emoji-sd on latents, and writes the whole pipeline. Goes on from its last checkpoint.

    emoji.py DATA OUT [--steps N] [--minutes M] [--batch N] [--device cuda]

OUT has tokenizer/, vae/ and text.pt by now (emoji_tokenizer.py, emoji_vae.py, emoji_text.py)

The network predicts v (Salimans and Ho 2022). What a caption decides is decided where there is much noise: times are drawn with a density that grows as t, and a
loss that is weighted by min(SNR, 5) / (SNR + 1) (Hang et al. 2023) would leave little of them. One caption in ten is empty.
"""
import argparse, json, os, random

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


def latents_of(vae, emoji, device):
    """Latents of every picture in every variant: [n, variants, 4, 16, 16], f16."""
    pictures = torch.from_numpy(data.pictures(emoji)).to(device)
    with torch.no_grad():
        parts = [vae.encode(autoencoder.values(part)).latent_dist.mean for part in pictures.flatten(0, 1).split(96)]
    return (torch.cat(parts) * vae.config.scaling_factor).half().unflatten(0, pictures.shape[:2])


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
    state.arguments(p, 20000, 16, 1e-3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    torch.backends.cudnn.benchmark = True
    emoji = data.load(a.data)
    tokenizer = CLIPTokenizer.from_pretrained(os.path.join(a.out, "tokenizer"))
    vae = AutoencoderKL.from_pretrained(os.path.join(a.out, "vae")).eval().to(a.device, memory_format=torch.channels_last)
    latents = latents_of(vae, emoji, a.device)
    text = trained_text(tokenizer, os.path.join(a.out, "text.pt")).to(a.device)
    unet = network().to(a.device, memory_format=torch.channels_last)
    print(*(f"{name}: {sum(p.numel() for p in net.parameters())} parameters" for name, net in (("text", text), ("unet", unet), ("vae", vae))))
    run = state.Run(os.path.join(a.out, "train.pt"), {"unet": unet}, a)
    sampler = data.Sampler(emoji, f"{a.seed} {run.step}")
    rng, noise = random.Random(f"{a.seed} {run.step}"), torch.Generator(a.device).manual_seed(a.seed + run.step)
    alphas = scheduler().alphas_cumprod.to(a.device)
    left_out = data.held_out(emoji)

    def test():
        """Loss on the held-out combinations, the same noise every time."""
        fixed, rng = torch.Generator().manual_seed(5), random.Random(5)
        x0 = latents[tuple(torch.tensor(left_out).T)].float()
        t = torch.linspace(5, 995, len(x0)).long()[torch.randperm(len(x0), generator=fixed)].to(a.device)
        with torch.no_grad():
            states = text(ids(tokenizer, [data.caption(emoji[i], v, rng) for i, v in left_out]).to(a.device)).last_hidden_state
            return v_loss(run.average["unet"], states, x0, t, torch.randn(x0.shape, generator=fixed).to(a.device), alphas).item()

    def draw():
        """Pairs, and the ids of their captions."""
        pairs = sampler.draw(a.batch)
        texts = ["" if rng.random() < 0.1 else data.caption(emoji[i], v, rng) for i, v in pairs]
        return torch.tensor(pairs), ids(tokenizer, texts)

    drawn, order = state.ahead(draw), torch.arange(a.batch, device=a.device)
    while run.goes_on():
        pairs, words = (x.to(a.device) for x in next(drawn))
        x0 = latents[tuple(pairs.T)].float()
        # Low-discrepancy times: one in each part of the chain.
        t = (1000 * ((order + torch.rand(1, generator=noise, device=a.device)) / a.batch) ** 0.5).long().clamp(max=999)
        with torch.no_grad():
            states = text(words).last_hidden_state
        run.update(lambda *given: v_loss(unet, *given, alphas), states, x0, t, torch.randn(x0.shape, generator=noise, device=a.device))
        if run.step % 500 == 0:
            run.log(held_out=round(test(), 5))
    run.save()
    print(json.dumps({"step": run.step, "held_out": test()}))
    StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=run.average["unet"],
                            scheduler=scheduler(), safety_checker=None, feature_extractor=None,
                            requires_safety_checker=False).to("cpu", torch.float16).save_pretrained(os.path.join(a.out, "pipeline"))


if __name__ == "__main__":
    main()
