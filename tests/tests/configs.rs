//! Every scheduler_config.json of tests/golden/make_configs.py through host's reader, against what diffusers makes of it:
//! timesteps, sigmas, the scale of the first noise, and what a run with a cheap network ends in.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::Path;

use serde_json::Value;
use unfog::model::Scheduler;
use unfog::settings::{Settings, Wishes};
use unfog_core::chain::{Batch, Chain};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::Given;
use unfog_core::predict::PredictionType;
use unfog_core::schedule::Grid;
use unfog_tests::TestResult;
use unfog_tests::golden::Golden;

const IMAGES: usize = 2;
const LEN: usize = 6;

/// Both sides compute sigmas in f64 from f32 tables and round them to f32; powers and exponentials differ by some units of f64.
/// 6e-7 is five units in the last place of f32.
const SIGMAS: f64 = 6e-7;
/// Times come from f32 logarithms of the table (1e-7 of up to 3.5, over steps of 0.003 at least), as in core's own test.
const TIMES: f64 = 2e-4;
/// Of the result, relative; or 4 times the distance of diffusers' own f32 run from its f64 run, as tests/tests/samplers.rs.
const RESULT: f64 = 1e-5;

/// A config of which unfog knowingly makes something else than diffusers.
struct Exception {
    /// Parts of the file.
    parts: &'static [&'static str],
    /// The number of steps, if it is not all of them.
    steps: Option<usize>,
    /// What is allowed for timesteps, sigmas (relative) and the result (relative); `None` is not compared.
    allowed: [Option<f64>; 3],
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 6] = [
    Exception {
        parts: &["\"rescale_betas_zero_snr\": true"],
        steps: None,
        allowed: [Some(TIMES), Some(3e-6), Some(RESULT)],
        reason: "rescaled tables hang on torch's vector square root, which is not correctly rounded; a unit in the last place \
                 of alpha-bar weighs most at its end",
    },
    Exception {
        parts: &["\"EDMDPMSolverMultistepScheduler\""],
        steps: None,
        allowed: [Some(TIMES), Some(3e-6), Some(RESULT)],
        reason: "its ramp and the powers of Karras' sigmas are f32: rho, up to 7, times some units in the last place",
    },
    Exception {
        parts: &["\"DEISMultistepScheduler\"", "\"use_karras_sigmas\": true"],
        steps: Some(1),
        allowed: [Some(TIMES), None, None],
        reason: "with one step diffusers ends at the sigma where it starts, and leaves the noise; unfog goes to the least sigma",
    },
    Exception {
        parts: &["\"SASolverScheduler\"", "\"use_karras_sigmas\": true"],
        steps: Some(1),
        allowed: [Some(TIMES), None, None],
        reason: "as DEIS",
    },
    Exception {
        parts: &["\"CMStochasticIterativeScheduler\""],
        steps: None,
        allowed: [Some(TIMES), Some(2e-4), Some(2e-4)],
        reason: "diffusers starts from noise times the largest sigma, unfog from noise times sqrt(sigma^2 + sigma_data^2), as with every EDM \
                 network: half of (sigma_data / sigma)^2 apart",
    },
    Exception {
        parts: &["\"EDMEulerScheduler\"", "\"sigma_schedule\": \"exponential\""],
        steps: Some(1),
        allowed: [None, None, None],
        reason: "with one step diffusers starts at the least sigma, where there is hardly noise; unfog starts at the largest",
    },
];

fn exception(text: &str, steps: usize) -> Option<&'static Exception> {
    let applies = |e: &&Exception| e.steps.is_none_or(|n| n == steps) && e.parts.iter().all(|part| text.contains(part));
    EXCEPTIONS.iter().find(applies)
}

/// The network of make_samplers.py.
struct Network {
    freq: f64,
}

impl Denoise for Network {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        LEN
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        let time = (0.3 * (self.freq * f64::from(t)).sin()) as f32;
        for (x, out) in x.chunks_exact(LEN).zip(out.chunks_exact_mut(LEN)) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = 0.7 * x[i].tanh() + 0.25 * (0.5 * x[(i + 1) % LEN] + time).tanh() + 0.1;
            }
        }
        Ok(())
    }
}

/// The largest difference, relative where `relative` says so. Equal infinities don't differ.
fn distance(got: &[f64], want: &[f32], relative: bool) -> f64 {
    let apart = |(&got, &want): (&f64, &f32)| {
        let want = f64::from(want);
        let scale = if relative { want.abs().max(1e-6) } else { 1.0 };
        if got == want { 0.0 } else { (got - want).abs() / scale }
    };
    assert_eq!(got.len(), want.len());
    // `max` would swallow what is no number.
    got.iter().zip(want).map(apart).fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}

/// L2, relative.
fn result_distance(got: &[f32], want: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = square(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
    apart / square(&mut want.iter().map(|&w| f64::from(w)))
}

/// Timesteps, sigmas, init_noise_sigma and the result of a run.
struct Made {
    times: Vec<f64>,
    sigmas: Vec<f64>,
    init: f64,
    x0: Vec<f32>,
}

fn make(path: &Path, case: &Value, steps: usize, noise: &[f32]) -> TestResult<Made> {
    let scheduler = Scheduler::open(path)?;
    let tokens = case["tokens"].as_u64().map(u32::try_from).transpose()?;
    let sampler = case["sampler"].as_str().map(str::to_owned);
    let settings =
        Settings::new(Some(scheduler), &Wishes { steps: Some(steps), tokens, sampler, ..Wishes::default() })?;
    let mut tables = settings.tables()?;
    let schedule = tables.schedule()?;
    let (config, sampler) = (&settings.config, settings.sampler);
    let (times, sigmas) = if schedule.levels().is_empty() {
        let sigma = |&t: &u32| {
            let a = f64::from(schedule.alpha_bar()[t as usize]);
            ((1.0 - a) / a).sqrt()
        };
        let times = schedule.timesteps();
        (times.iter().map(|&t| f64::from(t)).collect(), times.iter().map(sigma).collect())
    } else {
        let flow = config.prediction == PredictionType::Flow;
        let levels = schedule.levels();
        let sigma = |l: &unfog_core::schedule::Level| if flow { l.noise / (l.signal + l.noise) } else { l.sigma() };
        (levels[..steps].iter().map(|l| f64::from(l.time)).collect(), levels.iter().map(sigma).collect())
    };
    let conds = [Cond::None; IMAGES];
    let batch = Batch { first_image: 0, len: LEN, out_len: LEN, conds: &conds };
    let mut memory = vec![0.0; Chain::memory(config, sampler, &batch)?];
    let mut chain = Chain::new(config, sampler, schedule, batch, &mut memory)?;
    let is = |class: &str| case["text"].as_str().is_some_and(|text| text.contains(&format!("\"{class}\"")));
    // As make_samplers.py has them.
    let freq = match (is("EDMEulerScheduler"), is("CMStochasticIterativeScheduler")) {
        (true, _) => 1.0,
        (_, true) => 0.001,
        _ => 0.004,
    };
    let mut network = Network { freq };
    let mut noise = Given::new(noise, 0, IMAGES, LEN);
    chain.init(&mut noise)?;
    while chain.step(&mut network, &mut noise)?.is_some() {}
    // Where diffusers divides what the network sees by sqrt(sigma^2 + 1), unfog's x is divided already.
    let edm = matches!(config.prediction, PredictionType::Edm { .. });
    let scaled = edm || config.prediction != PredictionType::Flow && sampler.grid == Grid::Euler;
    let scale = if scaled { schedule.levels()[0].signal } else { 1.0 };
    Ok(Made { times, sigmas, init: f64::from(schedule.init_noise_sigma()) / scale, x0: chain.x().to_vec() })
}

#[test]
fn every_config_is_read_as_diffusers_reads_it() -> TestResult {
    let golden = Golden::read("configs")?;
    let noise = &golden.tensor("noise")?.values;
    let row = |name: &str, run: usize, len: usize| -> TestResult<Vec<f32>> {
        Ok(golden.tensor(name)?.values[run * len..][..len].to_vec())
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("configs");
    fs::create_dir_all(&folder)?;
    let (mut run, mut failures, mut worst) = (0, Vec::new(), [0.0_f64; 3]);
    for (number, case) in golden.cases().iter().enumerate() {
        let text = case["text"].as_str().ok_or("no text")?;
        let path = folder.join(format!("{number}.json"));
        fs::write(&path, text)?;
        let named: Value = serde_json::from_str(&text.replace("-Infinity", "null"))?;
        let floors = case["floor"].as_array().ok_or("no floor")?;
        for (steps, floor) in case["steps"].as_array().ok_or("no steps")?.iter().zip(floors) {
            let (steps, floor) = (steps.as_u64().ok_or("no number")? as usize, floor.as_f64().ok_or("no floor")?);
            let what = format!("{number} {} {} n={steps}", named["_class_name"], case["sampler"]);
            let exception = exception(text, steps);
            let made = match make(&path, case, steps, noise) {
                Ok(made) => made,
                Err(e) => {
                    failures.push(format!("{what}: {e}"));
                    run += 1;
                    continue;
                }
            };
            let errors = [
                distance(&made.times, &row("timesteps", run, 20)?[..steps], false),
                distance(&made.sigmas, &row("sigmas", run, 21)?[..made.sigmas.len()], true).max(distance(
                    &[made.init],
                    &row("init", run, 1)?,
                    true,
                )),
                result_distance(&made.x0, &row("x0", run, IMAGES * LEN)?),
            ];
            let usual = [TIMES, SIGMAS, RESULT].map(Some);
            let mut allowed = exception.map_or(usual, |e| e.allowed).map(|allowed| allowed.unwrap_or(f64::INFINITY));
            allowed[2] = allowed[2].max(4.0 * floor);
            if exception.is_none() {
                worst = std::array::from_fn(|i| worst[i].max(errors[i]));
            }
            if !errors.iter().zip(allowed).all(|(error, allowed)| *error <= allowed) {
                failures.push(format!("{what}: times, sigmas, result {errors:?} apart, allowed {allowed:?}"));
            }
            run += 1;
        }
    }
    assert_eq!(run, golden.tensor("init")?.values.len(), "runs without a case");
    println!("{run} runs: times {:.1e}, sigmas {:.1e}, results {:.1e} apart", worst[0], worst[1], worst[2]);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Whatever stands in a key, there is a schedule or an error, and no panic.
#[test]
fn junk_in_any_key_is_an_error_or_a_schedule() -> TestResult {
    let golden = Golden::read("configs")?;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("junk.json");
    let junk = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "0.5",
        "1e308",
        "-1e-308",
        "4294967295",
        "100000",
        "7",
        "\"x\"",
        "[]",
        "[0.5]",
        "{}",
        "-Infinity",
    ];
    let (mut classes, mut made, mut refused) = (BTreeMap::new(), 0, 0);
    for case in golden.cases() {
        let text = case["text"].as_str().ok_or("no text")?;
        let object: Value = serde_json::from_str(&text.replace("-Infinity", "\"-Infinity\""))?;
        classes.entry(object["_class_name"].to_string()).or_insert(object);
    }
    for object in classes.values() {
        for key in object.as_object().ok_or("no object")?.keys() {
            for junk in junk {
                let marked = "\"junk goes here\"";
                let mut changed = object.clone();
                changed[key] = "junk goes here".into();
                let text = changed.to_string().replace(marked, junk).replace("\"-Infinity\"", "-Infinity");
                fs::write(&path, text)?;
                let wishes = Wishes { steps: Some(3), tokens: Some(64), ..Wishes::default() };
                match Scheduler::open(&path).and_then(|scheduler| Settings::new(Some(scheduler), &wishes)) {
                    Ok(settings) => {
                        let mut tables = settings.tables()?;
                        assert_eq!(unfog::schedule::rows(&settings, &tables.schedule()?).len(), 3);
                        made += 1;
                    }
                    Err(e) => {
                        assert_eq!(e.report().lines().next().map(|line| line.starts_with("error: ")), Some(true));
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{made} schedules, {refused} errors");
    assert!(made > 500 && refused > 2000, "{made} {refused}");
    Ok(())
}

#[test]
fn exceptions_are_of_configs_that_exist() -> TestResult {
    let golden = Golden::read("configs")?;
    for e in &EXCEPTIONS {
        let applies = golden.cases().iter().any(|case| {
            let steps = case["steps"].as_array().into_iter().flatten().filter_map(Value::as_u64);
            let text = case["text"].as_str().unwrap_or_default();
            steps.map(|n| n as usize).any(|n| exception(text, n).is_some_and(|found| std::ptr::eq(found, e)))
        });
        assert!(applies, "{:?}: {}", e.parts, e.reason);
    }
    Ok(())
}
