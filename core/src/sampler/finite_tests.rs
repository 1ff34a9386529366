//! Whatever can be configured ends in numbers.

use std::vec;

use super::{REGISTRY, Sampler};
use crate::chain::{Batch, Chain};
use crate::config::{Config, ConfigError, Parity};
use crate::denoise::{Cond, Denoise};
use crate::noise::Brownian;
use crate::predict::{Clip, PredictionType};
use crate::schedule::{AlignYourSteps, BetaSchedule, End, Level, Schedule, Shift, SigmaTable, Sigmas, Spacing};

/// Says half of x.
struct Half;

impl Denoise for Half {
    type Error = core::convert::Infallible;

    fn out_len(&self) -> usize {
        2
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
        assert!(t.is_finite());
        out.iter_mut().zip(x).for_each(|(out, x)| *out = 0.5 * x);
        Ok(())
    }
}

/// Runs it if the configuration is legal; whether it was.
fn run(config: &Config, sampler: &Sampler) -> Result<(), ConfigError> {
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; config.steps]);
    let mut levels = vec![Level::default(); sampler.levels(config.steps)];
    let schedule = Schedule::for_sampler(config, sampler, &mut alpha_bar, &mut timesteps, &mut levels)?;
    let batch = Batch { first_image: 0, len: 2, out_len: 2, conds: &[Cond::None] };
    let mut memory = vec![0.0; Chain::memory(config, sampler, &batch).unwrap()];
    let mut chain = Chain::new(config, sampler, schedule, batch, &mut memory).unwrap();
    // Which refuses steps whose time is not within the run's.
    let mut noise = Brownian::new(1, 1.0, 0.0);
    chain.init(&mut noise).unwrap();
    while chain.step(&mut Half, &mut noise).unwrap_or_else(|e| panic!("{} {config:?}: {e}", sampler.name)).is_some() {}
    assert!(chain.x().iter().all(|v| v.is_finite()), "{} {config:?}: {:?}", sampler.name, chain.x());
    Ok(())
}

#[test]
fn every_legal_run_ends_in_numbers() {
    let tables = [
        SigmaTable::Timesteps,
        SigmaTable::Karras { rho: 7.0 },
        SigmaTable::Exponential,
        SigmaTable::Beta { alpha: 0.6, beta: 0.6 },
        SigmaTable::Vp { beta_d: 19.9, beta_min: 0.1, eps: 1e-3 },
        SigmaTable::AlignYourSteps(AlignYourSteps::Svd),
        SigmaTable::Uniform,
        SigmaTable::Simple,
        SigmaTable::KlOptimal,
        SigmaTable::Distilled { levels: 40, rho: 7.0 },
    ];
    let predictions = [
        PredictionType::Epsilon,
        PredictionType::Sample,
        PredictionType::Velocity,
        PredictionType::Flow,
        PredictionType::Edm { sigma_data: 0.5 },
    ];
    let spacings = [Spacing::Leading, Spacing::Trailing, Spacing::Linspace, Spacing::Consistency { original: 50 }];
    let (mut legal, mut refused) = (0, 0);
    for sampler in REGISTRY {
        for (i, prediction) in predictions.into_iter().enumerate() {
            for (j, table) in tables.into_iter().enumerate() {
                for (k, spacing) in spacings.into_iter().enumerate() {
                    for steps in [1, 2, 3, 4, 5, 17] {
                        // The rest goes round, so that pairs of everything meet.
                        let turn = i + j + k + steps;
                        let ends = [End::Zero, End::Min];
                        let betas = [
                            BetaSchedule::ScaledLinear,
                            BetaSchedule::Linear,
                            BetaSchedule::SquaredCosCapV2,
                            BetaSchedule::Sigmoid,
                            BetaSchedule::Laplace,
                            BetaSchedule::Exponential,
                        ];
                        let config = Config {
                            prediction,
                            spacing,
                            steps,
                            betas: betas[turn % 6],
                            train_steps: if turn.is_multiple_of(5) { 100 } else { 1000 },
                            zero_terminal_snr: turn.is_multiple_of(7),
                            clip: if turn.is_multiple_of(2) { Clip::Range(1.0) } else { Clip::None },
                            eta: (turn % 3) as f32 / 2.0,
                            parity: if turn.is_multiple_of(2) { Parity::Table } else { Parity::Diffusers },
                            lower_order_final: turn.is_multiple_of(3),
                            s_churn: [0.0, 40.0, 1e6][turn % 3],
                            s_tmin: if turn.is_multiple_of(5) { 0.05 } else { 0.0 },
                            euler_at_final: turn.is_multiple_of(4),
                            sigmas: Sigmas {
                                table,
                                end: ends[turn / 2 % 2],
                                shift: Shift::Static(1.0 + turn as f64 / 4.0),
                                shift_terminal: turn.is_multiple_of(6).then_some(0.1),
                                ..Sigmas::default()
                            },
                            ..Config::default()
                        };
                        // No noise is left to tell from the image where an inversion starts.
                        if sampler.name == "ddim-inverse" && prediction == PredictionType::Sample {
                            continue;
                        }
                        match run(&config, sampler) {
                            Ok(()) => legal += 1,
                            Err(_) => refused += 1,
                        }
                    }
                }
            }
        }
    }
    // Refused: samplers over timesteps with the other families of networks, epsilon where no signal is left, and the like.
    assert!(legal > 3 * refused, "{legal} {refused}");
}
