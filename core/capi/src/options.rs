//! What a session is asked for.

use core::ffi::{CStr, c_char, c_int};

use unfog_core::config::Config;
use unfog_core::pack::Pack;
use unfog_core::sampler::{self, Sampler};

use crate::status::Status;

/// What a session is asked for. All zeros are good defaults: what the pack says of a run, image 0 of seed 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seed of the noise.
    pub seed: u64,
    /// Number of the image: image i of a seed is always the same picture.
    pub image: u64,
    /// Name of the sampler; NULL is the pack's.
    pub sampler: *const c_char,
    /// Steps; 0 is as many as the pack says.
    pub steps: u32,
    /// DDIM's share of fresh noise, from 0 to 1.
    pub eta: f32,
    /// Other than 0: the network is given class_label.
    pub has_class: c_int,
    /// Class of the picture.
    pub class_label: u32,
}

impl Options {
    /// What NULL stands for.
    pub(crate) const DEFAULT: Self =
        Self { seed: 0, image: 0, sampler: core::ptr::null(), steps: 0, eta: 0.0, has_class: 0, class_label: 0 };

    /// The run: what the pack says, with the wishes of these options on top.
    ///
    /// # Safety
    /// The sampler's name is NULL or can be read up to its zero.
    pub(crate) unsafe fn run(&self, pack: &Pack<'static>) -> Result<Run, Status> {
        let settings = pack.settings()?.ok_or(Status::Pack)?;
        let sampler = match self.sampler.is_null() {
            true => find(settings.sampler),
            false => {
                // SAFETY: not NULL, and readable up to its zero, says the caller.
                let name = unsafe { CStr::from_ptr(self.sampler) };
                name.to_str().ok().and_then(find)
            }
        };
        let sampler = sampler.ok_or(Status::Sampler)?;
        let steps = match self.steps {
            0 => settings.config.steps,
            steps => usize::try_from(steps).map_err(|_| Status::Options)?,
        };
        let config = Config { steps, eta: self.eta, ..settings.config };
        config.validate().map_err(|_| Status::Options)?;
        Ok(Run { config, sampler, alpha_bar: settings.alpha_bar })
    }
}

/// The sampler of this name, of those that are linked.
fn find(name: &str) -> Option<&'static Sampler> {
    if cfg!(feature = "samplers") {
        return sampler::find(name);
    }
    [&sampler::DDIM, &sampler::DDPM].into_iter().find(|sampler| sampler.name == name)
}

/// What a session does.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) config: Config,
    pub(crate) sampler: &'static Sampler,
    pub(crate) alpha_bar: &'static [f32],
}
