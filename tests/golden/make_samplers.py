#!/usr/bin/env python3
"""Writes tests/golden/samplers.safetensors: what each sampler makes of given noise, with a cheap fixed network.

As make.py, it installs nothing and needs diffusers 0.42.1 (scipy too, for beta sigmas):

    /tmp/golden/bin/python tests/golden/make_samplers.py        # about two minutes

The network is a formula (`network` below), the same for every kind of prediction. Each run is made twice: as diffusers does
it (f32), and in f64 from diffusers' own f32 tables. The golden is the f64 result; `floor` is the relative L2 distance of the
f32 one from it, which is what a correct f32 implementation may differ by, too.

What only k-diffusion or a paper has is written here in a few lines of torch from the paper's formula (`class Paper...`).

In the file: `noise` [draws, 2, 1, 2, 3] (draw 0 starts a run, the others follow in diffusers' order), `x0` [runs, 2, 1, 2, 3], and
as metadata `cases`: one entry a configuration, `{sampler, config, steps: [...], floor: [...], nan: [...]}`; its runs are the next rows of x0. `nan` are the numbers of steps with which
diffusers ends in no number; they have no row.
"""

import argparse
import contextlib
import json
import math
import pathlib
import sys

import diffusers
import diffusers.schedulers as S
import numpy as np
import scipy.integrate
import torch
from diffusers.utils import logging
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
SHAPE = (2, 1, 2, 3)
STEPS = (1, 2, 3, 7, 20, 50)
FLOAT32 = torch.float32


def network(x, t, freq):
    """What the network says: smooth, bounded, each value looks at its neighbour and at the time."""
    x = x.reshape(2, 6)
    time = 0.3 * math.sin(freq * float(t))
    return (0.7 * torch.tanh(x) + 0.25 * torch.tanh(0.5 * x.roll(-1, 1) + time) + 0.1).reshape(SHAPE)


def spread(x):
    """What it says of the variance, if asked."""
    return 0.02 * (1.1 + torch.tanh(x))


def rel(a, b):
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm())


class Noise:
    """Hands out the draws in order, wherever a scheduler asks for noise."""

    def __init__(self, values, dtype):
        self.draws, self.dtype = iter(values), dtype

    def __call__(self, shape, **_):
        assert tuple(shape) == SHAPE
        return next(self.draws).to(self.dtype)


@contextlib.contextmanager
def wide():
    """Inside, what diffusers casts to f32 becomes f64."""
    torch.float32 = torch.float64
    try:
        yield
    finally:
        torch.float32 = FLOAT32


def widen(scheduler):
    """The tables in f64, with the values they have."""
    for name, value in vars(scheduler).items():
        if isinstance(value, torch.Tensor) and value.dtype == FLOAT32:
            setattr(scheduler, name, value.double())


# What the network's time is multiplied by, for classes whose time is no timestep.
FREQUENCIES = {S.EDMEulerScheduler: 1.0, S.CMStochasticIterativeScheduler: 0.001}

# diffusers integrates LMS's polynomials to 1e-4; the f64 run does so to the last bits.
QUAD = scipy.integrate.quad


def run(kind, config, steps, noise, dtype, args, extra):
    config = {k: v for k, v in config.items() if v is not None}
    scheduler = kind(**config)
    scheduler.set_timesteps(steps, **args)
    scipy.integrate.quad = (lambda f, a, b, **_: QUAD(f, a, b, epsrel=1e-13)) if dtype == torch.float64 else QUAD
    if hasattr(scheduler, "set_begin_index"):
        # Otherwise a run whose rounded first timestep comes twice starts at its second step, and fails at its last.
        scheduler.set_begin_index(0)
    if dtype == torch.float64:
        widen(scheduler)
    take = Noise(noise, dtype)
    sys.modules[kind.__module__].randn_tensor = take
    freq = FREQUENCIES.get(kind, 0.004)
    x = take(SHAPE) * getattr(scheduler, "init_noise_sigma", 1.0)
    with wide() if dtype == torch.float64 else contextlib.nullcontext():
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            out = network(seen, t, freq).to(dtype)
            if config.get("variance_type", "").startswith("learned"):
                out = torch.cat([out, spread(seen).to(dtype)], dim=1)
            x = scheduler.step(out, t, x, **extra).prev_sample
    return x.to(dtype)


SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
CHAIN = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)


class Model:
    """What k-diffusion calls the model: the denoised image of x = image + sigma * noise."""

    def __init__(self, scheduler, dtype):
        self.prediction = scheduler.config.prediction_type
        table = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5
        self.log_sigmas = table.log().double().numpy()
        self.times = {float(s): float(t) for s, t in zip(scheduler.sigmas, scheduler.timesteps)}
        self.dtype = dtype

    def __call__(self, x, sigma):
        sigma = float(sigma)
        t = self.times.get(sigma)
        if t is None:
            t = float(np.interp(math.log(sigma), self.log_sigmas, np.arange(len(self.log_sigmas))))
        root = math.sqrt(sigma * sigma + 1)
        out = network(x / root, t, 0.004).to(self.dtype)
        return x - sigma * out if self.prediction == "epsilon" else x / root**2 - out * (sigma / root)


def paper(scheduler, steps_of, noise, dtype):
    sigmas = [float(s) for s in scheduler.sigmas]
    start = math.sqrt(sigmas[0] ** 2 + 1) if isinstance(scheduler, S.DPMSolverMultistepScheduler) else sigmas[0]
    draws = iter(noise.to(dtype))
    return steps_of(Model(scheduler, dtype), next(draws) * start, sigmas, draws)


def dpmpp_2s_ancestral(model, x, sigmas, draws):
    """Lu et al. 2022b, algorithm 1 (r = 1/2), to the part of the noise that stays; only k-diffusion has it."""
    for now, to in zip(sigmas, sigmas[1:]):
        up = math.sqrt(to**2 * (now**2 - to**2) / now**2)
        down = math.sqrt(to**2 - up**2)
        image = model(x, now)
        if down == 0:
            x = image
            continue
        h = math.log(now / down)
        middle = now * math.exp(-h / 2)
        half = (middle / now) * x - math.expm1(-h / 2) * image
        x = (down / now) * x - math.expm1(-h) * model(half, middle) + up * next(draws)
    return x


def dpmpp_3m_sde(model, x, sigmas, draws):
    """Lu et al. 2022b, section 4, with three predictions; only k-diffusion has it (diffusers' has a wrong sign)."""
    images, logs = [], [math.log(s) if s > 0 else -math.inf for s in sigmas]
    for i, (now, to) in enumerate(zip(sigmas, sigmas[1:])):
        images.append(model(x, now))
        if to == 0:
            x = images[-1]
            continue
        h = logs[i] - logs[i + 1]
        line = math.expm1(-2 * h) / (2 * h) + 1
        slopes = [(images[k] - images[k - 1]) * (h / (logs[k - 1] - logs[k])) for k in range(max(1, i - 1), i + 1)][::-1]
        x = math.exp(-2 * h) * x - math.expm1(-2 * h) * images[-1]
        if len(slopes) == 1:
            x = x + line * slopes[0]
        elif slopes:
            r0, r1 = (logs[i - 1] - logs[i]) / h, (logs[i - 2] - logs[i - 1]) / h
            second = (slopes[0] - slopes[1]) / (r0 + r1)
            x = x + line * (slopes[0] + r0 * second) - (line / (2 * h) - 0.5) * second
        x = x + to * math.sqrt(-math.expm1(-2 * h)) * next(draws)
    return x


class Golden:
    def __init__(self):
        self.gen = torch.Generator().manual_seed(7)
        self.noise = torch.randn((1002, *SHAPE), generator=self.gen).half()
        self.rows, self.cases = [], []

    def add(self, sampler, kind, config, steps=STEPS, fixed=None, args=None, extra=None, told=None):
        """Runs `kind` with `config` (told to unfog, and `told`) and `fixed` (its class's way to say the sampler's name)."""
        case = dict(sampler=sampler, config=config | (told or {}) | (extra or {}) | (args or {}), steps=[], floor=[], nan=[])
        for n in steps:
            both = [run(kind, config | (fixed or {}), n, self.noise, dtype, args or {}, extra or {})
                    for dtype in (torch.float32, torch.float64)]
            if not all(torch.isfinite(x).all() for x in both):
                case["nan"].append(n)
                continue
            case["steps"].append(n)
            case["floor"].append(float(f"{rel(*both):.2e}"))
            self.rows.append(both[1].float())
        self.cases.append(case)

    def paper(self, sampler, step, kind, config, steps=STEPS, told=None, runs=paper):
        """As `add`, with a formula `step` on the sigmas and times of `kind`; `runs` calls it."""
        case = dict(sampler=sampler, config=config | (told or {}), steps=list(steps), floor=[], nan=[])
        for n in steps:
            scheduler = kind(**config)
            scheduler.set_timesteps(n)
            both = [runs(scheduler, step, self.noise, dtype) for dtype in (torch.float32, torch.float64)]
            case["floor"].append(float(f"{rel(*both):.2e}"))
            self.rows.append(both[1].float())
        self.cases.append(case)

    def sweep(self, sampler, kind, fixed=None, tables=("karras", "exponential", "beta"), predictions=None,
              min_end=True, zero_snr=True, spacings=("leading", "trailing", "linspace"), full=True, extra=None,
              key=None):
        """Every combination of spacing and prediction, of spacing and sigma table, and one of each of the rest."""
        offset = lambda spacing: dict(steps_offset=1) if spacing == "leading" else {}
        add = lambda config, *a: self.add(sampler, kind, config | (key or {}), *a, fixed=fixed, extra=extra)
        for spacing in spacings:
            base = SD | dict(timestep_spacing=spacing) | offset(spacing)
            for prediction in predictions or ("epsilon", "v_prediction", "sample"):
                add(base | dict(prediction_type=prediction))
            for table in tables:
                add(base | {f"use_{table}_sigmas" if table != "lu" else "use_lu_lambdas": True})
        if "trailing" in spacings:
            base = dict(timestep_spacing="trailing")
            if min_end:
                add(SD | base | dict(final_sigmas_type="sigma_min"), (2, 7, 20))
                if "karras" in tables:
                    add(SD | base | dict(final_sigmas_type="sigma_min", use_karras_sigmas=True), (2, 7, 20))
            add(CHAIN | base, (3, 20))
            add(dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction") | base, (3, 20))
            if zero_snr:
                add(SD | base | dict(prediction_type="v_prediction", rescale_betas_zero_snr=True), (3, 20))
            if full:
                add(SD | base, (1000,))


def make(golden):
    alpha = dict(tables=(), min_end=False, zero_snr=False)
    for variance in ("fixed_small", "fixed_large"):
        golden.sweep("ddpm", S.DDPMScheduler, dict(variance_type=variance, clip_sample=False), **alpha,
                     predictions=("epsilon",), full=False, key=dict(variance_type=variance))
    for eta in (0.0, 0.7):
        golden.sweep("ddim", S.DDIMScheduler, dict(clip_sample=False), **alpha, extra=dict(eta=eta), full=eta == 0.0)
    golden.sweep("euler", S.EulerDiscreteScheduler)
    golden.sweep("euler-a", S.EulerAncestralDiscreteScheduler, tables=(), min_end=False,
                 predictions=("epsilon", "v_prediction"))
    golden.sweep("heun", S.HeunDiscreteScheduler, min_end=False, zero_snr=False)
    dpm = S.DPMSolverMultistepScheduler
    solver = ("karras", "exponential", "beta", "lu")
    golden.sweep("dpmpp-2m", dpm, dict(solver_order=2), tables=solver)
    golden.sweep("dpmpp-2m-heun", dpm, dict(solver_order=2, solver_type="heun"))
    golden.sweep("dpmpp-3m", dpm, dict(solver_order=3))
    golden.sweep("dpmpp-2m-sde", dpm, dict(solver_order=2, algorithm_type="sde-dpmsolver++"))
    golden.sweep("dpmpp-2m-sde-heun", dpm, dict(solver_order=2, algorithm_type="sde-dpmsolver++", solver_type="heun"))
    for name, order in (("dpmpp-2m", 2), ("dpmpp-3m", 3)):
        trailing = SD | dict(timestep_spacing="trailing")
        golden.add(name, dpm, trailing | dict(euler_at_final=True), (7, 20), dict(solver_order=order))
        golden.add(name, dpm, trailing | dict(lower_order_final=False), (7, 20), dict(solver_order=order))
        golden.add(name, dpm, trailing | dict(thresholding=True, sample_max_value=1.5), (7, 20), dict(solver_order=order))
        for shift in (1.0, 3.0):
            flow = dict(prediction_type="flow_prediction", flow_shift=shift)
            golden.add(name, dpm, flow, (1, 2, 3, 7, 20), dict(solver_order=order, use_flow_sigmas=True))
    # In diffusers bh1 is no number where the run ends in the image (0 times infinity).
    for spacing in ("leading", "trailing", "linspace"):
        for prediction in ("epsilon", "v_prediction", "sample"):
            golden.add("unipc-bh1", S.UniPCMultistepScheduler,
                       SD | dict(timestep_spacing=spacing, prediction_type=prediction, final_sigmas_type="sigma_min"),
                       fixed=dict(solver_type="bh1"))
    golden.add("unipc-bh1", S.UniPCMultistepScheduler, SD, (7,), dict(solver_type="bh1"))
    for name, fixed in (("unipc", {}), ("unipc-3", dict(solver_order=3))):
        golden.sweep(name, S.UniPCMultistepScheduler, fixed)
        golden.add(name, S.UniPCMultistepScheduler, SD | dict(thresholding=True, sample_max_value=1.5), (7, 20), fixed)
    golden.add("unipc-3", S.UniPCMultistepScheduler, SD | dict(final_sigmas_type="sigma_min", lower_order_final=False),
               (7, 20), dict(solver_order=3))
    # Of velocities: make_more_samplers.py.
    golden.sweep("plms", S.PNDMScheduler, dict(skip_prk_steps=True), **alpha, predictions=("epsilon",),
                 spacings=("leading",))
    golden.add("plms", S.PNDMScheduler, SD | dict(set_alpha_to_one=True), fixed=dict(skip_prk_steps=True))
    # diffusers' LMS fails with leading spacing (it divides by a number of steps that is not set yet).
    golden.sweep("lms", S.LMSDiscreteScheduler, min_end=False, zero_snr=False, spacings=("linspace", "trailing"))
    for schedule in ("sigmoid", "laplace"):
        golden.add("ddpm", S.DDPMScheduler, dict(beta_schedule=schedule, variance_type="fixed_small"), (3, 20),
                   dict(clip_sample=False))
    for prediction in ("epsilon", "v_prediction", "sample"):
        for end in (True, False):
            if end and prediction == "sample":
                # 0 divided by 0: no noise is left to tell.
                continue
            golden.add("ddim-inverse", S.DDIMInverseScheduler, SD | dict(prediction_type=prediction, set_alpha_to_one=end),
                       fixed=dict(clip_sample=False))
    lcm = dict(original_inference_steps=50)
    for spacing_steps in ((1, 2, 3, 7, 20, 50),):
        for prediction in ("epsilon", "v_prediction", "sample"):
            config = SD | lcm | dict(prediction_type=prediction)
            golden.add("lcm", S.LCMScheduler, config, spacing_steps, dict(clip_sample=False))
            for eta in (0.3, 1.0):
                golden.add("tcd", S.TCDScheduler, config, spacing_steps, dict(clip_sample=False), extra=dict(eta=eta))
    golden.add("lcm", S.LCMScheduler, SD | lcm | dict(clip_sample=True, clip_sample_range=0.5), (3, 7))
    golden.add("lcm", S.LCMScheduler, SD | lcm | dict(timestep_scaling=2.0), (3, 7), dict(clip_sample=False))
    # Both round the times of Karras' sigmas, which unfog does not.
    for name, kind in (("dpm2", S.KDPM2DiscreteScheduler), ("dpm2-a", S.KDPM2AncestralDiscreteScheduler)):
        golden.sweep(name, kind, tables=("exponential", "beta"), predictions=("epsilon", "v_prediction"), min_end=False,
                     zero_snr=False)
    for name, order in (("dpm-2m", 2), ("dpm-3m", 3)):
        fixed = dict(solver_order=order, algorithm_type="dpmsolver")
        for spacing in ("leading", "trailing", "linspace"):
            base = SD | dict(timestep_spacing=spacing, final_sigmas_type="sigma_min")
            for prediction in ("epsilon", "v_prediction", "sample"):
                golden.add(name, dpm, base | dict(prediction_type=prediction), fixed=fixed)
            golden.add(name, dpm, base | dict(use_karras_sigmas=True), fixed=fixed)
        golden.add(name, dpm, CHAIN | dict(timestep_spacing="trailing", final_sigmas_type="sigma_min"), (3, 20), fixed)
    for name, order in (("deis", 2), ("deis-3", 3)):
        for spacing in ("leading", "trailing", "linspace"):
            base = SD | dict(timestep_spacing=spacing)
            for prediction in ("epsilon", "v_prediction", "sample"):
                golden.add(name, S.DEISMultistepScheduler, base | dict(prediction_type=prediction),
                           fixed=dict(solver_order=order), told=dict(final_sigmas_type="sigma_min"))
    # Networks of the other two families.
    for shift in (1.0, 3.0):
        golden.add("euler", S.FlowMatchEulerDiscreteScheduler, dict(shift=shift), told=dict(prediction_type="flow_prediction"))
        golden.add("heun", S.FlowMatchHeunDiscreteScheduler, dict(shift=shift), told=dict(prediction_type="flow_prediction"))
    golden.add("euler", S.FlowMatchEulerDiscreteScheduler, dict(use_dynamic_shifting=True, shift_terminal=0.1),
               told=dict(prediction_type="flow_prediction"), args=dict(mu=0.8))
    golden.add("euler", S.EDMEulerScheduler, dict(sigma_data=0.5), told=dict(prediction_type="edm"))
    for prediction in ("epsilon", "v_prediction"):
        for table in ({}, dict(use_karras_sigmas=True)):
            config = SD | dict(prediction_type=prediction) | table
            golden.paper("dpmpp-2s-a", dpmpp_2s_ancestral, S.EulerDiscreteScheduler, config)
            golden.paper("dpmpp-3m-sde", dpmpp_3m_sde, S.DPMSolverMultistepScheduler, config | dict(lower_order_final=False))


def main(make, name, doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    args = parser.parse_args()
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    golden = Golden()
    make(golden)
    tensors = dict(noise=golden.noise, x0=torch.stack(golden.rows).contiguous())
    save_file(tensors, args.to / name, {"cases": json.dumps(golden.cases, separators=(",", ":"))})
    print(f"{len(golden.rows)} runs, {len(golden.cases)} configurations, worst floor "
          f"{max(max(c['floor'], default=0) for c in golden.cases):.1e}")


if __name__ == "__main__":
    main(make, "samplers.safetensors", __doc__)
