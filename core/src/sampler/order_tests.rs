//! Order of convergence of the ODE solvers, on data whose ODE has a closed form.

use std::cell::Cell;
use std::vec;
use std::vec::Vec;

use super::{Halt, REGISTRY, Sampler, Step};
use crate::chain::{Batch, Chain};
use crate::config::{Config, Parity};
use crate::denoise::{Cond, Denoise};
use crate::noise::Philox;
use crate::predict::{Clip, PredictionType};
use crate::schedule::{Grid, Level, Schedule, SigmaTable, Sigmas};

const MEAN: f64 = 0.3;
const DEVIATION: f64 = 0.7;
const SIGMA_DATA: f64 = 0.5;

/// Sigmas that runs go from and to. The error's leading term changes its sign along the way and may vanish at an end; in the sum
/// over a few ends it doesn't.
const RANGES: [[f64; 2]; 3] = [[20.0, 0.8], [4.0, 0.25], [8.0, 0.4]];

/// The exact denoiser of N(MEAN, DEVIATION^2), as an EDM network: its time is continuous.
struct Gaussian;

impl Denoise for Gaussian {
    type Error = core::convert::Infallible;

    fn out_len(&self) -> usize {
        1
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
        let sigma = (4.0 * f64::from(t)).exp();
        let scale = 1.0 / (sigma * sigma + SIGMA_DATA * SIGMA_DATA).sqrt();
        for (x, out) in x.iter().zip(out) {
            let x = f64::from(*x) / scale;
            let (c, s) = (DEVIATION * DEVIATION, sigma * sigma);
            let x0 = (c * x + s * MEAN) / (c + s);
            let skip = SIGMA_DATA * SIGMA_DATA * scale * scale;
            *out = ((x0 - skip * x) / (sigma * SIGMA_DATA * scale)) as f32;
        }
        Ok(())
    }
}

/// Where the ODE leads from `x` at one level to another.
fn exact(x: f64, from: Level, to: Level) -> f64 {
    let variance = |l: Level| DEVIATION * DEVIATION + l.sigma() * l.sigma();
    let image = x / from.signal - MEAN;
    to.signal * (MEAN + image * (variance(to) / variance(from)).sqrt())
}

/// Errors above this say something about the method: the rounding of f32 adds up to 3e-6 over the ranges.
const ROUNDING: f64 = 6e-5;

std::thread_local! {
    static INNER: Cell<Option<&'static Sampler>> = const { Cell::new(None) };
}

/// The sampler under test, but the first steps end where the ODE does, so that a multistep method starts from exact history.
fn started(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let start = s.x.to_vec();
    let Some(inner) = INNER.get() else { return Ok(()) };
    (inner.step)(s)?;
    if s.index < 3 {
        s.x.iter_mut().zip(start).for_each(|(x, start)| *x = exact(f64::from(start), from, to) as f32);
    }
    Ok(())
}

/// Largest error of a few images after `steps` steps, summed over the ranges.
fn error(sampler: &'static Sampler, steps: usize, warm: bool) -> f64 {
    RANGES.map(|range| error_over(range, sampler, steps, warm)).iter().sum()
}

/// Largest error of a few images after `steps` steps, evenly in ln sigma.
fn error_over(range: [f64; 2], sampler: &'static Sampler, steps: usize, warm: bool) -> f64 {
    let config = Config {
        prediction: PredictionType::Edm { sigma_data: SIGMA_DATA as f32 },
        clip: Clip::None,
        parity: Parity::Table,
        lower_order_final: false,
        sigmas: Sigmas { table: SigmaTable::Given, ..Sigmas::default() },
        steps,
        ..Config::default()
    };
    let ratio = (range[1] / range[0]).ln() / steps as f64;
    let mut levels: Vec<Level> = (0..=steps).map(|i| Level::given(range[0] * (ratio * i as f64).exp())).collect();
    let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; steps]);
    let schedule = Schedule::for_sampler(&config, sampler, &mut alpha_bar, &mut timesteps, &mut levels).unwrap();
    INNER.set(Some(sampler));
    let wrapped = Sampler { step: started, ..*sampler };
    let batch = Batch { first_image: 0, len: 1, out_len: 1, conds: &[Cond::None; 8] };
    let mut memory = vec![0.0; Chain::memory(&config, sampler, &batch).unwrap()];
    let mut chain = Chain::new(&config, if warm { &wrapped } else { sampler }, schedule, batch, &mut memory).unwrap();
    chain.init(&mut Philox::new(3)).unwrap();
    let start = chain.x().to_vec();
    while chain.step(&mut Gaussian, &mut Philox::new(3)).unwrap().is_some() {}
    let (first, last) = (schedule.levels()[0], schedule.levels()[steps]);
    let errors = start.iter().zip(chain.x()).map(|(&start, &end)| {
        let expected = exact(f64::from(start), first, last);
        (f64::from(end) - expected / last.signal).abs()
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn solvers_have_their_order() {
    let mut wrong = Vec::new();
    for sampler in REGISTRY.into_iter().filter(|s| s.order > 0 && s.grid != Grid::Chain) {
        // As many steps as the rounding leaves, in whole groups where three steps are one.
        let whole = |n: usize| if sampler.name.ends_with("-3s") { n - n % 6 } else { n };
        let above = |n: &usize| error(sampler, 2 * n, true) > ROUNDING;
        let steps = [48, 40, 32, 28, 24, 20, 16].map(whole).into_iter().find(above).unwrap_or(12);
        let (coarse, fine) = (error(sampler, steps, true), error(sampler, 2 * steps, true));
        let order = (coarse / fine).log2();
        let cold = (error(sampler, steps, false) / error(sampler, 2 * steps, false)).log2();
        std::println!(
            "{:20} order {order:.2} ({coarse:.1e} to {fine:.1e}, {steps} steps), from a cold start {cold:.2}",
            sampler.name
        );
        let stated = f64::from(sampler.order);
        let within = if sampler.order < 3 { 0.2 } else { 0.3 };
        if (order - stated).abs() >= within {
            wrong.push(std::format!("{}: order {order:.2}, stated {stated}", sampler.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
