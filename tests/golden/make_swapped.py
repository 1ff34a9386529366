#!/usr/bin/env python3
"""Writes tests/golden/swapped.safetensors: pictures of glyph-tiny under schedulers of other classes, by diffusers.

As make_samplers.py, it installs nothing and needs diffusers 0.42.1 and scipy:

    /tmp/golden/bin/python tests/golden/make_swapped.py        # some seconds

Each case is the model's own scheduler_config.json, taken over by another class with some keys changed, as a user would; the noise is
noise-glyph-pair.safetensors. In the file: `NN.x0` [2, 1, 16, 16] of the f64 run, and as metadata `cases`: `{text, steps, floor}`,
`text` being the scheduler_config.json and `floor` the relative distance of diffusers' f32 run.
"""

import argparse
import json
import pathlib
import tempfile

import diffusers
import diffusers.schedulers as S
import torch
from diffusers import UNet2DModel
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

import make_samplers

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent.parent / "models/glyph-tiny"
STEPS = 10

CASES = [
    (S.EulerDiscreteScheduler, {}),
    (S.EulerDiscreteScheduler, dict(use_karras_sigmas=True, timestep_spacing="trailing")),
    (S.EulerAncestralDiscreteScheduler, {}),
    (S.HeunDiscreteScheduler, dict(use_exponential_sigmas=True)),
    (S.KDPM2DiscreteScheduler, {}),
    (S.DPMSolverMultistepScheduler, dict(lambda_min_clipped=-5.1, timestep_spacing="linspace")),
    (S.DPMSolverMultistepScheduler, dict(algorithm_type="sde-dpmsolver++", use_karras_sigmas=True)),
    (S.DEISMultistepScheduler, {}),
    (S.UniPCMultistepScheduler, dict(solver_order=3)),
    (S.PNDMScheduler, dict(skip_prk_steps=True)),
    (S.LCMScheduler, {}),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    args = parser.parse_args()
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    model = UNet2DModel.from_pretrained(MODEL / "unet", torch_dtype=torch.float32)
    make_samplers.SHAPE = (2, 1, 16, 16)
    make_samplers.network = lambda x, t, _: model.to(x.dtype)(x, t).sample
    noise = load_file(HERE / "noise-glyph-pair.safetensors")["noise"]
    own = json.loads((MODEL / "scheduler/scheduler_config.json").read_text())
    tensors, cases = {}, []
    for kind, changes in CASES:
        scheduler = kind.from_config(own | changes)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            scheduler.save_pretrained(folder)
            text = (pathlib.Path(folder) / "scheduler_config.json").read_text()
            make = lambda **_: kind.from_config(own | changes)
            make.__module__ = kind.__module__
            both = [make_samplers.run(make, {}, STEPS, noise, dtype, {}, {}) for dtype in (torch.float32, torch.float64)]
        floor = float(f"{make_samplers.rel(*both):.2e}")
        tensors[f"{len(cases):02}.x0"] = both[1].float().contiguous()
        cases.append(dict(text=text, steps=STEPS, floor=floor))
        print(f"{kind.__name__} {changes}: std {float(both[1].std()):.3f}, floor {floor}")
    save_file(tensors, args.to / "swapped.safetensors", {"cases": json.dumps(cases, separators=(",", ":"))})


if __name__ == "__main__":
    main()
