//! Which of the T timesteps a run of n steps visits.

use crate::config::{Config, ConfigError};
use crate::math::wide::round_ties_even;

/// Where a run's timesteps lie. Lin et al. 2023, table 2; the values are those of diffusers for every n from 1 to T.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Spacing {
    /// Multiples of T / n (whole division) from 0, plus the offset: never reaches T - 1 unless n = T.
    #[default]
    Leading,
    /// Back from T - 1 in strides of T / n.
    Trailing,
    /// Evenly from 0 to T - 1, both included.
    Linspace,
}

/// Fills `timesteps` (n of them, from 1 to `train_steps`) in the order in which a run visits them: falling.
///
/// `offset` is added to leading timesteps only, as in diffusers; where it leads past the table this fails.
///
/// ```
/// use unfog_core::schedule::{Spacing, fill_timesteps};
/// let mut timesteps = [0; 4];
/// fill_timesteps(Spacing::Trailing, 1000, 0, &mut timesteps)?;
/// assert_eq!(timesteps, [999, 749, 499, 249]);
/// # Ok::<(), unfog_core::config::ConfigError>(())
/// ```
pub fn fill_timesteps(
    spacing: Spacing,
    train_steps: usize,
    offset: u32,
    timesteps: &mut [u32],
) -> Result<(), ConfigError> {
    let steps = timesteps.len();
    if train_steps == 0 || train_steps > Config::MAX_TRAIN_STEPS {
        return Err(ConfigError::TrainSteps(train_steps));
    }
    if steps == 0 {
        return Err(ConfigError::NoSteps);
    }
    if steps > train_steps {
        return Err(ConfigError::TooManySteps { steps, train_steps });
    }
    match spacing {
        Spacing::Leading => {
            let stride = train_steps / steps;
            let first = (steps - 1) * stride + offset as usize;
            if first >= train_steps {
                return Err(ConfigError::StepsOffset { t: first, train_steps });
            }
            timesteps.iter_mut().enumerate().for_each(|(i, t)| *t = (first - i * stride) as u32);
        }
        Spacing::Trailing => {
            // NumPy's arange(T, 0, -T / n) counts in multiples of its first rounded difference. For some n it goes on to
            // an entry that rounds to 0, timestep -1; that is no timestep, and n of them are enough.
            let end = train_steps as f64;
            let stride = (end - end / steps as f64) - end;
            for (i, t) in timesteps.iter_mut().enumerate() {
                *t = (round_ties_even(end + i as f64 * stride) - 1.0) as u32;
            }
        }
        Spacing::Linspace => {
            let last = (train_steps - 1) as f64;
            let stride = if steps > 1 { last / (steps - 1) as f64 } else { 0.0 };
            for (i, t) in timesteps.iter_mut().rev().enumerate() {
                *t = round_ties_even(i as f64 * stride) as u32;
            }
            // NumPy sets the end point instead of adding up to it.
            if let [first, _, ..] = timesteps {
                *first = last as u32;
            }
        }
    }
    Ok(())
}
