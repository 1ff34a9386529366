//! The decoder: small pictures of embeddings.

use std::sync::Arc;

use super::super::generate::{Made, generate};
use super::super::noise::Source;
use super::super::setup::Setup;
use super::texts::Text;
use super::{Part, end_scale, evaluate, transposed};
use crate::backend::{Backend, Request};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Model, UnClip, Weights};
use crate::sample::Event;
use crate::stop::Stop;

/// What the decoder is told, and by what.
pub(super) struct Told {
    text: Part,
    image: Part,
    /// Values that are added to the embedding of the time, and a token's.
    time: usize,
    dim: usize,
    /// Tokens that are made of an embedding.
    extra: usize,
    /// Stands for no picture.
    no_image: Vec<f32>,
}

impl Told {
    /// Reads what projects texts of `tokens` tokens.
    ///
    /// # Errors
    /// A missing or damaged file.
    pub(super) fn read(unclip: &UnClip, tokens: u32) -> Result<Self> {
        let proj = &unclip.text_proj;
        let part = |network| proj.weights(&network).map(|weights| Part { network, weights });
        let config = proj.config();
        Ok(Self {
            text: part(proj.text_network(tokens)?)?,
            image: part(proj.image_network()?)?,
            time: config.time_embed_dim as usize,
            dim: config.cross_attention_dim as usize,
            extra: config.clip_extra_context_tokens as usize,
            no_image: proj.no_image()?,
        })
    }

    /// Tokens that the decoder sees of a text of `tokens` tokens.
    pub(super) fn tokens(&self, tokens: u32) -> u32 {
        tokens.saturating_add(self.extra as u32)
    }

    /// Its weights.
    pub(super) fn weights(&self) -> &Weights {
        // Both networks' lie in the same file.
        &self.image.weights
    }

    /// The condition of each of these embeddings with the first text, and, where there is a second text, the condition of no picture with
    /// that: tokens, what is added to the time, and what is added to the tokens' scores.
    ///
    /// # Errors
    /// Those of the backend.
    pub(super) fn run(
        &self,
        texts: &[Text],
        embeddings: &[f32],
        request: &Request,
        stop: &Stop,
        report: &mut dyn FnMut(Event),
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let wide = self.no_image.len();
        let states = self.text.with(request, stop, report, |backend, _| {
            let states = texts.iter().map(|text| {
                let planes = evaluate(backend, &transposed(&text.states, wide), unfog_core::denoise::Cond::None)?;
                Ok(transposed(&planes, planes.len() / self.dim.max(1)))
            });
            states.collect::<Result<Vec<_>>>()
        })?;
        self.image.with(request, stop, report, |backend, _| {
            let mut conditions = Vec::with_capacity(texts.len());
            for (i, (text, states)) in texts.iter().zip(&states).enumerate() {
                let whole = backend.load_embedding(&text.whole)?;
                let images = if i == 0 { embeddings } else { &self.no_image };
                let of_image = |image: &[f32]| {
                    let made = evaluate(backend, image, whole)?;
                    let (time, tokens) = made.split_at_checked(self.time).ok_or_else(misfit)?;
                    let mut condition = memory::room(tokens.len() + states.len() + made.len() + text.bias.len())?;
                    // Each of a token's values lies beside the same one of the others.
                    condition.extend(transposed(tokens, self.extra));
                    condition.extend_from_slice(states);
                    condition.extend_from_slice(time);
                    condition.extend(std::iter::repeat_n(0.0, self.extra));
                    condition.extend_from_slice(&text.bias);
                    Ok(condition)
                };
                conditions.push(images.chunks_exact(wide.max(1)).map(of_image).collect::<Result<Vec<_>>>()?);
            }
            Ok(conditions)
        })
    }
}

fn misfit() -> Error {
    Error::failure("text_proj makes too few values")
}

/// The decoder's pictures `[n, c, h, w]`, from -1 to 1, under `conditions` as [`Told::run`] gives them. `opened` is told of the backend
/// before the first step.
///
/// # Errors
/// Those of the backend and of `opened`.
#[expect(clippy::too_many_arguments, reason = "what a run hands on from hand to hand")]
pub(super) fn decode(
    (model, part): (&Model, &Part),
    setup: &Setup,
    source: &Source,
    conditions: &[Vec<Vec<f32>>],
    request: &Request,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
    opened: &mut dyn FnMut(&Backend<'_>) -> Result<()>,
) -> Result<Vec<f32>> {
    let count = setup.count as usize;
    part.with(request, stop, report, |backend, report| {
        opened(backend)?;
        let mut own = Vec::with_capacity(conditions.len());
        for images in conditions.iter().take(setup.settings.config.guidance.conditions()) {
            let mut conds = images.iter().map(|values| backend.load_embedding(values)).collect::<Result<Vec<_>>>()?;
            // One of no picture stands for all.
            if let [one] = conds[..] {
                conds = vec![one; count];
            }
            own.push(conds);
        }
        let setup = &Setup { own: Some(Arc::new(own)), ..setup.clone() };
        let scale = end_scale(setup)?;
        let mut pictures = memory::room(count * setup.image_len())?;
        let mut steps = |done, total| report(Event::Steps(done, total));
        generate(setup, model, backend, source, stop, &mut steps, &mut |made| {
            if let Made::Images(_, values) = made {
                pictures.extend(values.iter().map(|v| (v * scale).clamp(-1.0, 1.0)));
            }
            Ok(())
        })?;
        Ok(pictures)
    })
}
