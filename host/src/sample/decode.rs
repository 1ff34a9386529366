//! Latents as pictures.

use unfog_core::denoise::{Cond, Denoise};

use super::setup::Setup;
use crate::backend::{Backend, Request};
use crate::error::Result;
use crate::memory;
use crate::model::{Autoencoder, Network, Weights};
use crate::stop::Stop;

/// An autoencoder's decoder with its weights, for the pictures of a run.
pub(super) struct Decoder {
    autoencoder: Autoencoder,
    network: Network,
    weights: Weights,
}

impl Decoder {
    /// Reads the decoder and its weights.
    ///
    /// # Errors
    /// A size that it can't make; a missing or damaged file.
    pub(super) fn read(autoencoder: Autoencoder, setup: &Setup) -> Result<Self> {
        let network = autoencoder.decoder(setup.picture.height, setup.picture.width)?;
        let weights = autoencoder.weights(&network)?;
        Ok(Self { autoencoder, network, weights })
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Decodes images one by one on the backend that `request` names: `latents` `[n, c, h, w]` as the sampler left them, of the images
    /// from number `setup.first` on. `sink` is given each image's number and values `[c, h, w]`; `report` the images that are done.
    ///
    /// # Errors
    /// Those of the backend and the sink; [`crate::Error::interrupted`].
    pub(super) fn run(
        &self,
        setup: &Setup,
        request: &Request,
        latents: &mut [f32],
        stop: &Stop,
        report: &mut dyn FnMut(u64),
        sink: &mut dyn FnMut(u64, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let data = self.weights.data();
        let mut backend = Backend::open(request, self.network.graph(), &data, stop)?;
        let mut values = memory::vec(backend.out_len(), 0.0)?;
        let pixels = setup.width as usize * setup.height as usize;
        for (latents, done) in latents.chunks_exact_mut(setup.image_len()).zip(0..) {
            stop.check()?;
            report(done);
            self.autoencoder.scaling().unscale(latents, pixels);
            backend.predict(latents, 0.0, &[Cond::None], &mut values)?;
            sink(setup.first + done, &values)?;
        }
        report(u64::from(setup.count));
        Ok(())
    }
}
