//! The one seam between sampling and networks.

/// A condition that a backend knows: none, a class label, or an embedding that was loaded beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Cond {
    /// The network takes no condition.
    #[default]
    None,
    /// A class label (a row of the network's class embedding, or the value that it embeds).
    Class(u32),
    /// The number under which the backend holds an embedding.
    Loaded(u32),
}

/// One evaluation of a trained network. Everything above it is sampling, everything below is a backend.
///
/// A complete implementation, the exact denoiser of a point mass at 0 (which predicts all of `x` as noise):
///
/// ```
/// use unfog_core::denoise::{Cond, Denoise};
/// struct Point { len: usize }
/// impl Denoise for Point {
///     type Error = core::convert::Infallible;
///     fn out_len(&self) -> usize { self.len }
///     fn predict(&mut self, x: &[f32], _t: f32, _conds: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
///         out.copy_from_slice(x);
///         Ok(())
///     }
/// }
/// ```
pub trait Denoise {
    /// Why an evaluation failed.
    type Error;

    /// Values the network returns per image: `len`, or `2 * len` when it predicts its variance too.
    fn out_len(&self) -> usize;

    /// Evaluates the network once.
    ///
    /// `x`: n images, planar `[n, c, h, w]`; `t`: model time; `conds[j * n + i]`: the j-th condition of image i, loaded by
    /// the backend beforehand; `out`: `[k, n, out_len]`, what the network was trained to predict.
    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Self::Error>;
}
