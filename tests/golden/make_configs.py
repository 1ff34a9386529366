#!/usr/bin/env python3
"""Writes tests/golden/configs.safetensors: what diffusers makes of many a scheduler_config.json; and
host/src/model/schedulers.json: the defaults of every scheduler's class, from its signature.

As make_samplers.py, it installs nothing and needs diffusers 0.42.1 and scipy:

    /tmp/golden/bin/python tests/golden/make_configs.py        # about a minute

Each case is a scheduler whose config is written by `save_pretrained`; it is run with the formula and the noise of
make_samplers.py, in f32 and in f64 (`x0` is the f64 result, `floor` the distance between both).

In the file: one row a run (a case and a number of steps) of `timesteps` [runs, 20], `sigmas` [runs, 21], `init` [runs] (init_noise_sigma)
and `x0` [runs, 2, 1, 2, 3], padded with -1; as metadata `cases`: `{text, tokens, steps, floor}`, `text` being the file and
`tokens` the number of tokens from which a dynamic shift was computed. Numbers of steps with which diffusers fails, or ends in no
number, are not among `steps`. Where a class repeats timesteps (Heun, KDPM2, PLMS), the rows have each step once. Classes
without sigmas have those of their alpha-bars.
"""

import argparse
import inspect
import json
import pathlib
import tempfile

import diffusers
import diffusers.schedulers as S
import numpy as np
import torch
from diffusers.utils import logging
from safetensors.torch import save_file

import make_samplers

HERE = pathlib.Path(__file__).resolve().parent
DEFAULTS = HERE.parent.parent / "host/src/model/schedulers.json"
STEPS = (1, 5, 20)
TOKENS = 1024

CLASSES = """DDPM DDPMParallel DDIM DDIMParallel DDIMInverse PNDM EulerDiscrete EulerAncestralDiscrete HeunDiscrete KDPM2Discrete
KDPM2AncestralDiscrete LMSDiscrete DPMSolverMultistep DPMSolverSinglestep DEISMultistep UniPCMultistep SASolver IPNDM LCM TCD
CMStochasticIterative EDMEuler EDMDPMSolverMultistep FlowMatchEulerDiscrete FlowMatchHeunDiscrete UnCLIP""".split()


def kind(name):
    return getattr(S, name + "Scheduler")


def defaults(name):
    """The keyword arguments of a class and their defaults. JSON has no infinity; there Python writes -Infinity."""
    parameters = inspect.signature(kind(name).__init__).parameters.values()
    values = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {k: str(v).replace("-inf", "-Infinity") if isinstance(v, float) and np.isinf(v) else v for k, v in values.items()}


def mu(config):
    """The dynamic shift, as pipelines compute it (`calculate_shift`)."""
    get = lambda key, other: config.get(key, other)
    low, high = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
    base, top = get("base_shift", 0.5), get("max_shift", 1.15)
    slope = (top - base) / (high - low)
    return TOKENS * slope + (base - slope * low)


def rows(scheduler, steps):
    """Timesteps and sigmas, once a step."""
    name = type(scheduler).__name__
    t = scheduler.timesteps.double()
    sigmas = getattr(scheduler, "sigmas", None)
    if "Heun" in name:
        t, sigmas = torch.cat([t[:1], t[1::2]]), torch.cat([sigmas[:1], sigmas[1::2]])
    elif "KDPM2" in name:
        t, sigmas = torch.cat([t[:1], t[2::2]]), torch.cat([sigmas[:1], sigmas[1::2]])[: steps + 1]
    elif name == "PNDMScheduler":
        t = torch.from_numpy(scheduler._timesteps[::-1].copy()).double()
    elif name == "DDIMInverseScheduler":
        t = t.flip(0)
    if sigmas is None or name in ("LCMScheduler", "TCDScheduler"):
        a = scheduler.alphas_cumprod[t.long()].double()
        sigmas = ((1 - a) / a) ** 0.5
    assert len(t) == steps, (name, steps, len(t))
    # With log_linear a sigma more is made, which no step reaches.
    return t, sigmas.double()[: steps + 1]


def pad(values, length):
    return torch.cat([values.float(), torch.full((length - len(values),), -1.0)])


class Golden:
    def __init__(self):
        self.noise = make_samplers.Golden().noise
        self.cases, self.runs = [], {key: [] for key in ("timesteps", "sigmas", "init", "x0")}

    def switch(self, source, sampler, name, keys, **named):
        """The config of `source` with no keys but these, read by another class as its `from_config` does."""
        keys = dict(_class_name=f"{source}Scheduler", **keys)
        config = kind(name).from_config(dict(keys), **named).config
        self.add(name, dict(text=json.dumps(keys), sampler=sampler), **{k: config[k] for k in defaults(name)})

    def add(self, name, file=None, /, **config):
        args = dict(mu=mu(config)) if config.get("use_dynamic_shifting") else {}
        with tempfile.TemporaryDirectory() as folder:
            kind(name)(**config).save_pretrained(folder)
            text = (pathlib.Path(folder) / "scheduler_config.json").read_text()
        case = dict(text=text, tokens=TOKENS if args else None, steps=[], floor=[]) | (file or {})
        for steps in STEPS:
            try:
                scheduler = kind(name)(**config)
                scheduler.set_timesteps(steps, **args)
                t, sigmas = rows(scheduler, steps)
                both = [make_samplers.run(kind(name), config, steps, self.noise, dtype, args, {})
                        for dtype in (torch.float32, torch.float64)]
            except (ValueError, IndexError, AttributeError, TypeError, AssertionError) as e:
                print(f"{name} {config} n={steps}: {type(e).__name__}: {str(e)[:100]}")
                continue
            if not all(torch.isfinite(x).all() for x in both):
                print(f"{name} {config} n={steps}: not finite")
                continue
            case["steps"].append(steps)
            case["floor"].append(float(f"{make_samplers.rel(*both):.2e}"))
            for key, row in dict(timesteps=pad(t, 20), sigmas=pad(sigmas, 21), x0=both[1].float(),
                                 init=torch.tensor(float(getattr(scheduler, "init_noise_sigma", 1.0)))).items():
                self.runs[key].append(row)
        assert case["steps"], (name, config)
        self.cases.append(case)


SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def make(golden):
    add = golden.add
    leading, trailing = (dict(timestep_spacing=s) for s in ("leading", "trailing"))
    v = dict(prediction_type="v_prediction")
    # Each class as it is made without arguments.
    for name in ("DDPM", "DDIM", "DDIMInverse", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete",
                 "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "LCM", "TCD",
                 "EDMEuler", "EDMDPMSolverMultistep", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"):
        add(name)
    add("PNDM", skip_prk_steps=True, steps_offset=1, **SD)
    add("PNDM", skip_prk_steps=True, set_alpha_to_one=True)
    add("PNDM", **SD)
    # The chain.
    add("DDPM", variance_type="fixed_large", beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    add("DDPM", variance_type="fixed_small_log", beta_schedule="sigmoid", clip_sample=False)
    add("DDPM", thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5, beta_schedule="laplace")
    add("DDPM", trained_betas=[float(b) for b in np.linspace(1e-4, 0.05, 100, dtype=np.float32)],
        num_train_timesteps=100, clip_sample_range=0.5)
    add("DDIM", rescale_betas_zero_snr=True, clip_sample=False, **v, **trailing, **SD)
    add("DDIM", set_alpha_to_one=False, steps_offset=1, clip_sample=False, prediction_type="sample", **SD)
    add("DDIM", thresholding=True, sample_max_value=2.0, timestep_spacing="linspace", num_train_timesteps=500)
    add("DDIMInverse", set_alpha_to_one=False, clip_sample=False, timestep_spacing="trailing", **SD)
    add("LCM", original_inference_steps=100, timestep_scaling=2.0, clip_sample=True, clip_sample_range=0.5, **v)
    add("TCD", original_inference_steps=25, prediction_type="sample")
    # More solvers, and consistency models.
    for config in (dict(), dict(solver_order=3), dict(algorithm_type="sde-dpmsolver++", lower_order_final=True),
                   dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=3)):
        add("DPMSolverSinglestep", **config, **SD)
    add("DPMSolverSinglestep", beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, lower_order_final=True)
    add("DPMSolverSinglestep", beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True, lower_order_final=True, **v)
    add("SASolver", **SD)
    add("SASolver", predictor_order=3, corrector_order=4, **trailing, **SD)
    add("SASolver", use_karras_sigmas=True, **SD)
    add("CMStochasticIterative")
    add("CMStochasticIterative", num_train_timesteps=151, clip_denoised=False, sigma_max=60.0, s_noise=1.003)
    add("FlowMatchEulerDiscrete", shift=3.0, stochastic_sampling=True)
    # Over sigmas.
    add("EulerDiscrete", steps_offset=1, **leading, **SD)
    add("EulerDiscrete", use_karras_sigmas=True, **v, **trailing, **SD)
    add("EulerDiscrete", use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0, **SD)
    add("EulerDiscrete", use_exponential_sigmas=True, final_sigmas_type="sigma_min", **SD)
    add("EulerDiscrete", use_beta_sigmas=True, rescale_betas_zero_snr=True, **v, **trailing, **SD)
    add("EulerDiscrete", interpolation_type="log_linear", **SD)
    # As Stable Video Diffusion has it.
    add("EulerDiscrete", interpolation_type="linear", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, steps_offset=1,
        timestep_type="continuous", **v, **leading, **SD)
    add("EulerAncestralDiscrete", steps_offset=1, **leading, **SD)
    add("EulerAncestralDiscrete", rescale_betas_zero_snr=True, **v, **trailing, **SD)
    add("HeunDiscrete", use_karras_sigmas=True, beta_schedule="scaled_linear")
    add("HeunDiscrete", clip_sample=True, clip_sample_range=0.8, beta_schedule="exp", **trailing)
    add("KDPM2Discrete", use_karras_sigmas=True, beta_schedule="scaled_linear", **leading)
    add("KDPM2Discrete", use_exponential_sigmas=True, beta_schedule="scaled_linear", **v)
    add("KDPM2AncestralDiscrete", use_karras_sigmas=True, beta_schedule="scaled_linear", **trailing)
    add("LMSDiscrete", use_karras_sigmas=True, **trailing, **SD)
    # Solvers.
    add("DPMSolverMultistep", use_karras_sigmas=True, steps_offset=1, **leading, **SD)
    add("DPMSolverMultistep", algorithm_type="sde-dpmsolver++", use_karras_sigmas=True, **SD)
    add("DPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_type="heun", **trailing, **SD)
    add("DPMSolverMultistep", solver_order=3, use_lu_lambdas=True, **SD)
    add("DPMSolverMultistep", solver_type="heun", use_exponential_sigmas=True, final_sigmas_type="sigma_min", **SD)
    add("DPMSolverMultistep", algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **SD)
    add("DPMSolverMultistep", algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=3, **trailing, **SD)
    add("DPMSolverMultistep", thresholding=True, sample_max_value=1.5, euler_at_final=True, lower_order_final=False, **SD)
    add("DPMSolverMultistep", beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True, **v)
    add("DPMSolverMultistep", beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    add("DPMSolverMultistep", use_beta_sigmas=True, rescale_betas_zero_snr=True, **v, **trailing, **SD)
    add("DPMSolverMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    add("DPMSolverMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=True)
    add("DEISMultistep", solver_order=3, **trailing, **SD)
    add("DEISMultistep", use_karras_sigmas=True, **SD)
    add("DEISMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    add("UniPCMultistep", solver_order=3, use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0, **SD)
    add("UniPCMultistep", solver_type="bh1", final_sigmas_type="sigma_min", **trailing, **SD)
    add("UniPCMultistep", beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True, **v)
    add("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
    add("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=True, shift_terminal=0.1)
    add("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", use_karras_sigmas=True, **SD)
    # Flow and EDM.
    add("FlowMatchEulerDiscrete", shift=3.0)
    add("FlowMatchEulerDiscrete", use_dynamic_shifting=True)
    add("FlowMatchEulerDiscrete", use_dynamic_shifting=True, base_shift=0.3, max_shift=0.9, base_image_seq_len=512,
        max_image_seq_len=8192, shift_terminal=0.02, time_shift_type="linear")
    add("FlowMatchEulerDiscrete", shift=2.0, use_karras_sigmas=True)
    add("FlowMatchEulerDiscrete", shift=2.0, use_beta_sigmas=True)
    add("FlowMatchHeunDiscrete", shift=3.0)
    add("EDMEuler", sigma_schedule="exponential", sigma_max=60.0, sigma_data=1.0, final_sigmas_type="sigma_min")
    add("EDMDPMSolverMultistep", rho=5.0, solver_order=3)
    add("EDMDPMSolverMultistep", algorithm_type="sde-dpmsolver++", sigma_min=0.01)
    # Named samplers, with the files of Stable Diffusion 1, which leaves out timestep_spacing, and of a pipeline that diffusers saved.
    old = dict(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, trained_betas=None, **SD)
    for file in (old, dict(prediction_type="epsilon", **old, **leading)):
        for sampler, name, named in (
                ("ddim", "DDIM", dict(clip_sample=False)), ("euler", "EulerDiscrete", {}), ("euler-a", "EulerAncestralDiscrete", {}),
                ("heun", "HeunDiscrete", {}), ("dpm2", "KDPM2Discrete", {}), ("dpmpp-2m", "DPMSolverMultistep", {}),
                ("dpmpp-3m", "DPMSolverMultistep", dict(solver_order=3)), ("dpmpp-2s", "DPMSolverSinglestep", {}),
                ("dpmpp-3s", "DPMSolverSinglestep", dict(solver_order=3)), ("deis", "DEISMultistep", {}),
                ("unipc", "UniPCMultistep", {}), ("sa-solver", "SASolver", {}), ("lcm", "LCM", {}), ("tcd", "TCD", {})):
            golden.switch("PNDM", sampler, name, file, **named)
    solver = dict(use_karras_sigmas=True, algorithm_type="sde-dpmsolver++", **trailing, **v, **SD)
    golden.switch("DPMSolverMultistep", "dpmpp-3m", "DPMSolverMultistep", solver, solver_order=3, algorithm_type="dpmsolver++")
    golden.switch("DPMSolverMultistep", "dpmpp-2s", "DPMSolverSinglestep", solver, algorithm_type="dpmsolver++")
    golden.switch("DPMSolverMultistep", "unipc", "UniPCMultistep", solver)
    golden.switch("DPMSolverMultistep", "ddim", "DDIM", solver, clip_sample=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    args = parser.parse_args()
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    # One class a line.
    lines = [f'  "{name}Scheduler": {json.dumps(defaults(name))}' for name in CLASSES]
    DEFAULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    golden = Golden()
    make(golden)
    tensors = {key: torch.stack(rows).contiguous() for key, rows in golden.runs.items()} | dict(noise=golden.noise[:64])
    save_file(tensors, args.to / "configs.safetensors", {"cases": json.dumps(golden.cases, separators=(",", ":"))})
    print(f"{len(golden.runs['x0'])} runs, {len(golden.cases)} configs, worst floor "
          f"{max(max(c['floor']) for c in golden.cases):.1e}")


if __name__ == "__main__":
    main()
