//! A picture on its way into noise: the forward chain, seen at some of its times.

use unfog_core::config::Config;
use unfog_core::forward::step;
use unfog_core::noise::{Noise, Philox};

use crate::error::{Error, Result};
use crate::image::Picture;
use crate::memory;
use crate::settings::Settings;

/// The times that are shown when none are asked for, as shares of the chain.
const DEFAULT_SHARES: [f64; 8] = [0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0];

/// Times from the first to the last timestep of a chain of `train_steps`.
pub fn default_times(train_steps: usize) -> Vec<u32> {
    let last = train_steps.saturating_sub(1) as f64;
    DEFAULT_SHARES.iter().map(|share| (share * last).round() as u32).collect()
}

/// The pictures at `times` of one path of the forward chain that starts at `picture`, in the order of `times`.
///
/// From one time asked for to the next the chain is drawn at once, which is exact: `q(x_b | x_a)` is the step of variance
/// `1 - alpha_bar_b / alpha_bar_a` (Ho et al. 2020, equations 2 and 4). The noise of the step to time t is draw t of the seed.
///
/// # Errors
/// A usage error for no time and for one beyond the chain.
pub fn forward(picture: &Picture, settings: &Settings, times: &[u32], seed: u64) -> Result<Vec<Picture>> {
    let Config { train_steps, .. } = settings.config;
    if times.is_empty() {
        return Err(Error::usage("--at names no time"));
    }
    if let Some(t) = times.iter().find(|&&t| t as usize >= train_steps) {
        return Err(Error::usage(format!("--at {t} lies beyond the chain"))
            .hint(format!("its times are 0 to {}", train_steps - 1)));
    }
    let mut tables = settings.tables()?;
    let schedule = tables.schedule()?;
    let (width, height, channels) = (picture.width(), picture.height(), picture.channels());
    let mut x = picture.to_values(channels)?;
    let mut z = memory::vec(x.len(), 0.0)?;
    let mut noise = Philox::new(seed);
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|&i| times[i]);
    let mut frames: Vec<Option<Picture>> = vec![None; times.len()];
    let (mut kept, mut at) = (1.0, None);
    for i in order {
        let t = times[i];
        if at != Some(t) {
            let alpha_bar = schedule.alpha_bar()[t as usize];
            noise.fill(0, t, &mut z).map_err(|e| Error::failure(e.to_string()))?;
            step(&mut x, 1.0 - alpha_bar / kept, &z);
            (kept, at) = (alpha_bar, Some(t));
        }
        frames[i] = Some(Picture::from_values(&x, width, height, channels)?);
    }
    Ok(frames.into_iter().flatten().collect())
}
