#!/usr/bin/env python3
"""Trains the models of pixels, glyph-tiny and mednist-ddpm: diffusers' UNet2DModel that predicts the noise.

    pixels.py {glyph-tiny,mednist-ddpm} DATA OUT [--steps N] [--minutes M] [--batch N] [--device cuda] [--begin FOLDER]

DATA: the folder of Omniglot's two small background sets (zip), or of MedNIST's archives (mednist-train-2000.tar, mednist-test-100.tar).
--begin goes on from the network in FOLDER (as diffusers saves it), else it begins anew; either goes on from its last checkpoint in OUT.
The log has the mean squared error of the noise on pictures that were left out, the same noise every time.
"""
import argparse, glob, io, json, os, tarfile, zipfile

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from PIL import Image, ImageFilter

import state

CLASSES = ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"]
NO_CLASS = len(CLASSES)


def glyphs(folder):
    """White strokes on black, 16x16: thickened, cropped, 14x14 in a frame. Every 20th is left out."""
    pictures = []
    for path in sorted(glob.glob(f"{folder}/images_background_small*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
                image = Image.open(io.BytesIO(archive.read(name))).convert("L").point(lambda v: 255 - v)
                image = image.filter(ImageFilter.MaxFilter(5))
                image = image.crop(image.getbbox()).resize((14, 14), Image.BOX)
                frame = Image.new("L", (16, 16))
                frame.paste(image, (1, 1))
                pictures.append(np.asarray(frame))
    pictures = torch.from_numpy(np.stack(pictures)).float()[:, None] / 127.5 - 1
    out = torch.arange(len(pictures)) % 20 == 0
    return (pictures[~out], None), (pictures[out], None)


def scans(folder):
    """Grey scans, 64x64, and their classes; those to test are an archive of their own."""
    def read(name):
        pictures, labels = [], []
        with tarfile.open(f"{folder}/{name}") as tar:
            for member in sorted((m for m in tar if m.name.endswith((".jpeg", ".jpg"))), key=lambda m: m.name):
                pictures.append(np.asarray(Image.open(tar.extractfile(member)).convert("L").resize((64, 64))))
                labels.append(next(i for i, c in enumerate(CLASSES) if c in member.name.split("/")))
        return torch.from_numpy(np.stack(pictures))[:, None], torch.tensor(labels)
    return read("mednist-train-2000.tar"), read("mednist-test-100.tar")


MODELS = {
    "glyph-tiny": (glyphs, dict(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32), attention_head_dim=16,
        norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")),
        dict(beta_schedule="squaredcos_cap_v2"), 96, 7000),
    "mednist-ddpm": (scans, dict(
        sample_size=64, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64, 96, 128), attention_head_dim=32,
        norm_num_groups=8, num_class_embeds=NO_CLASS + 1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D")), dict(beta_schedule="linear"), 32, 30000),
}


def as_values(pictures):
    return pictures if pictures.dtype == torch.float32 else pictures.float() / 127.5 - 1


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model", choices=MODELS), p.add_argument("data"), p.add_argument("out")
    p.add_argument("--begin")
    state.arguments(p, None, None, 4e-4)
    a = p.parse_args()
    read, config, schedule, batch, steps = MODELS[a.model]
    a.batch, a.steps = a.batch or batch, a.steps or steps
    torch.manual_seed(a.seed)
    torch.backends.cudnn.benchmark = True
    os.makedirs(a.out, exist_ok=True)
    (pictures, labels), (held, held_labels) = ([None if x is None else x.to(a.device) for x in part] for part in read(a.data))
    net = UNet2DModel.from_pretrained(a.begin).float() if a.begin else UNet2DModel(**config)
    net = net.to(a.device, memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in net.parameters())} parameters, {len(pictures)} pictures, {len(held)} left out")
    run = state.Run(os.path.join(a.out, "train.pt"), {"unet": net}, a)
    scheduler = DDIMScheduler(**schedule)
    alphas = scheduler.alphas_cumprod.to(a.device)
    rng = torch.Generator(a.device).manual_seed(a.seed + run.step)

    def loss_of(x0, t, noise, labels=None, net=net):
        a = alphas[t].view(-1, 1, 1, 1)
        x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        return (net(x, t, class_labels=labels).sample - noise).square().mean()

    def test():
        fixed = torch.Generator().manual_seed(5)
        losses = []
        with torch.no_grad():
            for i in range(0, len(held), 100):
                x0 = as_values(held[i:i + 100])
                t = torch.randint(0, 1000, (len(x0),), generator=fixed).to(a.device)
                noise = torch.randn(x0.shape, generator=fixed).to(a.device)
                own = None if held_labels is None else held_labels[i:i + 100]
                losses.append(loss_of(x0, t, noise, own, run.average["unet"]).item() * len(x0))
        return round(sum(losses) / len(held), 5)

    print(json.dumps({"held_out before": test()}))
    while run.goes_on():
        i = torch.randint(0, len(pictures), (a.batch,), generator=rng, device=a.device)
        x0 = as_values(pictures[i])
        given = [x0, torch.randint(0, 1000, (a.batch,), generator=rng, device=a.device), torch.randn(x0.shape, generator=rng, device=a.device)]
        if labels is not None:
            given.append(torch.where(torch.rand(a.batch, generator=rng, device=a.device) < 0.1, NO_CLASS, labels[i]))
        run.update(loss_of, *given)
        if run.step % 500 == 0:
            run.log(held_out=test())
    run.save()
    print(json.dumps({"held_out": test()}))
    unet = run.average["unet"].cpu()
    DDPMPipeline(unet.half() if labels is not None else unet, scheduler).save_pretrained(os.path.join(a.out, a.model))


if __name__ == "__main__":
    main()
