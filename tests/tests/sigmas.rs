//! Betas and sigma tables against diffusers 0.42.1 and the papers' formulas (tests/golden/make_sigmas.py).

use std::collections::BTreeMap;

use serde_json::Value;
use unfog_core::config::{Config, Parity};
use unfog_core::predict::PredictionType;
use unfog_core::sampler::{DPMPP_2M, EULER};
use unfog_core::schedule::{
    AlignYourSteps, BetaSchedule, Interpolation, Level, Schedule, Shift, SigmaTable, Sigmas, Spacing, fill_betas,
};
use unfog_tests::TestResult;
use unfog_tests::golden::Golden;

/// Sigmas are f32: both sides round once, and where diffusers computes a table in f32 (flow, EDM) it has a few roundings more.
const SIGMA: f64 = 4e-7;

/// A time is where ln sigma lies between f32 logarithms of up to 3.5 (half a unit in their last place is 1.2e-7), over steps of
/// 0.003 at least: 1e-4 of a timestep. Times of flow and EDM networks have no such step, but are f32 of up to 1000.
const TIME: f64 = 2e-4;

/// Betas are f32. The schedules that are ratios of alpha-bars cancel: an error of one unit in the last place of the f64 ratio (1.1e-16)
/// is less than half a unit of the f32 beta unless that is below 2e-9. The sigmoid has f32's exponential in it, which torch
/// approximates its own way: a few units.
const BETA: f64 = 3e-7;

/// Where unfog knowingly differs.
struct Exception {
    prediction: &'static str,
    table: &'static str,
    steps: u64,
    /// What unfog has there.
    sigmas: &'static [f64],
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 1] = [Exception {
    prediction: "edm",
    table: "exponential",
    steps: 1,
    sigmas: &[80.0, 0.0],
    reason: "diffusers fills this table from its end, so that a run of one step starts at the least sigma, 0.002, where nothing \
             is left to do; unfog's tables start from noise, as diffusers' own Karras table does with one step",
}];

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_default()
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(Value::as_f64).collect()
}

/// The settings of a case.
fn settings(case: &Value, steps: usize) -> TestResult<Config> {
    let number = |key: &str| case[key].as_f64();
    let table = match text(case, "table") {
        "timesteps" => SigmaTable::Timesteps,
        "karras" => SigmaTable::Karras { rho: 7.0 },
        "exponential" => SigmaTable::Exponential,
        "polyexponential" => SigmaTable::Polyexponential { rho: number("rho").ok_or("no rho")? },
        "beta" => SigmaTable::Beta { alpha: 0.6, beta: 0.6 },
        "lu" => SigmaTable::LuLambda,
        "vp" => match numbers(&case["vp"]).as_deref() {
            None => SigmaTable::Vp { beta_d: 19.9, beta_min: 0.1, eps: 1e-3 },
            Some(&[beta_d, beta_min, eps]) => SigmaTable::Vp { beta_d, beta_min, eps },
            Some(_) => return Err("vp has three numbers".into()),
        },
        "ays" => SigmaTable::AlignYourSteps(match text(case, "which") {
            "sd15" => AlignYourSteps::Sd15,
            "sdxl" => AlignYourSteps::Sdxl,
            "svd" => AlignYourSteps::Svd,
            other => return Err(format!("unknown steps {other}").into()),
        }),
        "uniform" => SigmaTable::Uniform,
        "simple" => SigmaTable::Simple,
        "kl_optimal" => SigmaTable::KlOptimal,
        "given" => SigmaTable::Given,
        other => return Err(format!("unknown table {other}").into()),
    };
    let shift = match (case["shift"][0].as_str(), case["shift"][1].as_f64()) {
        (None, None) => Shift::Static(1.0),
        (Some("static"), Some(m)) => Shift::Static(m),
        (Some("linear"), Some(m)) => Shift::Linear(m),
        (Some("exponential"), Some(mu)) => Shift::Exponential(mu),
        other => return Err(format!("unknown shift {other:?}").into()),
    };
    let (betas, beta_start, beta_end) = match text(case, "betas") {
        "" => (BetaSchedule::ScaledLinear, 0.00085, 0.012),
        "linear" => (BetaSchedule::Linear, 1e-4, 0.02),
        "squaredcos_cap_v2" => (BetaSchedule::SquaredCosCapV2, 1e-4, 0.02),
        other => return Err(format!("unknown betas {other}").into()),
    };
    let spacing = match (text(case, "spacing"), case["timesteps"].is_array()) {
        (_, true) => Spacing::Given,
        ("linspace", _) => Spacing::Linspace,
        _ => Spacing::Trailing,
    };
    Ok(Config {
        betas,
        beta_start,
        beta_end,
        spacing,
        prediction: match text(case, "prediction") {
            "flow" => PredictionType::Flow,
            "edm" => PredictionType::Edm { sigma_data: 0.5 },
            _ => PredictionType::Epsilon,
        },
        parity: if text(case, "parity") == "table" { Parity::Table } else { Parity::Diffusers },
        sigmas: Sigmas {
            table,
            interpolation: if text(case, "interpolation") == "log" {
                Interpolation::Log
            } else {
                Interpolation::Linear
            },
            min: number("min"),
            max: number("max"),
            shift,
            shift_terminal: number("terminal"),
            ..Sigmas::default()
        },
        steps,
        ..Config::default()
    })
}

/// Largest errors: relative of sigmas, in timesteps of times. `instead` of the golden's sigmas, where they are another's.
fn errors(golden: &Golden, number: usize, case: &Value, instead: Option<&Exception>) -> TestResult<[f64; 2]> {
    let steps = case["steps"].as_u64().ok_or("no steps")? as usize;
    let stride = case["stride"].as_u64().ok_or("no stride")? as usize;
    let config = settings(case, steps)?;
    let sampler = if text(case, "grid") == "solver" { &DPMPP_2M } else { &EULER };
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; steps]);
    let mut levels = vec![Level::default(); steps + 1];
    if let Some(given) = numbers(&case["given"]) {
        levels = given.into_iter().map(Level::given).collect();
    }
    if let Some(given) = numbers(&case["timesteps"]) {
        timesteps = given.into_iter().map(|t| t as u32).collect();
    }
    let schedule = Schedule::for_sampler(&config, sampler, &mut alpha_bar, &mut timesteps, &mut levels)?;
    let (sigmas, times) = (&golden.part(number, "sigmas")?.values, &golden.part(number, "times")?.values);
    if let Some(exception) = instead {
        let got: Vec<f64> = schedule.levels().iter().map(|l| l.sigma()).collect();
        let close = got.iter().zip(exception.sigmas).all(|(g, w)| (g - w).abs() <= SIGMA * w);
        let equal = close && got.len() == exception.sigmas.len();
        return if equal { Ok([0.0; 2]) } else { Err(format!("{got:?} instead of {:?}", exception.sigmas).into()) };
    }
    let flow = config.prediction == PredictionType::Flow;
    let (mut worst, mut seen) = ([0.0_f64; 2], [0; 2]);
    for (level, &want) in schedule.levels().iter().step_by(stride).zip(sigmas) {
        let (got, want) = (if flow { level.noise } else { level.sigma() }, f64::from(want));
        worst[0] = worst[0].max(if got == want { 0.0 } else { (got - want).abs() / want });
        seen[0] += 1;
    }
    for (level, &want) in schedule.levels()[..steps].iter().step_by(stride).zip(times) {
        worst[1] = worst[1].max((f64::from(level.time) - f64::from(want)).abs());
        seen[1] += 1;
    }
    let lengths = [sigmas.len(), times.len()];
    if seen != lengths || worst.iter().any(|e| e.is_nan()) {
        return Err(format!("{seen:?} values instead of {lengths:?}, errors {worst:?}").into());
    }
    Ok(worst)
}

#[test]
fn every_table_is_the_golden_one() -> TestResult {
    let golden = Golden::read("sigmas")?;
    let (mut worst, mut failures): (BTreeMap<String, ([f64; 2], usize)>, _) = (BTreeMap::new(), Vec::new());
    let mut excused = 0;
    for (number, case) in golden.cases().iter().enumerate().filter(|(_, case)| case["kind"] == "levels") {
        let (table, grid, prediction) = (text(case, "table"), text(case, "grid"), text(case, "prediction"));
        let is =
            |e: &&Exception| e.prediction == prediction && e.table == table && case["steps"].as_u64() == Some(e.steps);
        let exception = EXCEPTIONS.iter().find(is);
        if let Some(e) = exception {
            println!("{prediction} {table} n={}: {}", e.steps, e.reason);
            excused += 1;
        }
        match errors(&golden, number, case, exception) {
            Ok(errors) => {
                let entry = worst.entry(format!("{grid} {table} {prediction}")).or_default();
                *entry = ([entry.0[0].max(errors[0]), entry.0[1].max(errors[1])], entry.1 + 1);
                if errors[0] > SIGMA || errors[1] > TIME {
                    failures.push(format!("{case}: {errors:?}, allowed {:?}", [SIGMA, TIME]));
                }
            }
            Err(e) => failures.push(format!("{case}: {e}")),
        }
    }
    for (name, ([sigma, time], count)) in &worst {
        println!("{name:24} {count:3} tables, sigmas within {sigma:.1e}, times within {time:.1e}");
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(worst.len() > 20, "{} kinds of tables", worst.len());
    assert_eq!(excused, EXCEPTIONS.len(), "exceptions are of cases that exist");
    Ok(())
}

#[test]
fn betas_are_those_of_diffusers() -> TestResult {
    let golden = Golden::read("sigmas")?;
    let mut checked = 0;
    for (number, case) in golden.cases().iter().enumerate().filter(|(_, case)| case["kind"] == "betas") {
        let want = &golden.part(number, "betas")?.values;
        let schedule = match text(case, "schedule") {
            "sigmoid" => BetaSchedule::Sigmoid,
            "laplace" => BetaSchedule::Laplace,
            "exp" => BetaSchedule::Exponential,
            other => return Err(format!("unknown betas {other}").into()),
        };
        let ends = [&case["start"], &case["end"]].map(|v| v.as_f64().unwrap_or(f64::NAN));
        let mut betas = vec![0.0; want.len()];
        fill_betas(schedule, ends[0], ends[1], &mut betas)?;
        for (t, (&got, &want)) in betas.iter().zip(want).enumerate() {
            let error = f64::from((got - want).abs()) / f64::from(want);
            assert!(got == want || error <= BETA, "{schedule:?} {} t={t}: {got} {want} ({error:.1e})", betas.len());
        }
        checked += 1;
    }
    assert_eq!(checked, 24);
    Ok(())
}
