//! Published architectures: a config becomes a graph, and the weights' names are told to the caller.

mod added_keys;
pub mod autoencoder_kl;
pub mod autoencoder_tiny;
pub mod clip_text;
pub mod clip_vision;
mod condition_net;
pub mod controlnet;
pub mod dit;
pub mod latents;
mod layers;
pub mod prior_transformer;
pub mod sd3;
pub mod t2i_adapter;
pub mod text_proj;
pub mod transformer;
pub mod unet2d;
pub mod unet2d_condition;

use super::graph::GraphError;
use layers::Layers;

/// The most resolutions a network may have.
pub const MAX_LEVELS: usize = 8;
/// The most layers of a block; enough for every published network.
pub const MAX_LAYERS: u32 = 8;

/// Why a config is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The lists of blocks and channels are empty or differ in length.
    Levels,
    /// A number of channels, layers, groups or classes is 0, or more layers than [`MAX_LAYERS`].
    Zero(&'static str),
    /// The groups don't divide the channels.
    Groups {
        /// `norm_num_groups` or `attn_norm_num_groups`.
        groups: u32,
        /// The channels that they should divide.
        channels: u32,
    },
    /// A head has more channels than there are, or there are more heads than channels.
    HeadDim {
        /// `attention_head_dim`.
        head_dim: u32,
        /// The channels.
        channels: u32,
    },
    /// The attention heads don't divide the channels.
    Heads {
        /// `num_attention_heads`.
        heads: u32,
        /// The channels that they should divide.
        channels: u32,
    },
    /// A text has no token, or more than there are positions.
    Tokens {
        /// `max_position_embeddings`.
        most: u32,
    },
    /// More layers are left out than there are.
    Skip {
        /// `num_hidden_layers`.
        layers: u32,
    },
    /// A level has an odd number of rows or columns, so that the way up doesn't meet the way down.
    Size {
        /// Both sides of the image must be multiples of this.
        multiple: u32,
    },
    /// A side of the image is larger than the network's table of positions.
    TooLarge {
        /// The longest side.
        most: u32,
    },
    /// The graph can't be built.
    Graph(GraphError),
}

impl From<GraphError> for ConfigError {
    fn from(e: GraphError) -> Self {
        ConfigError::Graph(e)
    }
}

/// Refuses numbers of a config that are 0, or larger than any network has them.
fn check_numbers(numbers: impl IntoIterator<Item = (&'static str, u32)>) -> Result<(), ConfigError> {
    match numbers.into_iter().find(|&(_, number)| number == 0 || number > 1 << 20) {
        Some((name, _)) => Err(ConfigError::Zero(name)),
        None => Ok(()),
    }
}

/// Refuses pictures that are empty or whose sides are no multiples of `multiple`.
fn check_size([h, w]: [u32; 2], multiple: u32) -> Result<(), ConfigError> {
    match h.is_multiple_of(multiple) && w.is_multiple_of(multiple) && h > 0 && w > 0 {
        true => Ok(()),
        false => Err(ConfigError::Size { multiple }),
    }
}
