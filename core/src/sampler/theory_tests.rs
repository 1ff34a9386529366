//! Samplers against theory: whole distributions, whose exact networks are known.
//!
//! Over timesteps (trailing, of 1000) the network predicts noise; over levels (Karras' of EDM networks) it is one of those, so that
//! its time is continuous. Nothing is clipped.

use core::convert::Infallible;
use std::vec;
use std::vec::Vec;

use super::{DDIM, DDIM_INVERSE, REGISTRY, Sampler};
use crate::chain::{Batch, Chain};
use crate::config::{Config, Parity};
use crate::denoise::{Cond, Denoise};
use crate::math::erf;
use crate::math::wide::{exp, sqrt};
use crate::noise::{Given, Noise, NoiseError, Philox};
use crate::predict::{Clip, PredictionType};
use crate::schedule::{Grid, Level, Schedule, Spacing};

/// Data of two values an image.
trait Data {
    /// The expected image where x is `signal * image + noise * eps`: what a perfectly trained network knows.
    fn image(&self, signal: f64, noise: f64, x: [f64; 2]) -> [f64; 2];
    /// The image in which the probability-flow ODE ends from x: what a perfectly distilled network knows.
    fn end(&self, signal: f64, noise: f64, x: [f64; 2]) -> [f64; 2];
}

/// A normal distribution whose values are correlated: its axes are turned by 30 degrees.
struct Ellipse;

impl Ellipse {
    const MEAN: [f64; 2] = [0.3, -0.2];
    /// Deviations along the axes.
    const DEVIATIONS: [f64; 2] = [0.8, 0.25];
    /// Cosine and sine of the angle.
    const TURN: [f64; 2] = [0.866_025_403_784_438_6, 0.5];

    /// Variances of both values, and their covariance.
    const COVARIANCE: [f64; 3] = {
        let ([c, s], [a, b]) = (Self::TURN, Self::DEVIATIONS);
        [c * c * a * a + s * s * b * b, s * s * a * a + c * c * b * b, c * s * (a * a - b * b)]
    };

    /// Applies a function of deviation and offset along each axis.
    fn along_axes(signal: f64, x: [f64; 2], f: impl Fn(f64, f64) -> f64) -> [f64; 2] {
        let [c, s] = Self::TURN;
        let off = [x[0] - signal * Self::MEAN[0], x[1] - signal * Self::MEAN[1]];
        let [a, b] = [c * off[0] + s * off[1], c * off[1] - s * off[0]];
        let [a, b] = [f(Self::DEVIATIONS[0], a), f(Self::DEVIATIONS[1], b)];
        [Self::MEAN[0] + c * a - s * b, Self::MEAN[1] + s * a + c * b]
    }
}

impl Data for Ellipse {
    fn image(&self, signal: f64, noise: f64, x: [f64; 2]) -> [f64; 2] {
        Self::along_axes(signal, x, |d, off| d * d * signal * off / (d * d * signal * signal + noise * noise))
    }

    fn end(&self, signal: f64, noise: f64, x: [f64; 2]) -> [f64; 2] {
        Self::along_axes(signal, x, |d, off| d * off / sqrt(d * d * signal * signal + noise * noise))
    }
}

/// Two normal modes: the first value lies about one of two places, the second about 0.
struct TwoModes;

impl TwoModes {
    const PLACES: [f64; 2] = [-0.8, 0.8];
    const WEIGHTS: [f64; 2] = [0.3, 0.7];
    const DEVIATION: f64 = 0.15;

    /// The share of x below `x` at a level.
    fn below(signal: f64, noise: f64, x: f64) -> f64 {
        let deviation = sqrt(Self::DEVIATION.powi(2) * signal * signal + noise * noise);
        let share = |k: usize| {
            let off = (x - signal * Self::PLACES[k]) / deviation;
            Self::WEIGHTS[k] * 0.5 * (1.0 + f64::from(erf((off * 0.5_f64.sqrt()) as f32)))
        };
        share(0) + share(1)
    }
}

impl Data for TwoModes {
    fn image(&self, signal: f64, noise: f64, x: [f64; 2]) -> [f64; 2] {
        let variance = Self::DEVIATION.powi(2) * signal * signal + noise * noise;
        let gain = Self::DEVIATION.powi(2) * signal / variance;
        let off = Self::PLACES.map(|place| x[0] - signal * place);
        // Of the two logarithms only the difference counts.
        let odds = exp((off[0] * off[0] - off[1] * off[1]) / (2.0 * variance)) * Self::WEIGHTS[1] / Self::WEIGHTS[0];
        let second = 1.0 - 1.0 / (1.0 + odds);
        let of = |k: usize| Self::PLACES[k] + gain * off[k];
        [(1.0 - second) * of(0) + second * of(1), gain * x[1]]
    }

    fn end(&self, signal: f64, noise: f64, x: [f64; 2]) -> [f64; 2] {
        // In one dimension the ODE keeps quantiles.
        let share = Self::below(signal, noise, x[0]);
        let (mut low, mut high) = (-3.0, 3.0);
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if Self::below(1.0, 0.0, middle) < share { low = middle } else { high = middle }
        }
        let d = Self::DEVIATION;
        [0.5 * (low + high), d * x[1] / sqrt(d * d * signal * signal + noise * noise)]
    }
}

/// A network that knows the data.
struct Exact<'a, D> {
    data: &'a D,
    /// Of each timestep; empty for a network of levels.
    alpha_bar: Vec<f32>,
    /// Whether it was distilled.
    distilled: bool,
}

const SIGMA_DATA: f64 = 0.5;

impl<D: Data> Denoise for Exact<'_, D> {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        2
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        let (signal, noise) = match self.alpha_bar.get(t as usize) {
            Some(&a) => (sqrt(f64::from(a)), sqrt(1.0 - f64::from(a))),
            None => {
                let sigma = exp(4.0 * f64::from(t));
                let signal = 1.0 / sqrt(sigma * sigma + SIGMA_DATA * SIGMA_DATA);
                (signal, sigma * signal)
            }
        };
        for (x, out) in x.chunks_exact(2).zip(out.chunks_exact_mut(2)) {
            let x = [f64::from(x[0]), f64::from(x[1])];
            let image =
                if self.distilled { self.data.end(signal, noise, x) } else { self.data.image(signal, noise, x) };
            for i in 0..2 {
                out[i] = if self.alpha_bar.is_empty() {
                    // F of Karras et al. 2022, from x0 = sigma_data^2 * signal * x + sigma_data * noise * F.
                    ((image[i] - SIGMA_DATA * SIGMA_DATA * signal * x[i]) / (SIGMA_DATA * noise)) as f32
                } else {
                    ((x[i] - signal * image[i]) / noise) as f32
                };
            }
        }
        Ok(())
    }
}

/// Samplers of distilled networks (TCD where it adds noise; without, it is DDIM). Undistilled ones don't know where the ODE ends,
/// and these samplers jump there; with it known they are exact in few steps.
fn is_distilled(sampler: &Sampler, eta: f32) -> bool {
    ["lcm", "consistency"].contains(&sampler.name) || (sampler.name == "tcd" && eta > 0.0)
}

/// What becomes of `images` images, two values each.
fn run(sampler: &Sampler, data: &impl Data, eta: f32, steps: usize, images: usize, noise: &mut dyn Noise) -> Vec<f32> {
    let distilled = is_distilled(sampler, eta);
    let steps = if distilled { 4 } else { steps };
    let config = Config {
        prediction: match sampler.grid {
            Grid::Chain => PredictionType::Epsilon,
            _ => PredictionType::Edm { sigma_data: SIGMA_DATA as f32 },
        },
        spacing: if distilled { Spacing::Consistency { original: 50 } } else { Spacing::Trailing },
        clip: Clip::None,
        parity: Parity::Table,
        steps,
        eta,
        ..Config::default()
    };
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; steps]);
    let mut levels = vec![Level::default(); sampler.levels(steps)];
    let schedule = Schedule::for_sampler(&config, sampler, &mut alpha_bar, &mut timesteps, &mut levels).unwrap();
    let alpha_bar = if sampler.grid == Grid::Chain { schedule.alpha_bar().to_vec() } else { Vec::new() };
    let mut network = Exact { data, alpha_bar, distilled };
    let conds = vec![Cond::None; images];
    let batch = Batch { first_image: 0, len: 2, out_len: 2, conds: &conds };
    let mut memory = vec![0.0; Chain::memory(&config, sampler, &batch).unwrap()];
    let mut chain = Chain::new(&config, sampler, schedule, batch, &mut memory).unwrap();
    chain.init(noise).unwrap();
    while chain.step(&mut network, noise).unwrap().is_some() {}
    assert!(2 * chain.draws() as usize <= 2 * MOST_DRAWS * steps + 2, "{}: more draws than a law has", sampler.name);
    chain.x().to_vec()
}

/// Draws of noise that a step may make.
const MOST_DRAWS: usize = 2;

/// Every sampler that makes images, and DDIM and TCD with all of their noise, too.
fn samplers() -> impl Iterator<Item = (&'static Sampler, f32)> {
    let noisy = |s: &Sampler| ["ddim", "tcd"].contains(&s.name);
    let make_images = REGISTRY.into_iter().filter(|s| s.name != DDIM_INVERSE.name);
    make_images.flat_map(move |s| if noisy(s) { vec![(s, 0.0), (s, 1.0)] } else { vec![(s, 0.0)] })
}

/// Means, then variances and the covariance.
type Moments = ([f64; 2], [f64; 3]);

fn moments(x: &[f32]) -> Moments {
    let n = (x.len() / 2) as f64;
    let points = || x.chunks_exact(2).map(|x| [f64::from(x[0]), f64::from(x[1])]);
    let mean = points().fold([0.0; 2], |sum, x| [sum[0] + x[0] / n, sum[1] + x[1] / n]);
    let squares = points().fold([0.0; 3], |sum, x| {
        let [a, b] = [x[0] - mean[0], x[1] - mean[1]];
        [sum[0] + a * a / n, sum[1] + b * b / n, sum[2] + a * b / n]
    });
    (mean, squares)
}

/// All values of all draws are 0, but one of one draw: of the first image none, of the others each in its turn.
struct OneByOne;

impl Noise for OneByOne {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        let first = 2 * u64::from(draw) + 1;
        out.iter_mut().zip(first..).for_each(|(out, place)| *out = f32::from(u8::from(place == image)));
        Ok(())
    }
}

/// The moments of what a sampler makes of normal data, without chance: every step is affine then, so the image without noise is the
/// mean, and what each value of each draw adds to it adds up to the covariance.
fn law(sampler: &Sampler, eta: f32, steps: usize) -> Moments {
    let x = run(sampler, &Ellipse, eta, steps, 2 * (MOST_DRAWS * steps + 1) + 1, &mut OneByOne);
    let mean = [f64::from(x[0]), f64::from(x[1])];
    let covariance = x[2..].chunks_exact(2).fold([0.0; 3], |sum, x| {
        let [a, b] = [f64::from(x[0]) - mean[0], f64::from(x[1]) - mean[1]];
        [sum[0] + a * a, sum[1] + b * b, sum[2] + a * b]
    });
    (mean, covariance)
}

/// Largest difference of moments in units of the second's deviations.
fn difference((mean, covariance): Moments, (want, units): Moments) -> f64 {
    let [a, b] = [units[0], units[1]];
    let means = (0..2).map(|i| (mean[i] - want[i]) / sqrt(units[i]));
    let covariances = [covariance[0] / a - 1.0, covariance[1] / b - 1.0, (covariance[2] - units[2]) / sqrt(a * b)];
    means.chain(covariances).fold(0.0, |most, d| d.abs().max(most))
}

const DATA: Moments = (Ellipse::MEAN, Ellipse::COVARIANCE);

/// A run starts from noise alone, where a trace of the image is left: of its mean 0.0027 of a deviation is lost.
const START: f64 = 0.003;

#[test]
fn every_sampler_comes_to_the_data() {
    let mut failures = Vec::new();
    for (sampler, eta) in samplers() {
        let [coarse, middle, fine] = [100, 200, 400].map(|steps| difference(law(sampler, eta, steps), DATA));
        std::println!("{:20} eta {eta}: moments off by {coarse:.4}, {middle:.4}, {fine:.4}", sampler.name);
        let falls = |from: f64, to: f64| to < (0.65 * from).max(START);
        let good = if is_distilled(sampler, eta) {
            // Four steps, whatever is asked for. TCD ends at timestep 0, where sqrt(1 - alpha_bar) is 0.01: the predicted noise stays, and
            // correlated as it is with the image it adds 2 * 0.01 / 0.65 to the variance.
            fine < START + 0.031
        } else {
            // With the steps the error falls to a half (order 1) or to less. At 400 steps ancestral noise of order 1 leaves 0.04, and
            // 0.08 is the most, of samplers whose steps of noise are as long as three evaluations.
            falls(coarse, middle) && falls(middle, fine) && fine < 0.09
        };
        if !good {
            failures.push((sampler.name, eta, [coarse, middle, fine]));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn images_have_the_moments_of_the_data() {
    let (steps, images) = (50, 8192);
    for (sampler, eta) in samplers() {
        let (got, law) =
            (moments(&run(sampler, &Ellipse, eta, steps, images, &mut Philox::new(9))), law(sampler, eta, steps));
        // Standard errors of a mean, and of a covariance of normal values. Exact means and covariances of these steps leave nothing but
        // chance: noise that came twice, or in two images, would show.
        let [a, b, c] = law.1;
        let error = |variance: f64| sqrt(variance / images as f64);
        let checks = [
            (got.0[0] - law.0[0], error(a)),
            (got.0[1] - law.0[1], error(b)),
            (got.1[0] - a, error(2.0 * a * a)),
            (got.1[1] - b, error(2.0 * b * b)),
            (got.1[2] - c, error(a * b + c * c)),
        ];
        let most = checks.iter().map(|(off, error)| off.abs() / error).fold(0.0, f64::max);
        std::println!("{:20} eta {eta}: within {most:.1} standard errors", sampler.name);
        assert!(most < 4.0, "{} eta {eta}: {got:?} {law:?}", sampler.name);
        // So they have the data's, but for chance and what that many steps leave.
        let chance = 4.0 * sqrt(2.0 / images as f64);
        assert!(difference(got, DATA) < chance + difference(law, DATA) * 1.1, "{}", sampler.name);
    }
}

#[test]
fn no_sampler_loses_a_mode() {
    let (steps, images) = (100, 8192);
    for (sampler, eta) in samplers() {
        let x = run(sampler, &TwoModes, eta, steps, images, &mut Philox::new(9));
        let of = |keep: &dyn Fn(f64) -> bool| {
            x.chunks_exact(2).filter(|x| keep(f64::from(x[0]))).count() as f64 / images as f64
        };
        let offset = |x: f64| x.abs() - TwoModes::PLACES[1];
        let (share, between) = (of(&|x| x > 0.0), of(&|x| offset(x).abs() > 4.0 * TwoModes::DEVIATION));
        let squares = |x: &[f32]| offset(f64::from(x[0])).powi(2) / images as f64;
        let deviation = sqrt(x.chunks_exact(2).map(squares).sum()) / TwoModes::DEVIATION;
        std::println!("{:20} eta {eta}: {share:.3} and {:.3}, deviation {deviation:.2}", sampler.name, 1.0 - share);
        // Four standard errors of a share, and what 100 steps of order 1 shift: 0.007 when measured with 50000 images.
        let [first, second] = TwoModes::WEIGHTS;
        let bound = 4.0 * sqrt(first * second / images as f64) + 0.008;
        assert!((share - second).abs() < bound, "{} eta {eta}: {share}", sampler.name);
        // Of normal modes 6e-5 lie further off.
        assert!(between < 1e-3, "{} eta {eta}: {between}", sampler.name);
        // Order 1 leaves 0.86 of the deviation, ancestral noise of order 2 up to 1.11 of it.
        assert!((0.8..1.15).contains(&deviation), "{} eta {eta}: {deviation}", sampler.name);
    }
}

/// Images go through DDIM's inversion; what they become.
fn inverted(data: &impl Data, images: &[f32], steps: usize) -> Vec<f32> {
    let count = images.len() / 2;
    run(&DDIM_INVERSE, data, 0.0, steps, count, &mut Given::new(images, 0, count, 2))
}

#[test]
fn inverted_images_are_noise() {
    // The data's mean, and a deviation off it along each axis: what these become gives the moments of what all images become.
    let ([c, s], [a, b], [x, y]) = (Ellipse::TURN, Ellipse::DEVIATIONS, Ellipse::MEAN);
    let images = [[x, y], [x + a * c, y + a * s], [x - b * s, y + b * c]];
    let images: Vec<f32> = images.iter().flatten().map(|&v| v as f32).collect();
    let off = [100, 200, 400].map(|steps| {
        let z: Vec<f64> = inverted(&Ellipse, &images, steps).into_iter().map(f64::from).collect();
        let (mean, p, q) = ([z[0], z[1]], [z[2] - z[0], z[3] - z[1]], [z[4] - z[0], z[5] - z[1]]);
        let covariance = [p[0] * p[0] + q[0] * q[0], p[1] * p[1] + q[1] * q[1], p[0] * p[1] + q[0] * q[1]];
        difference((mean, covariance), ([0.0; 2], [1.0, 1.0, 0.0]))
    });
    std::println!("moments of the noise off by {off:.4?}");
    assert!(off[2] < 0.05 && off[1] < 0.6 * off[0] && off[2] < 0.6 * off[1], "{off:?}");
}

#[test]
fn inversion_and_back_returns_images_of_two_modes() {
    // In both modes, up to two deviations off. (Between them the ODE leads apart what is near: an image there changes modes.)
    let place = |i: i32| TwoModes::PLACES[usize::from(i > 6)] + TwoModes::DEVIATION * f64::from(2 * (i % 7) - 6) / 3.0;
    let images: Vec<f32> = (0..14).flat_map(|i| [place(i) as f32, 0.3 - i as f32 / 25.0]).collect();
    let off = [125, 250, 500].map(|steps| {
        let noise = inverted(&TwoModes, &images, steps);
        let count = images.len() / 2;
        let back = run(&DDIM, &TwoModes, 0.0, steps, count, &mut Given::new(&noise, 0, count, 2));
        images.iter().zip(back).map(|(image, back)| f64::from((image - back).abs())).fold(0.0, f64::max)
    });
    std::println!("images off by {off:.4?}");
    assert!(off[2] < 0.01 && off[1] < 0.6 * off[0] && off[2] < 0.6 * off[1], "{off:?}");
}
