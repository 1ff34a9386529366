//! Guidance: how conditional and unconditional predictions become one.

/// How predictions under several conditions are combined. All conditions are asked for in one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Guidance {
    /// One condition an image, taken as predicted.
    #[default]
    None,
    /// Classifier-free guidance (Ho and Salimans 2022, equation 6, in the form `u + scale * (c - u)`): two conditions an
    /// image, the wanted one (c) and none (u).
    Classifier {
        /// 0 is the unconditional prediction, 1 the conditional one; above 1 the condition is exaggerated.
        scale: f32,
    },
}

impl Guidance {
    /// Guidance of this scale; none at 1, where it would only cost time.
    pub fn from_scale(scale: f32) -> Self {
        if scale == 1.0 { Self::None } else { Self::Classifier { scale } }
    }

    /// k, the number of conditions an image. The conditions of a batch of n images are `[k, n]`: all the wanted ones, then
    /// all the "none" ones.
    pub const fn conditions(self) -> usize {
        match self {
            Self::None => 1,
            Self::Classifier { .. } => 2,
        }
    }

    /// Combines predictions: `wanted` becomes the guided prediction, `none` stays. Without guidance nothing changes.
    ///
    /// ```
    /// use unfog_core::guidance::Guidance;
    /// let mut wanted = [3.0, 1.0];
    /// Guidance::Classifier { scale: 2.0 }.combine(&mut wanted, &[1.0, 1.0]);
    /// assert_eq!(wanted, [5.0, 1.0]);
    /// ```
    pub fn combine(self, wanted: &mut [f32], none: &[f32]) {
        if let Self::Classifier { scale } = self {
            for (c, &u) in wanted.iter_mut().zip(none) {
                *c = u + scale * (*c - u);
            }
        }
    }
}
