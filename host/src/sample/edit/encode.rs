//! A picture as latents.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::model::latents::Moments;

use crate::backend::{Backend, Request};
use crate::error::Result;
use crate::memory;
use crate::model::{Autoencoder, Encoded, Network, Weights};
use crate::stop::Stop;

/// An autoencoder's encoder with its weights.
pub(crate) struct Encoder {
    autoencoder: Autoencoder,
    network: Network,
    weights: Weights,
    /// Pixels of the latents.
    pixels: usize,
}

/// What an encoder made of one picture.
pub(super) struct Code {
    values: Vec<f32>,
    encoded: Encoded,
}

impl Encoder {
    /// Reads the encoder for pictures of `height` rows and `width` columns.
    ///
    /// # Errors
    /// A size that it can't take; a missing or damaged file: also an autoencoder that has only a decoder.
    pub(crate) fn read(autoencoder: Autoencoder, [height, width]: [u32; 2]) -> Result<Self> {
        let network = autoencoder.encoder(height, width)?;
        let weights = autoencoder.weights(&network)?;
        let multiple = autoencoder.multiples()[0].max(1);
        let pixels = (height / multiple) as usize * (width / multiple) as usize;
        Ok(Self { autoencoder, network, weights, pixels })
    }

    /// Encodes pictures `[c, h, w]` on the backend that `request` names.
    ///
    /// # Errors
    /// Those of the backend.
    pub(super) fn run(&self, pictures: &[&[f32]], request: &Request, stop: &Stop) -> Result<Vec<Code>> {
        let data = self.weights.data();
        let mut backend = Backend::open(request, self.network.graph(), &data, stop)?;
        let encode = |picture: &&[f32]| {
            stop.check()?;
            let mut values = memory::vec(backend.out_len(), 0.0)?;
            backend.predict(picture, 0.0, &[Cond::None], &mut values)?;
            Ok(Code { values, encoded: self.autoencoder.encoded() })
        };
        pictures.iter().map(encode).collect()
    }

    /// The likeliest latents, as the decoder has them, or `scaled` for the network.
    pub(super) fn likeliest(&self, code: &Code, scaled: bool) -> Vec<f32> {
        let mut latents = match code.encoded {
            Encoded::Latents => code.values.clone(),
            Encoded::Moments => Moments::of(&code.values).mean.to_vec(),
        };
        if scaled {
            self.autoencoder.scaling().scale(&mut latents, self.pixels);
        }
        latents
    }

    /// Latents for the network: a sample of those that the encoder holds possible, made of `noise`, which it overwrites.
    pub(super) fn sample(&self, code: &Code, noise: &mut [f32]) {
        match code.encoded {
            Encoded::Latents => noise.copy_from_slice(&code.values),
            Encoded::Moments => Moments::of(&code.values).sample(noise),
        }
        self.autoencoder.scaling().scale(noise, self.pixels);
    }
}
