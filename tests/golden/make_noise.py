#!/usr/bin/env python3
"""Writes noise.safetensors: the noise streams of torch's generators, which unfog's tests compare with.

The golden is committed, so neither the build nor the tests need this script. It installs nothing. To run it again, on an
x86-64 processor with AVX2 and with g++:

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.15.0 numpy safetensors \\
        nvidia-curand nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl
    /tmp/golden/bin/python tests/golden/make_noise.py \\
        --include /tmp/golden/lib/python3*/site-packages/nvidia/cu13/include

The metadata key `cases` holds, for each case NN, the parameters and the tensors NN.0, NN.1, ... (a draw each).

    cpu    torch.randn on the CPU, once with AVX2 and once without (`build`): torch chooses when it starts, so each runs in a
           process of its own. Of a large draw only each `stride`-th value and the last 32 are kept.
    uniform  torch.rand: whole, and in `hash` the FNV-1a hash of its bytes, which stands alone for large draws
    cuda   cuRAND's device code, compiled for the host, walked as torch's kernel walks it (curand_host.cpp): torch itself can't
           run its CUDA generator without a GPU. Fused products and sums, as on a GPU; sine and cosine of the C library, where a
           GPU has its own fast ones.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent

# seed, shape, draws
CPU = [
    (42, [1], 4), (1, [15], 3), (2, [3, 5], 2), (3, [16], 2), (4, [17], 2), (5, [3, 1, 5, 7], 3), (6, [4096], 2),
    (2**32 + 7, [2, 3, 8, 8], 2), (2**64 - 1, [31], 2), (8, [65537], 1),
]
# seed, shape, draws, multiprocessors, threads of each
CUDA = [
    (0, [1], 2, 108, 2048), (42, [4, 15], 3, 108, 2048), (2**63 + 12345, [1000], 2, 108, 2048),
    (7, [3000], 3, 1, 1024), (8, [2, 2500], 2, 1, 1536),
]


def draw(build):
    """In a process of its own: all draws of this build of torch, to standard output."""
    import torch

    torch.set_num_threads(1)
    expected = {"avx2": ("AVX2",), "scalar": ("DEFAULT", "NO AVX")}[build]
    assert torch.backends.cpu.get_cpu_capability() in expected, torch.backends.cpu.get_cpu_capability()
    out = {}
    for i, (seed, shape, draws) in enumerate(CPU):
        gen = torch.Generator().manual_seed(seed)
        for d in range(draws):
            out[f"n{i}.{d}"] = torch.randn(shape, generator=gen).numpy()
        out[f"u{i}"] = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    np.savez(sys.stdout.buffer, **out)


def draws_of(build):
    env = os.environ | {"ATEN_CPU_CAPABILITY": {"avx2": "avx2", "scalar": "default"}[build]}
    with tempfile.TemporaryFile() as file:
        subprocess.run([sys.executable, __file__, "--draw", build], env=env, stdout=file, check=True)
        file.seek(0)
        return dict(np.load(file))


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return f"{h:016x}"


def keep(values, stride):
    """Each stride-th value and the last 32."""
    values = values.reshape(-1)
    if stride == 1:
        return values
    index = np.arange(len(values))
    return values[(index % stride == 0) | (index >= len(values) - 32)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    parser.add_argument("--include", action="append", default=[], help="folder of cuRAND's and CUDA's headers; repeatable")
    parser.add_argument("--whole", action="store_true", help="keep every value of the large draws")
    parser.add_argument("--draw", choices=("avx2", "scalar"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        draw(args.draw)
        return
    from safetensors.numpy import save_file

    tensors, cases = {}, []

    def add(case, draws):
        for d, values in enumerate(draws):
            tensors[f"{len(cases):02}.{d}"] = np.ascontiguousarray(values, dtype=np.float32)
        cases.append(case)

    for build in ("avx2", "scalar"):
        drawn = draws_of(build)
        for i, (seed, shape, draws) in enumerate(CPU):
            stride = 7 if np.prod(shape) > 10000 and not args.whole else 1
            case = {"kind": "cpu", "build": build, "seed": str(seed), "shape": shape, "stride": stride}
            add(case, [keep(drawn[f"n{i}.{d}"], stride) for d in range(draws)])
    # Uniform values do not depend on the build.
    for i, (seed, shape, _) in enumerate(CPU):
        values = drawn[f"u{i}"]
        case = {"kind": "uniform", "seed": str(seed), "count": int(values.size), "hash": fnv(values.tobytes())}
        add(case, [values.reshape(-1)] if values.size <= 105 else [])
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "curand_host"
        includes = [f"-I{include}" for include in args.include]
        source = HERE / "curand_host.cpp"
        subprocess.run(["g++", "-O2", "-mfma", "-ffp-contract=fast", *includes, source, "-o", program], check=True)
        for seed, shape, draws, processors, threads in CUDA:
            size = int(np.prod(shape))
            command = [program, *(str(v) for v in (seed, size, draws, processors, threads))]
            values = np.frombuffer(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, np.float32)
            case = {"kind": "cuda", "seed": str(seed), "shape": shape, "multiprocessors": processors, "threads": threads}
            add(case, list(values.reshape(draws, size)))
    save_file(tensors, args.to / "noise.safetensors", {"cases": json.dumps(cases)})
    print(f"noise: {len(cases)} cases")


if __name__ == "__main__":
    main()
