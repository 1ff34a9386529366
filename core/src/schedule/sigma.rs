//! Sigma tables: at which noise levels a run of n steps evaluates the network.
//!
//! A sigma is noise over signal; for flow networks it is s, the share of noise. A table gives n of them, falling; the end of
//! the run comes after them. Where diffusers rounds a sigma to f32, so does this.

use super::beta_ppf::beta_quantile;
use super::spacing::{Spacing, fill_timesteps};
use super::{Level, time_of_sigma};
use crate::config::{Config, ConfigError, Parity};
use crate::math::{self, wide};
use crate::predict::PredictionType;

/// How the noise levels of a run are chosen. Used by samplers over levels ([`Grid::Euler`], [`Grid::Solver`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sigmas {
    /// Which levels.
    pub table: SigmaTable,
    /// How the sigma of a timestep between two of the table is found.
    pub interpolation: Interpolation,
    /// Where the last step leads.
    pub end: End,
    /// Least sigma of a computed table, in place of the network's own.
    pub min: Option<f64>,
    /// Largest sigma of a computed table, in place of the network's own.
    pub max: Option<f64>,
    /// Moves the levels of a flow network towards noise.
    pub shift: Shift,
    /// Where the last evaluation of a flow network lies, if levels are stretched to end there (`shift_terminal`).
    pub shift_terminal: Option<f64>,
}

impl Default for Sigmas {
    fn default() -> Self {
        Self {
            table: SigmaTable::Timesteps,
            interpolation: Interpolation::Linear,
            end: End::Zero,
            min: None,
            max: None,
            shift: Shift::Static(1.0),
            shift_terminal: None,
        }
    }
}

impl Sigmas {
    /// Whether the table's own numbers can be used: finite, above 0 (of VP's betas one may be 0, its `eps` is below 1), `min`
    /// below `max`, and `shift_terminal` between 0 and 1. Whether levels fall is found when they are made.
    pub fn is_valid(&self) -> bool {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let table = match self.table {
            SigmaTable::Karras { rho } | SigmaTable::Polyexponential { rho } | SigmaTable::Distilled { rho, .. } => {
                positive(rho)
            }
            SigmaTable::Beta { alpha, beta } => positive(alpha) && positive(beta),
            SigmaTable::Vp { beta_d, beta_min, eps } => {
                beta_d >= 0.0 && beta_min >= 0.0 && positive(beta_d + beta_min) && positive(eps) && eps < 1.0
            }
            _ => true,
        };
        let range = [self.min, self.max].into_iter().flatten().all(positive);
        let ordered = self.min.zip(self.max).is_none_or(|(min, max)| min < max);
        table && range && ordered && self.shift_terminal.is_none_or(|s| positive(s) && s < 1.0)
    }
}

/// Which noise levels a run visits. n is the number of steps, i counts from 0 to n - 1, `min` and `max` are the ends ([`Grid`]), all
/// of them ratios of deviations (noise over signal). Numbers that can't be used are refused ([`ConfigError::Sigmas`]), and so are
/// levels that don't fall in f32 ([`ConfigError::Level`]).
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum SigmaTable {
    /// Those of the timesteps that [`Config::spacing`] chooses. For a flow network, s evenly from 1 to 1 / T, shifted; for
    /// an EDM network, [`SigmaTable::Karras`] with rho 7.
    ///
    #[doc = include_str!("doc/sigma_timesteps.md")]
    #[default]
    Timesteps,
    /// `(max^(1/rho) + i / (n - 1) * (min^(1/rho) - max^(1/rho)))^rho`. Karras et al. 2022, equation 5; they use rho 7.
    ///
    #[doc = include_str!("doc/sigma_karras.md")]
    Karras {
        /// How much denser levels lie at the end.
        rho: f64,
    },
    /// Logarithms evenly from `ln max` to `ln min`.
    ///
    #[doc = include_str!("doc/sigma_exponential.md")]
    Exponential,
    /// `exp(r * (ln max - ln min) + ln min)` with `r = (1 - i / (n - 1))^rho`, as in k-diffusion. rho 1 is exponential.
    ///
    #[doc = include_str!("doc/sigma_polyexponential.md")]
    Polyexponential {
        /// How much denser levels lie at the end.
        rho: f64,
    },
    /// `min + q * (max - min)`, q the quantiles `1 - i / (n - 1)` of a beta distribution. Lee et al. 2024, "Beta sampling is
    /// all you need", with both parameters 0.6.
    ///
    #[doc = include_str!("doc/sigma_beta.md")]
    Beta {
        /// First parameter.
        alpha: f64,
        /// Second parameter.
        beta: f64,
    },
    /// Half logarithms of the signal-to-noise ratio (lambda) evenly spaced, Lu et al. 2022, section 3.4: the sigmas of
    /// [`SigmaTable::Exponential`], whose times diffusers rounds.
    ///
    #[doc = include_str!("doc/sigma_lu_lambda.md")]
    LuLambda,
    /// `sqrt(exp(beta_d / 2 * u^2 + beta_min * u) - 1)`, u evenly from 1 to `eps`: the continuous variance-preserving chain.
    /// Song et al. 2021b, as in k-diffusion with 19.9, 0.1 and 1e-3.
    ///
    #[doc = include_str!("doc/sigma_vp.md")]
    Vp {
        /// Slope of beta.
        beta_d: f64,
        /// Beta at 0.
        beta_min: f64,
        /// Last u.
        eps: f64,
    },
    /// Align Your Steps: levels found by optimisation, for 10 steps, and between them logarithms interpolated linearly. Sabour
    /// et al. 2024, with the published tables.
    ///
    #[doc = include_str!("doc/sigma_align_your_steps.md")]
    AlignYourSteps(AlignYourSteps),
    /// Evenly in time, n of n + 1 points from the last timestep to 0 without the last: "SGM uniform". For a flow network
    /// `1 - i / n`, shifted.
    ///
    #[doc = include_str!("doc/sigma_uniform.md")]
    Uniform,
    /// Every (T / n)-th sigma of the network's table from its end, whole indices.
    ///
    #[doc = include_str!("doc/sigma_simple.md")]
    Simple,
    /// `tan(u * atan(min) + (1 - u) * atan(max))`, `u = i / (n - 1)`: optimal in the KL divergence. Sabour et al. 2024,
    /// theorem 3.1.
    ///
    #[doc = include_str!("doc/sigma_kl_optimal.md")]
    KlOptimal,
    /// Those of an EDM network that consistency models were distilled on: of `levels` levels of [`SigmaTable::Karras`], every
    /// (levels / n)-th (whole division) from the top. Song et al. 2023; diffusers' `CMStochasticIterativeScheduler`, which has
    /// 40 levels, rho 7, and ends at the least one ([`End::Min`]).
    Distilled {
        /// Levels of the training, n or more.
        levels: u32,
        /// As in [`SigmaTable::Karras`].
        rho: f64,
    },
    /// The caller's: [`Level::given`] in the memory that is lent for levels, strictly falling, the end included.
    ///
    #[doc = include_str!("doc/sigma_given.md")]
    Given,
}

/// For which family of networks the steps were aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignYourSteps {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion XL.
    Sdxl,
    /// Stable Video Diffusion.
    Svd,
}

/// How the sigma of a fractional timestep is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interpolation {
    /// Sigma linearly in t, as diffusers.
    #[default]
    Linear,
    /// ln sigma linearly in t, as k-diffusion.
    Log,
}

/// Where the last step leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum End {
    /// To the image: sigma 0.
    #[default]
    Zero,
    /// To the least sigma that the network knows (of flow networks 1 / T), or no step further where the last level is below it.
    Min,
}

/// How the levels s of a flow network are moved towards noise: `m * s / (1 + (m - 1) * s)`. Esser et al. 2024, section 5.3.2.
///
/// ```
/// # use unfog_core::{config::Config, predict::PredictionType, sampler::EULER, schedule::{Level, Schedule, Shift, SigmaTable, Sigmas}};
/// let sigmas = Sigmas { table: SigmaTable::Uniform, shift: Shift::Static(3.0), ..Sigmas::default() };
/// let config = Config { steps: 2, prediction: PredictionType::Flow, sigmas, ..Config::default() };
/// let (mut alpha_bar, mut timesteps, mut levels) = ([0.0; 1000], [0; 2], [Level::default(); 3]);
/// Schedule::for_sampler(&config, &EULER, &mut alpha_bar, &mut timesteps, &mut levels)?;
/// assert_eq!(levels.map(|l| l.noise), [1.0, 0.75, 0.0]); // 3 * 0.5 / (1 + 2 * 0.5)
/// # Ok::<(), unfog_core::config::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shift {
    /// m, of the network. diffusers shifts the least level 1 / T twice, and so does [`Parity::Diffusers`].
    Static(f64),
    /// mu, of the image's size ([`dynamic_shift`]), with m = e^mu.
    Exponential(f64),
    /// m, of the image's size.
    Linear(f64),
}

/// mu for an image of `tokens` patches: on a line from `base` at `base_tokens` to `max` at `max_tokens`. Flux has 0.5 at 256
/// and 1.15 at 4096.
///
/// ```
/// use unfog_core::schedule::dynamic_shift;
/// assert!((dynamic_shift(4096.0, (256.0, 0.5), (4096.0, 1.15)) - 1.15).abs() < 1e-12);
/// ```
pub fn dynamic_shift(tokens: f64, (base_tokens, base): (f64, f64), (max_tokens, max): (f64, f64)) -> f64 {
    let slope = (max - base) / (max_tokens - base_tokens);
    base + slope * (tokens - base_tokens)
}

/// Which of diffusers' two rules places a sampler's evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grid {
    /// Whole timesteps and alpha-bar: no levels.
    #[default]
    Chain,
    /// Levels; times need not be whole. A table's ends are those of the timesteps that the spacing chooses. An end above 0
    /// leaves the image's factor 1 (Karras et al.'s scaling).
    Euler,
    /// Levels; whole timesteps, n of the n + 1 that the spacing gives, the last left out. A table's ends are those of the
    /// network. An end above 0 keeps the variance. ([`Parity::Table`] doesn't round the times of computed tables.)
    Solver,
}

/// Least and largest sigma of EDM networks, where the config names none. Karras et al. 2022, table 1.
pub(crate) const EDM_RANGE: [f64; 2] = [0.002, 80.0];

/// Published levels of 10 steps. Sabour et al. 2024, the authors' quick start guide.
const fn align_your_steps(which: AlignYourSteps) -> [f64; 11] {
    match which {
        AlignYourSteps::Sd15 => [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
        AlignYourSteps::Sdxl => [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
        AlignYourSteps::Svd => [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
    }
}

/// Sigma of a whole timestep, in f32 as diffusers.
pub(super) fn table_sigma(alpha_bar: &[f32], t: usize) -> f64 {
    let a = alpha_bar.get(t).copied().unwrap_or(f32::NAN);
    f64::from(math::sqrt((1.0 - a) / a))
}

/// Sigma of any time from 0 to T - 1.
pub(super) fn sigma_of_time(alpha_bar: &[f32], time: f64, interpolation: Interpolation) -> f64 {
    // A time is not negative, so the cast rounds down.
    let below = (time as usize).min(alpha_bar.len().saturating_sub(1));
    let (low, share) = (table_sigma(alpha_bar, below), time - below as f64);
    if share <= 0.0 || below + 1 >= alpha_bar.len() {
        return low;
    }
    let high = table_sigma(alpha_bar, below + 1);
    match interpolation {
        Interpolation::Linear => low + share * (high - low),
        Interpolation::Log => wide::exp((1.0 - share) * wide::ln(low) + share * wide::ln(high)),
    }
}

/// Fills `levels` (n + 1, the end included) and `timesteps` (n, rounded times).
///
/// With [`Spacing::Given`], `timesteps` holds them on entry; with [`SigmaTable::Given`], `levels` does.
pub(super) fn fill_levels(
    config: &Config,
    grid: Grid,
    alpha_bar: &[f32],
    timesteps: &mut [u32],
    levels: &mut [Level],
) -> Result<(), ConfigError> {
    let Some((end, evaluated)) = levels.split_last_mut() else { return Err(ConfigError::NoSteps) };
    match config.prediction {
        PredictionType::Flow => flow(config, grid, evaluated, end)?,
        PredictionType::Edm { sigma_data } => edm(config, sigma_data, evaluated, end)?,
        _ => over_alpha_bar(config, grid, alpha_bar, timesteps, evaluated, end)?,
    }
    for (t, level) in timesteps.iter_mut().zip(evaluated.iter()) {
        // The cast takes what is negative to 0.
        *t = wide::round_ties_even(f64::from(level.time)) as u32;
    }
    check(levels)
}

/// Every level needs noise and a place in the order; only the end may repeat the level before.
fn check(levels: &[Level]) -> Result<(), ConfigError> {
    let usable = |l: &Level| l.signal.is_finite() && l.noise.is_finite() && l.signal >= 0.0 && l.time.is_finite();
    for (step, pair) in levels.windows(2).enumerate() {
        let [from, to] = pair else { continue };
        let (before, after) = (from.noise * to.signal, to.noise * from.signal);
        let falls = after < before || (step + 2 == levels.len() && after == before);
        if !(usable(from) && usable(to) && from.noise > 0.0 && to.signal > 0.0 && to.noise >= 0.0 && falls) {
            return Err(ConfigError::Level { step });
        }
    }
    Ok(())
}

/// The i-th of n sigmas between `max` and `min`; `None` for tables that are not made from two ends.
fn between(table: SigmaTable, i: usize, n: usize, min: f64, max: f64) -> Option<f64> {
    // With one step there is no distance, and every table is its start.
    let u = if n > 1 { i as f64 / (n - 1) as f64 } else { 0.0 };
    Some(match table {
        SigmaTable::Karras { rho } => {
            let (low, high) = (wide::pow(min, 1.0 / rho), wide::pow(max, 1.0 / rho));
            wide::pow(high + u * (low - high), rho)
        }
        SigmaTable::Exponential | SigmaTable::LuLambda => {
            wide::exp(wide::ln(max) + u * (wide::ln(min) - wide::ln(max)))
        }
        SigmaTable::Polyexponential { rho } => {
            let r = wide::pow(1.0 - u, rho);
            wide::exp(r * (wide::ln(max) - wide::ln(min)) + wide::ln(min))
        }
        SigmaTable::Beta { alpha, beta } => min + beta_quantile(1.0 - u, alpha, beta) * (max - min),
        SigmaTable::Vp { beta_d, beta_min, eps } => {
            let t = 1.0 + u * (eps - 1.0);
            wide::sqrt(wide::exp_m1(beta_d / 2.0 * t * t + beta_min * t))
        }
        SigmaTable::AlignYourSteps(which) => {
            let table = align_your_steps(which);
            let place = 10.0 * i as f64 / n as f64;
            let below = (place as usize).min(9);
            let (low, high) = (wide::ln(table[below]), wide::ln(table[below + 1]));
            wide::exp(low + (place - below as f64) * (high - low))
        }
        SigmaTable::KlOptimal => wide::tan(u * wide::atan(min) + (1.0 - u) * wide::atan(max)),
        SigmaTable::Distilled { levels, rho } => {
            let of = (levels as usize).max(n);
            return between(SigmaTable::Karras { rho }, i * (of / n), of, min, max);
        }
        SigmaTable::Timesteps | SigmaTable::Uniform | SigmaTable::Simple | SigmaTable::Given => return None,
    })
}

/// Levels of a network over alpha-bar.
fn over_alpha_bar(
    config: &Config,
    grid: Grid,
    alpha_bar: &[f32],
    timesteps: &mut [u32],
    evaluated: &mut [Level],
    end: &mut Level,
) -> Result<(), ConfigError> {
    let Sigmas { table, interpolation, min, max, .. } = config.sigmas;
    let (n, last) = (evaluated.len(), alpha_bar.len().saturating_sub(1));
    let solver = grid == Grid::Solver;
    let set = |level: &mut Level, time: f64, sigma: f64| {
        let sigma = f64::from(sigma as f32);
        let signal = 1.0 / wide::sqrt(1.0 + sigma * sigma);
        *level = Level { time: time as f32, signal, noise: sigma * signal };
    };
    let set_end = |end: &mut Level, sigma: f64| set(end, time_of_sigma(alpha_bar, sigma), sigma);
    let by_time = |level: &mut Level, time: f64| set(level, time, sigma_of_time(alpha_bar, time, interpolation));
    match table {
        SigmaTable::Uniform => {
            for (i, level) in evaluated.iter_mut().enumerate() {
                by_time(level, last as f64 * (1.0 - i as f64 / n as f64));
            }
        }
        SigmaTable::Simple => {
            for (i, level) in evaluated.iter_mut().enumerate() {
                by_time(level, (last - (i * alpha_bar.len() / n).min(last)) as f64);
            }
        }
        SigmaTable::Given => {
            let last = end.noise;
            for level in evaluated.iter_mut() {
                let Level { time, noise: sigma, .. } = *level;
                set(level, time_of_sigma(alpha_bar, sigma), sigma);
                keep_time(level, time);
            }
            if last == 0.0 {
                *end = Level::IMAGE
            } else {
                set_end(end, last)
            }
            return Ok(());
        }
        _ => {
            times_of_spacing(config, grid, alpha_bar.len(), timesteps, evaluated)?;
            let sigma = |level: Option<&Level>| {
                level.map_or(f64::NAN, |l| sigma_of_time(alpha_bar, f64::from(l.time), interpolation))
            };
            let ends = if solver {
                [table_sigma(alpha_bar, 0), table_sigma(alpha_bar, last)]
            } else {
                [sigma(evaluated.last()), sigma(evaluated.first())]
            };
            let (min, max) = (min.unwrap_or(ends[0]), max.unwrap_or(ends[1]));
            for (i, level) in evaluated.iter_mut().enumerate() {
                match between(table, i, n, min, max) {
                    Some(sigma) => set(level, round_time(config, grid, time_of_sigma(alpha_bar, sigma)), sigma),
                    None => by_time(level, f64::from(level.time)),
                }
            }
        }
    }
    match config.sigmas.end {
        End::Zero => *end = Level::IMAGE,
        End::Min => set_end(end, no_higher(table_sigma(alpha_bar, 0), evaluated)),
    }
    Ok(())
}

/// Takes the time that a caller gave with a level, if there is one.
fn keep_time(level: &mut Level, time: f32) {
    if !time.is_nan() {
        level.time = time;
    }
}

/// diffusers' solvers take whole timesteps: Karras' and Lu's rounded (not with the cosine schedule), others cut off.
fn round_time(config: &Config, grid: Grid, time: f64) -> f64 {
    if grid != Grid::Solver || config.parity == Parity::Table {
        return time;
    }
    match config.sigmas.table {
        SigmaTable::Karras { .. } | SigmaTable::LuLambda if config.betas != super::BetaSchedule::SquaredCosCapV2 => {
            wide::round_ties_even(time)
        }
        // Not negative, so the cast rounds down.
        _ => time as u64 as f64,
    }
}

/// The timesteps of the spacing, as times.
fn times_of_spacing(
    config: &Config,
    grid: Grid,
    train_steps: usize,
    timesteps: &mut [u32],
    evaluated: &mut [Level],
) -> Result<(), ConfigError> {
    let n = evaluated.len();
    let last = train_steps.saturating_sub(1) as f64;
    match (grid, config.spacing) {
        (Grid::Euler, Spacing::Linspace) => {
            let stride = if n > 1 { last / (n - 1) as f64 } else { 0.0 };
            for (i, level) in evaluated.iter_mut().rev().enumerate() {
                level.time = if i > 0 && i + 1 == n { last } else { i as f64 * stride } as f32;
            }
        }
        (Grid::Solver, Spacing::Linspace | Spacing::Leading) if n >= train_steps => {
            return Err(ConfigError::TooManySteps { steps: n, train_steps: train_steps.saturating_sub(1) });
        }
        (Grid::Solver, Spacing::Linspace) => {
            for (i, level) in evaluated.iter_mut().rev().enumerate() {
                let time = if i + 1 == n { last } else { (i + 1) as f64 * (last / n as f64) };
                level.time = wide::round_ties_even(time) as f32;
            }
        }
        (Grid::Solver, Spacing::Leading) => {
            let stride = train_steps / (n + 1);
            let first = (n * stride).saturating_add(config.steps_offset as usize);
            if first >= train_steps {
                return Err(ConfigError::StepsOffset { t: first, train_steps });
            }
            evaluated.iter_mut().enumerate().for_each(|(i, level)| level.time = (first - i * stride) as f32);
        }
        _ => {
            fill_timesteps(config.spacing, train_steps, config.steps_offset, timesteps)?;
            evaluated.iter_mut().zip(timesteps).for_each(|(level, t)| level.time = *t as f32);
        }
    }
    Ok(())
}

/// Levels of a flow network: `1 - s` of the image, s of noise.
fn flow(config: &Config, grid: Grid, evaluated: &mut [Level], end: &mut Level) -> Result<(), ConfigError> {
    let Sigmas { table, min, max, shift, shift_terminal, .. } = config.sigmas;
    let (n, count) = (evaluated.len(), config.train_steps as f64);
    let set = |level: &mut Level, s: f64| {
        let whole = grid == Grid::Solver && config.parity == Parity::Diffusers;
        // Not negative, so the cast rounds down.
        let time = if whole { (s * count) as u32 as f32 } else { s as f32 * count as f32 };
        // Solvers work in lambda, which pure noise doesn't have; as diffusers' UniPC.
        let s = if grid == Grid::Solver { s.min(1.0 - 1e-6) } else { s };
        let s = f64::from(s as f32);
        *level = Level { time, signal: 1.0 - s, noise: s };
    };
    let (m, least) = match shift {
        Shift::Static(m) if config.parity == Parity::Diffusers => (m, shifted(m, 1.0 / count)),
        Shift::Static(m) | Shift::Linear(m) => (m, 1.0 / count),
        Shift::Exponential(mu) => (wide::exp(mu), 1.0 / count),
    };
    if !(m.is_finite() && m > 0.0) {
        return Err(ConfigError::Shift(m));
    }
    let place = |i: usize| {
        let s = match (table, grid) {
            (SigmaTable::Uniform, _) => 1.0 - i as f64 / n as f64,
            (SigmaTable::Simple, _) => (count - (i * config.train_steps / n) as f64) / count,
            // In NumPy's order: 665.99.. and 666 are different timesteps.
            (_, Grid::Solver) => 1.0 - ((n - i) as f64 * ((1.0 / count - 1.0) / n as f64) + 1.0),
            _ if n > 1 => 1.0 + i as f64 / (n - 1) as f64 * (least - 1.0),
            _ => 1.0,
        };
        shifted(m, s)
    };
    let stretch = match shift_terminal {
        // A last evaluation at pure noise, as with one step, can't be moved.
        Some(terminal) if place(n - 1) < 1.0 => (1.0 - place(n - 1)) / (1.0 - terminal),
        _ => 1.0,
    };
    let stretched = |i: usize| 1.0 - (1.0 - place(i)) / stretch;
    let (min, max) = (min.unwrap_or(stretched(n - 1)), max.unwrap_or(stretched(0)));
    for (i, level) in evaluated.iter_mut().enumerate() {
        let s = match table {
            SigmaTable::Given => level.noise,
            _ => between(table, i, n, min, max).unwrap_or_else(|| stretched(i)),
        };
        if !(0.0..=1.0).contains(&s) {
            return Err(ConfigError::Level { step: i });
        }
        let time = level.time;
        set(level, s);
        if table == SigmaTable::Given {
            keep_time(level, time);
        }
    }
    let last = match (table, config.sigmas.end) {
        (SigmaTable::Given, _) => end.noise,
        (_, End::Zero) => 0.0,
        // A shift below 1 takes the last level below 1 / T.
        (_, End::Min) => evaluated.last().map_or(0.0, |level| level.noise.min(1.0 / count)),
    };
    set(end, last);
    Ok(())
}

/// `sigma`, or that of the last level where a table of other ends, or the rounding of one, goes below it.
fn no_higher(sigma: f64, evaluated: &[Level]) -> f64 {
    evaluated.last().map_or(sigma, |level| level.sigma().min(sigma))
}

/// `m * s / (1 + (m - 1) * s)`, from 0 to 1: at s = 1 rounding may lead past it.
fn shifted(m: f64, s: f64) -> f64 {
    (m * s / (1.0 + (m - 1.0) * s)).min(1.0)
}

/// Levels of an EDM network.
fn edm(config: &Config, sigma_data: f32, evaluated: &mut [Level], end: &mut Level) -> Result<(), ConfigError> {
    let Sigmas { table, min, max, .. } = config.sigmas;
    let (min, max) = (min.unwrap_or(EDM_RANGE[0]), max.unwrap_or(EDM_RANGE[1]));
    let data = f64::from(sigma_data);
    let n = evaluated.len();
    let set = |level: &mut Level, sigma: f64| {
        let sigma = f64::from(sigma as f32);
        let signal = 1.0 / wide::sqrt(sigma * sigma + data * data);
        *level = Level { time: (0.25 * wide::ln(sigma)) as f32, signal, noise: sigma * signal };
    };
    for (i, level) in evaluated.iter_mut().enumerate() {
        let sigma = match table {
            SigmaTable::Given => level.noise,
            SigmaTable::Timesteps => between(SigmaTable::Karras { rho: 7.0 }, i, n, min, max).unwrap_or(f64::NAN),
            _ => between(table, i, n, min, max).ok_or(ConfigError::Table)?,
        };
        let time = level.time;
        set(level, sigma);
        if table == SigmaTable::Given {
            keep_time(level, time);
        }
    }
    let last = match (table, config.sigmas.end) {
        (SigmaTable::Given, _) => end.noise,
        (_, End::Zero) => 0.0,
        (_, End::Min) => no_higher(min, evaluated),
    };
    if last == 0.0 {
        *end = Level::IMAGE
    } else {
        set(end, last)
    }
    Ok(())
}
