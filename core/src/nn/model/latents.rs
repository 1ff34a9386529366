//! What lies between an autoencoder and the network that is trained on its latents.

use heapless::Vec;

use crate::math;

/// The most channels of latents whose means and deviations are known one by one.
pub const MAX_LATENT_CHANNELS: usize = 128;

/// How latents are scaled for the network that is trained on them: `(z - mean - shift) * factor / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// `scaling_factor`; not 0.
    pub factor: f32,
    /// `shift_factor`.
    pub shift: f32,
    /// `latents_mean` and `latents_std` of each channel (none of them 0), where they are given.
    pub channels: Vec<[f32; 2], MAX_LATENT_CHANNELS>,
}

impl Scaling {
    /// Scaling by `factor` alone.
    pub const fn by(factor: f32) -> Self {
        Self { factor, shift: 0.0, channels: Vec::new() }
    }

    /// From the encoder to the network: latents of images of `channels` channels, planar `[n, channels, h, w]`; `pixels` is `h * w`.
    pub fn scale(&self, latents: &mut [f32], pixels: usize) {
        for (z, [mean, std]) in self.each(latents, pixels) {
            z.iter_mut().for_each(|z| *z = (*z - mean) * self.factor / std);
        }
    }

    /// From the network to the decoder: latents as [`Scaling::scale`] takes them. Its inverse.
    pub fn unscale(&self, latents: &mut [f32], pixels: usize) {
        for (z, [mean, std]) in self.each(latents, pixels) {
            z.iter_mut().for_each(|z| *z = *z * std / self.factor + mean);
        }
    }

    /// The planes of `pixels` values with their mean and deviation.
    fn each<'z>(&self, latents: &'z mut [f32], pixels: usize) -> impl Iterator<Item = (&'z mut [f32], [f32; 2])> {
        let known = self.channels.len().max(1);
        latents.chunks_mut(pixels.max(1)).enumerate().map(move |(i, plane)| {
            let [mean, std] = self.channels.get(i % known).copied().unwrap_or([0.0, 1.0]);
            (plane, [mean + self.shift, std])
        })
    }
}

/// The Gaussian that an encoder makes of a picture, from what it returned for one image, planar `[2 c, h, w]`.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    /// The means `[c, h, w]`: the latents that are likeliest.
    pub mean: &'a [f32],
    log_variance: &'a [f32],
}

impl<'a> Moments<'a> {
    /// Of an encoder's output.
    pub fn of(output: &'a [f32]) -> Self {
        let (mean, log_variance) = output.split_at(output.len() / 2);
        Self { mean, log_variance }
    }

    /// The logarithms of the variances `[c, h, w]`, kept between -30 and 20 as diffusers keeps them.
    pub fn log_variance(self) -> impl Iterator<Item = f32> + 'a {
        self.log_variance.iter().map(|v| v.clamp(-30.0, 20.0))
    }

    /// A sample: `mean + noise * deviation`, written over the noise.
    pub fn sample(self, noise: &mut [f32]) {
        for ((z, mean), log_variance) in noise.iter_mut().zip(self.mean).zip(self.log_variance()) {
            *z = mean + *z * math::exp(0.5 * log_variance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_comes_back() {
        let channels = [[0.5, 2.0], [-1.0, 0.25]].into_iter().collect();
        let scaling = Scaling { factor: 0.5, shift: 0.25, channels };
        // Two images of two channels of three pixels.
        let latents: [f32; 12] = core::array::from_fn(|i| i as f32 - 4.0);
        let mut scaled = latents;
        scaling.scale(&mut scaled, 3);
        for (i, (scaled, z)) in scaled.iter().zip(latents).enumerate() {
            let [mean, std] = scaling.channels[i / 3 % 2];
            assert_eq!(*scaled, (z - mean - 0.25) * 0.5 / std, "{i}");
        }
        scaling.unscale(&mut scaled, 3);
        assert_eq!(scaled, latents);
        let mut plain = latents;
        Scaling::by(0.125).scale(&mut plain, 5);
        assert_eq!(plain, latents.map(|z| z * 0.125));
    }

    #[test]
    fn moments_are_kept_in_bounds() {
        let moments = Moments::of(&[1.0, 2.0, 0.0, 90.0]);
        assert!(moments.log_variance().eq([0.0, 20.0]));
        let mut noise = [3.0, 0.0];
        moments.sample(&mut noise);
        assert_eq!((moments.mean, noise), (&[1.0, 2.0][..], [4.0, 2.0]));
    }
}
