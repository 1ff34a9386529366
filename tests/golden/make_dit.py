#!/usr/bin/env python3
"""Writes the goldens of networks of transformer layers over patches, and of their pipelines: small random models, and what diffusers
makes of them. Needs what make_pipelines.py needs:

    /tmp/golden/bin/python tests/golden/make_dit.py

What it writes:

    dit/NAME/          small random DiTTransformer2DModels and SD3Transformer2DModels, and DiTPipelines and StableDiffusion3Pipelines
                       around such, as diffusers saves them (f16 weights)
    dit.safetensors    one evaluation of each network: `x`, `out`, and for texts `embedding` (tokens, then the pooled text); and runs of
                       the pipelines: `noise` [n, c, h, w], `latents` as the sampler leaves them, `image` [n, 3, h, w] from 0 to 1; in
                       f32, with `floor` in a case, the relative L2 distance of `out` or the latents from f64
"""

import json
import shutil

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.pipelines.dit import pipeline_dit
from diffusers.utils import logging
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModelWithProjection

from make import HERE, rand, rel
from make_pipelines import halved, text_config, write_tokenizer

FOLDER = HERE / "dit"

NETS = {
    # As DiT-XL: patches of 2, learned variance, the tanh approximation of GELU.
    "dit": dict(model=DiTTransformer2DModel, size=(8, 8), t=437,
                config=dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
                            sample_size=8, num_embeds_ada_norm=7)),
    # Another size than it was trained on, patches of 3, gated layers, weights of the normalisation, no biases in the attention.
    "dit-odd": dict(model=DiTTransformer2DModel, size=(15, 15), t=3,
                    config=dict(num_attention_heads=1, attention_head_dim=20, in_channels=3, num_layers=1, patch_size=3,
                                sample_size=9, num_embeds_ada_norm=4, activation_fn="geglu", attention_bias=False,
                                norm_elementwise_affine=True, norm_eps=1e-3)),
    # Patches of one pixel.
    "dit-pixel": dict(model=DiTTransformer2DModel, size=(5, 5), t=999,
                      config=dict(num_attention_heads=3, attention_head_dim=8, in_channels=1, num_layers=1, patch_size=1,
                                  sample_size=5, num_embeds_ada_norm=3, activation_fn="gelu")),
    # As Stable Diffusion 3.
    "sd3": dict(model=SD3Transformer2DModel, size=(8, 12), t=815.25, tokens=11,
                config=dict(sample_size=8, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=6,
                            num_attention_heads=2, joint_attention_dim=20, caption_projection_dim=12,
                            pooled_projection_dim=14, pos_embed_max_size=7)),
    # As Stable Diffusion 3.5: normalised queries and keys, a second attention in some layers.
    "sd35": dict(model=SD3Transformer2DModel, size=(6, 6), t=12.5, tokens=5,
                 config=dict(sample_size=8, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=8,
                             num_attention_heads=3, joint_attention_dim=9, caption_projection_dim=24,
                             pooled_projection_dim=10, pos_embed_max_size=4, dual_attention_layers=(0,), qk_norm="rms_norm")),
}


def randomise(model, gen, std=1.0):
    """Weights that keep values near 1 and all of the network at work, exact in f16."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                p.copy_(torch.randn(p.shape, generator=gen) * 0.3 + mean)
            else:
                fan_in = 1 if "embedding_table" in name else p[0].numel()
                p.copy_(torch.randn(p.shape, generator=gen) * std * fan_in ** -0.5)
            p.copy_(p.half().float())
    return model.eval()


@torch.no_grad()
def make_nets(tensors, cases, gen):
    for name, spec in NETS.items():
        folder = FOLDER / name
        randomise(spec["model"](**spec["config"]), gen).half().save_pretrained(folder)
        model = spec["model"].from_pretrained(folder, torch_dtype=torch.float32).eval()
        x = rand(gen, 2, model.config.in_channels, *spec["size"]).float()
        key = f"{len(cases):02}"
        case = dict(kind="net", net=name, t=spec["t"])
        if "tokens" in spec:
            tokens = rand(gen, 2, spec["tokens"], model.config.joint_attention_dim).float()
            pooled = rand(gen, 2, model.config.pooled_projection_dim).float()
            tensors[f"{key}.embedding"] = torch.cat([tokens.flatten(1), pooled], dim=1)
            case["tokens"] = spec["tokens"]
            given = lambda dtype: dict(encoder_hidden_states=tokens.to(dtype), pooled_projections=pooled.to(dtype))
            t = torch.full((2,), spec["t"])
        else:
            # A class, and the label that stands for none.
            case["labels"] = [1, model.config.num_embeds_ada_norm]
            given = lambda dtype: dict(class_labels=torch.tensor(case["labels"]))
            t = torch.full((2,), spec["t"], dtype=torch.int64)
        run = lambda dtype: model.to(dtype)(x.to(dtype), timestep=t, **given(dtype)).sample
        wide, out = run(torch.float64), run(torch.float32)
        case["floor"] = rel(out, wide)
        cases.append(case)
        tensors |= {f"{key}.x": x, f"{key}.out": out.contiguous()}
        print(f"{name}: floor {case['floor']:.1e}, std {out.std():.2f}, {sum(p.numel() for p in model.parameters())} parameters")


# ---------------------------------------------------------------------------------------------------------- pipelines


LABELS = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 207: "golden retriever"}


def vae(channels, **more):
    return AutoencoderKL(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
                         up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=channels,
                         norm_num_groups=4, sample_size=16, **more)


def dit_pipeline(folder):
    """As facebook/DiT-XL-2-256. The pipeline's label for no class is 1000, whatever the network has."""
    torch.manual_seed(1)
    network = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
                                    sample_size=8, norm_eps=1e-5)
    with torch.no_grad():
        # Latents of a size that the decoder knows.
        for p in randomise(network, torch.Generator().manual_seed(11)).proj_out_2.parameters():
            p.copy_((p * 0.25).half().float())
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear",
                              clip_sample=False)
    return DiTPipeline(transformer=network, vae=halved(vae(4, scaling_factor=0.18215)),
                       scheduler=scheduler, id2label=LABELS)


def sd3_pipeline(folder, **more):
    """As Stable Diffusion 3 without its third text encoder."""
    torch.manual_seed(2)
    tokenizer, vocab = write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    tokenizer_2, _ = write_tokenizer(folder / "tokenizer_2", "!")
    latents = vae(8, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    network = SD3Transformer2DModel(sample_size=8, in_channels=8, out_channels=8, num_layers=2, attention_head_dim=8,
                                    num_attention_heads=2, joint_attention_dim=80, caption_projection_dim=16,
                                    pooled_projection_dim=24 + 20, pos_embed_max_size=6, **more)
    texts = [CLIPTextModelWithProjection(text_config(vocab, hidden_act=act, projection_dim=dim))
             for act, dim in (("quick_gelu", 24), ("gelu", 20))]
    return StableDiffusion3Pipeline(
        transformer=randomise(network, torch.Generator().manual_seed(12)), vae=halved(latents),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0), text_encoder=halved(texts[0]),
        text_encoder_2=halved(texts[1]), text_encoder_3=None, tokenizer=tokenizer, tokenizer_2=tokenizer_2, tokenizer_3=None)


PIPELINES = {
    "dit-pipeline": dit_pipeline,
    "sd3-pipeline": sd3_pipeline,
    "sd35-pipeline": lambda folder: sd3_pipeline(folder, qk_norm="rms_norm", dual_attention_layers=(0,)),
}

RUNS = [
    dict(pipeline="dit-pipeline", labels=[207, 207], guidance=4.0, steps=4),
    dict(pipeline="dit-pipeline", labels=[3, 3], guidance=1.0, steps=3),
    dict(pipeline="sd3-pipeline", prompt="a photo of a red apple", negative=None, guidance=7.0, steps=4),
    dict(pipeline="sd3-pipeline", prompt="the green cat", negative=None, guidance=1.0, steps=2),
    dict(pipeline="sd35-pipeline", prompt="빨간 사과", negative="blurry drawing", guidance=4.5, steps=3),
]


def run(pipe, case, noise, dtype):
    """The latents that the sampler leaves for each image, and the pictures from 0 to 1."""
    pipe = pipe.to(dtype=dtype)
    noise = noise.to(dtype)
    if "labels" in case:
        # The pipeline takes no latents and returns none: it draws them, and hands them to the decoder.
        pipeline_dit.randn_tensor = lambda shape, **_: noise.clone()
        decode, seen = pipe.vae.decode, []
        pipe.vae.decode = lambda z: seen.append(z) or decode(z)
        image = pipe(case["labels"], guidance_scale=case["guidance"], num_inference_steps=case["steps"], output_type="pt").images
        pipe.vae.decode = decode
        return seen[0] * pipe.vae.config.scaling_factor, image
    args = dict(prompt=[case["prompt"]] * len(noise), guidance_scale=case["guidance"], num_inference_steps=case["steps"],
                latents=noise, height=16, width=16)
    if case["negative"] is not None:
        args["negative_prompt"] = [case["negative"]] * len(noise)
    return pipe(**args, output_type="latent").images, pipe(**args, output_type="pt").images


@torch.no_grad()
def make_pipelines(tensors, cases):
    pipes = {}
    for name, make in PIPELINES.items():
        folder = FOLDER / name
        pipe = make(folder)
        pipe.to(torch.float16).save_pretrained(folder)
        # The table of positions is rounded with the weights.
        pipe.to(torch.float32)
        pipe.set_progress_bar_config(disable=True)
        file = folder / "model_index.json"
        index = json.loads(file.read_text())
        if name == "dit-pipeline":
            # Pipelines don't save the names of classes; the published model has them.
            file.write_text(json.dumps(index | dict(id2label=LABELS), indent=2, sort_keys=True) + "\n")
        else:
            assert index["text_encoder_3"] == [None, None], index
        pipes[name] = pipe
    for i, case in enumerate(RUNS):
        pipe, key = pipes[case["pipeline"]], f"{len(cases):02}"
        noise = torch.randn((2, pipe.transformer.config.in_channels, 8, 8), generator=torch.Generator().manual_seed(200 + i))
        wide, _ = run(pipe, case, noise, torch.float64)
        latents, image = run(pipe, case, noise, torch.float32)
        floor = rel(latents, wide)
        cases.append(dict(kind="pipeline", floor=floor, **case))
        tensors |= {f"{key}.noise": noise, f"{key}.latents": latents.contiguous(), f"{key}.image": image.contiguous()}
        print(case, f"floor {floor:.1e}", f"range {image.min():.2f} {image.max():.2f}", f"latents {latents.std():.3f}")


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    shutil.rmtree(FOLDER, ignore_errors=True)
    tensors, cases, gen = {}, [], torch.Generator().manual_seed(9)
    with sdpa_kernel(SDPBackend.MATH):
        make_nets(tensors, cases, gen)
        make_pipelines(tensors, cases)
    save_file(tensors, HERE / "dit.safetensors", {"cases": json.dumps(cases, ensure_ascii=False)})


if __name__ == "__main__":
    main()
