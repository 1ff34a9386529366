//! The embeddings of the pictures to make: of noise, by the prior, or of a picture, by a vision tower.

use std::sync::Arc;

use unfog_core::denoise::Cond;

use super::super::generate::{Made, generate};
use super::super::noise::Source;
use super::super::setup::Setup;
use super::texts::Text;
use super::{Part, end_scale, evaluate};
use crate::backend::{Backend, Request};
use crate::error::Result;
use crate::image::Picture;
use crate::memory;
use crate::model::{FeatureExtractor, ImageEncoder, Model, Weights};
use crate::sample::Event;
use crate::stop::Stop;

/// What makes embeddings, read.
pub(super) enum Embed<'m> {
    /// The prior, the means and the standard deviations of embeddings, its chain, and its noise.
    Prior { model: &'m Model, part: Part, statistics: [Vec<f32>; 2], setup: &'m Setup, source: Source },
    /// The vision tower, and the picture as it takes it.
    Vision { part: Part, values: Vec<f32> },
}

impl<'m> Embed<'m> {
    /// The prior `model`.
    ///
    /// # Errors
    /// A missing or damaged file.
    pub(super) fn prior(model: &'m Model, statistics: [Vec<f32>; 2], setup: &'m Setup, source: Source) -> Result<Self> {
        let network = model.network(setup.height, setup.width)?;
        let weights = model.weights(&network)?;
        Ok(Self::Prior { model, part: Part { network, weights }, statistics, setup, source })
    }

    /// A vision tower that sees `picture`.
    ///
    /// # Errors
    /// A missing or damaged file; a picture that it can't take.
    pub(super) fn vision(encoder: &ImageEncoder, extractor: &FeatureExtractor, picture: &Picture) -> Result<Self> {
        let network = encoder.network()?;
        let weights = encoder.weights(&network)?;
        let values = extractor.values(picture, encoder.config().image_size)?;
        Ok(Self::Vision { part: Part { network, weights }, values })
    }

    /// Its weights.
    pub(super) fn weights(&self) -> &Weights {
        let (Self::Prior { part, .. } | Self::Vision { part, .. }) = self;
        &part.weights
    }

    /// The embeddings of `count` pictures, `[n, dim]`. `opened` is told of the backend before the first step.
    ///
    /// # Errors
    /// Those of the backend and of `opened`.
    pub(super) fn run(
        &self,
        texts: &[Text],
        count: usize,
        request: &Request,
        stop: &Stop,
        report: &mut dyn FnMut(Event),
        opened: &mut dyn FnMut(&Backend<'_>) -> Result<()>,
    ) -> Result<Vec<f32>> {
        match self {
            Self::Vision { part, values } => part.with(request, stop, report, |backend, _| {
                opened(backend)?;
                Ok(evaluate(backend, values, Cond::None)?.repeat(count))
            }),
            Self::Prior { model, part, statistics, setup, source } => {
                part.with(request, stop, report, |backend, report| {
                    opened(backend)?;
                    let wanted = texts.iter().take(setup.settings.config.guidance.conditions());
                    let own = wanted.map(|text| {
                        let values = [&text.whole[..], &text.states, &text.bias].concat();
                        backend.load_embedding(&values).map(|cond| vec![cond; count])
                    });
                    let own = own.collect::<Result<Vec<_>>>()?;
                    let setup = &Setup { own: Some(Arc::new(own)), ..(*setup).clone() };
                    let mut embeddings = memory::room(count * setup.image_len())?;
                    let mut steps = |done, total| report(Event::Steps(done, total));
                    generate(setup, model, backend, source, stop, &mut steps, &mut |made| {
                        if let Made::Images(_, values) = made {
                            embeddings.extend_from_slice(values);
                        }
                        Ok(())
                    })?;
                    let ([mean, std], scale) = (statistics, end_scale(setup)?);
                    for embedding in embeddings.chunks_exact_mut(setup.image_len()) {
                        embedding
                            .iter_mut()
                            .zip(mean)
                            .zip(std)
                            .for_each(|((v, mean), std)| *v = *v * scale * std + mean);
                    }
                    Ok(embeddings)
                })
            }
        }
    }
}
