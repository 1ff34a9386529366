#!/usr/bin/env python3
"""Writes tests/golden/emoji.safetensors: what diffusers makes with models/emoji-sd, as it is in its folder, from given noise.

    python3 tests/golden/make_emoji.py

Needs diffusers 0.42.1, transformers 5.23.0, torch and safetensors. The same tensors as make_pipelines.py writes, with `floor`.
"""
import json
import pathlib

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent.parent / "models/emoji-sd"

CASES = [
    {"prompt": "red apple", "negative": None, "guidance": 3.0, "steps": 4},
    {"prompt": "빨간 사과", "negative": None, "guidance": 3.0, "steps": 4},
    {"prompt": "cat face on a blue background", "negative": "red", "guidance": 5.0, "steps": 3},
]


def main():
    pipe = StableDiffusionPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        noise = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(300 + i))

        def run(dtype, output):
            pipe.to(dtype=dtype)
            with torch.no_grad():
                return pipe([case["prompt"]] * 2, negative_prompt=None if case["negative"] is None else [case["negative"]] * 2, output_type=output,
                            guidance_scale=case["guidance"], num_inference_steps=case["steps"], latents=noise.to(dtype)).images

        wide, latents, image = run(torch.float64, "latent"), run(torch.float32, "latent"), run(torch.float32, "pt")
        cases.append({**case, "floor": float((latents.double() - wide).norm() / wide.norm())})
        tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous(), f"{i:02}.image": image.contiguous()}
        print(cases[-1])
    save_file(tensors, HERE / "emoji.safetensors", {"cases": json.dumps(cases, ensure_ascii=False)})


if __name__ == "__main__":
    main()
