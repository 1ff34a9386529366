//! transformers' `CLIPTextModel` and `CLIPTextModelWithProjection` (Radford et al. 2021): the text encoders of Stable Diffusion.
//!
//! The network's one input, in the place of an image, is a row of `tokens` numbers, the tokens' ids ([`Config::ids`]). It returns
//! `[1, tokens, c]`: each token's state and, where that is asked for, what the pooled output would be if the text ended there.
//! [`Config::states`] and [`Config::pooled`] take these apart.

use super::layers::{Layers, Style, path};
use super::{ConfigError, check_numbers};
use crate::math;
use crate::nn::graph::{Graph, GraphBuilder, Input, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Attention, Concat, Conv2d, Embedding, GroupNorm, LayerNorm, Op, Shape};
use crate::nn::project::InputError;

/// The `eos_token_id` of configs from before it was right: there the text ends at its largest id.
const LEGACY_EOS: u32 = 2;

/// A text encoder's config, named as transformers names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows of the table of tokens.
    pub vocab_size: u32,
    /// Rows of the table of positions: the most tokens of a text.
    pub max_position_embeddings: u32,
    /// Values of a token's state.
    pub hidden_size: u32,
    /// Values between the two linear layers that follow an attention.
    pub intermediate_size: u32,
    /// Transformer layers.
    pub num_hidden_layers: u32,
    /// Attention heads.
    pub num_attention_heads: u32,
    /// `hidden_act`: the activation between those linear layers.
    pub act: Act,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// The id that ends a text.
    pub eos_token_id: u32,
    /// Values of the projected pooled output, of a `CLIPTextModelWithProjection`.
    pub projection_dim: Option<u32>,
}

/// What a text encoder is to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// How many layers at the end the tokens' states leave out. The states are transformers' `hidden_states[-(skip + 1)]`.
    pub skip: u32,
    /// Whether the states pass the final normalisation. With `skip` 0 they are `last_hidden_state`.
    pub final_norm: bool,
    /// Whether the pooled output is returned too: `text_embeds` where there is a projection, otherwise `pooler_output`.
    pub pooled: bool,
}

impl Outputs {
    /// What Stable Diffusion 1 and 2 use: `last_hidden_state`.
    pub const LAST: Self = Self { skip: 0, final_norm: true, pooled: false };
    /// What Stable Diffusion XL uses: the penultimate states, and the pooled output (of its second encoder).
    pub const PENULTIMATE: Self = Self { skip: 1, final_norm: false, pooled: true };
}

impl Config {
    /// Values of the pooled output.
    pub fn pooled_dim(&self) -> u32 {
        self.projection_dim.unwrap_or(self.hidden_size)
    }

    /// Writes `ids` as the numbers that the network takes.
    ///
    /// # Errors
    /// [`InputError::Length`] when there are more or fewer than `out` has room for, [`InputError::OutOfRange`] for an id that is no row
    /// of the table.
    pub fn ids(&self, ids: &[u32], out: &mut [f32]) -> Result<(), InputError> {
        if ids.len() != out.len() {
            return Err(InputError::Length);
        }
        if ids.iter().any(|id| *id >= self.vocab_size) {
            return Err(InputError::OutOfRange(self.vocab_size));
        }
        ids.iter().zip(out).for_each(|(id, out)| *out = *id as f32);
        Ok(())
    }

    /// The token at which a text ends and its pooled output is taken: the first [`Config::eos_token_id`], the first token if there is
    /// none. In configs that say 2, transformers' old default, it is the largest id.
    pub fn end(&self, ids: &[u32]) -> usize {
        let wanted = match self.eos_token_id {
            LEGACY_EOS => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|id| *id == wanted).unwrap_or(0)
    }

    /// The tokens' states `[tokens, hidden_size]` from what the network returned for one text, planar `[c, 1, tokens]`.
    ///
    /// # Errors
    /// [`InputError::Length`].
    pub fn states(&self, output: &[f32], states: &mut [f32]) -> Result<(), InputError> {
        let hidden = self.hidden_size as usize;
        let tokens = states.len().checked_div(hidden).unwrap_or(0);
        if tokens * hidden != states.len() {
            return Err(InputError::Length);
        }
        let planes = output.get(..states.len()).ok_or(InputError::Length)?;
        for (c, plane) in planes.chunks_exact(tokens.max(1)).enumerate() {
            states.iter_mut().skip(c).step_by(hidden).zip(plane).for_each(|(state, v)| *state = *v);
        }
        Ok(())
    }

    /// The pooled output from what the network returned for the text of `ids`, planar `[c, 1, tokens]`.
    ///
    /// # Errors
    /// [`InputError::Length`], also when the network was not built to return it.
    pub fn pooled(&self, output: &[f32], ids: &[u32], pooled: &mut [f32]) -> Result<(), InputError> {
        let (tokens, dim) = (ids.len(), self.pooled_dim() as usize);
        let planes = output.get(self.hidden_size as usize * tokens..).ok_or(InputError::Length)?;
        if tokens == 0 || planes.len() != tokens * dim || pooled.len() != dim {
            return Err(InputError::Length);
        }
        let end = self.end(ids);
        planes.chunks_exact(tokens).zip(pooled).for_each(|(plane, v)| *v = plane[end]);
        Ok(())
    }

    fn check(&self, tokens: u32, outputs: Outputs) -> Result<(), ConfigError> {
        let numbers = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("projection_dim", self.projection_dim.unwrap_or(1)),
        ];
        check_numbers(numbers)?;
        if self.vocab_size == 0 || self.vocab_size > 1 << 24 {
            return Err(ConfigError::Zero("vocab_size"));
        }
        if self.num_hidden_layers > 1 << 8 {
            return Err(ConfigError::Zero("num_hidden_layers"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(ConfigError::Heads { heads: self.num_attention_heads, channels: self.hidden_size });
        }
        if tokens == 0 || tokens > self.max_position_embeddings {
            return Err(ConfigError::Tokens { most: self.max_position_embeddings });
        }
        if outputs.skip > self.num_hidden_layers {
            return Err(ConfigError::Skip { layers: self.num_hidden_layers });
        }
        Ok(())
    }
}

/// Builds the network for texts of `tokens` tokens, padding included. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn build<'a>(
    config: &Config,
    tokens: u32,
    outputs: Outputs,
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check(tokens, outputs)?;
    let norm = GroupNorm { groups: 1, eps: config.layer_norm_eps, act: Act::None };
    let layers = Layers { g: builder, names, style: Style { norm, scale_shift: false, time_dim: 0 }, temb: None };
    Net { config, layers }.build(tokens, outputs)
}

/// A network under construction, whose layers a vision tower has too.
pub(super) struct Net<'c, 'a, 'n> {
    pub(super) config: &'c Config,
    pub(super) layers: Layers<'a, 'n>,
}

impl<'a> Net<'_, 'a, '_> {
    fn build(mut self, tokens: u32, outputs: Outputs) -> Result<Graph<'a>, ConfigError> {
        let config = self.config;
        let ids = self.layers.g.input(Input::Sample, Shape::new(1, tokens, 1))?;
        let (count, dim, rows) = (config.vocab_size, config.hidden_size, config.max_position_embeddings);
        let mut table = |name: &str, rows: u32| {
            let name = path(format_args!("text_model.embeddings.{name}_embedding.weight"))?;
            self.layers.weight(&name, [rows, dim, 1, 1], WeightUse::Table)
        };
        let tables = [Some(table("token", count)?), Some(table("position", rows)?)];
        let embedding = Op::Embedding(Embedding { count, dim });
        let mut x = self.layers.g.node(embedding, [Some(ids), None, None], tables)?;

        let kept = config.num_hidden_layers - outputs.skip;
        let mut states = x;
        for i in 0..if outputs.pooled { config.num_hidden_layers } else { kept } {
            x = self.layer(&path(format_args!("text_model.encoder.layers.{i}"))?, true, x)?;
            if i + 1 == kept {
                states = x;
            }
        }
        let last = match outputs.pooled || outputs.final_norm && outputs.skip == 0 {
            true => Some(self.layer_norm("text_model.final_layer_norm", x)?),
            false => None,
        };
        states = match (outputs.final_norm, outputs.skip, last) {
            (true, 0, Some(last)) => last,
            (true, ..) => self.layer_norm("text_model.final_layer_norm", states)?,
            (false, ..) => states,
        };
        let Some(mut pooled) = last.filter(|_| outputs.pooled) else { return Ok(self.layers.g.finish(states)) };
        if let Some(dim) = config.projection_dim {
            pooled = self.layers.linear("text_projection", pooled, dim, None)?;
        }
        let both = self.layers.g.node(Op::Concat(Concat), [Some(states), Some(pooled), None], [None; 2])?;
        Ok(self.layers.g.finish(both))
    }

    /// `CLIPEncoderLayer`: attention and two linear layers, each with a normalisation before and a residual. A `causal` one sees no later token.
    pub(super) fn layer(&mut self, name: &str, causal: bool, x: TensorId) -> Result<TensorId, ConfigError> {
        let Config { hidden_size: c, intermediate_size: wide, num_attention_heads: heads, act, .. } = *self.config;
        let hidden = self.layer_norm(&path(format_args!("{name}.layer_norm1"))?, x)?;
        let mut project = |part: &str| {
            let name = path(format_args!("{name}.self_attn.{part}_proj"))?;
            self.layers.conv(&name, Conv2d::linear(c, c), hidden, [None; 2])
        };
        let (q, k, v) = (project("q")?, project("k")?, project("v")?);
        let head_dim = c / heads;
        let op = Attention { heads, head_dim, scale: 1.0 / math::sqrt(head_dim as f32), causal, biased: false };
        let mixed = self.layers.g.node(Op::Attention(op), [Some(q), Some(k), Some(v)], [None; 2])?;
        let name_out = path(format_args!("{name}.self_attn.out_proj"))?;
        let x = self.layers.conv(&name_out, Conv2d::linear(c, c), mixed, [None, Some(x)])?;

        let hidden = self.layer_norm(&path(format_args!("{name}.layer_norm2"))?, x)?;
        let widen = Conv2d { act, ..Conv2d::linear(c, wide) };
        let hidden = self.layers.conv(&path(format_args!("{name}.mlp.fc1"))?, widen, hidden, [None; 2])?;
        self.layers.conv(&path(format_args!("{name}.mlp.fc2"))?, Conv2d::linear(wide, c), hidden, [None, Some(x)])
    }

    fn layer_norm(&mut self, name: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        self.layers.normalise(name, Op::LayerNorm(LayerNorm::new(self.config.layer_norm_eps)), x, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(eos_token_id: u32) -> Config {
        Config {
            vocab_size: 100,
            max_position_embeddings: 7,
            hidden_size: 2,
            intermediate_size: 4,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            act: Act::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id,
            projection_dim: Some(1),
        }
    }

    #[test]
    fn texts_end_where_transformers_ends_them() {
        let ids = [98, 5, 99, 7, 99, 99];
        assert_eq!(config(99).end(&ids), 2);
        assert_eq!(config(7).end(&ids), 3);
        assert_eq!(config(50).end(&ids), 0, "no end");
        assert_eq!(config(2).end(&[98, 2, 5, 99, 0, 0]), 3, "the largest id");
    }

    #[test]
    fn outputs_are_taken_apart() {
        // Planes of three tokens: two of the states, one of the pooled output.
        let output = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let (mut states, mut pooled) = ([0.0; 6], [0.0; 1]);
        config(9).states(&output, &mut states).unwrap();
        assert_eq!(states, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        config(9).pooled(&output, &[1, 9, 9], &mut pooled).unwrap();
        assert_eq!(pooled, [8.0]);
        assert_eq!(config(9).pooled(&output[..6], &[1, 9, 9], &mut pooled), Err(InputError::Length));
        assert_eq!(config(9).states(&output[..5], &mut states), Err(InputError::Length));
    }

    #[test]
    fn ids_are_rows_of_the_table() {
        let mut out = [0.0; 2];
        config(9).ids(&[99, 0], &mut out).unwrap();
        assert_eq!(out, [99.0, 0.0]);
        assert_eq!(config(9).ids(&[100, 0], &mut out), Err(InputError::OutOfRange(100)));
        assert_eq!(config(9).ids(&[1], &mut out), Err(InputError::Length));
    }
}
