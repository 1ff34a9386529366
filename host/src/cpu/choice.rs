//! The one table of kernels: which convolution runs how. A function of the shape of one image alone, so that no result depends on the batch
//! or the threads.

use unfog_core::nn::op::{Conv2d, Shape};

use super::winograd;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvKernel {
    /// Matrix products over the positions of the kernel.
    Direct,
    /// F(2,3): 2.25 times fewer products.
    Winograd2,
    /// F(4,3): 4 times fewer products.
    Winograd4,
}

/// The kernel for a convolution whose output is `out`; `forced` instead where it can do that.
pub(super) fn conv(op: &Conv2d, out: Shape, forced: Option<ConvKernel>) -> ConvKernel {
    if !winograd::fits(op) {
        return ConvKernel::Direct;
    }
    if let Some(forced) = forced {
        return forced;
    }
    // Transforms run along channels: with a few they cost more than what they save.
    if op.in_c < 16 || op.out_c < 8 {
        return ConvKernel::Direct;
    }
    // Squares of 4 that reach beyond the image are computed all the same: small images of odd sizes are better off with squares of 2.
    let covered = |side: u32| u64::from(out.h.next_multiple_of(side)) * u64::from(out.w.next_multiple_of(side));
    let products = |side: u32, points: u64| covered(side) / u64::from(side * side) * points;
    if products(4, 36) <= products(2, 16) { ConvKernel::Winograd4 } else { ConvKernel::Winograd2 }
}
