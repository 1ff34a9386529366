//! The reverse chain: the only sampling loop. It yields after every step, so that a caller can show progress, stop, feed a
//! watchdog, or go on later.

use core::fmt;

use crate::config::Config;
use crate::denoise::{Cond, Denoise};
use crate::guidance::Guidance;
use crate::math::wide;
use crate::noise::{Noise, NoiseError};
use crate::sampler::{Evaluate, Failed, Halt, Model, Sampler, Step};
use crate::schedule::{Level, Schedule};
use crate::solve::Measured;

/// The images that a chain makes together. What an image becomes doesn't depend on which others are made with it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Number of the first image: image i of the batch takes the noise of image `first_image + i`.
    pub first_image: u64,
    /// Values of an image, c * h * w.
    pub len: usize,
    /// Values that the network returns for an image ([`Denoise::out_len`]): `len`, or `2 * len` with a variance.
    pub out_len: usize,
    /// `[k, n]`: the conditions of n images, k = [`crate::guidance::Guidance::conditions`].
    pub conds: &'a [Cond],
}

/// How far a chain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps that are done, from 1 to `steps`.
    pub step: usize,
    /// Steps of the run.
    pub steps: usize,
    /// The timestep that the latest step started from.
    pub timestep: u32,
}

/// Why a chain can't be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// No image, or an image of no values.
    Empty,
    /// The number of conditions is no multiple of k.
    Conditions {
        /// Conditions that were given.
        given: usize,
        /// k.
        per_image: usize,
    },
    /// The network returns neither `len` nor `2 * len` values an image, or no variance where one is to be learned.
    OutLen(usize),
    /// The schedule was not made for this sampler ([`Schedule::for_sampler`]): it has another number of noise levels.
    Levels {
        /// What the sampler needs.
        needed: usize,
        /// What the schedule has.
        given: usize,
    },
    /// The memory that was lent is too small.
    Memory {
        /// Values that are needed.
        needed: usize,
        /// Values that were lent.
        given: usize,
    },
    /// More values than a program can count.
    TooLarge,
}

/// Why a step failed. Afterwards the images are undefined, and only [`Chain::init`] goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError<E> {
    /// The network failed.
    Model(E),
    /// There was no noise.
    Noise(NoiseError),
    /// The network, or the schedule at this point, made something that is no finite number.
    NonFinite {
        /// The first image in which it was found.
        image: u64,
        /// The timestep.
        timestep: u32,
    },
    /// The network returns another number of values than the chain was set up for.
    OutLen {
        /// What the chain was set up for.
        needed: usize,
        /// What the network returns.
        given: usize,
    },
    /// [`Chain::init`] was not called, or a step has failed since.
    NotReady,
}

/// A batch of images on its way from noise to pictures.
///
/// ```
/// use unfog_core::{chain::{Batch, Chain}, config::Config, denoise::{Cond, Denoise}, noise::Philox, sampler, schedule::Schedule};
///
/// /// The exact denoiser of standard normal data.
/// struct Normal<'a>(&'a [f32]);
/// impl Denoise for Normal<'_> {
///     type Error = core::convert::Infallible;
///     fn out_len(&self) -> usize { 4 }
///     fn predict(&mut self, x: &[f32], t: f32, _conds: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
///         let sigma = (1.0 - self.0[t as usize]).sqrt();
///         out.iter_mut().zip(x).for_each(|(out, x)| *out = sigma * x);
///         Ok(())
///     }
/// }
///
/// let config = Config { steps: 10, clip: Default::default(), ..Config::default() };
/// let (mut alpha_bar, mut timesteps) = ([0.0; 1000], [0; 10]);
/// let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps)?;
///
/// let batch = Batch { first_image: 0, len: 4, out_len: 4, conds: &[Cond::None; 2] };
/// let mut memory = [0.0; 24];
/// let mut chain = Chain::new(&config, &sampler::DDIM, schedule, batch, &mut memory)?;
/// let (mut network, mut noise) = (Normal(schedule.alpha_bar()), Philox::new(1));
/// chain.init(&mut noise)?;
/// while let Some(progress) = chain.step(&mut network, &mut noise)? {
///     println!("step {} of {}", progress.step, progress.steps);
/// }
/// assert_eq!(chain.x().len(), 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Chain<'a> {
    config: Config,
    sampler: &'a Sampler,
    schedule: Schedule<'a>,
    batch: Batch<'a>,
    x: &'a mut [f32],
    x0: &'a mut [f32],
    out: &'a mut [f32],
    log_var: &'a mut [f32],
    scratch: &'a mut [f32],
    history: &'a mut [f32],
    momentum: &'a mut [f32],
    known: Option<Known<'a>>,
    measured: Option<Measured<'a>>,
    /// Steps that are done.
    index: usize,
    /// The step that the run began with.
    begin: usize,
    /// Draws that were made.
    draws: u32,
    ready: bool,
}

/// Puts back what is known of images `[n, len]`, with the noise of a level.
pub type Known<'a> = &'a dyn Fn(Level, &mut [f32]);

/// Lengths of the pieces of a chain's memory, in their order.
fn layout(config: &Config, sampler: &Sampler, batch: &Batch<'_>) -> Result<[usize; 7], ChainError> {
    let (conds, k) = (batch.conds.len(), config.guidance.conditions());
    let images = conds / k;
    if images == 0 || batch.len == 0 {
        return Err(ChainError::Empty);
    }
    if !conds.is_multiple_of(k) {
        return Err(ChainError::Conditions { given: conds, per_image: k });
    }
    let times = |a: usize, b: usize| a.checked_mul(b).ok_or(ChainError::TooLarge);
    let learned = config.variance.is_learned();
    let with_variance = batch.out_len == times(batch.len, 2)?;
    if !with_variance && (learned || batch.out_len != batch.len) {
        return Err(ChainError::OutLen(batch.out_len));
    }
    let values = times(images, batch.len)?;
    let log_var = if learned { values } else { 0 };
    let scratch = config.clip.scratch(batch.len);
    let history = times(sampler.history, values)?;
    let momentum = config.guidance.memory() * values;
    Ok([values, values, times(conds, batch.out_len)?, log_var, scratch, history, momentum])
}

impl<'a> Chain<'a> {
    /// Values of memory that a chain needs.
    pub fn memory(config: &Config, sampler: &Sampler, batch: &Batch<'_>) -> Result<usize, ChainError> {
        let pieces = layout(config, sampler, batch)?;
        pieces.into_iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece)).ok_or(ChainError::TooLarge)
    }

    /// A chain in the memory `memory`, of at least [`Chain::memory`] values. `schedule` was made from `config`.
    pub fn new(
        config: &Config,
        sampler: &'a Sampler,
        schedule: Schedule<'a>,
        batch: Batch<'a>,
        memory: &'a mut [f32],
    ) -> Result<Self, ChainError> {
        let (needed, given) = (Self::memory(config, sampler, &batch)?, memory.len());
        if given < needed {
            return Err(ChainError::Memory { needed, given });
        }
        let (needed, given) = (sampler.levels(schedule.timesteps().len()), schedule.levels().len());
        if needed > given {
            return Err(ChainError::Levels { needed, given });
        }
        let [x, x0, out, log_var, scratch, history, momentum] = layout(config, sampler, &batch)?;
        let (x, rest) = memory.split_at_mut(x);
        let (x0, rest) = rest.split_at_mut(x0);
        let (out, rest) = rest.split_at_mut(out);
        let (log_var, rest) = rest.split_at_mut(log_var);
        let (scratch, rest) = rest.split_at_mut(scratch);
        let (history, rest) = rest.split_at_mut(history);
        let (momentum, _) = rest.split_at_mut(momentum);
        let config = *config;
        let (index, begin, draws, ready) = (0, 0, 0, false);
        Ok(Self {
            config,
            sampler,
            schedule,
            batch,
            x,
            x0,
            out,
            log_var,
            scratch,
            history,
            momentum,
            known: None,
            measured: None,
            index,
            begin,
            draws,
            ready,
        })
    }

    /// Goes to the start: the images become draw 0 of `noise`, scaled by the schedule.
    pub fn init(&mut self, noise: &mut dyn Noise) -> Result<(), NoiseError> {
        self.rewind(0, 1);
        for (i, x) in self.x.chunks_exact_mut(self.batch.len).enumerate() {
            noise.fill(self.batch.first_image.wrapping_add(i as u64), 0, x)?;
        }
        let sigma = self.schedule.init_noise_sigma();
        self.x.iter_mut().for_each(|x| *x *= sigma);
        self.ready = true;
        Ok(())
    }

    /// Goes to the start of step `step` of the run, with images `x` `[n, len]` at the noise level [`Chain::level_to_begin`]: a run that begins
    /// in the middle (Meng et al. 2022, "SDEdit"). Samplers begin there as they do at step 0, with no history. `draws` of noise were made
    /// so far: the samplers' first is that number. Of another length than the chain's, nothing begins, and the result is false.
    #[must_use]
    pub fn begin(&mut self, step: usize, draws: u32, x: &[f32]) -> bool {
        if x.len() != self.x.len() {
            return false;
        }
        self.rewind(step, draws);
        self.x.copy_from_slice(x);
        self.ready = true;
        true
    }

    /// Holds a part of the images to what is known of it: `known` is handed all images after every step, with the noise level that they have
    /// reached, and where PLMS and Heun's method evaluate the network at the end of a step that they have not yet made, as diffusers'
    /// inpainting does.
    pub fn keep(&mut self, known: Known<'a>) {
        self.known = Some(known);
    }

    /// Says what was measured of the images, for [`crate::sampler::RESTORE`]. Of images of another size than the chain's, or of another number of
    /// them, nothing is taken, and the result is false.
    #[must_use]
    pub fn restore(&mut self, measured: Measured<'a>) -> bool {
        let fits = measured.operator.shape().len() == self.batch.len && measured.spectra.len() == self.x.len();
        if fits && measured.solver.is_valid() {
            self.measured = Some(measured);
            return true;
        }
        false
    }

    /// Goes back by `steps` steps: the forward chain's noise is added once more (Lugmayr et al. 2022, "RePaint", section 4.2; the time travel
    /// of Wang et al. 2023). Samplers go on from there with no history.
    ///
    /// # Errors
    /// Those of the noise; then the images are undefined.
    pub fn go_back(&mut self, steps: usize, noise: &mut dyn Noise) -> Result<(), NoiseError> {
        let to = self.index.saturating_sub(steps);
        let (from, level) = (self.schedule.level(self.index), self.schedule.level(to));
        let keep = level.signal / from.signal;
        let add = wide::sqrt((level.noise * level.noise - keep * keep * from.noise * from.noise).max(0.0));
        let (draw, ready) = (self.draws, self.ready);
        self.rewind(to, draw.wrapping_add(1));
        for (i, x) in self.x.chunks_exact_mut(self.batch.len).enumerate() {
            // Nothing of the network's output is needed any more.
            let z = &mut self.out[..self.batch.len];
            noise.fill(self.batch.first_image.wrapping_add(i as u64), draw, z)?;
            x.iter_mut().zip(z).for_each(|(x, z)| *x = keep as f32 * *x + add as f32 * *z);
        }
        self.ready = ready;
        Ok(())
    }

    /// The noise level at which the images of a run must lie that begins with step `step`: that step's own, but for PLMS with diffusers'
    /// parity ([`crate::sampler::PLMS`]).
    pub fn level_to_begin(&self, step: usize) -> Level {
        self.schedule.level(self.sampler.start(step, self.config.parity))
    }

    /// To the start of a step, with no history.
    fn rewind(&mut self, step: usize, draws: u32) {
        (self.index, self.begin, self.draws, self.ready) = (step, step, draws, false);
        self.x0.fill(0.0);
        self.history.fill(0.0);
        self.momentum.fill(0.0);
    }

    /// Makes one step, or returns `None` when all are done.
    pub fn step<D: Denoise + ?Sized>(
        &mut self,
        network: &mut D,
        noise: &mut dyn Noise,
    ) -> Result<Option<Progress>, RunError<D::Error>> {
        if !self.ready {
            return Err(RunError::NotReady);
        }
        let Some(&timestep) = self.schedule.timesteps().get(self.index) else { return Ok(None) };
        let (needed, given) = (self.batch.out_len, network.out_len());
        if needed != given {
            return Err(RunError::OutLen { needed, given });
        }
        let mut network = Erased { network, error: None };
        self.ready = false;
        let halt = (self.sampler.step)(&mut Step {
            index: self.index,
            begin: self.begin,
            known: self.known,
            measured: self.measured,
            x: self.x,
            model: Model {
                network: &mut network,
                config: &self.config,
                step: [self.index, self.schedule.timesteps().len()],
                conds: self.batch.conds,
                first_image: self.batch.first_image,
                len: self.batch.len,
                out_len: self.batch.out_len,
                out: self.out,
                x0: self.x0,
                log_var: self.log_var,
                scratch: self.scratch,
                momentum: self.momentum,
            },
            history: self.history,
            config: &self.config,
            schedule: self.schedule,
            noise,
            draws: &mut self.draws,
        });
        match (halt, network.error) {
            (Ok(()), None) => {}
            // An error of the network counts also when a sampler went on in spite of it.
            (_, Some(error)) => return Err(RunError::Model(error)),
            (Err(Halt::Noise(error)), None) => return Err(RunError::Noise(error)),
            (Err(Halt::NonFinite { image }), None) => return Err(RunError::NonFinite { image, timestep }),
            (Err(Halt::Model(_)), None) => return Err(RunError::NotReady),
        }
        self.ready = true;
        self.index += 1;
        let scale = self.schedule.end_scale();
        if scale != 1.0 && self.index == self.schedule.timesteps().len() {
            self.x.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(known) = self.known {
            known(self.schedule.level(self.index), self.x);
        }
        Ok(Some(Progress { step: self.index, steps: self.schedule.timesteps().len(), timestep }))
    }

    /// Takes other guidance from the next step on, for schedules of a program's own. It must be valid, ask for as many
    /// conditions as the chain was set up for and keep as much memory; otherwise nothing changes, and the result is false.
    #[must_use]
    pub fn set_guidance(&mut self, guidance: Guidance) -> bool {
        let own = self.config.guidance;
        let fits = guidance.conditions() == own.conditions() && guidance.memory() == own.memory();
        if fits && guidance.is_valid() {
            self.config.guidance = guidance;
            return true;
        }
        false
    }

    /// The images as they are, `[n, len]`: after the last step, the result.
    pub fn x(&self) -> &[f32] {
        self.x
    }

    /// The images that the network predicted in the latest step, `[n, len]`, clipped: a preview.
    pub fn x0(&self) -> &[f32] {
        self.x0
    }

    /// Draws of noise that were made so far.
    pub const fn draws(&self) -> u32 {
        self.draws
    }
}

/// Keeps the network's error aside, so that samplers need not know its type.
struct Erased<'a, D: Denoise + ?Sized> {
    network: &'a mut D,
    error: Option<D::Error>,
}

impl<D: Denoise + ?Sized> Evaluate for Erased<'_, D> {
    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Failed> {
        self.network.predict(x, t, conds, out).map_err(|error| {
            self.error = Some(error);
            Failed(())
        })
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => write!(f, "no image to make"),
            Self::Conditions { given, per_image } => write!(f, "{given} conditions, but each image needs {per_image}"),
            Self::OutLen(len) => {
                write!(f, "the network's output of {len} values an image doesn't fit the configuration")
            }
            Self::Levels { needed, given } => {
                write!(f, "the sampler needs {needed} noise levels, the schedule has {given}")
            }
            Self::Memory { needed, given } => write!(f, "{needed} values of memory are needed, {given} were lent"),
            Self::TooLarge => write!(f, "more values than can be counted"),
        }
    }
}

impl core::error::Error for ChainError {}

impl<E> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(_) => write!(f, "the network failed"),
            Self::Noise(error) => error.fmt(f),
            Self::NonFinite { image, timestep } => {
                write!(f, "image {image} is not finite at timestep {timestep}")
            }
            Self::OutLen { needed, given } => write!(f, "the network returns {given} values an image, not {needed}"),
            Self::NotReady => write!(f, "the chain was not started, or has failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for RunError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Model(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
