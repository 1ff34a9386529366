//! Whatever is wrong in a configuration is refused, and nothing panics.

use std::vec;

use proptest::prelude::*;

use super::property_tests::{Run, runner, runs};
use super::*;
use crate::guidance::{Classifier, Curve, Guidance, Interval, Rule, Space};
use crate::predict::Clip;

/// What is wrong, and how to make it so.
type Fault = (&'static str, fn(&mut Run));

/// What makes any run illegal.
const FAULTS: [Fault; 50] = [
    ("no steps", |r| r.config.steps = 0),
    ("more steps than timesteps", |r| r.config.steps = r.config.train_steps + 1),
    ("no timesteps", |r| r.config.train_steps = 0),
    ("too many timesteps", |r| r.config.train_steps = Config::MAX_TRAIN_STEPS + 1),
    ("a short alpha-bar", |r| {
        r.betas.pop();
    }),
    ("a long alpha-bar", |r| r.betas.push(0.1)),
    ("short timesteps", |r| {
        r.timesteps.pop();
    }),
    ("long timesteps", |r| r.timesteps.push(0)),
    ("short levels", |r| {
        over_levels(r, |r| {
            r.levels.pop();
        })
    }),
    ("long levels", |r| over_levels(r, |r| r.levels.push(Level::IMAGE))),
    ("eta below 0", |r| r.config.eta = -0.1),
    ("eta above 1", |r| r.config.eta = 1.1),
    ("eta", |r| r.config.eta = f32::NAN),
    ("timestep scaling 0", |r| r.config.timestep_scaling = 0.0),
    ("timestep scaling", |r| r.config.timestep_scaling = f32::NAN),
    ("clip 0", |r| r.config.clip = Clip::Range(0.0)),
    ("clip", |r| r.config.clip = Clip::Range(f32::NAN)),
    ("threshold below 1", |r| r.config.clip = Clip::Dynamic { ratio: 0.5, max: 0.9 }),
    ("threshold's ratio", |r| r.config.clip = Clip::Dynamic { ratio: 1.5, max: 2.0 }),
    ("scale", |r| guide(r, |g| g.scale = f32::NAN)),
    ("rescale", |r| guide(r, |g| g.rescale = 1.5)),
    ("interval", |r| guide(r, |g| g.interval = Interval::Steps { start: 0.9, stop: 0.2 })),
    ("interval of sigma", |r| guide(r, |g| g.interval = Interval::Sigma { low: f32::NAN, high: 1.0 })),
    ("curve", |r| guide(r, |g| g.curve = Curve::Linear { last: f32::INFINITY })),
    ("perpendicular", |r| guide(r, |g| g.rule = Rule::Perpendicular { weight: f32::NAN })),
    ("a beta above 1", |r| betas(r, BetaSchedule::Linear, 1.1, 1.1)),
    ("a beta below 0", |r| betas(r, BetaSchedule::ScaledLinear, 0.1, -0.1)),
    ("a beta", |r| betas(r, BetaSchedule::Sigmoid, f64::NAN, 0.1)),
    ("a trained beta", |r| trained(r, f32::NAN)),
    ("a trained beta above 1", |r| trained(r, 1.5)),
    ("Karras' rho", |r| r.config.sigmas.table = SigmaTable::Karras { rho: f64::NAN }),
    ("Karras' rho 0", |r| r.config.sigmas.table = SigmaTable::Karras { rho: 0.0 }),
    ("polyexponential's rho", |r| r.config.sigmas.table = SigmaTable::Polyexponential { rho: f64::INFINITY }),
    ("beta's alpha", |r| r.config.sigmas.table = SigmaTable::Beta { alpha: f64::NAN, beta: 0.6 }),
    ("beta's beta", |r| r.config.sigmas.table = SigmaTable::Beta { alpha: 0.6, beta: 0.0 }),
    ("vp's slope", |r| r.config.sigmas.table = SigmaTable::Vp { beta_d: f64::NAN, beta_min: 0.1, eps: 1e-3 }),
    ("vp's end", |r| r.config.sigmas.table = SigmaTable::Vp { beta_d: 19.9, beta_min: 0.1, eps: 1.5 }),
    ("no vp", |r| r.config.sigmas.table = SigmaTable::Vp { beta_d: 0.0, beta_min: 0.0, eps: 1e-3 }),
    ("min", |r| r.config.sigmas.min = Some(f64::NAN)),
    ("max", |r| r.config.sigmas.max = Some(f64::INFINITY)),
    ("min above max", |r| (r.config.sigmas.min, r.config.sigmas.max) = (Some(2.0), Some(1.0))),
    ("shift_terminal", |r| r.config.sigmas.shift_terminal = Some(f64::NAN)),
    ("shift_terminal 1", |r| r.config.sigmas.shift_terminal = Some(1.0)),
    ("shift 0", |r| shift(r, Shift::Static(0.0))),
    ("shift", |r| shift(r, Shift::Linear(f64::NAN))),
    ("shift e^1000", |r| shift(r, Shift::Exponential(1e3))),
    ("sigma_data", |r| r.config.prediction = PredictionType::Edm { sigma_data: f32::NAN }),
    ("sigma_data 0", |r| r.config.prediction = PredictionType::Edm { sigma_data: 0.0 }),
    ("a timestep T", |r| over_timesteps(r, |r| r.timesteps[0] = r.config.train_steps as u32)),
    ("levels that rise", |r| {
        r.config.sigmas.table = SigmaTable::Given;
        over_levels(r, |r| r.levels[r.config.steps].noise = 1e9);
    }),
];

fn guide(run: &mut Run, fault: impl Fn(&mut Classifier)) {
    let mut classifier = Classifier::new(2.0);
    fault(&mut classifier);
    run.config.guidance = Guidance::Classifier(classifier);
}

fn betas(run: &mut Run, schedule: BetaSchedule, start: f64, end: f64) {
    // One timestep has the start alone.
    let start = if run.config.train_steps == 1 { start.max(2.0) } else { start };
    (run.config.betas, run.config.beta_start, run.config.beta_end) = (schedule, start, end);
}

fn trained(run: &mut Run, beta: f32) {
    run.config.betas = BetaSchedule::Trained;
    let middle = run.betas.len() / 2;
    run.betas[middle] = beta;
}

fn shift(run: &mut Run, shift: Shift) {
    run.config.prediction = PredictionType::Flow;
    run.config.sigmas.shift = shift;
}

fn over_levels(run: &mut Run, fault: impl Fn(&mut Run)) {
    *run = Run::new(run.config, &crate::sampler::EULER, 0.5);
    fault(run);
}

fn over_timesteps(run: &mut Run, fault: impl Fn(&mut Run)) {
    run.config.spacing = Spacing::Given;
    *run = Run::new(run.config, &crate::sampler::DDIM, 0.5);
    fault(run);
}

/// Numbers of every kind, whatever they may mean.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        any::<f64>().prop_map(|v| v % 3.0),
        prop::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            5e-324,
            1e300
        ])
    ]
}

/// Puts the first numbers anywhere into a run.
fn spoil(run: &mut Run, n: &[f64; 6], place: usize) {
    let config = &mut run.config;
    let f = |i: usize| n[i] as f32;
    match place {
        0 => (config.beta_start, config.beta_end) = (n[0], n[1]),
        1 => (config.eta, config.timestep_scaling) = (f(0), f(1)),
        2 => config.clip = Clip::Range(f(0)),
        3 => config.clip = Clip::Dynamic { ratio: f(0), max: f(1) },
        4 => (config.sigmas.min, config.sigmas.max) = (Some(n[0]), Some(n[1])),
        5 => config.sigmas.shift_terminal = Some(n[0]),
        6 => config.sigmas.shift = Shift::Static(n[0]),
        7 => config.sigmas.shift = Shift::Exponential(n[0]),
        8 => config.sigmas.table = SigmaTable::Karras { rho: n[0] },
        9 => config.sigmas.table = SigmaTable::Polyexponential { rho: n[0] },
        10 => config.sigmas.table = SigmaTable::Beta { alpha: n[0], beta: n[1] },
        11 => config.sigmas.table = SigmaTable::Vp { beta_d: n[0], beta_min: n[1], eps: n[2] },
        12 => config.prediction = PredictionType::Edm { sigma_data: f(0) },
        13 => run.levels.iter_mut().zip(n).for_each(|(level, &sigma)| *level = Level::given(sigma)),
        14 => run.timesteps.iter_mut().zip(n).for_each(|(t, &n)| *t = n as u32),
        15 => run.betas.iter_mut().zip(n).for_each(|(beta, &n)| *beta = n as f32),
        16 => config.steps_offset = n[0] as u32,
        17 => config.spacing = Spacing::Consistency { original: n[0] as u32 },
        18 => guide(run, |g| (g.scale, g.rescale) = (f(0), f(1))),
        19 => guide(run, |g| g.interval = Interval::Steps { start: n[0], stop: n[1] }),
        20 => guide(run, |g| g.interval = Interval::Sigma { low: f(0), high: f(1) }),
        21 => guide(run, |g| {
            g.rule = Rule::Projected { parallel: f(0), threshold: f(1), momentum: f(2), space: Space::Image };
        }),
        22 => guide(run, |g| g.curve = Curve::Cosine { last: f(0) }),
        _ => config.train_steps = n[0] as usize % 3000,
    }
}

proptest! {
    #![proptest_config(runner(2000))]

    #[test]
    fn every_illegal_run_is_refused(run in runs()) {
        for (what, fault) in FAULTS {
            let mut run = run.clone();
            fault(&mut run);
            prop_assert!(run.schedule().is_err(), "{what}");
        }
    }

    #[test]
    fn no_number_makes_a_panic(
        mut run in runs(),
        faults in prop::collection::vec((0_usize..24, prop::array::uniform6(any_number())), 1..4),
    ) {
        for (place, numbers) in &faults {
            spoil(&mut run, numbers, *place);
        }
        // Numbers past what f32 holds may come out of a network that is told extreme levels; a run says so and ends.
        if let Ok(Ok(x)) = run.images() {
            prop_assert!(x.iter().all(|v| v.is_finite()), "{x:?}");
        }
    }
}
