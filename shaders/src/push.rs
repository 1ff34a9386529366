//! The push constants of each kernel, as its `Push` block declares them after `first_group`, the number of the first work group
//! that a dispatch runs: large ones run in several. Counts and strides are in vectors of four floats unless the name says
//! otherwise (`c`: channels without padding); `*_image` is the distance from one image to the next.

use crate::Field;
use bytemuck::{Pod, Zeroable};

/// Bytes of a block before what is here: a `u32`, `first_group`.
pub const FIRST: usize = 4;

macro_rules! push {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
        #[expect(missing_docs, reason = "the fields are those of the shader's block")]
        pub struct $name { $(pub $field: $type,)* }

        impl $name {
            /// The block's fields in order.
            pub const FIELDS: &'static [Field] = &[
                Field { name: "first_group", offset: 0 },
                $(Field { name: stringify!($field), offset: FIRST + core::mem::offset_of!($name, $field) },)*
            ];
        }
    )*};
}

push! {
    /// Of `conv2d.comp`.
    Conv2d {
        in_h: u32, in_w: u32, in4: u32,
        out_w: u32, out_pixels: u32, out4: u32, out_c: u32,
        kernel_h: u32, kernel_w: u32, stride: u32, pad_top: u32, pad_left: u32,
        x_image: u32, channel_image: u32, residual_image: u32, out_image: u32,
        has: u32, scale: f32, act: u32,
    }
    /// Of `group_norm_partial.comp`.
    GroupNormPartial { items: u32, c4: u32, pixels: u32, run: u32, x_image: u32, partial_image: u32, }
    /// Of `group_norm_stats.comp`.
    GroupNormStats {
        groups: u32, group_size: u32, c4: u32, c: u32, pixels: u32, run: u32,
        image: u32, stats_first: u32, scale_shift_image: u32,
        has_scale_shift: u32, eps: f32,
    }
    /// Of `group_norm.comp`.
    GroupNorm {
        items: u32, c4: u32, pixels: u32, run: u32,
        x_image: u32, stats_first: u32, stats_image: u32, out_image: u32, act: u32,
    }
    /// Of `attention.comp`.
    Attention {
        queries: u32, keys: u32, heads: u32, head_dim: u32, blocks: u32, c4: u32, k4: u32, c: u32,
        q_image: u32, k_image: u32, v_image: u32, out_image: u32, scale: f32,
    }
    /// Of `upsample.comp`.
    Upsample { items: u32, c4: u32, in_w: u32, out_w: u32, factor: u32, x_image: u32, out_image: u32, }
    /// Of `avg_pool.comp`.
    AvgPool { items: u32, c4: u32, in_w: u32, out_w: u32, size: u32, x_image: u32, out_image: u32, }
    /// Of `concat.comp`.
    Concat { items: u32, c4: u32, ca: u32, cb: u32, a_image: u32, b_image: u32, out_image: u32, }
    /// Of `embedding.comp`.
    Embedding { items: u32, c4: u32, count: u32, index_image: u32, out_image: u32, has_positions: u32, }
    /// Of `affine.comp`.
    Affine {
        items: u32, c4: u32, c: u32, x_image: u32, divisor_image: u32, out_image: u32,
        has_divisor: u32, scale: f32, shift: f32, act: u32,
    }
    /// Of `layer_norm.comp`; `items`: heads of all pixels; `c`: channels of a head; `has`: see [`norm`].
    LayerNorm { items: u32, c4: u32, c: u32, x_image: u32, out_image: u32, has: u32, eps: f32, }
    /// Of `gate.comp`.
    Gate { items: u32, c4: u32, c: u32, x_image: u32, out_image: u32, act: u32, }
    /// Of `modulate.comp`; `scale` and `shift` are in values; `has`: see [`modulate`].
    Modulate {
        items: u32, c4: u32, c: u32, x_image: u32, vector_image: u32, residual_image: u32, out_image: u32,
        has: u32, factor: f32, scale: u32, shift: u32,
    }
    /// Of `join.comp`.
    Join { items: u32, skip: u32, a_items: u32, a_image: u32, b_image: u32, out_image: u32, }
    /// Of `unpatchify.comp`.
    Unpatchify {
        items: u32, c4: u32, c: u32, in4: u32, in_w: u32, out_w: u32, size: u32, x_image: u32, out_image: u32,
    }
}

/// Bits of [`LayerNorm::has`].
pub mod norm {
    /// Gamma is bound.
    pub const GAMMA: u32 = 1;
    /// Beta is bound.
    pub const BETA: u32 = 2;
    /// The mean is taken for 0.
    pub const RMS: u32 = 4;
}

/// Bits of [`Modulate::has`].
pub mod modulate {
    /// There is a scale.
    pub const SCALE: u32 = 1;
    /// There is a shift.
    pub const SHIFT: u32 = 2;
    /// A residual is bound.
    pub const RESIDUAL: u32 = 4;
}

/// Bits of [`Conv2d::has`].
pub mod has {
    /// A bias is bound.
    pub const BIAS: u32 = 1;
    /// A vector that is added to every pixel is bound.
    pub const CHANNEL: u32 = 2;
    /// A residual is bound.
    pub const RESIDUAL: u32 = 4;
}
