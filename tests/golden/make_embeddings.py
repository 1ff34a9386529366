#!/usr/bin/env python3
"""Writes small random textual inversions for the pipelines of make_pipelines.py, and what diffusers makes with them from given noise.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors
    /tmp/golden/bin/python tests/golden/make_embeddings.py

What it writes:

    embeddings/NAME.safetensors   embeddings of one vector and of several, for one text encoder and for two
    embeddings.safetensors        runs of the pipelines with them: `noise` [n, c, h, w] and `latents` as the sampler leaves them, in f32; in a
                                  case `embeddings` are files and words, `floor` is the relative L2 distance of the latents in f32 from
                                  those in f64, `effect` how far they are from those without embeddings
"""

import json
import pathlib
import shutil

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "embeddings"
KINDS = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def write():
    def vectors(*shape, seed):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05

    # As diffusers saves one: the word is the tensor's name.
    save_file({"<toy>": vectors(32, seed=1)}, FOLDER / "toy.safetensors")
    # As AUTOMATIC1111's web interface saves one: the word is the file's name.
    save_file({"emb_params": vectors(3, 32, seed=2)}, FOLDER / "Blurred-2.safetensors")
    # As trainers for two text encoders save one.
    save_file({"clip_l": vectors(2, 32, seed=3), "clip_g": vectors(2, 32, seed=4)}, FOLDER / "pair.safetensors")


# With capitals in a word of several vectors, diffusers would take the first of them alone: it looks for the word as it was written
# among tokens in lower case.
CASES = [
    {"pipeline": "sd1", "embeddings": [["toy", "<toy>"]], "prompt": "a photo of a <toy> dog", "negative": None},
    {"pipeline": "sd1", "embeddings": [["Blurred-2", "blurred-2"], ["toy", "kitten"]], "prompt": "a red kitten,blurred-2 tree",
     "negative": "a blurred-2"},
    {"pipeline": "sd1", "embeddings": [["Blurred-2", "<b>"]], "prompt": "<b>apple", "negative": "<b>_2 blurry"},
    {"pipeline": "sdxl", "embeddings": [["pair", "<pair>"]], "prompt": "a drawing of <pair> the tree", "negative": "red"},
]


def run(case, noise, dtype, embeddings):
    pipe = KINDS[case["pipeline"]].from_pretrained(HERE / "pipelines" / case["pipeline"], torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    for name, word in embeddings:
        tensors = load_file(FOLDER / f"{name}.safetensors")
        if case["pipeline"] == "sdxl":
            pairs = [("clip_l", pipe.text_encoder, pipe.tokenizer), ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2)]
            for key, encoder, tokenizer in pairs:
                pipe.load_textual_inversion(tensors[key].to(dtype), token=word, text_encoder=encoder, tokenizer=tokenizer)
        else:
            pipe.load_textual_inversion({k: v.to(dtype) for k, v in tensors.items()}, token=word)
    args = {"prompt": case["prompt"], "negative_prompt": case["negative"], "guidance_scale": case["guidance"],
            "num_inference_steps": case["steps"], "latents": noise.to(dtype), "height": 16, "width": 16}
    with torch.no_grad():
        return pipe(**args, output_type="latent").images


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    write()
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        case = {**case, "guidance": 5.0, "steps": 4}
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(300 + i))
        latents, wide = [run(case, noise, dtype, case["embeddings"]) for dtype in [torch.float32, torch.float64]]
        plain = run(case, noise, torch.float32, [])
        apart = lambda a, b: float((a.double() - b).norm() / b.norm())
        case |= {"floor": apart(latents, wide), "effect": apart(latents, plain.double())}
        print(case)
        cases.append(case)
        tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous()}
    save_file(tensors, HERE / "embeddings.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
