//! unCLIP as a whole (Ramesh et al. 2022): a text, the embedding of a picture, a small picture, a large one. Each stage is a chain like any
//! other, with its own network and scheduler; what one leaves is the condition of the next.

mod decode;
mod embed;
mod plan;
mod run;
mod super_res;
mod texts;

pub(super) use plan::{Stages, refuse_stages, setup};
pub(super) use run::produce;

use unfog_core::config::{ConfigError, Parity};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::sampler::DDPM;
use unfog_core::schedule::{BetaSchedule, fill_betas};

use super::{Event, Setup, open};
use crate::backend::{Backend, Narrowed, Request};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Network, Weights};
use crate::settings::Settings;
use crate::stop::Stop;

/// A network with its weights, not yet on a backend.
struct Part {
    network: Network,
    weights: Weights,
}

impl Part {
    /// Puts it on the backend that `request` names for as long as `work` takes.
    ///
    /// # Errors
    /// Those of the backend and of `work`.
    fn with<T>(
        &self,
        request: &Request,
        stop: &Stop,
        report: &mut dyn FnMut(Event),
        work: impl FnOnce(&mut Backend<'_>, &mut dyn FnMut(Event)) -> Result<T>,
    ) -> Result<T> {
        let data = self.weights.data();
        let narrowed = Narrowed::new(request, &self.network, &data)?;
        let data = narrowed.data(&data);
        let mut backend = open::open(request, self.network.graph(), &data, stop, report)?;
        work(&mut backend, report)
    }
}

/// The factor of what a chain leaves. `UnCLIPScheduler` divides the first beta by 1 - alpha-bar, which is the same number but was rounded
/// otherwise: in f32 the last step's image is 5e-4 too small. With [`Parity::Table`] it isn't.
fn end_scale(setup: &Setup) -> Result<f32> {
    let Settings { config, sampler, .. } = &setup.settings;
    if config.parity != Parity::Diffusers || sampler.name != DDPM.name || config.betas == BetaSchedule::Trained {
        return Ok(1.0);
    }
    let mut betas = memory::vec(config.train_steps, 0.0)?;
    let failed = |e: ConfigError| Error::failure(e.to_string());
    fill_betas(config.betas, config.beta_start, config.beta_end, &mut betas).map_err(failed)?;
    let mut tables = setup.settings.tables()?;
    let last = 1.0 - tables.schedule()?.alpha_bar().first().copied().unwrap_or(0.0);
    Ok(betas.first().map_or(1.0, |beta| beta / last))
}

/// What a network without a time makes of `sample`.
fn evaluate(backend: &mut Backend<'_>, sample: &[f32], cond: Cond) -> Result<Vec<f32>> {
    let mut out = memory::vec(backend.out_len(), 0.0)?;
    backend.predict(sample, 0.0, &[cond], &mut out)?;
    Ok(out)
}

/// Rows of `values` as columns: `[rows, columns]` becomes `[columns, rows]`.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let columns = columns.max(1);
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}
