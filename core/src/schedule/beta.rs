//! Beta schedules and alpha-bar.
//!
//! The f32 tables equal those of diffusers (torch on a CPU with fused multiply-add) to the bit, because a step's
//! `1 - alpha_bar[t] / alpha_bar[t - 1]` loses four digits: one unit in the last place of a table is 6e-4 of a beta.
//! The rescaled ones (zero terminal SNR) don't: they hang on torch's vector square root, which is not correctly rounded.

use crate::config::ConfigError;
use crate::math::{self, wide};

/// How the variances that the forward chain adds grow from timestep to timestep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BetaSchedule {
    /// Evenly from `beta_start` to `beta_end`. Ho et al. 2020, section 4.
    ///
    #[doc = include_str!("doc/beta_linear.md")]
    #[default]
    Linear,
    /// Their square roots evenly. Rombach et al. 2022 (latent diffusion).
    ///
    #[doc = include_str!("doc/beta_scaled_linear.md")]
    ScaledLinear,
    /// Alpha-bar is a squared cosine, betas are at most 0.999. Nichol and Dhariwal 2021, equation 17.
    ///
    #[doc = include_str!("doc/beta_squared_cos_cap_v2.md")]
    SquaredCosCapV2,
    /// Along a sigmoid from -6 to 6, from `beta_start` to `beta_end`. Jabri et al. 2022; diffusers' form of it.
    ///
    #[doc = include_str!("doc/beta_sigmoid.md")]
    Sigmoid,
    /// The log signal-to-noise ratio is spread like a Laplace distribution; betas are at most 0.999. Hang and Gu 2024; diffusers' form.
    ///
    #[doc = include_str!("doc/beta_laplace.md")]
    Laplace,
    /// Alpha-bar is `exp(-12 u)`; betas are at most 0.999. diffusers' "exp" transform.
    ///
    #[doc = include_str!("doc/beta_exponential.md")]
    Exponential,
    /// Given, value by value (`trained_betas`).
    ///
    #[doc = include_str!("doc/beta_trained.md")]
    Trained,
}

/// Largest beta of the schedules that are given by alpha-bar; the cosine one would otherwise end in 1.
const MAX_RATIO_BETA: f64 = 0.999;

/// Fills `betas`, one a timestep. [`BetaSchedule::Trained`] leaves the values that are there.
///
/// Fails with [`ConfigError::Beta`] when a value is no number or lies outside 0..=1.
pub fn fill_betas(schedule: BetaSchedule, start: f64, end: f64, betas: &mut [f32]) -> Result<(), ConfigError> {
    match schedule {
        BetaSchedule::Linear => linspace(start as f32, end as f32, betas),
        BetaSchedule::ScaledLinear => {
            linspace(wide::sqrt(start) as f32, wide::sqrt(end) as f32, betas);
            betas.iter_mut().for_each(|b| *b *= *b);
        }
        BetaSchedule::Sigmoid => {
            linspace(-6.0, 6.0, betas);
            let (start, range) = (start as f32, (end - start) as f32);
            betas.iter_mut().for_each(|b| *b = 1.0 / (1.0 + math::exp(-*b)) * range + start);
        }
        BetaSchedule::SquaredCosCapV2 | BetaSchedule::Laplace | BetaSchedule::Exponential => {
            let count = betas.len();
            betas.iter_mut().enumerate().for_each(|(i, b)| *b = ratio_beta(schedule, i, count) as f32);
        }
        BetaSchedule::Trained => {}
    }
    match betas.iter().position(|b| !(0.0..=1.0).contains(b)) {
        Some(t) => Err(ConfigError::Beta { t }),
        None => Ok(()),
    }
}

/// Turns betas into alpha-bar, in place: `alpha_bar[t] = (1 - beta[0]) * ... * (1 - beta[t])`.
///
/// As torch's `cumprod` on a CPU: the factors are f32, the running product is f64, each value is rounded once.
pub fn alpha_bar_from_betas(table: &mut [f32]) {
    let mut product = 1.0_f64;
    for value in table {
        product *= f64::from(1.0 - *value);
        *value = product as f32;
    }
}

/// Moves betas so that alpha-bar ends in 0 while its first value stays. Lin et al. 2023, algorithm 1.
pub fn rescale_zero_terminal_snr(betas: &mut [f32]) {
    alpha_bar_from_betas(betas);
    let (Some(&first), Some(&last)) = (betas.first(), betas.last()) else { return };
    let (first, last) = (math::sqrt(first), math::sqrt(last));
    let scale = first / (first - last);
    let mut previous = 1.0;
    for value in betas {
        let root = (math::sqrt(*value) - last) * scale;
        let alpha_bar = root * root;
        *value = 1.0 - alpha_bar / previous;
        previous = alpha_bar;
    }
}

/// Alpha-bar in double precision throughout: what the f32 tables approximate. For plots and theory, not for parity.
/// With [`BetaSchedule::Trained`], `alpha_bar` holds the betas on entry.
///
/// ```
/// use unfog_core::schedule::{BetaSchedule, alpha_bar_exact};
/// let mut alpha_bar = [0.0; 1000];
/// alpha_bar_exact(BetaSchedule::Linear, 1e-4, 0.02, &mut alpha_bar);
/// assert!((alpha_bar[999] - 4.0358e-5).abs() < 1e-9);
/// ```
pub fn alpha_bar_exact(schedule: BetaSchedule, start: f64, end: f64, alpha_bar: &mut [f64]) {
    let count = alpha_bar.len();
    // With one timestep there is no distance, and the schedule is its start.
    let between = |a: f64, b: f64, i: usize| if count < 2 { a } else { a + (b - a) * (i as f64 / (count - 1) as f64) };
    let mut product = 1.0;
    for (i, value) in alpha_bar.iter_mut().enumerate() {
        let beta = match schedule {
            BetaSchedule::Linear => between(start, end, i),
            BetaSchedule::ScaledLinear => {
                let root = between(wide::sqrt(start), wide::sqrt(end), i);
                root * root
            }
            BetaSchedule::Sigmoid => start + (end - start) / (1.0 + wide::exp(-between(-6.0, 6.0, i))),
            BetaSchedule::SquaredCosCapV2 | BetaSchedule::Laplace | BetaSchedule::Exponential => {
                ratio_beta(schedule, i, count)
            }
            BetaSchedule::Trained => *value,
        };
        product *= 1.0 - beta;
        *value = product;
    }
}

/// `min(1 - f((i + 1) / count) / f(i / count), 0.999)`, f the schedule's alpha-bar: `cos^2((u + 0.008) / 1.008 * pi / 2)`,
/// `exp(-12 u)`, or for Laplace `sqrt(snr / (1 + snr))` with `ln snr = -sign(1/2 - u) / 2 * ln(1 - 2 |1/2 - u| + 1e-6)`.
fn ratio_beta(schedule: BetaSchedule, i: usize, count: usize) -> f64 {
    let f = |i: usize| {
        let u = i as f64 / count as f64;
        match schedule {
            BetaSchedule::Exponential => wide::exp(-12.0 * u),
            BetaSchedule::Laplace => {
                let half = if u > 0.5 { 0.5 } else { -0.5 };
                let snr = wide::exp(half * wide::ln(1.0 - 2.0 * (0.5 - u).abs() + 1e-6));
                wide::sqrt(snr / (1.0 + snr))
            }
            _ => {
                let c = wide::cos((u + 0.008) / 1.008 * core::f64::consts::PI / 2.0);
                c * c
            }
        }
    };
    (1.0 - f(i + 1) / f(i)).min(MAX_RATIO_BETA)
}

/// torch's `linspace` in f32: the first half counts from the start, the second from the end, each with one rounding.
fn linspace(start: f32, end: f32, out: &mut [f32]) {
    let count = out.len();
    if let [only] = out {
        *only = start;
        return;
    }
    let step = f64::from((end - start) / count.saturating_sub(1) as f32);
    for (i, value) in out.iter_mut().enumerate() {
        // A product of f32 and a count below 2^24 is exact in f64, so this rounds like a fused multiply-add.
        *value = if i < count / 2 {
            (f64::from(start) + step * i as f64) as f32
        } else {
            (f64::from(end) - step * (count - 1 - i) as f64) as f32
        };
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    const SCHEDULES: [(BetaSchedule, f64, f64); 3] = [
        (BetaSchedule::Linear, 1e-4, 0.02),
        (BetaSchedule::ScaledLinear, 0.00085, 0.012),
        (BetaSchedule::SquaredCosCapV2, 0.0, 0.0),
    ];

    #[test]
    fn alpha_bar_has_the_bits_of_diffusers() {
        // DDIMScheduler(beta_schedule=..., beta_start=..., beta_end=...).alphas_cumprod[[0, 1, 499, 500, 998, 999]], as bits.
        let bits: [[u32; 6]; 3] = [
            [0x3f7f_f972, 0x3f7f_f196, 0x3da0_f258, 0x3d9f_53da, 0x382c_bac6, 0x3829_4666],
            [0x3f7f_c84b, 0x3f7f_9054, 0x3e8e_2ab0, 0x3e8d_7b73, 0x3b9a_8e83, 0x3b98_b3b6],
            [0x3f7f_fd4b, 0x3f7f_fa45, 0x3efc_d90d, 0x3efc_0cc9, 0x3622_fde3, 0x3126_e6c2],
        ];
        for ((schedule, start, end), bits) in SCHEDULES.into_iter().zip(bits) {
            let mut table = [0.0; 1000];
            fill_betas(schedule, start, end, &mut table).unwrap();
            alpha_bar_from_betas(&mut table);
            assert_eq!([0, 1, 499, 500, 998, 999].map(|t| table[t].to_bits()), bits, "{schedule:?}");
        }
    }

    #[test]
    fn alpha_bar_is_near_the_exact_one_and_falls() {
        for (schedule, start, end) in SCHEDULES {
            for count in [1, 2, 3, 10, 1000] {
                let (mut table, mut exact) = (vec![0.0_f32; count], vec![0.0_f64; count]);
                fill_betas(schedule, start, end, &mut table).unwrap();
                alpha_bar_from_betas(&mut table);
                alpha_bar_exact(schedule, start, end, &mut exact);
                for (t, (&a, &e)) in table.iter().zip(&exact).enumerate() {
                    // A factor 1 - beta is off by 2^-25 at most, relative to itself (2^-25 / 0.001 where it is 0.001): t of
                    // them add up at random.
                    assert!((f64::from(a) / e - 1.0).abs() < 3e-5, "{schedule:?} {count} {t}: {a} {e}");
                }
                assert!(table.is_sorted_by(|a, b| a > b));
            }
        }
    }

    #[test]
    fn cosine_is_the_papers_alpha_bar() {
        // Equation 17 itself, f(t) / f(0), up to where betas are capped.
        let f = |u: f64| ((u + 0.008) / 1.008 * core::f64::consts::FRAC_PI_2).cos().powi(2);
        let mut table = [0.0; 1000];
        alpha_bar_exact(BetaSchedule::SquaredCosCapV2, 0.0, 0.0, &mut table);
        for (i, a) in table.into_iter().enumerate().take(999) {
            let expected = f((i + 1) as f64 / 1000.0) / f(0.0);
            assert!((a / expected - 1.0).abs() < 1e-9, "{i}");
        }
    }

    #[test]
    fn zero_terminal_snr_ends_in_nothing_and_keeps_the_start() {
        let mut table = [0.0; 1000];
        fill_betas(BetaSchedule::ScaledLinear, 0.00085, 0.012, &mut table).unwrap();
        let first = 1.0 - table[0];
        rescale_zero_terminal_snr(&mut table);
        assert_eq!(table[999], 1.0);
        alpha_bar_from_betas(&mut table);
        assert_eq!(table[999], 0.0);
        assert!((table[0] - first).abs() < 1e-6, "{} {first}", table[0]);
        assert!(table.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn betas_outside_their_range_are_refused() {
        let refused = |start, end| fill_betas(BetaSchedule::Linear, start, end, &mut [0.0; 4]);
        assert_eq!(refused(f64::NAN, 0.1), Err(ConfigError::Beta { t: 0 }));
        assert_eq!(refused(0.1, f64::INFINITY), Err(ConfigError::Beta { t: 0 }));
        assert_eq!(refused(0.0, 1.2), Err(ConfigError::Beta { t: 3 }));
        assert_eq!(refused(-0.1, 0.2), Err(ConfigError::Beta { t: 0 }));
        let scaled = fill_betas(BetaSchedule::ScaledLinear, -0.1, 0.2, &mut [0.0; 4]);
        assert_eq!(scaled, Err(ConfigError::Beta { t: 0 }));
        let given = &mut [0.1, f32::NAN];
        assert_eq!(fill_betas(BetaSchedule::Trained, 0.0, 0.0, given), Err(ConfigError::Beta { t: 1 }));
    }
}
