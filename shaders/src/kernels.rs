//! The table of kernels: one entry a shader.

use crate::Access::{Read, Write};
use crate::Constant::{Bool, LocalX, LocalY, Uint};
use crate::{Asks, Binding, Constant, Field, Reads, push};

/// A compute shader and what a host must know to run it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Its name: that of its file.
    pub name: &'static str,
    /// The op that it runs, or is a stage of.
    pub op: &'static str,
    /// Its committed SPIR-V, for each [`Reads`]; none where it does not read so.
    pub words: [&'static [u32]; 2],
    /// Its buffers, all in descriptor set 0.
    pub bindings: &'static [Binding],
    /// Its specialization constants.
    pub constants: &'static [Constant],
    /// Its push constants.
    pub push: &'static [Field],
    /// Bytes of its push constants.
    pub push_bytes: usize,
    /// What it asks of a device.
    pub asks: Asks,
    /// Its modules as vulkano-shaders compiled them; none of those that it can't compile.
    #[cfg(feature = "compile")]
    pub load: [Option<crate::compile::Load>; 2],
}

/// SPIR-V is a stream of little-endian words here, whatever the host is.
const fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < N {
        words[i] = u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
        i += 1;
    }
    words
}

macro_rules! module {
    ($name:ident, $suffix:literal) => {{
        const BYTES: &[u8] = include_bytes!(concat!("../spirv/", stringify!($name), $suffix, ".spv"));
        const WORDS: &[u32] = &words::<{ BYTES.len() / 4 }>(BYTES);
        WORDS
    }};
}

/// The modules that kernels of some sort have: only those without shared memory, which suit software drivers, read from
/// texel buffers too.
macro_rules! modules {
    (Floor $name:ident) => {
        [module!($name, ""), module!($name, ".texel")]
    };
    ($asks:ident $name:ident) => {
        [module!($name, ""), &[]]
    };
}

#[cfg(feature = "compile")]
macro_rules! loads {
    (Floor $name:ident) => {
        [Some(crate::compile::$name::storage::load as _), Some(crate::compile::$name::texel::load as _)]
    };
    (Shared $name:ident) => {
        [Some(crate::compile::$name::storage::load as _), None]
    };
    (Matrix $name:ident) => {
        [None, None]
    };
}

macro_rules! kernels {
    ($($asks:ident { $(
        $name:ident of $op:ident ($push:ident): [$($binding:ident $access:ident),*], [$($constant:expr),*];
    )* })*) => {
        /// Every kernel.
        pub const KERNELS: &[Kernel] = &[$($(Kernel {
            name: stringify!($name),
            op: stringify!($op),
            words: modules!($asks $name),
            bindings: &[$(Binding { name: stringify!($binding), access: $access }),*],
            constants: &[$($constant),*],
            push: push::$push::FIELDS,
            push_bytes: push::FIRST + size_of::<push::$push>(),
            asks: Asks::$asks,
            #[cfg(feature = "compile")]
            load: loads!($asks $name),
        },)*)*];
    };
}

kernels! {
    Floor {
        affine of affine (Affine): [X Read, Divisor Read, Out Write], [LocalX];
        attention of attention (Attention): [Q Read, K Read, V Read, Out Write],
            [LocalX, Uint("VECTORS"), Bool("ALIGNED"), Bool("WHOLE"), Uint("QUERIES"), Bool("CAUSAL"), Bool("BIASED")];
        avg_pool of avg_pool (AvgPool): [X Read, Out Write], [LocalX];
        concat of concat (Concat): [A Read, B Read, Out Write], [LocalX];
        conv2d of conv2d (Conv2d): [X Read, Weight Read, Bias Read, Channel Read, Residual Read, Out Write],
            [LocalX, LocalY, Uint("PIXELS"), Uint("OUTS"), Uint("STORED"), Uint("UPSAMPLE")];
        embedding of embedding (Embedding): [Index Read, Table Read, Positions Read, Out Write], [LocalX];
        gate of gate (Gate): [X Read, Out Write], [LocalX];
        group_norm_partial of group_norm (GroupNormPartial): [X Read, Scratch Write], [LocalX];
        group_norm_stats of group_norm (GroupNormStats):
            [Gamma Read, Beta Read, ScaleShift Read, Scratch Read, Stats Write], [LocalX];
        group_norm of group_norm (GroupNorm): [X Read, Scratch Read, Out Write], [LocalX];
        join of join (Join): [A Read, B Read, Out Write], [LocalX];
        layer_norm of layer_norm (LayerNorm): [X Read, Gamma Read, Beta Read, Out Write], [LocalX];
        modulate of modulate (Modulate): [X Read, Vector Read, Residual Read, Out Write], [LocalX];
        unpatchify of unpatchify (Unpatchify): [X Read, Out Write], [LocalX];
        upsample of upsample (Upsample): [X Read, Out Write], [LocalX];
    }
    Shared {
        conv2d_split of conv2d (Conv2d): [X Read, Weight Read, Bias Read, Channel Read, Residual Read, Out Write],
            [LocalX, LocalY, Uint("PIXELS"), Uint("OUTS"), Uint("STORED"), Uint("UPSAMPLE")];
        conv2d_tile of conv2d (Conv2d): [X Read, Weight Read, Bias Read, Channel Read, Residual Read, Out Write],
            [LocalX, LocalY, Uint("PIXELS"), Uint("OUTS"), Uint("STORED"), Uint("UPSAMPLE")];
        layer_norm_group of layer_norm (LayerNorm): [X Read, Gamma Read, Beta Read, Out Write], [LocalX, LocalY];
    }
    Matrix {
        conv2d_matrix of conv2d (Conv2d): [X Read, Weight Read, Bias Read, Channel Read, Residual Read, Out Write],
            [LocalX, Uint("ROWS"), Uint("PIXELS"), Uint("OUTS"), Uint("STORED"), Uint("UPSAMPLE"),
             Uint("COLUMNS"), Uint("M"), Uint("N"), Uint("K")];
    }
}

impl Kernel {
    /// The ways in which it can read.
    pub fn reads(&self) -> impl Iterator<Item = Reads> {
        Reads::ALL.into_iter().filter(|&reads| !self.module(reads).is_empty())
    }

    /// Its committed SPIR-V.
    pub fn module(&self, reads: Reads) -> &'static [u32] {
        self.words[reads as usize]
    }

    /// The kernel of that name.
    pub fn named(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|k| k.name == name)
    }
}
