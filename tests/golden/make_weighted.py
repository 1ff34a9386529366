#!/usr/bin/env python3
"""Writes tests/golden/weighted.safetensors: runs of the pipelines in pipelines/ with weighted words and prompts of several chunks.

It installs nothing and needs diffusers 0.42.1, transformers 5.23.0 and torch:

    /tmp/golden/bin/python tests/golden/make_weighted.py        # some seconds

The rule is AUTOMATIC1111's, as its wiki describes it under "Attention/emphasis" and "Infinite prompt length", in a few lines of torch: the text is
cut into chunks of 75 tokens, a full chunk ends behind a comma that at most 20 tokens follow, and BREAK ends one; each chunk goes through the
text encoder by itself, its states are multiplied by their tokens' weights, and their mean is brought back to what it was. The parts of
each prompt and their weights are written out by hand below (`parts`), so that nothing here reads the syntax. Embeddings go to diffusers'
pipelines as `prompt_embeds`.

In the file: for each case `noise` [n, 4, 8, 8] and `latents` as the sampler leaves them, in f32; `cases` in the metadata, with the distance of f32
from f64 (`floor`).
"""

import json
import pathlib

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
ROOM = 75
NEAR = 20
BREAK = "BREAK"

LONG = ", ".join(["a red cat and a blue dog"] * 11)
FAR = " ".join(["the red apple of the blue tree"] * 12)
CASES = [
    {"pipeline": "sd1", "prompt": "a (red:1.3) apple", "parts": [["a", 1], ["red", 1.3], ["apple", 1]], "negative": None, "guidance": 7.5},
    {"pipeline": "sd1", "prompt": "((a cat)) and [a dog]", "parts": [["a cat", 1.1 * 1.1], ["and", 1], ["a dog", 1 / 1.1]],
     "negative": "(blurry:1.5)", "negative_parts": [["blurry", 1.5]], "guidance": 5.0},
    {"pipeline": "sd1", "prompt": LONG, "parts": [[LONG, 1]], "negative": "drawing", "negative_parts": [["drawing", 1]], "guidance": 5.0},
    {"pipeline": "sd1", "prompt": "a red cat BREAK (a blue dog:0.5)", "parts": [["a red cat", 1], [BREAK, 0], ["a blue dog", 0.5]],
     "negative": None, "guidance": 4.0},
    {"pipeline": "sd2", "prompt": FAR + " (green:1.2)", "parts": [[FAR, 1], ["green", 1.2]], "negative": None, "guidance": 6.0},
    {"pipeline": "sdxl", "prompt": "a (drawing:1.4) of the [tree]", "parts": [["a", 1], ["drawing", 1.4], ["of the", 1], ["tree", 1 / 1.1]],
     "negative": "red", "negative_parts": [["red", 1]], "guidance": 5.0},
    {"pipeline": "sdxl", "prompt": f"(apple:1.2), {LONG}", "parts": [["apple", 1.2], [", " + LONG, 1]], "negative": "a (dog:0.7)",
     "negative_parts": [["a", 1], ["dog", 0.7]], "guidance": 3.0},
]


def chunks(tokenizer, parts):
    """Lists of 75 tokens at most, each with its weight."""
    comma = tokenizer(",", add_special_tokens=False).input_ids[0]
    done, tokens = [], []
    for text, weight in parts:
        if text == BREAK:
            done, tokens = [*done, tokens], []
            continue
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            if len(tokens) == ROOM:
                commas = [i for i, (old, _) in enumerate(tokens) if old == comma]
                cut = commas[-1] + 1 if commas and ROOM - commas[-1] - 1 < NEAR and token != comma else ROOM
                done, tokens = [*done, tokens[:cut]], tokens[cut:]
            tokens.append((token, weight))
    return [*done, tokens] if tokens or not done else done


def embed(tokenizer, encoder, parts, count, xl):
    """The weighted states [1, 77 * count, c] and, of XL's second encoder, the first chunk as a whole."""
    states, pooled = [], None
    found = chunks(tokenizer, parts)
    for chunk in found + [[]] * (count - len(found)):
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        weights = [1.0, *(weight for _, weight in chunk), 1.0]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        weights += [1.0] * (77 - len(weights))
        out = encoder(torch.tensor([ids]), output_hidden_states=True)
        z = out.hidden_states[-2] if xl else out.last_hidden_state
        mean = z.mean()
        weighted = z * torch.tensor(weights, dtype=z.dtype)[None, :, None]
        states.append(weighted * (mean / weighted.mean()))
        pooled = out[0] if pooled is None and xl else pooled
    return torch.cat(states, 1), pooled


def run(pipe, case, noise, dtype):
    pipe = pipe.to(dtype=dtype)
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    pairs = [(pipe.tokenizer, pipe.text_encoder)] + ([(pipe.tokenizer_2, pipe.text_encoder_2)] if xl else [])
    texts = [case["parts"], case.get("negative_parts", [["", 1]])]
    count = max(len(chunks(tokenizer, parts)) for tokenizer, _ in pairs for parts in texts)
    found = []
    for parts in texts:
        each = [embed(tokenizer, encoder, parts, count, xl) for tokenizer, encoder in pairs]
        found.append((torch.cat([states for states, _ in each], -1).repeat(len(noise), 1, 1), each[-1][1]))
    args = dict(prompt_embeds=found[0][0], negative_prompt_embeds=found[1][0])
    if xl:
        args |= dict(pooled_prompt_embeds=found[0][1].repeat(len(noise), 1), negative_pooled_prompt_embeds=found[1][1].repeat(len(noise), 1))
    return count, pipe(**args, guidance_scale=case["guidance"], num_inference_steps=3, latents=noise.to(dtype), height=16, width=16,
                       output_type="latent").images


@torch.no_grad()
def main():
    tensors, cases, pipes = {}, [], {}
    for name in ["sd1", "sd2", "sdxl"]:
        kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
        pipes[name] = kind.from_pretrained(HERE / "pipelines" / name, torch_dtype=torch.float32)
        pipes[name].set_progress_bar_config(disable=True)
    for i, case in enumerate(CASES):
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(300 + i))
        _, wide = run(pipes[case["pipeline"]], case, noise, torch.float64)
        count, latents = run(pipes[case["pipeline"]], case, noise, torch.float32)
        floor = float((latents.double() - wide).norm() / wide.norm())
        cases.append({**case, "steps": 3, "chunks": count, "floor": floor})
        tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous()}
        print(case["prompt"][:40], count, f"floor {floor:.1e}", f"latents {latents.std():.3f}")
    save_file(tensors, HERE / "weighted.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
