//! How prompts lie in the condition of a network of texts.

use unfog_core::nn::graph::Projection;
use unfog_core::nn::model::clip_text::Outputs;
use unfog_core::nn::model::sd3;
use unfog_core::nn::model::unet2d_condition::Config;

use crate::error::{Error, Result};
use crate::model::{T5_TOKENS, TextEncoder, Texts};

/// The sizes that a network of Stable Diffusion XL is told of: the original's, where the picture was cut from it, the picture's.
const SIZES: u32 = 6;

/// What a network of texts takes: `[tokens, width]`, whose channels are those of each text encoder, one after the other, and zeros; then
/// the pooled text, then the features of sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Values of a token.
    pub(super) width: usize,
    /// Tokens of zeros behind those of the text.
    pub(super) zeros: usize,
    /// Values of the pooled text; 0 if the network takes none.
    pub(super) pooled: usize,
    /// The first text encoder whose pooled output is taken: it, and all that follow.
    pub(super) pooled_from: usize,
    /// How each of the sizes is told, where they are.
    pub(super) sizes: Option<Projection>,
}

impl Layout {
    /// What the network of `texts` takes of these text encoders.
    ///
    /// # Errors
    /// A network that takes something else.
    pub(super) fn new(texts: Texts<'_>, encoders: &[TextEncoder]) -> Result<Self> {
        match texts {
            Texts::Crossed(config) => Self::crossed(config, encoders),
            Texts::Joint(config) => Self::joint(config, encoders),
        }
    }

    fn crossed(config: &Config, encoders: &[TextEncoder]) -> Result<Self> {
        if config.simple {
            return Err(Error::failure("the network is unCLIP's decoder, which makes pictures of embeddings")
                .hint("give the folder of its whole pipeline, an UnCLIPPipeline"));
        }
        let wanted = config.encoder_hid_dim.unwrap_or(config.cross_attention_dim);
        let width = states(encoders);
        if width != wanted {
            return Err(Error::failure(format!(
                "the text encoders make {width} values a token, but the network takes {wanted}"
            )));
        }
        let plain = Self { width: width as usize, zeros: 0, pooled: 0, pooled_from: encoders.len(), sizes: None };
        let (Some(all), Some(last)) = (config.addition, encoders.last()) else { return Ok(plain) };
        let pooled = last.config().pooled_dim();
        let sizes =
            all.checked_sub(pooled).filter(|sizes| *sizes > 0 && sizes.is_multiple_of(SIZES)).ok_or_else(|| {
                Error::failure(format!(
                    "the network takes {all} values of the text and of {SIZES} sizes, and the text alone has {pooled}"
                ))
            })?;
        let projection =
            Projection::Positional { dim: sizes / SIZES, flip: config.flip_sin_to_cos, shift: config.freq_shift };
        let pooled_from = encoders.len() - 1;
        Ok(Self { pooled: pooled as usize, pooled_from, sizes: Some(projection), ..plain })
    }

    fn joint(config: &sd3::Config, encoders: &[TextEncoder]) -> Result<Self> {
        let [first, second] = encoders else {
            return Err(Error::failure(format!("the network takes two text encoders, not {}", encoders.len())));
        };
        if [first, second].iter().any(|encoder| encoder.config().projection_dim.is_none()) {
            return Err(Error::failure("the network takes texts as a whole, which a text encoder does not make")
                .hint("both are CLIPTextModelWithProjection"));
        }
        let (width, most) = (states(encoders), config.joint_attention_dim);
        if width > most {
            return Err(Error::failure(format!(
                "the text encoders make {width} values a token, but the network takes {most}"
            )));
        }
        let pooled = first.config().pooled_dim().saturating_add(second.config().pooled_dim());
        if pooled != config.pooled_projection_dim {
            return Err(Error::failure(format!(
                "the text encoders make {pooled} values of a text, but the network takes {}",
                config.pooled_projection_dim
            )));
        }
        let (width, zeros, pooled) = (most as usize, T5_TOKENS as usize, pooled as usize);
        Ok(Self { width, zeros, pooled, pooled_from: 0, sizes: None })
    }

    /// What text encoder `number` is to return, `skip` layers left out.
    pub(super) fn outputs(&self, number: usize, skip: u32) -> Outputs {
        match self.pooled {
            0 => Outputs { skip, ..Outputs::LAST },
            // Beside the text as a whole, the states, which leave out one layer more.
            _ => {
                let pooled = self.pools(number);
                Outputs { skip: skip.saturating_add(1), pooled, ..Outputs::PENULTIMATE }
            }
        }
    }

    /// Whether the pooled output of text encoder `number` is taken.
    pub(super) fn pools(&self, number: usize) -> bool {
        self.pooled > 0 && number >= self.pooled_from
    }

    /// Values of the sizes' features.
    pub(super) fn sizes_len(&self) -> usize {
        self.sizes.map_or(0, |sizes| (SIZES * sizes.dim()) as usize)
    }
}

/// Values of a token, of all text encoders.
fn states(encoders: &[TextEncoder]) -> u32 {
    encoders.iter().fold(0, |sum, encoder| sum.saturating_add(encoder.config().hidden_size))
}
