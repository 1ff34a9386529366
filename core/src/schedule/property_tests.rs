//! What must hold of every configuration, tried on thousands that chance makes (always the same ones).

use core::convert::Infallible;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runner, RngSeed};

use super::sigma::{sigma_of_time, table_sigma};
use super::*;
use crate::chain::{Batch, Chain, RunError};
use crate::config::Variance;
use crate::denoise::{Cond, Denoise};
use crate::guidance::{Classifier, Curve, Guidance, Interval, Rule, Space};
use crate::noise::Philox;
use crate::predict::Clip;
use crate::sampler::REGISTRY;

pub(super) fn runner(cases: u32) -> Runner {
    Runner { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(20), ..Runner::default() }
}

/// A run: its settings, its sampler, and what the caller's own tables hold where they ask for them.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) config: Config,
    pub(super) sampler: &'static Sampler,
    pub(super) betas: Vec<f32>,
    pub(super) timesteps: Vec<u32>,
    pub(super) levels: Vec<Level>,
}

impl Run {
    /// A run whose own tables can be used: betas of `share`, timesteps and levels evenly.
    pub(super) fn new(config: Config, sampler: &'static Sampler, share: f64) -> Self {
        let (n, count) = (config.steps, config.train_steps);
        let at = |i: usize| 1.0 - i as f64 / n as f64;
        let largest = if config.prediction == PredictionType::Flow { 1.0 } else { 12.0 };
        Self {
            betas: (0..count).map(|t| ((0.01 + share) * (1.0 + t as f64 / count as f64) * 0.02) as f32).collect(),
            timesteps: (0..n).map(|i| (count - 1 - i * count / n) as u32).collect(),
            levels: (0..sampler.levels(n)).map(|i| Level::given(largest * at(i))).collect(),
            config,
            sampler,
        }
    }

    pub(super) fn schedule<'a>(&'a mut self) -> Result<Schedule<'a>, ConfigError> {
        Schedule::for_sampler(&self.config, self.sampler, &mut self.betas, &mut self.timesteps, &mut self.levels)
    }

    /// Runs it, if the configuration is legal.
    pub(super) fn images(&mut self) -> Result<Result<Vec<f32>, RunError<Infallible>>, ConfigError> {
        let (config, sampler) = (self.config, self.sampler);
        let conds = vec![Cond::None; 2 * config.guidance.conditions()];
        let out_len = if config.variance == Variance::LearnedRange { 6 } else { 3 };
        let batch = Batch { first_image: 0, len: 3, out_len, conds: &conds };
        let schedule = self.schedule()?;
        let mut memory = vec![0.0; Chain::memory(&config, sampler, &batch).unwrap()];
        let mut chain = Chain::new(&config, sampler, schedule, batch, &mut memory).unwrap();
        let mut noise = Philox::new(1);
        chain.init(&mut noise).unwrap();
        let mut network = Bounded { out_len };
        loop {
            match chain.step(&mut network, &mut noise) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(chain.x().to_vec()))
    }
}

/// Says something between -1 and 1.
struct Bounded {
    out_len: usize,
}

impl Denoise for Bounded {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        self.out_len
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        assert!(t.is_finite(), "the network is told {t}");
        let shift = 0.3 / out.len() as f32;
        for (i, out) in out.iter_mut().enumerate() {
            let x = x[i % x.len()] + shift * i as f32;
            *out = x / (1.0 + x.abs());
        }
        Ok(())
    }
}

fn beta_schedules() -> impl Strategy<Value = BetaSchedule> {
    use BetaSchedule::*;
    prop::sample::select(vec![Linear, ScaledLinear, SquaredCosCapV2, Sigmoid, Laplace, Exponential, Trained])
}

fn predictions() -> impl Strategy<Value = PredictionType> {
    use PredictionType::*;
    prop_oneof![
        Just(Epsilon),
        Just(Sample),
        Just(Velocity),
        Just(Flow),
        (0.1_f32..2.0).prop_map(|sigma_data| Edm { sigma_data })
    ]
}

fn tables() -> impl Strategy<Value = SigmaTable> {
    use AlignYourSteps::{Sd15, Sdxl, Svd};
    prop_oneof![
        Just(SigmaTable::Timesteps),
        (0.5_f64..12.0).prop_map(|rho| SigmaTable::Karras { rho }),
        Just(SigmaTable::Exponential),
        (0.3_f64..2.0).prop_map(|rho| SigmaTable::Polyexponential { rho }),
        (0.5_f64..2.0, 0.5_f64..2.0).prop_map(|(alpha, beta)| SigmaTable::Beta { alpha, beta }),
        Just(SigmaTable::LuLambda),
        (5.0_f64..20.0, 0.05_f64..0.5, 1e-3_f64..0.1).prop_map(|(beta_d, beta_min, eps)| SigmaTable::Vp {
            beta_d,
            beta_min,
            eps
        }),
        prop::sample::select(vec![Sd15, Sdxl, Svd]).prop_map(SigmaTable::AlignYourSteps),
        Just(SigmaTable::Uniform),
        Just(SigmaTable::Simple),
        Just(SigmaTable::KlOptimal),
        Just(SigmaTable::Given),
    ]
}

fn sigmas() -> impl Strategy<Value = Sigmas> {
    let interpolation = prop::sample::select(vec![Interpolation::Linear, Interpolation::Log]);
    let end = prop::sample::select(vec![End::Zero, End::Min]);
    let shift = prop_oneof![
        (0.3_f64..8.0).prop_map(Shift::Static),
        (-1.0_f64..2.0).prop_map(Shift::Exponential),
        (0.3_f64..8.0).prop_map(Shift::Linear)
    ];
    let range = prop::option::weighted(0.2, (0.01_f64..0.1, 0.3_f64..0.95));
    (tables(), interpolation, end, shift, prop::option::weighted(0.3, 0.01_f64..0.5), range).prop_map(
        |(table, interpolation, end, shift, shift_terminal, range)| Sigmas {
            table,
            interpolation,
            end,
            shift,
            shift_terminal,
            min: range.map(|r| r.0),
            max: range.map(|r| r.1),
        },
    )
}

fn spacings() -> impl Strategy<Value = Spacing> {
    use Spacing::*;
    prop_oneof![
        Just(Leading),
        Just(Trailing),
        Just(Linspace),
        Just(Given),
        (1_u32..60).prop_map(|original| Consistency { original })
    ]
}

fn clips() -> impl Strategy<Value = Clip> {
    prop_oneof![
        Just(Clip::None),
        (0.5_f32..3.0).prop_map(Clip::Range),
        (0.0_f32..=1.0, 1.0_f32..5.0).prop_map(|(ratio, max)| Clip::Dynamic { ratio, max })
    ]
}

fn guidances() -> impl Strategy<Value = Guidance> {
    let space = prop::sample::select(vec![Space::Image, Space::Output]);
    let rule = prop_oneof![
        Just(Rule::Plain),
        (0.0_f32..1.0, 0.0_f32..3.0, -0.9_f32..0.9, space).prop_map(|(parallel, threshold, momentum, space)| {
            Rule::Projected { parallel, threshold, momentum, space }
        }),
        (0_u32..3).prop_map(|zero_steps| Rule::ZeroStar { zero_steps }),
        (-1.0_f32..1.0).prop_map(|weight| Rule::Perpendicular { weight }),
        (0.0_f32..3.0).prop_map(|image| Rule::Picture { image }),
    ];
    let interval = prop_oneof![
        Just(Interval::Always),
        (0.0_f64..0.5, 0.5_f64..=1.0).prop_map(|(start, stop)| Interval::Steps { start, stop }),
        (0.0_f32..1.0, 1.0_f32..20.0).prop_map(|(low, high)| Interval::Sigma { low, high })
    ];
    let curve = prop_oneof![
        Just(Curve::Constant),
        (0.0_f32..8.0).prop_map(|last| Curve::Linear { last }),
        (0.0_f32..8.0).prop_map(|last| Curve::Cosine { last })
    ];
    let classifier = (-2.0_f32..9.0, rule, 0.0_f32..=1.0, interval, curve, any::<bool>());
    prop_oneof![
        Just(Guidance::None),
        classifier.prop_map(|(scale, rule, rescale, interval, curve, unconditional_noise)| {
            Guidance::Classifier(Classifier { scale, rule, rescale, interval, curve, unconditional_noise })
        })
    ]
}

/// Runs whose every number is one that somebody might mean.
pub(super) fn runs() -> impl Strategy<Value = Run> {
    let counts = prop_oneof![4 => 1_usize..60, 2 => 60_usize..300, 1 => Just(1000)];
    let chain = (beta_schedules(), counts, 1e-5_f64..0.01, 0.0_f64..0.05, any::<bool>(), 0_u32..3);
    let steps = (spacings(), 0.0_f64..1.0, sigmas());
    let network = (predictions(), clips(), guidances());
    use Variance::*;
    let variance = prop::sample::select(vec![FixedSmall, FixedSmallLog, FixedLarge, FixedLargeLog, LearnedRange]);
    let rest = (variance, 0.0_f32..=1.0, any::<[bool; 4]>(), 0.1_f32..20.0);
    (chain, steps, network, rest, prop::sample::select(REGISTRY.to_vec())).prop_map(
        |(chain, (spacing, share, sigmas), (prediction, clip, guidance), rest, sampler)| {
            let (betas, train_steps, beta_start, range, zero_terminal_snr, steps_offset) = chain;
            let (variance, eta, [alpha, lower, euler, parity], timestep_scaling) = rest;
            // Mostly few steps, sometimes all.
            let steps = 1 + ((train_steps - 1) as f64 * share.powi(3)) as usize;
            let config = Config {
                betas,
                train_steps,
                beta_start,
                beta_end: beta_start + range,
                zero_terminal_snr,
                prediction,
                clip,
                spacing,
                steps_offset,
                steps,
                variance,
                eta,
                set_alpha_to_one: alpha,
                parity: if parity { Parity::Table } else { Parity::Diffusers },
                guidance,
                sigmas,
                lower_order_final: lower,
                euler_at_final: euler,
                ..Config::default()
            };
            Run::new(Config { timestep_scaling, ..config }, sampler, share)
        },
    )
}

/// Errors that tell of numbers which fit each by themselves, but not together.
fn is_of_the_whole(error: ConfigError, run: &Run) -> bool {
    let config = &run.config;
    let chain = config.prediction.is_over_alpha_bar();
    match error {
        // Zero terminal SNR, and predictions of noise where it leaves no signal; one timestep is none to rescale by.
        ConfigError::NoSignal { .. } | ConfigError::NoNoise { .. } => config.zero_terminal_snr,
        ConfigError::Prediction => !chain && run.sampler.grid == Grid::Chain,
        ConfigError::Table => matches!(config.prediction, PredictionType::Edm { .. }),
        ConfigError::StepsOffset { .. } => config.spacing == Spacing::Leading && config.steps_offset > 0,
        ConfigError::TooManySteps { steps, train_steps } => match config.spacing {
            Spacing::Consistency { original } => steps > original as usize || original as usize > config.train_steps,
            _ => run.sampler.grid == Grid::Solver && steps > train_steps,
        },
        ConfigError::Level { .. } => {
            let Sigmas { table, end, .. } = config.sigmas;
            // Tables of fixed sigmas, which flow networks don't have.
            let fixed = matches!(table, SigmaTable::Vp { .. } | SigmaTable::AlignYourSteps(_));
            let flow = config.prediction == PredictionType::Flow;
            // Solvers' flow levels lie below 1 - 1 / T, and the least is 1 / T: of one timestep neither is between 0 and 1.
            let no_room = config.train_steps == 1 && (run.sampler.grid == Grid::Solver || end == End::Min);
            flow && (fixed || no_room)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(runner(2000))]

    #[test]
    fn alpha_bar_never_rises(mut run in runs()) {
        let given = run.betas.clone();
        if run.config.zero_terminal_snr {
            run.config.prediction = PredictionType::Velocity;
        }
        if let Ok(schedule) = run.schedule() {
            let alpha_bar = schedule.alpha_bar();
            prop_assert!(alpha_bar.iter().all(|a| (0.0..=1.0).contains(a)), "{alpha_bar:?}");
            prop_assert!(alpha_bar.is_sorted_by(|a, b| a >= b), "{alpha_bar:?}");
        }
        // The same without the checks of a whole run, and exactly.
        let Config { betas, beta_start, beta_end, .. } = run.config;
        let mut table = given.clone();
        fill_betas(betas, beta_start, beta_end, &mut table).unwrap();
        alpha_bar_from_betas(&mut table);
        prop_assert!(table.iter().all(|a| (0.0..=1.0).contains(a)) && table.is_sorted_by(|a, b| a >= b));
        let mut exact: Vec<f64> = given.iter().map(|&b| f64::from(b)).collect();
        alpha_bar_exact(betas, beta_start, beta_end, &mut exact);
        prop_assert!(exact.iter().all(|a| (0.0..=1.0).contains(a)) && exact.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn sigma_and_time_invert(mut run in runs(), place in 0.0_f64..1.0) {
        run.config.zero_terminal_snr = false;
        let Config { betas, beta_start, beta_end, .. } = run.config;
        let mut table = run.betas;
        fill_betas(betas, beta_start, beta_end, &mut table).unwrap();
        alpha_bar_from_betas(&mut table);
        let last = table.len() - 1;
        let time = place * last as f64;
        let sigma = sigma_of_time(&table, time, Interpolation::Log);
        let found = time_of_sigma(&table, sigma);
        let again = sigma_of_time(&table, found, Interpolation::Log);
        // Logarithms of the table are rounded to f32: half a unit in the last place of up to 16, twice.
        let rounding = 2e-6;
        prop_assert!((wide::ln(again) - wide::ln(sigma)).abs() < rounding, "{time} {sigma} {found} {again}");
        // So the time is found, too, as well as the table tells its neighbours apart.
        let (below, above) = (time as usize, (time as usize + 1).min(last));
        let slope = wide::ln(table_sigma(&table, above)) - wide::ln(table_sigma(&table, below));
        prop_assert!((found - time).abs() * slope < rounding, "{time} {found} {slope}");
        // At whole timesteps both interpolations are the table.
        for interpolation in [Interpolation::Linear, Interpolation::Log] {
            prop_assert_eq!(sigma_of_time(&table, below as f64, interpolation), table_sigma(&table, below));
        }
    }

    #[test]
    fn levels_and_timesteps_fall(mut run in runs()) {
        let copy = run.clone();
        let (config, sampler) = (run.config, run.sampler);
        match run.schedule() {
            Err(error) => prop_assert!(is_of_the_whole(error, &copy), "{error}"),
            Ok(schedule) => {
                let (levels, timesteps) = (schedule.levels(), schedule.timesteps());
                let count = config.train_steps as u32;
                prop_assert_eq!(timesteps.len(), config.steps);
                if sampler.grid == Grid::Chain {
                    prop_assert!(timesteps.is_sorted_by(|a, b| a > b) && timesteps[0] < count, "{timesteps:?}");
                    return Ok(());
                }
                // Rounded, times may meet; a flow network's first is T itself.
                prop_assert!(timesteps.is_sorted_by(|a, b| a >= b), "{timesteps:?}");
                prop_assert!(timesteps[0] < count || !config.prediction.is_over_alpha_bar(), "{timesteps:?}");
                prop_assert_eq!(levels.len(), config.steps + 1);
                for l in levels {
                    prop_assert!(l.signal.is_finite() && l.noise.is_finite() && l.time.is_finite(), "{l:?}");
                    prop_assert!(l.signal >= 0.0 && l.noise >= 0.0, "{l:?}");
                }
                // The end may be the last level once more (End::Min).
                let falls = |l: &[Level]| l[0].noise * l[1].signal > l[1].noise * l[0].signal;
                prop_assert!(levels[..config.steps].windows(2).all(falls), "{levels:?}");
                prop_assert!(levels[config.steps].sigma() <= levels[config.steps - 1].sigma(), "{levels:?}");
            }
        }
    }

    #[test]
    fn every_legal_run_ends_in_numbers(mut run in runs()) {
        // About four in five are legal.
        // Nothing tells the noise of an image without any from the image (sampler/ddim_inverse.rs).
        let never = run.sampler.name == "ddim-inverse" && run.config.prediction == PredictionType::Sample;
        let copy = run.clone();
        match run.images() {
            Err(error) => prop_assert!(is_of_the_whole(error, &copy), "{error}"),
            Ok(Err(error)) => prop_assert!(never, "{error}"),
            Ok(Ok(x)) => prop_assert!(x.iter().all(|v| v.is_finite()), "{x:?}"),
        }
    }
}
