//! Samplers against theory: data whose exact denoiser is known.

use core::convert::Infallible;
use std::vec;
use std::vec::Vec;

use super::{DDIM, DDIM_INVERSE, DDPM, REGISTRY, Sampler, find};
use crate::chain::{Batch, Chain};
use crate::config::{Config, Parity, Variance};
use crate::denoise::{Cond, Denoise};
use crate::noise::{Given, Noise, Philox};
use crate::predict::{Clip, PredictionType};
use crate::schedule::{Schedule, Spacing};

/// The exact denoiser of data N(mean, deviation^2), one value alone.
struct Gaussian {
    alpha_bar: Vec<f32>,
    mean: f32,
    deviation: f32,
    learned: Option<f32>,
}

impl Denoise for Gaussian {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        if self.learned.is_some() { 2 } else { 1 }
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        let a = f64::from(self.alpha_bar[t as usize]);
        let variance = a * f64::from(self.deviation).powi(2) + 1.0 - a;
        for (x, out) in x.iter().zip(out.chunks_exact_mut(self.out_len())) {
            let off = f64::from(*x) - a.sqrt() * f64::from(self.mean);
            out[0] = (off * (1.0 - a).sqrt() / variance) as f32;
            if let (Some(v), Some(second)) = (self.learned, out.get_mut(1)) {
                *second = v;
            }
        }
        Ok(())
    }
}

struct Run {
    alpha_bar: Vec<f32>,
    timesteps: Vec<u32>,
    /// What the images started from.
    start: Vec<f32>,
    /// What they became.
    end: Vec<f32>,
    draws: u32,
}

/// Runs `images` images of one value each.
fn run(config: &Config, sampler: &Sampler, mean: f32, deviation: f32, learned: Option<f32>, images: usize) -> Run {
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; config.steps]);
    let schedule = Schedule::new(config, &mut alpha_bar, &mut timesteps).unwrap();
    let mut network = Gaussian { alpha_bar: schedule.alpha_bar().to_vec(), mean, deviation, learned };
    let conds = vec![Cond::None; images];
    let batch = Batch { first_image: 0, len: 1, out_len: network.out_len(), conds: &conds };
    let mut memory = vec![0.0; Chain::memory(config, sampler, &batch).unwrap()];
    let mut chain = Chain::new(config, sampler, schedule, batch, &mut memory).unwrap();
    let mut noise = Philox::new(5);
    chain.init(&mut noise).unwrap();
    let start = chain.x().to_vec();
    while chain.step(&mut network, &mut noise).unwrap().is_some() {}
    let (end, draws) = (chain.x().to_vec(), chain.draws());
    Run { alpha_bar: schedule.alpha_bar().to_vec(), timesteps: schedule.timesteps().to_vec(), start, end, draws }
}

fn config(steps: usize) -> Config {
    Config { steps, clip: Clip::None, parity: Parity::Table, ..Config::default() }
}

fn noise(image: usize, draw: usize) -> f64 {
    let mut z = [0.0];
    Philox::new(5).fill(image as u64, draw as u32, &mut z).unwrap();
    f64::from(z[0])
}

#[test]
fn ddim_of_standard_normal_data_is_a_product_of_cosines() {
    // With alpha-bar = cos^2 of an angle the step's factor is the cosine of the angle that it goes.
    for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
        for steps in [1, 2, 7, 50] {
            let r = run(&Config { spacing, ..config(steps) }, &DDIM, 0.0, 1.0, None, 4);
            let angle = |t: u32| f64::from(r.alpha_bar[t as usize]).sqrt().acos();
            let angles: Vec<f64> = r.timesteps.iter().map(|&t| angle(t)).chain([0.0]).collect();
            let factor: f64 = angles.windows(2).map(|w| (w[0] - w[1]).cos()).product();
            for (start, end) in r.start.iter().zip(&r.end) {
                // A few roundings a step. At one step x0 = (x - 0.99998 x) / 0.0064 besides loses 4 digits of 7.
                let tolerance = if steps == 1 { 2e-3 } else { 2e-5 };
                let expected = factor * f64::from(*start);
                assert!((f64::from(*end) - expected).abs() < tolerance, "{spacing:?} {steps}: {end} {expected}");
            }
        }
    }
}

#[test]
fn ddim_finds_a_point_exactly() {
    for steps in [1, 3, 20, 1000] {
        let r = run(&config(steps), &DDIM, 0.7, 0.0, None, 3);
        // The last step returns the predicted image; rounding is that of its division by sqrt(alpha-bar).
        let last = f64::from(r.alpha_bar[*r.timesteps.last().unwrap() as usize]);
        let tolerance = (1e-6 / last.sqrt()) as f32;
        assert!(r.end.iter().all(|v| (v - 0.7).abs() < tolerance), "{steps}: {:?}", r.end);
    }
}

#[test]
fn ddim_converges_with_order_one() {
    // The ODE of N(0, c^2) scales x by c / sqrt(a c^2 + 1 - a).
    let error = |steps: usize| {
        let r = run(&Config { spacing: Spacing::Trailing, ..config(steps) }, &DDIM, 0.0, 0.5, None, 1);
        let a = f64::from(r.alpha_bar[999]);
        let exact = f64::from(r.start[0]) * 0.5 / (a * 0.25 + 1.0 - a).sqrt();
        (f64::from(r.end[0]) - exact).abs()
    };
    for steps in [50, 100] {
        let order = (error(steps) / error(2 * steps)).log2();
        assert!((order - 1.0).abs() < 0.2, "{steps}: {order}");
    }
}

#[test]
fn inversion_and_back_returns_the_image() {
    // Both go the same way through the ODE with order 1: what is left halves with the steps.
    let error = |steps: usize| {
        let config = Config { spacing: Spacing::Leading, set_alpha_to_one: true, ..config(steps) };
        let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; steps]);
        let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps).unwrap();
        let mut network =
            Gaussian { alpha_bar: schedule.alpha_bar().to_vec(), mean: 0.2, deviation: 0.5, learned: None };
        let images = [0.9, -0.4, 0.2, 0.0];
        let mut memory = [0.0; 32];
        let batch = Batch { first_image: 0, len: 1, out_len: 1, conds: &[Cond::None; 4] };
        let mut through = |sampler: &Sampler, x: &[f32]| {
            let mut chain = Chain::new(&config, sampler, schedule, batch, &mut memory).unwrap();
            let mut given = Given::new(x, 0, 4, 1);
            chain.init(&mut given).unwrap();
            while chain.step(&mut network, &mut given).unwrap().is_some() {}
            chain.x().to_vec()
        };
        let noise = through(&DDIM_INVERSE, &images);
        let back = through(&DDIM, &noise);
        images.iter().zip(back).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
    };
    assert!(error(500) < 0.01, "{}", error(500));
    let order = (error(50) / error(100)).log2();
    assert!((order - 1.0).abs() < 0.3, "{order}");
}

#[test]
fn ddpm_is_algorithm_2() {
    // x' = (x - beta / sqrt(1 - a) eps) / sqrt(1 - beta) + sigma z: the paper's other form of the mean, in f64.
    for (variance, learned) in [
        (Variance::FixedSmall, None),
        (Variance::FixedSmallLog, None),
        (Variance::FixedLarge, None),
        (Variance::FixedLargeLog, None),
        (Variance::LearnedRange, Some(0.5)),
        (Variance::Learned, Some(-7.0)),
    ] {
        for steps in [2, 10, 1000] {
            let r = run(&Config { variance, ..config(steps) }, &DDPM, 0.2, 0.5, learned, 2);
            assert_eq!(r.draws as usize, steps, "the start, and every step but the last");
            for image in 0..2 {
                let mut x = f64::from(r.start[image]);
                for (i, &t) in r.timesteps.iter().enumerate() {
                    let a = f64::from(r.alpha_bar[t as usize]);
                    let next = r.timesteps.get(i + 1).map_or(1.0, |&t| f64::from(r.alpha_bar[t as usize]));
                    let beta = 1.0 - a / next;
                    let eps = (x - a.sqrt() * 0.2) * (1.0 - a).sqrt() / (a * 0.25 + 1.0 - a);
                    x = (x - beta / (1.0 - a).sqrt() * eps) / (1.0 - beta).sqrt();
                    let small = (1.0 - next) / (1.0 - a) * beta;
                    let sigma2 = match variance {
                        Variance::FixedSmall | Variance::FixedSmallLog => small,
                        Variance::FixedLarge | Variance::FixedLargeLog => beta,
                        Variance::LearnedRange => beta.powf(0.75) * small.powf(0.25),
                        Variance::Learned => (-7.0_f64).exp(),
                    };
                    if i + 1 < steps {
                        x += sigma2.sqrt() * noise(image, i + 1);
                    }
                }
                // With 1000 steps beta is small: 1 - a / a' keeps only 3 to 5 digits in f32.
                let error = (f64::from(r.end[image]) - x).abs();
                assert!(error < 1e-4, "{variance:?} {steps}: {} {x}", r.end[image]);
            }
        }
    }
}

#[test]
fn ddim_with_eta_1_is_ddpm() {
    let ddpm = run(&config(50), &DDPM, 0.1, 0.5, None, 8);
    let ddim = run(&Config { eta: 1.0, ..config(50) }, &DDIM, 0.1, 0.5, None, 8);
    // DDIM draws at the last step too, where its share of noise is 0.
    assert_eq!((ddpm.draws, ddim.draws), (50, 51));
    for (a, b) in ddpm.end.iter().zip(&ddim.end) {
        // The two forms of the mean round differently.
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn where_diffusers_draws_noise_at_the_end() {
    // Trailing spacing ends at a timestep above 0; diffusers' DDPM adds noise there.
    let config = Config { spacing: Spacing::Trailing, variance: Variance::FixedLarge, ..config(10) };
    assert_eq!(run(&config, &DDPM, 0.0, 1.0, None, 1).draws, 10);
    assert_eq!(run(&Config { parity: Parity::Diffusers, ..config }, &DDPM, 0.0, 1.0, None, 1).draws, 11);
    let none = Config { eta: 0.0, ..config };
    assert_eq!(run(&none, &DDIM, 0.0, 1.0, None, 1).draws, 1);
}

#[test]
fn the_last_alpha_bar_is_a_choice() {
    // Ending at alpha-bar of timestep 0 where leading spacing starts the last step: nothing changes in it.
    let config = Config { set_alpha_to_one: false, prediction: PredictionType::Epsilon, ..config(1) };
    let r = run(&config, &DDIM, 0.0, 1.0, None, 3);
    for (start, end) in r.start.iter().zip(&r.end) {
        assert!((start - end).abs() < 1e-6, "{start} {end}");
    }
}

#[test]
fn a_step_that_rounding_would_make_impossible() {
    // diffusers 0.42.1 takes the square root of a negative number here.
    let config = Config {
        betas: crate::schedule::BetaSchedule::SquaredCosCapV2,
        spacing: Spacing::Trailing,
        eta: 1.0,
        set_alpha_to_one: false,
        parity: Parity::Diffusers,
        ..config(1)
    };
    assert!(run(&config, &DDIM, 0.0, 1.0, None, 4).end.iter().all(|v| v.is_finite()));
}

#[test]
fn the_registry_names_each_sampler_once() {
    for (i, sampler) in REGISTRY.into_iter().enumerate() {
        assert!(find(sampler.name).is_some_and(|s| s.source == sampler.source), "{}", sampler.name);
        assert!(REGISTRY[..i].iter().all(|s| s.name != sampler.name), "{} twice", sampler.name);
    }
    assert!(find("nonesuch").is_none());
}
