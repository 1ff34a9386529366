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
    // A square's products for one input and 16 outputs, and the transform of their weights, which takes about as long as so many. That
    // speaks for squares of 2 where there are few; also, squares that reach beyond the image are computed all the same.
    let squares = |side: u32| u64::from(out.h.div_ceil(side)) * u64::from(out.w.div_ceil(side));
    let (of_four, of_two) = (36 * squares(4).max(2) + 140, 16 * squares(2).max(2) + 60);
    if of_four <= of_two { ConvKernel::Winograd4 } else { ConvKernel::Winograd2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_it_says() {
        let conv = |op: Conv2d, size: u32| super::conv(&op, Shape::new(size, size, op.out_c), None);
        let wide = Conv2d::new(64, 64, 3, 1);
        assert_eq!(
            [4, 6, 8, 64].map(|size| conv(wide, size)),
            [ConvKernel::Winograd2, ConvKernel::Winograd2, ConvKernel::Winograd4, ConvKernel::Winograd4]
        );
        let direct =
            [Conv2d { stride: 2, ..wide }, Conv2d::linear(64, 64), Conv2d::new(3, 64, 3, 1), Conv2d::new(64, 3, 3, 1)];
        assert_eq!(direct.map(|op| conv(op, 64)), [ConvKernel::Direct; 4]);
        let forced = super::conv(&direct[0], Shape::new(8, 8, 64), Some(ConvKernel::Winograd4));
        assert_eq!(forced, ConvKernel::Direct, "what can't be forced");
    }
}
