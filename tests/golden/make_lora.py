#!/usr/bin/env python3
"""Writes small random LoRAs for the pipelines of make_pipelines.py, and what diffusers makes with them from given noise.

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 transformers==5.23.0 torch numpy safetensors peft
    /tmp/golden/bin/python tests/golden/make_lora.py

What it writes:

    loras/NAME.safetensors   LoRAs with the names that kohya's scripts, peft and older diffusers give their tensors
    loras.safetensors        runs of the pipelines with them: `noise` [n, c, h, w] and `latents` as the sampler leaves them, in f32; in a
                             case `loras` are files and weights, `floor` is the relative L2 distance of the latents in f32 from those in
                             f64, `effect` how far they are from those without LoRA
"""

import json
import pathlib
import shutil

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "loras"
KINDS = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def open_pipeline(name, dtype=torch.float32):
    pipe = KINDS[name].from_pretrained(HERE / "pipelines" / name, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def layers(module, endings):
    """The linear layers and convolutions whose names end so, and their weights' shapes."""
    return {name: tuple(m.weight.shape) for name, m in module.named_modules()
            if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)) and name.endswith(endings)}


def factors(shape, rank, gen, size):
    """Random factors for a weight of this shape: of [out, in] or of [out, in, h, w]."""
    down, up = (rank, *shape[1:]), (shape[0], rank, *[1] * (len(shape) - 2))
    fan = 1
    for n in shape[1:]:
        fan *= n
    return [(torch.randn(down, generator=gen) / fan**0.5).half(), (torch.randn(up, generator=gen) * size / rank**0.5).half()]


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "v_proj", "out_proj", "fc1", "fc2")


def full(name):
    """A text encoder's layer with the prefix that it had before transformers 5."""
    return name if name.startswith(("text_model.", "text_projection")) else "text_model." + name


def kohya():
    """As kohya's scripts write it for Stable Diffusion 1: ranks and alphas that differ, convolutions, the text encoder."""
    pipe, gen, tensors = open_pipeline("sd1"), torch.Generator().manual_seed(11), {}

    def add(name, shape, rank, alpha, size):
        down, up = factors(shape, rank, gen, size)
        tensors.update({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha).half()})

    more = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
            "upsamplers.0.conv")
    for name, shape in layers(pipe.unet, ATTENTION + more).items():
        rank = 2 if len(shape) == 2 else 3
        add("lora_unet_" + name.replace(".", "_"), shape, rank, 1.0 if len(shape) == 2 else 4.5, 0.5)
    for name, shape in layers(pipe.text_encoder, TEXT).items():
        add("lora_te_" + full(name).replace(".", "_"), shape, 2, 2.0, 0.4)
    save_file(tensors, FOLDER / "kohya.safetensors", {"ss_network_dim": "2"})


def sgm(name):
    """The names that the network's layers have in Stability's program, for one layer a level."""
    kinds = {"resnets": "0", "attentions": "1"}
    parts = name.split(".")
    if parts[0] == "mid_block":
        return ".".join(["middle_block", {"attentions": "1"}.get(parts[1]) or str(2 * int(parts[2])), *parts[3:]])
    level, kind, layer = int(parts[1]), parts[2], int(parts[3])
    per_level = 2
    number = level * per_level + layer + (1 if parts[0] == "down_blocks" else 0)
    return ".".join([{"down_blocks": "input_blocks", "up_blocks": "output_blocks"}[parts[0]], str(number), kinds[kind], *parts[4:]])


def kohya_xl():
    """As kohya's scripts write it for Stable Diffusion XL: the network under its names in Stability's program, two text encoders."""
    pipe, gen, tensors = open_pipeline("sdxl"), torch.Generator().manual_seed(12), {}

    def add(name, shape, size):
        down, up = factors(shape, 2, gen, size)
        tensors.update({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)})

    for name, shape in layers(pipe.unet, ATTENTION + ("ff.net.0.proj", "proj_in")).items():
        add("lora_unet_" + sgm(name).replace(".", "_"), shape, 0.8)
    for number, encoder in enumerate([pipe.text_encoder, pipe.text_encoder_2], 1):
        for name, shape in layers(encoder, TEXT).items():
            add(f"lora_te{number}_" + full(name).replace(".", "_"), shape, 0.6)
    save_file(tensors, FOLDER / "kohya-xl.safetensors")


def peft():
    """As diffusers saves it since 0.22, with peft's config in the metadata: alphas that are no ranks, and for one layer another."""
    torch.manual_seed(13)
    pipe = open_pipeline("sd1")
    config = LoraConfig(r=2, lora_alpha=3, target_modules=[*ATTENTION, "conv1"], alpha_pattern={"attn2.to_k": 1}, init_lora_weights=False)
    pipe.unet.add_adapter(config)
    text = LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    pipe.text_encoder.add_adapter(text)
    states = [{k: v.half() for k, v in get_peft_model_state_dict(part).items()} for part in [pipe.unet, pipe.text_encoder]]
    StableDiffusionPipeline.save_lora_weights(
        FOLDER, states[0], states[1], weight_name="peft.safetensors", unet_lora_adapter_metadata=config.to_dict(),
        text_encoder_lora_adapter_metadata=text.to_dict())


def old():
    """As diffusers saved it before 0.22: processors of attention, no alphas."""
    pipe, gen, tensors = open_pipeline("sd1"), torch.Generator().manual_seed(14), {}
    for name, shape in layers(pipe.unet, ATTENTION).items():
        stem = name.removesuffix(".0").replace(".to_", ".processor.to_")
        down, up = factors(shape, 2, gen, 0.6)
        tensors |= {f"unet.{stem}_lora.down.weight": down, f"unet.{stem}_lora.up.weight": up}
    new = {"q_proj": "to_q", "v_proj": "to_v", "out_proj": "to_out"}
    for name, shape in layers(pipe.text_encoder, tuple(new)).items():
        stem, layer = full(name).rsplit(".", 1)
        down, up = factors(shape, 2, gen, 0.6)
        tensors |= {f"text_encoder.{stem}.{new[layer]}_lora.{n}.weight": t for n, t in [("down", down), ("up", up)]}
    save_file(tensors, FOLDER / "old.safetensors")


CASES = [
    {"pipeline": "sd1", "loras": [["kohya", 1.0]], "prompt": "a photo of a red apple", "guidance": 5.0, "steps": 4},
    {"pipeline": "sd1", "loras": [["peft", 1.0]], "prompt": "a photo of a red apple", "guidance": 5.0, "steps": 4},
    {"pipeline": "sd1", "loras": [["old", 0.75]], "prompt": "a blue dog", "guidance": 5.0, "steps": 4},
    {"pipeline": "sd1", "loras": [["kohya", 0.5], ["peft", -0.75]], "prompt": "a blue dog", "guidance": 5.0, "steps": 4},
    {"pipeline": "sdxl", "loras": [["kohya-xl", 1.5]], "prompt": "a drawing of the tree", "guidance": 5.0, "steps": 4},
]


def run(case, noise, dtype, loras):
    pipe = open_pipeline(case["pipeline"], dtype)
    # One after the other: loading a second one beside it would set the first one's factors in the text encoder to others.
    for name, weight in loras:
        pipe.load_lora_weights(FOLDER / f"{name}.safetensors")
        texts = [part for part in ["text_encoder", "text_encoder_2"] if hasattr(pipe, part)]
        pipe.fuse_lora(components=["unet", *texts], lora_scale=weight)
        pipe.unload_lora_weights()
    args = {"prompt": [case["prompt"]] * len(noise), "guidance_scale": case["guidance"], "num_inference_steps": case["steps"],
            "latents": noise.to(dtype), "height": 16, "width": 16}
    with torch.no_grad():
        return pipe(**args, output_type="latent").images


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for make in [kohya, kohya_xl, peft, old]:
        make()
    tensors, cases = {}, []
    for i, case in enumerate(CASES):
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(200 + i))
        latents, wide = [run(case, noise, dtype, case["loras"]) for dtype in [torch.float32, torch.float64]]
        plain = run(case, noise, torch.float32, [])
        apart = lambda a, b: float((a.double() - b).norm() / b.norm())
        case = {**case, "floor": apart(latents, wide), "effect": apart(latents, plain.double())}
        print(case)
        cases.append(case)
        tensors |= {f"{i:02}.noise": noise, f"{i:02}.latents": latents.contiguous()}
    save_file(tensors, HERE / "loras.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
