#!/usr/bin/env python3
"""Writes tests/golden/sigmas.safetensors: betas and sigma tables, from diffusers where it has them, else from their formulas.

As make.py, it installs nothing and needs diffusers 0.42.1 and scipy:

    /tmp/golden/bin/python tests/golden/make_sigmas.py        # some seconds

What diffusers lacks is written here in numpy, in f64, from the paper's formula: polyexponential and VP (k-diffusion's
get_sigmas_*), Align Your Steps (Sabour et al. 2024, table 3, and the log-linear interpolation of the authors' quick start guide),
SGM uniform (Rombach et al.'s generative-models: n of n + 1 points in time), simple (every (T / n)-th sigma), KL optimal (Sabour et
al. 2024, theorem 3.1) and k-diffusion's interpolation of ln sigma. The network's own sigmas, from which these start, are diffusers'.

In the file, as metadata `cases`: `betas` with the parameters of a beta schedule, tensor NN.betas; `levels` with the settings of a
run, tensors NN.sigmas (the end of the run last) and NN.times. Where `stride` is above 1 only each stride-th value is kept. `source`
says whose the numbers are.
"""

import argparse
import json
import math
import pathlib

import diffusers
import diffusers.schedulers as S
import numpy as np
from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar
from diffusers.schedulers.scheduling_utils import AysSchedules
from diffusers.utils import logging
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
T = 1000
STEPS = (1, 2, 3, 7, 20, 50, T)
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing")


class Cases:
    def __init__(self):
        self.tensors, self.cases = {}, []

    def add(self, case, tensors):
        for key, value in tensors.items():
            self.tensors[f"{len(self.cases):02}.{key}"] = np.ascontiguousarray(value, dtype=np.float32)
        self.cases.append(case)

    def betas(self, schedule, start, end, count, betas, source):
        self.add(dict(kind="betas", schedule=schedule, start=start, end=end, source=source), dict(betas=betas))
        assert len(betas) == count

    def levels(self, sigmas, times, source, **case):
        n = len(times)
        assert len(sigmas) == n + 1, (len(sigmas), n, case)
        stride = 37 if n > 100 else 1
        case = dict(kind="levels", steps=n, stride=stride, source=source) | case
        self.add(case, dict(sigmas=np.asarray(sigmas)[::stride], times=np.asarray(times)[::stride]))


def betas(cases):
    for count in (1, 2, 3, 10, 100, T):
        for kind in ("laplace", "exp"):
            cases.betas(kind, 0.0, 0.0, count, betas_for_alpha_bar(count, alpha_transform_type=kind).numpy(), "diffusers")
        for start, end in ((1e-4, 0.02), (0.00085, 0.012)):
            scheduler = S.DDPMScheduler(count, beta_schedule="sigmoid", beta_start=start, beta_end=end)
            cases.betas("sigmoid", start, end, count, scheduler.betas.numpy(), "diffusers")


def of(scheduler):
    """The sigmas and times of a scheduler."""
    return scheduler.sigmas.numpy(), scheduler.timesteps.numpy()


def tables_of_diffusers(cases):
    for grid, kind in (("euler", S.EulerDiscreteScheduler), ("solver", S.DPMSolverMultistepScheduler)):
        tables = ["karras", "exponential", "beta"] + (["lu"] if grid == "solver" else [])
        for table in tables:
            key = {"use_lu_lambdas" if table == "lu" else f"use_{table}_sigmas": True}
            for n in STEPS:
                scheduler = kind(**SD | key)
                scheduler.set_timesteps(n)
                cases.levels(*of(scheduler), "diffusers", grid=grid, table=table, parity="diffusers")
        for table in tables[:1]:
            for end in ("linear", "squaredcos_cap_v2"):
                scheduler = kind(beta_schedule=end, beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing", use_karras_sigmas=True)
                scheduler.set_timesteps(7)
                cases.levels(*of(scheduler), "diffusers", grid=grid, table=table, parity="diffusers", betas=end)
    # A range of the user's own.
    for table in ("karras", "exponential", "beta"):
        scheduler = S.EulerDiscreteScheduler(**SD, **{f"use_{table}_sigmas": True}, sigma_min=0.1, sigma_max=10.0)
        scheduler.set_timesteps(7)
        cases.levels(*of(scheduler), "diffusers", grid="euler", table=table, parity="diffusers", min=0.1, max=10.0)
    # Lists of the user's own.
    for given in ([9.0, 0.0], [14.0, 3.5, 0.0], [12.5, 6.0, 2.25, 0.7, 0.1, 0.0], [5.0, 4.9, 0.03, 0.0]):
        scheduler = S.EulerDiscreteScheduler(**SD)
        scheduler.set_timesteps(sigmas=given)
        cases.levels(*of(scheduler), "diffusers", grid="euler", table="given", parity="diffusers", given=given)
    for given in ([999], [999, 500, 0], [850, 333, 332, 17]):
        scheduler = S.EulerDiscreteScheduler(**SD)
        scheduler.set_timesteps(timesteps=given)
        cases.levels(*of(scheduler), "diffusers", grid="euler", table="timesteps", parity="diffusers", timesteps=given)


class Network:
    """The sigmas of Stable Diffusion's chain, and times by ln sigma."""

    def __init__(self):
        alpha_bar = S.EulerDiscreteScheduler(**SD).alphas_cumprod.numpy()
        self.sigmas = np.sqrt((1 - alpha_bar) / alpha_bar).astype(np.float64)
        self.log = np.log(self.sigmas)

    def time(self, sigma):
        return np.interp(np.log(sigma), self.log, np.arange(T))

    def sigma(self, time):
        return np.exp(np.interp(time, np.arange(T), self.log))

    def sigma_linear(self, time):
        return np.interp(time, np.arange(T), self.sigmas)


def polyexponential(n, low, high, rho=1.0):
    return np.exp(np.linspace(1, 0, n) ** rho * (math.log(high) - math.log(low)) + math.log(low))


def vp(n, beta_d=19.9, beta_min=0.1, eps=1e-3):
    t = np.linspace(1, eps, n)
    return np.sqrt(np.exp(beta_d * t**2 / 2 + beta_min * t) - 1)


# Sabour et al. 2024, table 3. diffusers ends its copies in 0 where the last step leads to the image.
AYS = {
    "sd15": ("StableDiffusionSigmas", [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]),
    "sdxl": ("StableDiffusionXLSigmas", [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]),
    "svd": ("StableDiffusionVideoSigmas", [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]),
}


def align_your_steps(n, which):
    theirs, table = AYS[which]
    assert table[:10] == AysSchedules[theirs][:10]
    return np.exp(np.interp(np.linspace(0, 10, n + 1), np.arange(11), np.log(table)))[:n]


def kl_optimal(n, low, high):
    u = np.linspace(0, 1, n)
    return np.tan(u * math.atan(low) + (1 - u) * math.atan(high))


def tables_of_papers(cases):
    network = Network()

    def add(sigmas, times=None, **case):
        sigmas = np.asarray(sigmas)
        times = network.time(sigmas) if times is None else times
        cases.levels(np.append(sigmas, 0.0), times, "formula", parity="table", **case)

    for grid, kind in (("euler", S.EulerDiscreteScheduler), ("solver", S.DPMSolverMultistepScheduler)):
        for n in STEPS:
            scheduler = kind(**SD)
            scheduler.set_timesteps(n)
            # Euler's tables lie between the sigmas of its timesteps, the solvers' between the network's.
            chosen = scheduler.sigmas.double().numpy()
            low, high = (chosen[n - 1], chosen[0]) if grid == "euler" else (network.sigmas[0], network.sigmas[-1])
            for rho in (1.0, 1.5, 0.5):
                add(polyexponential(n, low, high, rho), grid=grid, table="polyexponential", rho=rho)
            add(kl_optimal(n, low, high), grid=grid, table="kl_optimal")
            add(vp(n), grid=grid, table="vp")
            for which in AYS:
                add(align_your_steps(n, which), grid=grid, table="ays", which=which)
            times = np.linspace(T - 1, 0, n + 1)[:-1]
            add(network.sigma(times), times, grid=grid, table="uniform", interpolation="log")
            add(network.sigma_linear(times), times, grid=grid, table="uniform")
            times = np.array([T - 1 - i * T // n for i in range(n)])
            add(network.sigmas[times], times, grid=grid, table="simple")
    for n in STEPS:
        # k-diffusion's get_sigmas: evenly in time, ln sigma between timesteps.
        times = np.linspace(T - 1, 0, n) if n > 1 else np.zeros(1)
        add(network.sigma(times), times, grid="euler", table="timesteps", interpolation="log", spacing="linspace")
    add(vp(7, 12.0, 0.3, 0.01), grid="euler", table="vp", vp=[12.0, 0.3, 0.01])
    add(polyexponential(7, 0.1, 10.0, 2.0), grid="euler", table="polyexponential", rho=2.0, min=0.1, max=10.0)
    add(kl_optimal(7, 0.1, 10.0), grid="euler", table="kl_optimal", min=0.1, max=10.0)


def flow(cases):
    kind = S.FlowMatchEulerDiscreteScheduler
    base = dict(grid="euler", table="timesteps", parity="diffusers", prediction="flow")

    def add(config, n, mu=None, sigmas=None, **case):
        scheduler = kind(**config)
        args = dict(sigmas=sigmas.tolist()) if sigmas is not None else dict(num_inference_steps=n)
        scheduler.set_timesteps(**args, mu=mu)
        cases.levels(*of(scheduler), "diffusers", **base | case)

    for n in STEPS:
        for shift in (1.0, 3.0, 0.5):
            add(dict(shift=shift), n, shift=["static", shift])
        add(dict(use_dynamic_shifting=True), n, 0.8, shift=["exponential", 0.8])
        add(dict(use_dynamic_shifting=True, time_shift_type="linear"), n, 2.2, shift=["linear", 2.2])
        if n > 1:
            # With one step diffusers divides 0 by 0.
            add(dict(use_dynamic_shifting=True, shift_terminal=0.1), n, 1.15, shift=["exponential", 1.15], terminal=0.1)
            add(dict(shift=3.0, shift_terminal=0.02), n, shift=["static", 3.0], terminal=0.02)
        # The pipelines' own list (Flux, SD3): from 1 to 1 / n.
        even = np.linspace(1, 1 / n, n)
        add(dict(use_dynamic_shifting=True), n, 0.8, even, shift=["exponential", 0.8], table="uniform")
    for table in ("karras", "exponential", "beta"):
        for n in (2, 7, 50):
            add({"shift": 3.0, f"use_{table}_sigmas": True}, n, shift=["static", 3.0], table=table)
    for mu in (0.5, 2.0):
        # s of every (T / n)-th timestep, shifted.
        for n in STEPS:
            s = (T - np.arange(n) * T // n) / T
            s = math.exp(mu) * s / (1 + (math.exp(mu) - 1) * s)
            case = base | dict(table="simple", shift=["exponential", mu])
            cases.levels(np.append(s, 0.0), np.float32(s) * np.float32(T), "formula", **case)


def edm(cases):
    for table in ("karras", "exponential"):
        for n in STEPS:
            scheduler = S.EDMEulerScheduler(sigma_schedule=table)
            scheduler.set_timesteps(n)
            cases.levels(*of(scheduler), "diffusers", grid="euler", table=table, parity="diffusers", prediction="edm")
    for n in STEPS:
        sigmas = align_your_steps(n, "svd")
        cases.levels(np.append(sigmas, 0.0), np.log(sigmas) / 4, "formula", grid="euler", table="ays", which="svd",
                     parity="table", prediction="edm")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    args = parser.parse_args()
    assert diffusers.__version__ == "0.42.1", diffusers.__version__
    logging.set_verbosity_error()
    cases = Cases()
    betas(cases)
    tables_of_diffusers(cases)
    tables_of_papers(cases)
    flow(cases)
    edm(cases)
    save_file(cases.tensors, args.to / "sigmas.safetensors", {"cases": json.dumps(cases.cases, separators=(",", ":"))})
    print(f"sigmas: {len(cases.cases)} cases")


if __name__ == "__main__":
    main()
