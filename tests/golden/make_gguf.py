#!/usr/bin/env python3
"""Writes the goldens of GGUF files with the package `gguf` of ggml's authors, which also says what their values are.

    python3 -m venv /tmp/gguf
    /tmp/gguf/bin/pip install gguf==0.19.0 numpy safetensors
    /tmp/gguf/bin/python tests/golden/make_gguf.py

What it writes:

    gguf/kinds.gguf             a tensor of each type, and metadata of every type of value
    gguf/kinds.safetensors      the same values in f32
    gguf/unet.gguf              the network of nets/sd1, its weights in types as ComfyUI-GGUF mixes them, one of them cut into rows of 256
    gguf/unet.safetensors       the same values in f32, under the same names

Types that the package can't write (those of 256 values a block) are random bytes with small scales.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "gguf"
WRITTEN = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]
RANDOM = {T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}


def blocks(kind, rows, columns, gen):
    """Random blocks whose scales (half floats at these bytes) are between 2^-14 and 2^-5."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = gen.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for at in RANDOM[kind]:
        scale = (2.0 ** gen.uniform(-14, -5, data.shape[:2])).astype(np.float16)
        data[:, :, at:at + 2] = scale[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def put(writer, values, name, data, kind, shape=None):
    """Adds a tensor and what it stands for."""
    if kind in RANDOM:
        packed = data
    else:
        packed = gguf.quants.quantize(data, kind)
    if shape is not None:
        writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(side) for side in shape])
    writer.add_tensor(name, packed, raw_dtype=kind)
    read = gguf.quants.dequantize(packed, kind).astype(np.float32)
    values[name] = np.ascontiguousarray(read.reshape(data.shape if shape is None and kind not in RANDOM else shape or read.shape))


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kinds():
    writer, values = gguf.GGUFWriter(FOLDER / "kinds.gguf", "test"), {}
    writer.add_uint8("a.u8", 1)
    writer.add_int8("a.i8", -1)
    writer.add_uint16("a.u16", 2)
    writer.add_int16("a.i16", -2)
    writer.add_uint32("a.u32", 3)
    writer.add_int32("a.i32", -3)
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "fög")
    writer.add_uint64("a.u64", 4)
    writer.add_int64("a.i64", -4)
    writer.add_float64("a.f64", 0.25)
    writer.add_array("a.list", ["x", "yz"])
    writer.add_array("a.numbers", [1.5, 2.5])
    writer.add_custom_alignment(64)
    gen = np.random.Generator(np.random.Philox(key=5))
    for kind in WRITTEN:
        put(writer, values, f"w.{kind.name}", gen.standard_normal((3, 64), np.float32), kind)
    for kind in RANDOM:
        put(writer, values, f"w.{kind.name}", blocks(kind, 2, 512, gen), kind)
    # A convolution, cut into rows of 256.
    conv = gen.standard_normal((8, 32, 3, 3), np.float32)
    put(writer, values, "conv", conv.reshape(-1, 256), T.Q4_0, conv.shape)
    close(writer)
    save_file(values, FOLDER / "kinds.safetensors")


def unet():
    weights = load_file(HERE / "nets/sd1/diffusion_pytorch_model.safetensors")
    writer, values = gguf.GGUFWriter(FOLDER / "unet.gguf", "sd1"), {}
    wide = [T.Q8_0, T.Q4_0, T.Q5_1, T.Q5_0, T.Q4_1]
    number = 0
    for name, weight in sorted(weights.items()):
        weight = weight.astype(np.float32)
        count = weight.size
        if weight.ndim == 1:
            put(writer, values, name, weight, T.F32)
        elif weight.shape[-1] % 32 == 0:
            put(writer, values, name, weight, wide[number % len(wide)])
            number += 1
        elif count % 256 == 0:
            put(writer, values, name, weight.reshape(-1, 256), T.Q8_0, weight.shape)
        else:
            put(writer, values, name, weight, T.BF16 if number % 2 else T.F16)
    close(writer)
    save_file(values, FOLDER / "unet.safetensors")


def main():
    FOLDER.mkdir(exist_ok=True)
    kinds()
    unet()
    for path in sorted(FOLDER.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
