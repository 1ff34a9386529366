//! Every sampler of the registry against diffusers 0.42.1, on given noise (tests/golden/make_samplers.py and
//! make_more_samplers.py).

use std::collections::BTreeMap;

use serde_json::Value;
use unfog_core::chain::{Batch, Chain};
use unfog_core::config::{Config, Parity, Variance};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Brownian, Given, Noise, Philox};
use unfog_core::predict::{Clip, PredictionType};
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::{BetaSchedule, End, Grid, Level, Schedule, Shift, SigmaTable, Spacing};
use unfog_tests::TestResult;
use unfog_tests::compare::distance;
use unfog_tests::golden::Golden;

/// Two images of 2 x 3 values.
const IMAGES: usize = 2;
const LEN: usize = 6;

/// The least tolerance: a few hundred roundings of f32.
const TOLERANCE: f64 = 1e-5;

/// The goldens.
const FILES: [&str; 2] = ["samplers", "more-samplers"];

/// What the golden's network says.
struct Network {
    freq: f64,
    /// Whether it says a variance, too.
    learned: bool,
}

impl Denoise for Network {
    type Error = std::convert::Infallible;

    fn out_len(&self) -> usize {
        if self.learned { 2 * LEN } else { LEN }
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
        let time = (0.3 * (self.freq * f64::from(t)).sin()) as f32;
        for (x, out) in x.chunks_exact(LEN).zip(out.chunks_exact_mut(self.out_len())) {
            let (out, variance) = out.split_at_mut(LEN);
            for (i, out) in out.iter_mut().enumerate() {
                *out = 0.7 * x[i].tanh() + 0.25 * (0.5 * x[(i + 1) % LEN] + time).tanh() + 0.1;
            }
            variance.iter_mut().zip(x).for_each(|(v, x)| *v = 0.02 * (1.1 + x.tanh()));
        }
        Ok(())
    }
}

/// A run in which unfog knowingly differs from diffusers.
struct Exception {
    sampler: &'static str,
    /// A part of the configuration, as JSON.
    part: &'static str,
    steps: usize,
    /// What is allowed there.
    tolerance: f64,
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 4] = [
    Exception {
        sampler: "dpm2-a",
        part: r#""timestep_spacing":"linspace""#,
        steps: 2,
        tolerance: 1e-4,
        reason: "diffusers finds sigma_down, 6e-5 here, as the root of a difference of f32 squares of 8e-4, which leaves two \
             digits; unfog computes it as a product",
    },
    Exception {
        sampler: "euler-churn",
        part: r#""s_churn":3.0,"timestep_spacing":"linspace""#,
        steps: 7,
        tolerance: 0.4,
        reason: "diffusers evaluates the network before it adds the churn's noise, which is of no method; unfog evaluates after it, \
             as Karras et al. and k-diffusion",
    },
    Exception {
        sampler: "sa-solver",
        part: r#""use_karras_sigmas":true"#,
        steps: 1,
        tolerance: 10.0,
        reason: "diffusers' only step ends at the sigma where it starts and returns the noise; unfog goes to the least sigma",
    },
    Exception {
        sampler: "sa-solver-3",
        part: r#""use_karras_sigmas":true"#,
        steps: 1,
        tolerance: 10.0,
        reason: "the same",
    },
];

fn exception(sampler: &str, config: &Value, steps: usize) -> Option<&'static Exception> {
    let config = config.to_string();
    EXCEPTIONS.iter().find(|e| e.sampler == sampler && e.steps == steps && config.contains(e.part))
}

/// diffusers' keys as unfog's settings.
fn settings(sampler: &Sampler, keys: &Value, steps: usize) -> TestResult<Config> {
    let mut config = Config { steps, clip: Clip::None, parity: Parity::Diffusers, ..Config::default() };
    // Classes differ in their defaults.
    config.set_alpha_to_one = !matches!(sampler.name, "plms" | "pndm");
    if sampler.name == "consistency" {
        config.sigmas.end = End::Min;
        config.sigmas.table = SigmaTable::Distilled { levels: 40, rho: 7.0 };
    }
    config.spacing = if sampler.grid == Grid::Chain { Spacing::Leading } else { Spacing::Linspace };
    for (key, value) in keys.as_object().ok_or("no object")? {
        let text = value.as_str().unwrap_or_default();
        let number = value.as_f64().unwrap_or(f64::NAN);
        let on = value.as_bool().unwrap_or_default();
        let sigmas = &mut config.sigmas;
        match key.as_str() {
            "beta_schedule" => {
                config.betas = match text {
                    "linear" => BetaSchedule::Linear,
                    "sigmoid" => BetaSchedule::Sigmoid,
                    "laplace" => BetaSchedule::Laplace,
                    "scaled_linear" => BetaSchedule::ScaledLinear,
                    "squaredcos_cap_v2" => BetaSchedule::SquaredCosCapV2,
                    _ => return Err(format!("{key} {text}").into()),
                }
            }
            "beta_start" => config.beta_start = number,
            "beta_end" => config.beta_end = number,
            "rescale_betas_zero_snr" => config.zero_terminal_snr = on,
            "timestep_spacing" => {
                config.spacing = match text {
                    "leading" => Spacing::Leading,
                    "trailing" => Spacing::Trailing,
                    "linspace" => Spacing::Linspace,
                    _ => return Err(format!("{key} {text}").into()),
                }
            }
            "steps_offset" => config.steps_offset = number as u32,
            "prediction_type" => {
                config.prediction = match text {
                    "epsilon" => PredictionType::Epsilon,
                    "sample" => PredictionType::Sample,
                    "v_prediction" => PredictionType::Velocity,
                    "edm" => PredictionType::Edm { sigma_data: 0.5 },
                    "flow_prediction" => {
                        (sigmas.table, sigmas.end) = (SigmaTable::Timesteps, End::Zero);
                        PredictionType::Flow
                    }
                    _ => return Err(format!("{key} {text}").into()),
                }
            }
            "use_karras_sigmas" => sigmas.table = SigmaTable::Karras { rho: 7.0 },
            "use_exponential_sigmas" => sigmas.table = SigmaTable::Exponential,
            "use_beta_sigmas" => sigmas.table = SigmaTable::Beta { alpha: 0.6, beta: 0.6 },
            "use_lu_lambdas" => sigmas.table = SigmaTable::LuLambda,
            "final_sigmas_type" => sigmas.end = if text == "sigma_min" { End::Min } else { End::Zero },
            "flow_shift" => sigmas.shift = Shift::Static(number),
            "lower_order_final" => config.lower_order_final = on,
            "euler_at_final" => config.euler_at_final = on,
            "original_inference_steps" => config.spacing = Spacing::Consistency { original: number as u32 },
            "timestep_scaling" => config.timestep_scaling = number as f32,
            "clip_sample" => config.clip = Clip::Range(keys["clip_sample_range"].as_f64().unwrap_or(1.0) as f32),
            "clip_denoised" => config.clip = if on { Clip::Range(1.0) } else { Clip::None },
            "num_train_timesteps" => sigmas.table = SigmaTable::Distilled { levels: number as u32, rho: 7.0 },
            "s_churn" => config.s_churn = number as f32,
            "s_tmin" => config.s_tmin = number as f32,
            "s_tmax" => config.s_tmax = number as f32,
            "s_noise" => config.s_noise = number as f32,
            "clip_sample_range" | "sigma_data" | "use_dynamic_shifting" => {}
            "shift" => sigmas.shift = Shift::Static(number),
            "mu" => {
                sigmas.shift = Shift::Exponential(number);
            }
            "shift_terminal" => sigmas.shift_terminal = Some(number),
            "set_alpha_to_one" => config.set_alpha_to_one = on,
            "thresholding" => config.clip = Clip::Dynamic { ratio: 0.995, max: 1.0 },
            "sample_max_value" => {}
            "variance_type" => {
                config.variance = match text {
                    "fixed_small" => Variance::FixedSmall,
                    "fixed_large" => Variance::FixedLarge,
                    "learned" => Variance::Learned,
                    "learned_range" => Variance::LearnedRange,
                    _ => return Err(format!("{key} {text}").into()),
                }
            }
            "eta" => config.eta = number as f32,
            _ => return Err(format!("the key {key} has no meaning here").into()),
        }
    }
    if let (Clip::Dynamic { ratio, .. }, Some(max)) = (config.clip, keys["sample_max_value"].as_f64()) {
        config.clip = Clip::Dynamic { ratio, max: max as f32 };
    }
    Ok(config)
}

fn run(sampler: &Sampler, config: &Config, noise: &[f32]) -> TestResult<Vec<f32>> {
    run_with(sampler, config, &mut Given::new(noise, 0, IMAGES, LEN))
}

fn run_with(sampler: &Sampler, config: &Config, noise: &mut dyn Noise) -> TestResult<Vec<f32>> {
    let mut alpha_bar = vec![0.0; config.train_steps];
    let (mut timesteps, mut levels) = (vec![0; config.steps], vec![Level::default(); sampler.levels(config.steps)]);
    let schedule = Schedule::for_sampler(config, sampler, &mut alpha_bar, &mut timesteps, &mut levels)?;
    let conds = [Cond::None; IMAGES];
    let edm = matches!(config.prediction, PredictionType::Edm { .. });
    let mut network = Network { freq: if edm { 1.0 } else { 0.004 }, learned: config.variance.is_learned() };
    let batch = Batch { first_image: 0, len: LEN, out_len: network.out_len(), conds: &conds };
    let mut memory = vec![0.0; Chain::memory(config, sampler, &batch)?];
    let mut chain = Chain::new(config, sampler, schedule, batch, &mut memory)?;
    chain.init(noise)?;
    while chain.step(&mut network, noise)?.is_some() {}
    Ok(chain.x().to_vec())
}

#[test]
fn every_sampler_is_diffusers() -> TestResult {
    let (mut worst, mut failures) = (BTreeMap::new(), Vec::new());
    for file in FILES {
        check(&Golden::read(file)?, &mut worst, &mut failures)?;
    }
    for (name, (error, share, runs)) in &worst {
        println!(
            "{name:20} {runs:4} runs, worst relative error {error:.1e}, {:3.0} % of what is allowed",
            share * 100.0
        );
    }
    let missing: Vec<_> = sampler::REGISTRY.iter().map(|s| s.name).filter(|name| !worst.contains_key(*name)).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(missing.is_empty(), "no golden for {missing:?}");
    Ok(())
}

/// By sampler: the worst error, the worst share of what is allowed, and runs.
type Worst = BTreeMap<String, (f64, f64, usize)>;

/// Compares all runs of a file.
fn check(golden: &Golden, worst: &mut Worst, failures: &mut Vec<String>) -> TestResult {
    let noise = &golden.tensor("noise")?.values;
    let mut rows = golden.tensor("x0")?.values.chunks_exact(IMAGES * LEN);
    for case in golden.cases() {
        let name = case["sampler"].as_str().ok_or("no sampler")?;
        let sampler = sampler::find(name).ok_or_else(|| format!("the registry has no {name}"))?;
        let (steps, floors) = (case["steps"].as_array(), case["floor"].as_array());
        for n in case["nan"].as_array().ok_or("no nan")? {
            // There unfog ends in numbers; which, theory says (core's own tests).
            let n = n.as_u64().ok_or("no number of steps")? as usize;
            let got = run(sampler, &settings(sampler, &case["config"], n)?, noise)?;
            assert!(got.iter().all(|v| v.is_finite()), "{name} {} n={n}", case["config"]);
        }
        for (n, floor) in steps.ok_or("no steps")?.iter().zip(floors.ok_or("no floor")?) {
            let n = n.as_u64().ok_or("no number of steps")? as usize;
            let (floor, want) = (floor.as_f64().ok_or("no floor")?, rows.next().ok_or("too few rows")?);
            let what = format!("{name} {} n={n}", case["config"]);
            let tolerance = match exception(name, &case["config"], n) {
                Some(exception) => {
                    println!("{what}: {}", exception.reason);
                    exception.tolerance
                }
                None => TOLERANCE.max(4.0 * floor),
            };
            let got = settings(sampler, &case["config"], n).and_then(|config| run(sampler, &config, noise));
            let error = got.as_ref().map_or(f64::INFINITY, |got| distance(got, want));
            let entry = worst.entry(name.to_owned()).or_default();
            *entry = (entry.0.max(error), entry.1.max(error / tolerance), entry.2 + 1);
            if error > tolerance {
                failures.push(match got {
                    Ok(_) => format!("{what}: {error:.1e}, allowed {tolerance:.1e}"),
                    Err(e) => format!("{what}: {e}"),
                });
            }
        }
    }
    assert!(rows.next().is_none(), "more rows than cases");
    Ok(())
}

#[test]
fn no_two_names_are_one_sampler() -> TestResult {
    let golden = Golden::read("samplers")?;
    let noise = &golden.tensor("noise")?.values;
    // eta, so that DDIM's noise counts; 20 steps of trailing spacing, so that every order and rule does.
    let config = Config { steps: 20, clip: Clip::None, eta: 0.5, spacing: Spacing::Trailing, ..Config::default() };
    let mut seen: BTreeMap<Vec<u32>, &str> = BTreeMap::new();
    for sampler in sampler::REGISTRY {
        let bits = run(sampler, &config, noise)?.iter().map(|v| v.to_bits()).collect();
        if let Some(other) = seen.insert(bits, sampler.name) {
            return Err(format!("{other} and {} give the same", sampler.name).into());
        }
    }
    Ok(())
}

#[test]
fn brownian_noise_makes_pictures_independent_of_the_steps() -> TestResult {
    // Those that solve a stochastic differential equation. (LCM, TCD and consistency sampling draw all noise anew at every step.)
    let names = "ddpm ddim euler-a dpm2-a dpmpp-2s-a dpmpp-2m-sde dpmpp-2m-sde-heun dpmpp-3m-sde dpmpp-2s-sde dpmpp-3s-sde \
                 sa-solver sa-solver-3 er-sde er-sde-2 er-sde-3 res-multistep-a euler-churn heun-churn dpm2-churn";
    for name in names.split_whitespace() {
        let sampler = sampler::find(name).ok_or_else(|| format!("the registry has no {name}"))?;
        let at = |steps: usize, noise: &mut dyn Noise| {
            let config = Config {
                steps,
                clip: Clip::None,
                eta: 1.0,
                spacing: Spacing::Trailing,
                parity: Parity::Table,
                ..Config::default()
            };
            run_with(sampler, &config, noise)
        };
        let (mut brownian, mut philox) = (0.0, 0.0);
        for seed in 0..4 {
            // The time of noise goes from 1 to 0 in every run.
            let mut path = Brownian::new(seed, 1.0, 0.0);
            brownian += distance(&at(200, &mut path)?, &at(400, &mut path)?);
            let mut fresh = Philox::new(seed);
            philox += distance(&at(200, &mut fresh)?, &at(400, &mut fresh)?);
        }
        println!(
            "{name:20} 200 and 400 steps differ by {:.3} with one path, {:.3} with other noise",
            brownian / 4.0,
            philox / 4.0
        );
        assert!(brownian < 0.5 * philox, "{name}: {brownian} {philox}");
    }
    Ok(())
}

#[test]
fn exceptions_are_of_cases_that_exist() -> TestResult {
    let goldens = FILES.map(Golden::read).into_iter().collect::<Result<Vec<_>, _>>()?;
    for e in &EXCEPTIONS {
        let exists = goldens.iter().flat_map(|golden| golden.cases()).any(|case| {
            let steps = case["steps"].as_array().is_some_and(|steps| steps.contains(&e.steps.into()));
            case["sampler"] == e.sampler && steps && exception(e.sampler, &case["config"], e.steps).is_some()
        });
        assert!(exists, "{} {} {}", e.sampler, e.part, e.steps);
    }
    Ok(())
}
