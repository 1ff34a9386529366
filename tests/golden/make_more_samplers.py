#!/usr/bin/env python3
"""Writes tests/golden/more-samplers.safetensors: the samplers that make_samplers.py has no room for, in the same way.

It needs what make_samplers.py needs, and stands beside it:

    /tmp/golden/bin/python tests/golden/make_more_samplers.py        # about a minute

Formulas of k-diffusion and of papers are written here in torch, from their equations, and run in f32 and f64 on diffusers'
tables. In the file: as in samplers.safetensors.
"""

import math

import diffusers.schedulers as S
import scipy.integrate
import torch

import make_samplers
from make_samplers import CHAIN, SD, Model, network

SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Edm:
    """As `Model`, of an EDM network: Karras et al. 2022, table 1, with sigma_data 0.5."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, x, sigma):
        root = math.sqrt(sigma**2 + 0.25)
        out = network(x / root, math.log(sigma) / 4, 1.0).to(self.dtype)
        return x * (0.25 / root**2) + out * (0.5 * sigma / root)


def model_of(scheduler, dtype):
    edm = isinstance(scheduler, (S.EDMEulerScheduler, S.EDMDPMSolverMultistepScheduler))
    return Edm(dtype) if edm else Model(scheduler, dtype)


def on_sigmas(scheduler, steps_of, noise, dtype):
    """Runs a formula of k-diffusion's form on the scheduler's sigmas, from the noise that the scheduler starts with."""
    sigmas = [float(s) for s in scheduler.sigmas]
    draws = iter(noise.to(dtype))
    # Classes that start with 1 scale x by 1 / sqrt(sigma^2 + 1).
    start = float(scheduler.init_noise_sigma)
    start = math.sqrt(sigmas[0] ** 2 + 1) if start == 1.0 else start
    return steps_of(model_of(scheduler, dtype), next(draws) * start, sigmas, draws)


def churned(method, s_churn, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Karras et al. 2022, algorithm 2, as k-diffusion's sample_euler, sample_heun and sample_dpm_2 have it."""

    def steps_of(model, x, sigmas, draws):
        for now, to in zip(sigmas, sigmas[1:]):
            gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1) if s_tmin <= now <= s_tmax else 0.0
            up = now * (gamma + 1)
            if gamma > 0:
                x = x + s_noise * math.sqrt(up**2 - now**2) * next(draws)
            slope = (x - model(x, up)) / up
            if method == "euler" or to == 0:
                x = x + (to - up) * slope
            elif method == "heun":
                end = x + (to - up) * slope
                x = x + (to - up) * (slope + (end - model(end, to)) / to) / 2
            else:
                middle = math.sqrt(up * to)
                half = x + (middle - up) * slope
                x = x + (to - up) * (half - model(half, middle)) / middle
        return x

    return steps_of


def churned_flow(s_churn):
    """Euler's method with churn for a flow network, in x = (1 - s) * image + s * noise: the ratio s / (1 - s) is what grows."""

    def runs(scheduler, _, noise, dtype):
        draws = iter(noise.to(dtype))
        x = next(draws)
        levels = [float(s) for s in scheduler.sigmas]
        for now, to in zip(levels, levels[1:]):
            gamma = min(s_churn / (len(levels) - 1), math.sqrt(2) - 1)
            if now < 1:
                ratio = now / (1 - now)
                raised = ratio * (gamma + 1)
                up = raised / (1 + raised)
                image_scale = x / (1 - now) + math.sqrt(raised**2 - ratio**2) * next(draws)
                x, now = image_scale * (1 - up), up
            x = x + (to - now) * network(x, now * 1000, 0.004).to(dtype)
        return x

    return runs


def ipndm(scheduler, _, noise, dtype):
    """diffusers' IPNDMScheduler on another scheduler's levels and times; it takes velocities."""
    signal, sigmas = [], [float(s) for s in scheduler.sigmas]
    solver = S.IPNDMScheduler(trained_betas=[s / math.sqrt(s * s + 1) for s in sigmas])
    solver.set_timesteps(len(sigmas) - 1)
    solver.set_begin_index(0)
    signal = [1 / math.sqrt(s * s + 1) for s in sigmas]
    solver.alphas = torch.tensor(signal, dtype=dtype)
    solver.betas = torch.tensor([a * s for a, s in zip(signal, sigmas)], dtype=dtype)
    # At sigma 0 the network is not asked; the start is the scheduler's, in this scale.
    x = noise[0].to(dtype) * float(scheduler.init_noise_sigma) * signal[0]
    for i, t in enumerate(scheduler.timesteps):
        out = network(x, float(t), 0.004).to(dtype)
        if scheduler.config.prediction_type == "epsilon":
            out = (out - solver.betas[i] * x) / solver.alphas[i]
        x = solver.step(out, solver.timesteps[i], x).prev_sample
    return x


def res_multistep(ancestral):
    """Zhang et al. 2023, algorithm 2 with two predictions, with ComfyUI's ancestral noise: there the place of the prediction
    before is counted from where its step ended without noise."""

    def steps_of(model, x, sigmas, draws):
        before, ended = None, None
        for i, (now, to) in enumerate(zip(sigmas, sigmas[1:])):
            image = model(x, now)
            up = math.sqrt(to**2 * (now**2 - to**2) / now**2) if ancestral else 0.0
            down = math.sqrt(to**2 - up**2)
            if down == 0 or before is None:
                x = x + (down - now) * (x - image) / now
            else:
                h, c = math.log(now / down), math.log(ended / sigmas[i - 1]) / math.log(now / down)
                phi1 = math.expm1(-h) / -h
                phi2 = (phi1 - 1) / -h
                x = math.exp(-h) * x + h * ((phi1 - phi2 / c) * image + phi2 / c * before)
            if ancestral and to > 0:
                x = x + up * next(draws)
            before, ended = image, down
        return x

    return steps_of


def er_sde(order):
    """Cui et al. 2023, algorithms 1 to 3 with the noise scale of ER-SDE-5, its integrals to the last bits."""

    def phi(u):
        return u * (math.exp(u**0.3) + 10)

    def integral(f, a, b):
        """By ln u, in which the integrands are smooth."""
        return scipy.integrate.quad(lambda y: f(math.exp(y)) * math.exp(y), math.log(a), math.log(b), epsrel=1e-12, limit=200)[0]

    def steps_of(model, x, sigmas, draws):
        images, slopes = [], [None]
        for i, (now, to) in enumerate(zip(sigmas, sigmas[1:])):
            images.append(model(x, now))
            if to == 0:
                x = images[-1]
                continue
            ratio = phi(to) / phi(now)
            x = ratio * x + (1 - ratio) * images[-1]
            if i > 0:
                slopes.append((images[-1] - images[-2]) / (now - sigmas[i - 1]))
            if i > 0 and order > 1:
                x = x + (to - now + phi(to) * integral(lambda u: 1 / phi(u), to, now)) * slopes[-1]
            if i > 1 and order > 2:
                second = (slopes[-1] - slopes[-2]) / ((now - sigmas[i - 2]) / 2)
                weight = phi(to) * integral(lambda u: (u - now) / phi(u), to, now)
                x = x + ((to - now) ** 2 / 2 + weight) * second
            x = x + math.sqrt(to**2 - (ratio * now) ** 2) * next(draws)
        return x

    return steps_of


def make(golden):
    # DPM-Solver, one step at a time. Its class has one spacing; lower_order_final is what it sets itself where the end is 0.
    single = S.DPMSolverSinglestepScheduler
    for name, order in (("dpmpp-2s", 2), ("dpmpp-3s", 3), ("dpmpp-2s-sde", 2), ("dpmpp-3s-sde", 3)):
        kind = "sde-dpmsolver++" if name.endswith("sde") else "dpmsolver++"
        fixed = dict(solver_order=order, algorithm_type=kind, lower_order_final=True)
        add = lambda config, *a, **k: golden.add(name, single, config, *a, fixed=fixed | k)
        for prediction in PREDICTIONS:
            add(SD | dict(prediction_type=prediction))
            add(SD | dict(prediction_type=prediction, final_sigmas_type="sigma_min"))
        for table in ("karras", "exponential", "beta"):
            add(SD | {f"use_{table}_sigmas": True})
        add(SD | dict(use_karras_sigmas=True, final_sigmas_type="sigma_min"), (2, 7, 20))
        golden.add(name, single, SD | dict(final_sigmas_type="sigma_min", lower_order_final=False), (6, 24),
                   dict(solver_order=order, algorithm_type=kind))
        add(CHAIN, (3, 20))
        add(dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"), (3, 20))
        add(SD | dict(thresholding=True, sample_max_value=1.5), (7, 20))
        add(SD, (999,))
        for shift in (1.0, 3.0):
            flow = dict(prediction_type="flow_prediction", flow_shift=shift)
            add(flow, (1, 2, 3, 7, 20), use_flow_sigmas=True)
    for name, order in (("dpm-2s", 2), ("dpm-3s", 3)):
        fixed = dict(solver_order=order, algorithm_type="dpmsolver", lower_order_final=True)
        for prediction in PREDICTIONS:
            golden.add(name, single, SD | dict(prediction_type=prediction, final_sigmas_type="sigma_min"), fixed=fixed)
        golden.add(name, single, SD | dict(use_karras_sigmas=True, final_sigmas_type="sigma_min"), fixed=fixed)
        golden.add(name, single, CHAIN | dict(final_sigmas_type="sigma_min"), (3, 20), fixed)
        golden.add(name, single, SD | dict(final_sigmas_type="sigma_min"), (999,), fixed)

    # Churn, as k-diffusion: diffusers evaluates the network before it adds the noise.
    edm = dict(sigma_data=0.5)
    settings = (dict(s_churn=40.0), dict(s_churn=3.0, s_tmin=0.1, s_tmax=8.0, s_noise=1.007))
    for method in ("euler", "heun", "dpm2"):
        name = f"{method}-churn"
        for told in settings:
            step = churned(method, **told)
            for prediction in ("epsilon", "v_prediction"):
                for table in ({}, dict(use_karras_sigmas=True)):
                    config = SD | dict(prediction_type=prediction) | table
                    golden.paper(name, step, S.EulerDiscreteScheduler, config, told=told, runs=on_sigmas)
            golden.paper(name, step, S.EDMEulerScheduler, edm, told=told | dict(prediction_type="edm"), runs=on_sigmas)
        config = SD | dict(timestep_spacing="trailing")
        golden.paper(name, churned(method, 40.0), S.EulerDiscreteScheduler, config, (1000,), dict(s_churn=40.0), on_sigmas)
    golden.paper("euler-churn", None, S.FlowMatchEulerDiscreteScheduler, dict(shift=3.0),
                 told=dict(prediction_type="flow_prediction", s_churn=40.0), runs=churned_flow(40.0))

    # An exception of the tests: diffusers' way.
    golden.add("euler-churn", S.EulerDiscreteScheduler, SD | dict(timestep_spacing="linspace"), (7,), extra=dict(s_churn=3.0))

    for spacing in SPACINGS:
        for prediction in ("epsilon", "v_prediction"):
            config = SD | dict(timestep_spacing=spacing, prediction_type=prediction)
            golden.paper("ipndm", None, S.EulerDiscreteScheduler, config, runs=ipndm)
        config = SD | dict(timestep_spacing=spacing, prediction_type="v_prediction", use_karras_sigmas=True)
        golden.paper("ipndm", None, S.EulerDiscreteScheduler, config, runs=ipndm)
    config = SD | dict(timestep_spacing="trailing", prediction_type="v_prediction")
    golden.paper("ipndm", None, S.EulerDiscreteScheduler, config, (1000,), runs=ipndm)

    consistent = S.CMStochasticIterativeScheduler
    told = dict(prediction_type="edm")
    for clip in (True, False):
        golden.add("consistency", consistent, dict(clip_denoised=clip), (1, 2, 3, 7, 20, 40), told=told)
    golden.add("consistency", consistent, dict(clip_denoised=False, s_noise=1.007), (2, 7), told=told)
    golden.add("consistency", consistent, dict(clip_denoised=False, num_train_timesteps=151), (2, 3, 50, 151), told=told)
    for shift in (1.0, 3.0):
        golden.add("consistency", S.FlowMatchEulerDiscreteScheduler, dict(shift=shift),
                   fixed=dict(stochastic_sampling=True), told=dict(prediction_type="flow_prediction"))

    # tau constant; diffusers' classes can't say it in a file.
    solver = S.SASolverScheduler
    for name, order, corrector in (("sa-solver", 2, 2), ("sa-solver-3", 3, 4)):
        for eta in (0.0, 0.6, 1.0):
            fixed = dict(predictor_order=order, corrector_order=corrector, tau_func=lambda t: eta)
            told = dict(eta=eta, final_sigmas_type="sigma_min")
            add = lambda config, *a: golden.add(name, solver, config, *a, fixed=fixed, told=told)
            for spacing in SPACINGS:
                base = SD | dict(timestep_spacing=spacing) | (dict(steps_offset=1) if spacing == "leading" else {})
                for prediction in PREDICTIONS if eta == 0.6 else ("epsilon",):
                    add(base | dict(prediction_type=prediction))
                # One step of these is none in diffusers: it ends at the last sigma that it evaluates at.
                for table in ("karras", "exponential", "beta") if eta == 0.6 else ():
                    add(base | {f"use_{table}_sigmas": True}, (2, 3, 7, 20, 50))
        add(CHAIN | dict(timestep_spacing="trailing"), (3, 20))
        add(SD | dict(timestep_spacing="trailing", lower_order_final=False), (3, 7, 20))
        add(SD | dict(timestep_spacing="trailing"), (1000,))
        # Another exception of the tests.
        golden.add(name, solver, SD | dict(use_karras_sigmas=True), (1,), fixed, told=told)
        # As the paper: tau where sigma lies in an interval.
        table = ((1 - solver(**SD).alphas_cumprod) / solver(**SD).alphas_cumprod) ** 0.5
        fixed["tau_func"] = lambda t: 1.0 if 0.05 <= float(table[int(t)]) <= 1.0 else 0.0
        golden.add(name, solver, SD, (7, 20, 50), fixed, told=told | dict(s_tmin=0.05, s_tmax=1.0))

    for name, step in (("res-multistep", res_multistep(False)), ("res-multistep-a", res_multistep(True)),
                       ("er-sde", er_sde(1)), ("er-sde-2", er_sde(2)), ("er-sde-3", er_sde(3))):
        for spacing in ("linspace", "trailing"):
            for prediction in ("epsilon", "v_prediction"):
                for table in ({}, dict(use_karras_sigmas=True)):
                    config = SD | dict(timestep_spacing=spacing, prediction_type=prediction) | table
                    golden.paper(name, step, S.EulerDiscreteScheduler, config, runs=on_sigmas)
        golden.paper(name, step, S.EDMEulerScheduler, edm, told=dict(prediction_type="edm"), runs=on_sigmas)
        golden.paper(name, step, S.EulerDiscreteScheduler, SD | dict(timestep_spacing="trailing"), (1000,), runs=on_sigmas)

    # diffusers fails with fewer than four steps.
    for spacing, offset in (("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)):
        config = SD | dict(timestep_spacing=spacing, steps_offset=offset)
        golden.add("pndm", S.PNDMScheduler, config, (4, 7, 20, 50), dict(skip_prk_steps=False))
    golden.add("pndm", S.PNDMScheduler, SD | dict(set_alpha_to_one=True), (4, 20), dict(skip_prk_steps=False))
    golden.add("pndm", S.PNDMScheduler, SD, (1000,), dict(skip_prk_steps=False))

    # Of velocities diffusers extrapolates what the network says.
    for offset, one in ((0, False), (1, False), (1, True)):
        config = SD | dict(steps_offset=offset, set_alpha_to_one=one, prediction_type="v_prediction")
        golden.add("plms", S.PNDMScheduler, config, (1, 2, 3, 4, 7, 20, 50), dict(skip_prk_steps=True))
        golden.add("pndm", S.PNDMScheduler, config, (4, 7, 20, 50), dict(skip_prk_steps=False))

    for variance in ("learned", "learned_range"):
        for spacing in SPACINGS:
            golden.add("ddpm", S.DDPMScheduler, CHAIN | dict(timestep_spacing=spacing, variance_type=variance),
                       fixed=dict(clip_sample=False))

    # The whole table, of those that make_samplers.py doesn't run so.
    trailing, least = SD | dict(timestep_spacing="trailing"), dict(final_sigmas_type="sigma_min")
    golden.add("ddpm", S.DDPMScheduler, SD | dict(variance_type="fixed_small"), (1000,), dict(clip_sample=False))
    golden.add("ddim-inverse", S.DDIMInverseScheduler, SD | dict(set_alpha_to_one=False), (1000,), dict(clip_sample=False))
    golden.add("plms", S.PNDMScheduler, SD, (1000,), dict(skip_prk_steps=True))
    consistent = SD | dict(original_inference_steps=1000)
    golden.add("lcm", S.LCMScheduler, consistent, (1000,), dict(clip_sample=False))
    golden.add("tcd", S.TCDScheduler, consistent, (1000,), dict(clip_sample=False), extra=dict(eta=0.3))
    golden.add("unipc-bh1", S.UniPCMultistepScheduler, trailing | least, (1000,), dict(solver_type="bh1"))
    for name, order in (("dpm-2m", 2), ("dpm-3m", 3)):
        golden.add(name, S.DPMSolverMultistepScheduler, trailing | least, (1000,),
                   dict(solver_order=order, algorithm_type="dpmsolver"))
    for name, order in (("deis", 2), ("deis-3", 3)):
        golden.add(name, S.DEISMultistepScheduler, trailing, (1000,), dict(solver_order=order), told=least)
    golden.paper("dpmpp-2s-a", make_samplers.dpmpp_2s_ancestral, S.EulerDiscreteScheduler, trailing, (1000,))
    golden.paper("dpmpp-3m-sde", make_samplers.dpmpp_3m_sde, S.DPMSolverMultistepScheduler, trailing, (1000,))


if __name__ == "__main__":
    make_samplers.main(make, "more-samplers.safetensors", __doc__)
