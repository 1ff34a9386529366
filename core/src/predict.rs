//! From what a network was trained to predict to the image and the noise that samplers work with.

/// What a network was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum PredictionType {
    /// The noise in x_t. Ho et al. 2020.
    #[default]
    Epsilon,
    /// The image x_0.
    Sample,
    /// The velocity `sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x_0`. Salimans and Ho 2022, section 4.
    Velocity,
    /// The flow `noise - x_0` of a network whose x is `(1 - s) * x_0 + s * noise`. Lipman et al. 2023; Liu et al. 2023.
    Flow,
    /// The raw network F of Karras et al. 2022, table 1, whose input is scaled by c_in: `x_0 = c_skip * x / c_in + c_out * F`
    /// and its time is `ln(sigma) / 4`.
    Edm {
        /// The data's standard deviation.
        sigma_data: f32,
    },
}

/// How a predicted image is kept in range.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Clip {
    /// Not at all: latents have no range.
    #[default]
    None,
    /// Every value to at most this magnitude.
    Range(f32),
    /// Dynamic thresholding (Saharia et al. 2022, section 2.3): let s be the quantile `ratio` of an image's magnitudes, from
    /// 1 to `max`; values are clipped to s and divided by it.
    Dynamic {
        /// Which quantile, from 0 to 1.
        ratio: f32,
        /// Largest s; with 1 this is plain clipping.
        max: f32,
    },
}

/// What a sampler sees of an evaluation: values of n images, planar, image after image.
#[derive(Clone, Copy, Debug)]
pub struct Prediction<'a> {
    /// The image, after clipping.
    pub x0: &'a [f32],
    /// The noise, as it was predicted: clipping doesn't change it. (With CFG++, as it was predicted without the condition.)
    pub eps: &'a [f32],
    /// The noise as it was predicted without the condition, where guidance asked for it.
    pub eps_uncond: Option<&'a [f32]>,
    /// Logarithm of the variance of each value, where the network was trained to predict it and the sampler asked for it.
    pub log_var: Option<&'a [f32]>,
}

impl PredictionType {
    /// Whether the network was trained on the timesteps of a chain, so that its levels follow alpha-bar.
    pub const fn is_over_alpha_bar(self) -> bool {
        matches!(self, Self::Epsilon | Self::Sample | Self::Velocity)
    }

    /// Turns what the network said about one image `x` into the noise (`out`, in place) and the unclipped image (`x0`).
    ///
    /// `x = signal * x0 + noise * eps` as in [`crate::schedule::Level`]: signal is `sqrt(alpha_bar)` and noise
    /// `sqrt(1 - alpha_bar)` for a network over alpha-bar.
    ///
    /// False when a value of `x0` is not finite. If one of `out` isn't, neither is that of `x0`.
    #[must_use]
    pub fn split(self, level: [f32; 2], x: &[f32], out: &mut [f32], x0: &mut [f32]) -> bool {
        self.split_within(f32::INFINITY, level, x, out, x0)
    }

    /// The same with an image that is clipped to the magnitude `range`. A value of it that was not finite before counts.
    #[must_use]
    pub(crate) fn split_within(
        self,
        range: f32,
        [signal, noise]: [f32; 2],
        x: &[f32],
        out: &mut [f32],
        x0: &mut [f32],
    ) -> bool {
        let values = x.iter().zip(out).zip(x0);
        let put = |x0: &mut f32, value: f32| {
            *x0 = limit(value, range);
            value
        };
        match self {
            Self::Epsilon => finite(values.map(|((&x, out), x0)| put(x0, (x - noise * *out) / signal))),
            Self::Sample => finite(values.map(|((&x, out), x0)| {
                let image = *out;
                *out = (x - signal * image) / noise;
                put(x0, image)
            })),
            Self::Velocity => finite(values.map(|((&x, out), x0)| {
                let image = signal * x - noise * *out;
                *out = signal * *out + noise * x;
                put(x0, image)
            })),
            Self::Flow => finite(values.map(|((&x, out), x0)| {
                let image = x - noise * *out;
                *out = x + signal * *out;
                put(x0, image)
            })),
            Self::Edm { sigma_data } => {
                let keep = sigma_data * sigma_data * signal;
                finite(values.map(|((&x, out), x0)| {
                    let image = keep * x + sigma_data * noise * *out;
                    *out = noise * x - sigma_data * signal * *out;
                    put(x0, image)
                }))
            }
        }
    }

    /// The same for the noise alone.
    pub fn noise(self, [signal, noise]: [f32; 2], x: &[f32], out: &mut [f32]) {
        let values = out.iter_mut().zip(x);
        match self {
            Self::Epsilon => {}
            Self::Sample => values.for_each(|(out, &x)| *out = (x - signal * *out) / noise),
            Self::Velocity => values.for_each(|(out, &x)| *out = signal * *out + noise * x),
            Self::Flow => values.for_each(|(out, &x)| *out = x + signal * *out),
            Self::Edm { sigma_data } => {
                values.for_each(|(out, &x)| *out = noise * x - sigma_data * signal * *out);
            }
        }
    }

    /// The predicted image as `a * x + b * out`: a and b.
    pub fn image_factors(self, [signal, noise]: [f32; 2]) -> [f32; 2] {
        match self {
            Self::Epsilon => [1.0 / signal, -noise / signal],
            Self::Sample => [0.0, 1.0],
            Self::Velocity => [signal, -noise],
            Self::Flow => [1.0, -noise],
            Self::Edm { sigma_data } => [sigma_data * sigma_data * signal, sigma_data * noise],
        }
    }
}

impl Clip {
    /// Whether the parameters can be used.
    pub fn is_valid(self) -> bool {
        match self {
            Self::None => true,
            Self::Range(range) => range.is_finite() && range > 0.0,
            Self::Dynamic { ratio, max } => (0.0..=1.0).contains(&ratio) && max.is_finite() && max >= 1.0,
        }
    }

    /// Values of scratch memory that [`Clip::apply`] needs for an image of `len` values.
    pub const fn scratch(self, len: usize) -> usize {
        match self {
            Self::Dynamic { .. } => len,
            _ => 0,
        }
    }

    /// Brings one image into range. `scratch` holds [`Clip::scratch`] values.
    ///
    /// ```
    /// use unfog_core::predict::Clip;
    /// let mut image = [-4.0, 0.0, 1.0, 2.0];
    /// Clip::Dynamic { ratio: 1.0, max: 9.0 }.apply(&mut image, &mut [0.0; 4]);
    /// assert_eq!(image, [-1.0, 0.0, 0.25, 0.5]);
    /// ```
    pub fn apply(self, image: &mut [f32], scratch: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Range(range) => image.iter_mut().for_each(|v| *v = limit(*v, range)),
            Self::Dynamic { ratio, max } => {
                scratch.iter_mut().zip(image.iter()).for_each(|(s, v)| *s = v.abs());
                let s = quantile(scratch, ratio).max(1.0).min(max);
                image.iter_mut().for_each(|v| *v = limit(*v, s) / s);
            }
        }
    }
}

/// `v` to at most the magnitude `range`. (`f32::clamp` panics for a range that is no number; this can't.)
fn limit(v: f32, range: f32) -> f32 {
    let v = if v > range { range } else { v };
    if v < -range { -range } else { v }
}

/// Whether all values are finite. Looks at every one, without a branch, so that it costs nothing beside the arithmetic.
fn finite(values: impl Iterator<Item = f32>) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    values.fold(0, |any, v| any | u32::from(v.to_bits() & EXPONENT == EXPONENT)) == 0
}

/// The quantile `ratio` with linear interpolation, in torch's arithmetic. Orders `values` only as far as needed.
fn quantile(values: &mut [f32], ratio: f32) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = ratio * (values.len() - 1) as f32;
    // A rank is not negative, so the cast rounds down; it is below the length, whatever f32 made of it.
    let below = (rank as usize).min(values.len() - 1);
    let weight = rank - below as f32;
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let Some(high) = above.iter().copied().min_by(f32::total_cmp) else { return low };
    if weight < 0.5 { low + weight * (high - low) } else { high - (high - low) * (1.0 - weight) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PredictionType; 5] = [
        PredictionType::Epsilon,
        PredictionType::Sample,
        PredictionType::Velocity,
        PredictionType::Flow,
        PredictionType::Edm { sigma_data: 0.5 },
    ];

    /// A level of each family: signal and noise.
    fn level(kind: PredictionType) -> [f32; 2] {
        match kind {
            PredictionType::Flow => [0.25, 0.75],
            // sigma 1.2.
            PredictionType::Edm { sigma_data } => {
                let scale = 1.0 / (1.44 + sigma_data * sigma_data).sqrt();
                [scale, 1.2 * scale]
            }
            _ => [0.6, 0.8],
        }
    }

    #[test]
    fn each_prediction_gives_back_image_and_noise() {
        let (image, eps) = ([0.5, -0.25, 1.5], [1.0, -2.0, 0.125_f32]);
        for kind in ALL {
            let [signal, noise] = level(kind);
            let x: [f32; 3] = core::array::from_fn(|i| signal * image[i] + noise * eps[i]);
            let said: [f32; 3] = match kind {
                PredictionType::Epsilon => eps,
                PredictionType::Sample => image,
                PredictionType::Velocity => core::array::from_fn(|i| signal * eps[i] - noise * image[i]),
                PredictionType::Flow => core::array::from_fn(|i| eps[i] - image[i]),
                // c_skip and c_out in the words of the paper, of x = (image + sigma * noise).
                PredictionType::Edm { sigma_data } => core::array::from_fn(|i| {
                    let (sigma, data) = (1.2, sigma_data);
                    let sum = sigma * sigma + data * data;
                    let (skip, out) = (data * data / sum, sigma * data / sum.sqrt());
                    (image[i] - skip * (image[i] + sigma * eps[i])) / out
                }),
            };
            let (mut out, mut alone, mut x0) = (said, said, [0.0; 3]);
            assert!(kind.split([signal, noise], &x, &mut out, &mut x0));
            kind.noise([signal, noise], &x, &mut alone);
            assert_eq!(out, alone);
            let [a, b] = kind.image_factors([signal, noise]);
            for i in 0..3 {
                assert!((a * x[i] + b * said[i] - image[i]).abs() < 1e-6, "{kind:?} {a} {b}");
                // A few roundings of values of about 2.
                assert!((x0[i] - image[i]).abs() < 1e-6 && (out[i] - eps[i]).abs() < 1e-6, "{kind:?} {x0:?} {out:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_noticed() {
        for kind in ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut out = [0.0, bad, 0.0];
                assert!(!kind.split(level(kind), &[0.1; 3], &mut out, &mut [0.0; 3]), "{kind:?} {bad}");
            }
            assert!(kind.split(level(kind), &[0.1; 3], &mut [f32::MIN_POSITIVE, -1.0, 1e6], &mut [0.0; 3]));
        }
        // All of the signal gone: the image can't be told from the noise.
        assert!(!PredictionType::Epsilon.split([0.0, 1.0], &[0.1], &mut [0.2], &mut [0.0]));
    }

    #[test]
    fn clipping_keeps_the_range() {
        let mut image = [-3.0, -0.5, 0.0, 2.5];
        Clip::None.apply(&mut image, &mut []);
        assert_eq!(image, [-3.0, -0.5, 0.0, 2.5]);
        Clip::Range(2.0).apply(&mut image, &mut []);
        assert_eq!(image, [-2.0, -0.5, 0.0, 2.0]);
        // With a maximum of 1, dynamic thresholding is plain clipping.
        Clip::Dynamic { ratio: 0.9, max: 1.0 }.apply(&mut image, &mut [0.0; 4]);
        assert_eq!(image, [-1.0, -0.5, 0.0, 1.0]);
        for clip in [Clip::Range(0.0), Clip::Range(f32::NAN), Clip::Range(f32::INFINITY)] {
            assert!(!clip.is_valid());
        }
        for (ratio, max) in [(f32::NAN, 1.0), (1.5, 1.0), (0.5, 0.5), (0.5, f32::INFINITY)] {
            assert!(!Clip::Dynamic { ratio, max }.is_valid());
        }
    }

    #[test]
    fn splitting_and_clipping_are_one() {
        for kind in ALL {
            let (x, said) = ([1.5, -2.0, 0.25, 0.0, 9.0], [0.5, 1.0, -1.0, -0.0, -7.0]);
            let (mut out, mut x0, mut within) = (said, [0.0; 5], [0.0; 5]);
            assert!(kind.split(level(kind), &x, &mut out, &mut x0));
            Clip::Range(1.0).apply(&mut x0, &mut []);
            let mut again = said;
            assert!(kind.split_within(1.0, level(kind), &x, &mut again, &mut within));
            assert_eq!(
                (out.map(f32::to_bits), x0.map(f32::to_bits)),
                (again.map(f32::to_bits), within.map(f32::to_bits))
            );
            // What clipping would hide is noticed.
            assert!(
                !kind.split_within(1.0, level(kind), &[0.1; 2], &mut [0.0, f32::INFINITY], &mut [0.0; 2]),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn quantiles_interpolate() {
        // torch.quantile(torch.tensor([3., 1., 2., 5., 4.]), r) for r = 0, 0.1, 0.5, 0.65, 0.995, 1.
        let expected = [(0.0, 1.0), (0.1, 1.4), (0.5, 3.0), (0.65, 3.6), (0.995, 4.98), (1.0, 5.0)];
        for (ratio, expected) in expected {
            let q = quantile(&mut [3.0, 1.0, 2.0, 5.0, 4.0], ratio);
            // The rank is one rounded product.
            assert!((q - expected).abs() < 1e-6, "{ratio}: {q}");
        }
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [7.0], 0.3), 7.0);
    }
}
