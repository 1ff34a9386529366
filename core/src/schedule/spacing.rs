//! Which of the T timesteps a run of n steps visits.

use crate::config::{Config, ConfigError};
use crate::math::wide::round_ties_even;

/// Where a run's timesteps lie. Lin et al. 2023, table 2; the values are those of diffusers for every n from 1 to T.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Spacing {
    /// Multiples of T / n (whole division) from 0, plus the offset: never reaches T - 1 unless n = T.
    ///
    /// ```
    /// # use unfog_core::schedule::{Spacing, fill_timesteps};
    /// let mut timesteps = [0; 4];
    /// fill_timesteps(Spacing::Leading, 1000, 0, &mut timesteps)?;
    /// assert_eq!(timesteps, [750, 500, 250, 0]);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    #[default]
    Leading,
    /// Back from T - 1 in strides of T / n.
    ///
    /// ```
    /// # use unfog_core::schedule::{Spacing, fill_timesteps};
    /// let mut timesteps = [0; 4];
    /// fill_timesteps(Spacing::Trailing, 1000, 0, &mut timesteps)?;
    /// assert_eq!(timesteps, [999, 749, 499, 249]);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    Trailing,
    /// Evenly from 0 to T - 1, both included.
    ///
    /// ```
    /// # use unfog_core::schedule::{Spacing, fill_timesteps};
    /// let mut timesteps = [0; 4];
    /// fill_timesteps(Spacing::Linspace, 1000, 0, &mut timesteps)?;
    /// assert_eq!(timesteps, [999, 666, 333, 0]);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    Linspace,
    /// Those on which consistency models were distilled: `original` of them, ending at T - 1 in strides of T / original
    /// (whole division), and of these every (original / n)-th from the top. Luo et al. 2023; diffusers' LCM and TCD.
    ///
    /// ```
    /// # use unfog_core::schedule::{Spacing, fill_timesteps};
    /// let mut timesteps = [0; 4];
    /// fill_timesteps(Spacing::Consistency { original: 50 }, 1000, 0, &mut timesteps)?;
    /// assert_eq!(timesteps, [999, 759, 499, 259]);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    Consistency {
        /// `original_inference_steps`; 50 in Luo et al.
        original: u32,
    },
    /// The caller's, in the memory that is lent for timesteps: falling, below T.
    ///
    /// ```
    /// # use unfog_core::schedule::{Spacing, fill_timesteps};
    /// let mut timesteps = [900, 20, 3];
    /// fill_timesteps(Spacing::Given, 1000, 0, &mut timesteps)?;
    /// assert_eq!(timesteps, [900, 20, 3]);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    Given,
}

/// Fills `timesteps` (n of them, from 1 to `train_steps`) in the order in which a run visits them: falling.
///
/// `offset` is added to leading timesteps only, as in diffusers; where it leads past the table this fails
/// ([`ConfigError::StepsOffset`]). So it does without a step, with more steps than timesteps (of `original`, those of
/// [`Spacing::Consistency`]), and where the caller's own don't fall or lie past the table ([`ConfigError::Level`]).
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
        Spacing::Consistency { original } => {
            let original = original as usize;
            if original == 0 || original > train_steps || steps > original {
                return Err(ConfigError::TooManySteps { steps, train_steps: original.min(train_steps) });
            }
            let stride = train_steps / original;
            // NumPy's linspace without its end point: multiples of one rounded stride.
            let skip = original as f64 / steps as f64;
            for (i, t) in timesteps.iter_mut().enumerate() {
                let place = (i as f64 * skip) as usize;
                *t = ((original - place.min(original - 1)) * stride - 1) as u32;
            }
        }
        Spacing::Given => {
            let falls = |pair: &[u32]| matches!(pair, [a, b] if a > b);
            let out_of_place = timesteps.windows(2).position(|pair| !falls(pair)).map(|i| i + 1);
            let past = timesteps.first().is_some_and(|&t| t as usize >= train_steps).then_some(0);
            if let Some(step) = past.or(out_of_place) {
                return Err(ConfigError::Level { step });
            }
        }
        Spacing::Leading => {
            let stride = train_steps / steps;
            let first = ((steps - 1) * stride).saturating_add(offset as usize);
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

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn timesteps(spacing: Spacing, train_steps: usize, offset: u32, steps: usize) -> std::vec::Vec<u32> {
        let mut timesteps = vec![u32::MAX; steps];
        fill_timesteps(spacing, train_steps, offset, &mut timesteps).unwrap();
        timesteps
    }

    #[test]
    fn timesteps_are_those_of_diffusers() {
        // DDIMScheduler(timestep_spacing=..., steps_offset=1).set_timesteps(n); n = 7 and 16 hit halves.
        use Spacing::{Leading, Linspace, Trailing};
        let expected: [(Spacing, &[u32]); 9] = [
            (Leading, &[1]),
            (Leading, &[853, 711, 569, 427, 285, 143, 1]),
            (Leading, &[931, 869, 807, 745, 683, 621, 559, 497, 435, 373, 311, 249, 187, 125, 63, 1]),
            (Trailing, &[999]),
            (Trailing, &[999, 856, 713, 570, 428, 285, 142]),
            (Trailing, &[999, 937, 874, 811, 749, 687, 624, 561, 499, 437, 374, 311, 249, 187, 124, 61]),
            (Linspace, &[0]),
            (Linspace, &[999, 832, 666, 500, 333, 166, 0]),
            (Linspace, &[999, 932, 866, 799, 733, 666, 599, 533, 466, 400, 333, 266, 200, 133, 67, 0]),
        ];
        for (spacing, expected) in expected {
            assert_eq!(timesteps(spacing, 1000, 1, expected.len()), expected, "{spacing:?}");
        }
        // There diffusers goes on to -1.
        assert_eq!(timesteps(Trailing, 1000, 0, 61)[59..], [32, 15]);
    }

    #[test]
    fn every_number_of_steps_falls_within_the_table() {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            for (train_steps, steps) in (1..=1000).map(|n| (1000, n)).chain((1..=97).map(|n| (97, n))) {
                let t = timesteps(spacing, train_steps, 0, steps);
                assert!(t[0] < train_steps as u32, "{spacing:?} {steps}");
                assert!(t.is_sorted_by(|a, b| a > b), "{spacing:?} {steps}: {t:?}");
            }
            assert!(timesteps(spacing, 1000, 0, 1000).into_iter().eq((0..1000).rev()));
        }
    }

    #[test]
    fn impossible_tables_are_refused() {
        let try_fill = |train_steps, offset, steps: usize| {
            fill_timesteps(Spacing::Leading, train_steps, offset, &mut vec![0; steps])
        };
        assert_eq!(try_fill(1000, 0, 0), Err(ConfigError::NoSteps));
        assert_eq!(try_fill(0, 0, 1), Err(ConfigError::TrainSteps(0)));
        assert_eq!(try_fill(9, 0, 10), Err(ConfigError::TooManySteps { steps: 10, train_steps: 9 }));
        assert_eq!(try_fill(1000, 1, 1000), Err(ConfigError::StepsOffset { t: 1000, train_steps: 1000 }));
        assert_eq!(try_fill(1000, 1, 999), Ok(()));
        assert!(try_fill(1000, u32::MAX, 10).is_err());
    }
}
