//! The one table of tolerances, each with its reason. Distances are relative L2 ([`crate::compare::distance`]).
//!
//! f32 rounds by at most 2^-24 = 6e-8 relative; a sum of n terms in any order is off by a few sqrt(n) times that as a rule.

use unfog_core::nn::op::{Act, Affine, Op};
use unfog_gpu::{Kernels, Precision};

use crate::backend::Backend;

/// How far a result may lie from the truth, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The largest relative L2 distance.
    pub relative: f64,
    /// Why it is that large.
    pub reason: &'static str,
}

const fn allow(relative: f64, reason: &'static str) -> Tolerance {
    Tolerance { relative, reason }
}

/// A linear operator of core's `solve` against Pillow, scipy and numpy.
pub fn operator() -> Tolerance {
    allow(
        1e-6,
        "a picture goes to the operator's basis and back: two orthonormal sums of up to 32 terms, rounded in f32",
    )
}

/// A step of restoration in f32 against whole matrices in f64.
pub fn solver() -> Tolerance {
    allow(2e-6, "as above, and what a blur leaves a tenth of is divided by that")
}

/// A whole restoration in f32 against one in f64.
pub fn restored() -> Tolerance {
    allow(
        5e-6,
        "ten steps, each of which passes on the network's own rounding of up to 1e-6, and blur divides what it lost by up to 10",
    )
}

/// A picture's noise level, and its distance from another, in f32 values against scikit-image's f64.
pub fn quality() -> Tolerance {
    allow(1e-6, "sums in f64 of values that were rounded to f32")
}

/// What a picture file shows of a scan against pydicom.
pub fn shown(sixteen: bool, jpeg: bool) -> Tolerance {
    match (sixteen, jpeg) {
        (true, _) => allow(4e-5, "values are rounded to 65535 steps"),
        (false, false) => allow(8e-3, "values are rounded to 255 steps"),
        (false, true) => allow(1.5e-2, "as above, and decoders of JPEG differ by one step"),
    }
}

/// A single op in f32 against torch in f64.
pub fn op(op: &Op, backend: &Backend) -> Tolerance {
    match op {
        Op::Upsample(_) | Op::Concat(_) | Op::Join(_) | Op::Unpatchify(_) => allow(0.0, "values are copied"),
        Op::Modulate(_) => allow(2e-7, "at most four roundings"),
        Op::Embedding(_) => allow(0.0, "values are copied; with positions, one sum, rounded in one way"),
        Op::AvgPool(_) => allow(2e-7, "sums of a few values and one division"),
        Op::Affine(Affine { act: Act::None, .. }) => allow(2e-7, "at most three roundings"),
        Op::Affine(_) => allow(1e-6, "one activation; Vulkan's exp is good to 3 + 2|x| ulp"),
        Op::Attention(_) => {
            allow(2e-6, "scores up to 200 have rounding errors of 1e-5, which the exponential passes on")
        }
        Op::Gate(_) => allow(1e-6, "one product and one activation; Vulkan's exp is good to 3 + 2|x| ulp"),
        Op::LayerNorm(_) => allow(4e-6, "as below"),
        Op::GroupNorm(_) => allow(4e-6, "a mean of 100 is rounded by up to 4e-6, against a deviation of 1"),
        Op::Conv2d(_) => match backend {
            Backend::Vulkan { options, .. } if options.kernels == Kernels::Matrix => {
                allow(1e-3, "what matrix units read is rounded to half floats, by up to 2^-11 = 4.9e-4 each")
            }
            Backend::Reference => allow(5e-7, "sums of up to 324 products, one after the other"),
            Backend::Cpu(_) => allow(5e-7, "sums of up to 324 products; vector approximations of the activations"),
            Backend::Vulkan { .. } => allow(2e-6, "sums of up to 324 products; Vulkan's exp is good to 3 + 2|x| ulp"),
        },
    }
}

/// One evaluation of a network against diffusers in f32.
pub fn network(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { options, .. } if options.precision == Precision::F16 => allow(
            5e-3,
            "kernels rounded to 11 bits, 5e-4 each, through a few dozen layers; for matrix units values, too",
        ),
        Backend::Vulkan { .. } => allow(1e-5, "as below; and Vulkan's exp and division may be off by several ulp"),
        _ => allow(2e-6, "diffusers in f32 is itself up to 9e-7 away from f64; sums run in another order"),
    }
}

/// One evaluation of a network of transformer layers, which is told the time by 256 sines and cosines, against diffusers in f32.
pub fn transformer(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { options, .. } if options.precision == Precision::F16 => network(backend),
        _ => allow(
            1e-5,
            "torch's exp is a unit off in one frequency of 128, which at t = 999 makes one sine 6e-5 another; 6e-6 was seen",
        ),
    }
}

/// The latents that whole pipelines of such networks leave after a few steps, against diffusers in f32.
pub fn transformer_pipeline(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { .. } => allow(3e-4, "as below, and networks that may be off by 1e-5"),
        _ => allow(1e-4, "as above, in each of the steps, which pass it on; guidance of 7 multiplies differences"),
    }
}

/// One evaluation of a text encoder against transformers, or of half an autoencoder against diffusers, both in f32.
pub fn part(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { options, .. } if options.precision == Precision::F16 => network(backend),
        Backend::Vulkan { .. } => allow(1e-5, "as of a denoiser"),
        _ => allow(5e-6, "torch in f32 is itself up to 1.2e-6 away from f64; sums run in another order"),
    }
}

/// The final sample of ten steps of another scheduler against diffusers in f64.
pub fn swapped() -> Tolerance {
    allow(1e-3, "ten steps of a network in f32, from alpha-bar 2e-9 on; diffusers' own f32 runs are off by up to 3e-5")
}

/// The final sample of a whole run against diffusers in f32.
pub fn chain(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { .. } => allow(1e-3, "as below, from networks that may be off by 1e-5"),
        _ => allow(
            5e-5,
            "every step passes on what the one before was off; from t = 999 on, where alpha-bar is 2e-9, by 2e-5",
        ),
    }
}

/// The latents that whole text-to-image pipelines leave after a few steps, against diffusers in f32.
pub fn pipeline(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { .. } => allow(2e-4, "text encoders and five guided evaluations that may be off by 1e-5 each"),
        _ => {
            allow(2e-5, "diffusers in f32 is itself up to 1.3e-6 away from f64; guidance of 7.5 multiplies differences")
        }
    }
}

/// The same after two steps with weights in half floats, against those in f32.
pub fn half_pipeline() -> Tolerance {
    allow(5e-3, "kernels rounded to 11 bits, as of one evaluation")
}

/// One evaluation of a network whose weights come from GGUF's blocks, against the same values in f32.
pub fn gguf() -> Tolerance {
    allow(2e-3, "values of blocks are kept as half floats, 2^-12 = 2.4e-4 of each, through a few dozen layers")
}

/// Latents decoded in tiles against diffusers' tiled decoding, both in f32.
pub fn tiles(backend: &Backend) -> Tolerance {
    Tolerance { reason: "as of half an autoencoder; blending is one more sum of two products", ..part(backend) }
}

/// The latents that pipelines leave which begin from a picture, against diffusers in f32.
pub fn edit(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { .. } => allow(2e-4, "as of text to image; the encoder's latents may be off by 1e-5, too"),
        _ => allow(2e-5, "diffusers in f32 is itself up to 2e-6 away from f64; as of text to image"),
    }
}

/// The latents, or images, of edits that invert the picture, find a mask or keep what is coarse, against diffusers in f32.
pub fn invert(backend: &Backend) -> Tolerance {
    match backend {
        Backend::Vulkan { .. } => allow(2e-4, "as of edits; there and back are twice as many steps"),
        _ => allow(
            3e-5,
            "diffusers in f32 is itself up to 7e-6 away from f64: the way back magnifies what was rounded on the way there",
        ),
    }
}

/// The final sample of four steps on the CPU backend of another processor, against this one's.
pub fn another_processor() -> Tolerance {
    allow(1e-5, "vectors of another length change the order of sums, which every step passes on; 3e-7 was seen")
}

/// How alike pictures must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likeness {
    /// The least peak signal-to-noise ratio.
    pub decibels: f64,
    /// Why no more.
    pub reason: &'static str,
}

/// Pictures of a model with 8-bit weights against those with its own, same seeds.
pub fn int8_psnr(model: &str) -> Likeness {
    let (decibels, reason) = match model {
        "glyph-tiny" => {
            (28.0, "kernels are off by up to 0.4 % of a row's largest; one picture in eight takes another turn (23 dB)")
        }
        _ => (35.0, "kernels are off by up to 0.4 % of a row's largest, through 40 convolutions and ten steps"),
    };
    Likeness { decibels, reason }
}

/// The same with 4-bit weights, those of layers with few inputs or outputs in 8 bits.
pub fn q4_psnr(model: &str) -> Likeness {
    let (decibels, reason) = match model {
        "glyph-tiny" => (
            15.0,
            "a block is off by 8 % of its size; 20 steps pass that on, and every other picture takes another turn",
        ),
        _ => (
            25.0,
            "a block is off by 7 % of its size, through 40 convolutions and ten steps: outlines stay, fine textures don't",
        ),
    };
    Likeness { decibels, reason }
}

/// What the stages of unCLIP leave after a few steps each, against diffusers in f32. With its coefficients in f64 it is [`pipeline`].
pub fn unclip() -> Tolerance {
    allow(
        1e-3,
        "UnCLIPScheduler's 1 - (1 - ratio) in f32 loses the noise's factor at t = 999, 1.3e-4, which guidance of 8 multiplies",
    )
}
