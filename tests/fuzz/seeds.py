"""Makes the seed inputs of the fuzz targets: python3 seeds.py UNFOG (the binary). Needs diffusers 0.42.1, for the networks, and gguf 0.19.0.

pack: the three kinds of storage, of networks that have every op between them; recipe: PNGs of every kind of text; weights: the
three types, and GGUF; scheduler_config: the classes and their options.
"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import gguf
import torch
from diffusers import UNet2DModel

HERE = pathlib.Path(__file__).parent
TINY = {k: v for k, v in json.loads((HERE / "tiny/config.json").read_text()).items() if k != "_class_name"}
NETWORKS = {
    "plain": TINY,
    "attention": {**TINY, "down_block_types": ["AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D"], "attention_head_dim": 1,
                  "num_class_embeds": 2, "time_embedding_type": "fourier"},
    "levels": {**TINY, "block_out_channels": [2, 2], "down_block_types": ["DownBlock2D", "DownBlock2D"],
               "up_block_types": ["UpBlock2D", "UpBlock2D"], "time_embedding_type": "learned", "num_train_timesteps": 4,
               "downsample_type": "resnet", "resnet_time_scale_shift": "scale_shift"},
}
SCHEDULERS = [
    {"_class_name": "DDIMScheduler"},
    {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50, "variance_type": "learned_range"},
    {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False,
     "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 1,
     "set_alpha_to_one": False},
    {"_class_name": "DDPMScheduler", "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5,
     "prediction_type": "sample", "timestep_spacing": "linspace", "variance_type": "fixed_large"},
    {"_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2, 0.3], "clip_sample_range": 2.0, "variance_type": "fixed_small_log"},
    {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "interpolation_type": "linear", "final_sigmas_type": "zero"},
    {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun",
     "lower_order_final": True, "euler_at_final": False, "use_lu_lambdas": True},
    {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1", "solver_order": 3, "disable_corrector": [0]},
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
]


def put(target, name, data):
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def safetensors(weights, kind):
    """Header, line break, data, as the target takes it."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        if kind == "BF16":
            value = (value.numpy().astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            value = value.numpy().astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": list(weights[name].shape), "data_offsets": [len(data), len(data) + len(value)]}
        data += value
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + data


def as_gguf(weights, path, kind):
    """The same weights as GGUF, with a value of some types before them."""
    writer = gguf.GGUFWriter(path, "tiny")
    writer.add_array("a.list", ["x", "yz"])
    writer.add_custom_alignment(64)
    for name, value in weights.items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(side) for side in value.shape])
        writer.add_tensor(name, value.numpy().astype({"F32": "<f4", "F16": "<f2"}[kind]).reshape(-1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before, after=()):
    header = struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(b"\0\x10\x20")), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def main(unfog):
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, config in NETWORKS.items():
            network = UNet2DModel(**config)
            network.save_pretrained(folder / name)
            if name == "plain":
                (folder / name / "scheduler_config.json").write_text(json.dumps(
                    {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 8, "use_karras_sigmas": True}))
            for storage in ["f32", "f16", "int8"] if name == "plain" else ["int8"]:
                out = folder / "out.pack"
                size = "2x2" if name == "plain" else "4x4"
                subprocess.run([unfog, "pack", folder / name, "--size", size, "--precision", storage, "--out", out], check=True)
                # All that the checksum covers.
                put("pack", f"{name}-{storage}", out.read_bytes()[28:])
            if name == "plain":
                for kind in ["F32", "F16", "BF16"]:
                    put("weights", kind.lower(), safetensors(network.state_dict(), kind))
        picture = folder / "a.png"
        subprocess.run([unfog, "sample", "--steps", "1", "--backend", "reference", "--out", picture], check=True)
        put("recipe", "unfog", picture.read_bytes())
        recipe = picture.read_bytes()
        start = recipe.index(b'{"command"')
        recipe = recipe[start:recipe.index(b"}", start) + 1]
        put("recipe", "text", png([(b"tEXt", b"unfog\0" + recipe)]))
        put("recipe", "compressed", png([(b"zTXt", b"unfog\0\0" + zlib.compress(recipe))]))
        put("recipe", "international", png([], [(b"iTXt", b"unfog\0\1\0en\0unfog\0" + zlib.compress(recipe))]))
    with tempfile.TemporaryDirectory() as folder:
        for kind in ["F32", "F16"]:
            put("weights", f"gguf-{kind.lower()}", as_gguf(UNet2DModel(**TINY).state_dict(), pathlib.Path(folder) / kind, kind))
    for i, config in enumerate(SCHEDULERS):
        put("scheduler_config", str(i), json.dumps(config).encode())


if __name__ == "__main__":
    shutil.rmtree(HERE / "seeds", ignore_errors=True)
    main(sys.argv[1])
