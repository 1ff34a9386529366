//! The state that a chain begins in, and what of it stays known while it goes on.

use std::cell::RefCell;
use std::sync::Arc;

use unfog_core::chain::Chain;
use unfog_core::config::Parity;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Noise, NoiseError};
use unfog_core::schedule::{Level, Schedule};

use super::super::setup::Setup;
use super::coarse::Coarse;
use super::encode::Code;
use super::found::{self, Maps};
use super::invert::{Path, Way};
use super::plan::{Kind, Plan};
use super::{Encoder, picture};
use crate::backend::Request;
use crate::error::{Error, Result};
use crate::memory;
use crate::stop::Stop;

/// What a run's pictures begin from, as the network has it.
#[derive(Debug)]
pub struct Start {
    plan: Plan,
    first: u64,
    count: usize,
    /// Values of what is sampled for an image, and their pixels.
    len: usize,
    pixels: usize,
    /// What of it is coarse, and put back after every step.
    coarse: Option<Coarse>,
    /// Latents, or the picture itself, `[n, len]`; empty where the chain sees nothing of it.
    known: Vec<f32>,
    /// Where they are made anew: 1 there, 0 elsewhere, `[h, w]`.
    mask: Option<Vec<f32>>,
    /// What the network takes beside the noisy image, `[n, h, w, c]`; empty if nothing.
    channels: Vec<f32>,
    /// The conditions that were loaded, each for every image, where images have their own.
    conds: Vec<Vec<Cond>>,
}

impl Start {
    /// Encodes the picture of `plan` on the backend that `request` names, and draws its latents for each image.
    ///
    /// # Errors
    /// Those of the backend and the noise.
    pub(in super::super) fn new(
        plan: &Plan,
        setup: &Setup,
        encoder: Option<&Encoder>,
        request: &Request,
        noise: &mut dyn Noise,
        stop: &Stop,
    ) -> Result<Self> {
        let (len, count) = (setup.image_len(), setup.count as usize);
        let multiple = setup.picture.width / setup.width.max(1);
        let size = [setup.picture.width, setup.picture.height];
        let mask = plan.mask.as_ref().map(|mask| picture::shrink(mask, size, multiple));
        let mut start = Self {
            plan: plan.clone(),
            first: setup.first,
            count,
            len,
            pixels: setup.width as usize * setup.height as usize,
            coarse: plan.coarse.map(|factor| Coarse { size: [setup.height, setup.width], factor }),
            known: Vec::new(),
            mask,
            channels: Vec::new(),
            conds: Vec::new(),
        };
        if let Some((_, [signal, share])) = plan.noise {
            let mut small = memory::vec(count * plan.image.len(), 0.0)?;
            let mut z = memory::vec(len, 0.0)?;
            for (image, small) in (setup.first..).zip(small.chunks_exact_mut(plan.image.len())) {
                noise.fill(image, plan.draws.image.unwrap_or_default(), &mut z).map_err(noise_failed)?;
                let values = small.iter_mut().zip(&*plan.image).zip(&z);
                values.for_each(|((small, picture), z)| *small = signal * picture + share * z);
            }
            start.channels = interleaved(&small, plan.image.len(), start.pixels)?;
            return Ok(start);
        }
        let Some(encoder) = encoder else {
            start.known = memory::room(count * len)?;
            let one = plan.latents.as_ref().unwrap_or(&plan.image);
            (0..count).for_each(|_| start.known.extend_from_slice(one));
            return Ok(start);
        };
        let image = (plan.kind != Kind::Inpaint || !plan.pure).then(|| plan.image.to_vec());
        let stays = (plan.kind == Kind::Inpaint).then(|| plan.what_stays());
        let pictures: Vec<&[f32]> = image.iter().chain(&stays).map(Vec::as_slice).collect();
        let mut codes = encoder.run(&pictures, request, stop)?.into_iter();
        let mut drawn = |code: &Code, draw: Option<u32>| {
            let mut all = memory::vec(count * len, 0.0)?;
            for (image, latents) in (setup.first..).zip(all.chunks_exact_mut(len)) {
                if let Some(draw) = draw {
                    noise.fill(image, draw, latents).map_err(noise_failed)?;
                }
                encoder.sample(code, latents);
            }
            Ok::<_, Error>(all)
        };
        let image = image.and_then(|_| codes.next());
        if let (Some(image), Kind::Instruct) = (&image, plan.kind) {
            let latents = encoder.likeliest(image, plan.scaled);
            let one = interleaved(&latents, latents.len(), start.pixels)?;
            start.channels = one.repeat(count);
        } else if let Some(image) = image {
            start.known = drawn(&image, plan.draws.image)?;
        }
        if let Some(stays) = stays.and_then(|_| codes.next()) {
            let latents = drawn(&stays, plan.draws.masked)?;
            let mask = start.mask.as_deref().unwrap_or_default();
            let mut planes = memory::room(latents.len() + count * mask.len())?;
            for latents in latents.chunks_exact(len) {
                planes.extend_from_slice(mask);
                planes.extend_from_slice(latents);
            }
            start.channels = interleaved(&planes, mask.len() + len, start.pixels)?;
        }
        Ok(start)
    }

    /// Hands a condition to a backend by `load`: the values of a prompt, followed by what the network takes beside the noisy image, if it
    /// takes anything, for each image, and by the hints of controls. Returns that of the first image, which stands for all
    /// ([`Start::conds`]).
    ///
    /// # Errors
    /// Those of `load`.
    pub(in super::super) fn load(
        &mut self,
        prompt: &[f32],
        hints: &[f32],
        load: &mut dyn FnMut(&[&[f32]]) -> Result<Cond>,
    ) -> Result<Cond> {
        if self.channels.is_empty() {
            return load(&[prompt, hints]);
        }
        let each = (self.channels.len() / self.count).max(1);
        let mut load = |channels: &[f32]| load(&[prompt, channels, hints]);
        let conds = self.channels.chunks_exact(each).map(&mut load).collect::<Result<Vec<_>>>()?;
        let first = conds.first().copied().unwrap_or_default();
        self.conds.push(conds);
        Ok(first)
    }

    /// The same with zeros in place of what the network takes beside the noisy image: the condition of no picture.
    ///
    /// # Errors
    /// Those of `load`.
    pub(in super::super) fn load_without(
        &self,
        prompt: &[f32],
        hints: &[f32],
        load: &mut dyn FnMut(&[&[f32]]) -> Result<Cond>,
    ) -> Result<Cond> {
        let zeros = memory::vec(self.channels.len() / self.count.max(1), 0.0)?;
        load(&[prompt, &zeros, hints])
    }

    /// Whether the network is told of the picture by a condition of its own.
    pub(in super::super) fn instructs(&self) -> bool {
        self.plan.kind == Kind::Instruct
    }

    /// The conditions of `n` images from number `first` on for which `cond` stands, where images have their own.
    pub(in super::super) fn conds(&self, cond: Cond, first: u64, n: usize) -> Option<&[Cond]> {
        let at = self.first_of(first);
        self.conds.iter().find(|conds| conds.first() == Some(&cond))?.get(at..at + n)
    }

    fn first_of(&self, image: u64) -> usize {
        usize::try_from(image.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// What is known of `n` images from number `first` on, and the noise that they begin with.
    ///
    /// # Errors
    /// Those of the noise.
    pub(in super::super) fn known(self: &Arc<Self>, noise: &mut dyn Noise, first: u64, n: usize) -> Result<Known> {
        let mut z = Vec::new();
        if let Some(draw) = self.plan.draws.noise {
            memory::resize(&mut z, n * self.len, 0.0)?;
            for (image, z) in (first..).zip(z.chunks_exact_mut(self.len)) {
                noise.fill(image, draw, z).map_err(noise_failed)?;
            }
        }
        Ok(Known {
            start: Arc::clone(self),
            first,
            at: self.first_of(first) * self.len,
            n,
            z,
            path: None,
            late: false,
            found: Vec::new(),
            error: RefCell::new(None),
        })
    }
}

/// What is known of a batch of images.
pub(crate) struct Known {
    start: Arc<Start>,
    /// Number of the first image.
    first: u64,
    /// Where the batch begins among all, and how many images it has.
    at: usize,
    n: usize,
    /// The noise that is added; none where the images are inverted.
    z: Vec<f32>,
    /// What they passed on their way to noise, where they are inverted.
    path: Option<Path>,
    /// Whether what stays is put back as it was a step before: diffusers' DiffEdit does, and leaves a little noise in it.
    late: bool,
    /// The masks that were found, `[n, h, w]`.
    found: Vec<f32>,
    /// What went wrong while something was put back.
    error: RefCell<Option<Error>>,
}

impl Known {
    /// Finds masks and inverts the batch's pictures, where that was asked for. `asked` are the conditions of the images that are to be made;
    /// `done` is told of every step of the inversion. Returns the masks that were found, `[n, h, w]`.
    ///
    /// # Errors
    /// Those of the network and the noise; [`Error::interrupted`].
    pub(crate) fn prepare<D: Denoise<Error = Error>>(
        &mut self,
        setup: &Setup,
        network: &mut D,
        noise: &mut dyn Noise,
        (schedule, asked): (&Schedule<'_>, &[Cond]),
        stop: &Stop,
        done: &mut dyn FnMut(),
    ) -> Result<&[f32]> {
        let (start, config) = (Arc::clone(&self.start), &setup.settings.config);
        let known = start.known.get(self.at..self.at + self.n * start.len).unwrap_or_default();
        if let Some(draw) = start.plan.draws.maps {
            let level = found::level(schedule);
            for ((number, image), asked) in (self.first..).zip(known.chunks_exact(start.len)).zip(asked) {
                let conds = [setup.origin(), *asked];
                let maps = Maps { image, pixels: start.pixels, number, draw, conds };
                memory::extend(&mut self.found, &maps.mask(level, network, noise, stop)?)?;
            }
        }
        if start.plan.invert {
            let steps = start.plan.steps_before(config.steps);
            let conds = vec![setup.origin(); self.n];
            let (first_image, len) = (self.first, start.len);
            let way = Way { config, schedule: *schedule, steps, first_image, len, conds: &conds };
            self.path = Some(Path::follow(known, &way, network, stop, done)?);
            self.late = config.parity == Parity::Diffusers;
        }
        Ok(&self.found)
    }

    /// Brings a chain of the batch to its first step.
    ///
    /// # Errors
    /// Too little memory; a chain of other images.
    pub(crate) fn begin(&self, chain: &mut Chain<'_>, schedule: &Schedule<'_>) -> Result<()> {
        let plan = &self.start.plan;
        let mut x = memory::vec(self.n * self.start.len, 0.0)?;
        match (plan.pure, self.path.as_ref().and_then(Path::end)) {
            (true, _) => {
                let sigma = schedule.init_noise_sigma();
                x.iter_mut().zip(&self.z).for_each(|(x, z)| *x = sigma * z);
            }
            (false, Some(end)) => x.copy_from_slice(end),
            (false, None) => self.at_level(chain.level_to_begin(plan.step), 0, &mut |i, v| x[i] = v),
        }
        match chain.begin(plan.step, plan.draws.count, &x) {
            true => Ok(()),
            false => Err(Error::failure("the picture's latents don't fit the chain")),
        }
    }

    /// Whether a part of the images stays.
    pub(crate) fn stays(&self) -> bool {
        let start = &self.start;
        (start.mask.is_some() || start.plan.draws.maps.is_some() || start.coarse.is_some())
            && start.plan.kind == Kind::Noised
    }

    /// Gives what is known, with its noise at `level`, value by value; what was inverted as it was `before` steps before.
    fn at_level(&self, level: Level, before: usize, give: &mut dyn FnMut(usize, f32)) {
        if let Some(path) = &self.path {
            path.at(level, before).unwrap_or_default().iter().enumerate().for_each(|(i, v)| give(i, *v));
            return;
        }
        let (signal, noise) = (level.signal as f32, level.noise as f32);
        let known = self.start.known.get(self.at..).unwrap_or_default();
        for (i, (x0, z)) in known.iter().zip(&self.z).enumerate() {
            give(i, signal * x0 + noise * z);
        }
    }

    /// Puts back what stays, with the noise of a level: what is coarse, then what is black in the mask.
    pub(crate) fn put_back(&self, level: Level, x: &mut [f32]) {
        if let Err(e) = self.put_back_coarse(level, x) {
            self.error.borrow_mut().get_or_insert(e);
        }
        let mask = match &self.start.mask {
            Some(mask) => mask,
            None => &self.found,
        };
        // A mask that was found is one of each image.
        let (pixels, len, own) = (self.start.pixels, self.start.len, self.start.mask.is_none());
        if mask.is_empty() {
            return;
        }
        self.at_level(level, usize::from(self.late), &mut |i, v| {
            let anew = mask[i % pixels + if own { i / len * pixels } else { 0 }];
            x[i] = (1.0 - anew) * v + anew * x[i];
        });
    }

    fn put_back_coarse(&self, level: Level, x: &mut [f32]) -> Result<()> {
        let Some(coarse) = self.start.coarse else { return Ok(()) };
        let mut missing = memory::vec(x.len(), 0.0)?;
        self.at_level(level, 0, &mut |i, v| missing[i] = v - x[i]);
        for (x, missing) in x.iter_mut().zip(coarse.of(&missing)?) {
            *x += missing;
        }
        Ok(())
    }

    /// What went wrong while something was put back.
    ///
    /// # Errors
    /// That.
    pub(crate) fn check(&self) -> Result<()> {
        self.error.borrow_mut().take().map_or(Ok(()), Err)
    }
}

fn noise_failed(e: NoiseError) -> Error {
    Error::failure(e.to_string())
}

/// Images of `len` values in planes of `pixels`, pixel by pixel: `[n, c, h, w]` as `[n, h, w, c]`.
fn interleaved(images: &[f32], len: usize, pixels: usize) -> Result<Vec<f32>> {
    let mut values = memory::room(images.len())?;
    for image in images.chunks_exact(len.max(1)) {
        (0..pixels).for_each(|i| values.extend(image.iter().skip(i).step_by(pixels.max(1))));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_follow_each_other_in_a_pixel() {
        let images = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(interleaved(&images, 4, 2).unwrap(), [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
    }
}
