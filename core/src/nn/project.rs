//! Numbers (the model time, a class label) as the features that a network is given. Done on the host for every backend:
//! device sines are too coarse (2^-11), and arguments reach 1000 radians.

use super::graph::{Grid, Input, Interface, Projection, WeightId};
use super::op::Shape;
use super::weights::WeightData;
use crate::denoise::Cond;
use crate::math::wide;

/// Why an input of a network can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputError {
    /// A time or label is not finite.
    NotFinite,
    /// A time or label must be a whole number below the given count.
    OutOfRange(u32),
    /// A Fourier embedding takes the logarithm: its number must be above 0.
    NotPositive,
    /// The network needs a class label and got none.
    NoClass,
    /// The network needs a loaded embedding, and the condition names none that is loaded.
    NoEmbedding,
    /// A condition was given to a network that takes none.
    Unconditional,
    /// A buffer or the number of conditions doesn't fit the network.
    Length,
}

/// The features of `number`, `out.len() == projection.dim()`. `weight` finds the graph's.
///
/// Sources: Ho et al. 2020 (positional), Song et al. 2021 (Fourier); rounded to f32 where diffusers rounds.
///
/// # Errors
/// [`InputError`].
pub fn project<'w>(
    projection: Projection,
    number: f32,
    weight: impl FnOnce(WeightId) -> Option<WeightData<'w>>,
    out: &mut [f32],
) -> Result<(), InputError> {
    if !number.is_finite() {
        return Err(InputError::NotFinite);
    }
    if out.len() != projection.dim() as usize {
        return Err(InputError::Length);
    }
    match projection {
        Projection::Value => out[0] = number,
        Projection::Index { count } => {
            // The conversion saturates, so that what comes back differs for anything but a whole number in range.
            if number < 0.0 || number as u32 as f32 != number || number as u32 >= count {
                return Err(InputError::OutOfRange(count));
            }
            out[0] = number;
        }
        Projection::Positional { dim, flip, shift } => {
            let half = dim as usize / 2;
            let denominator = (half as i64 - i64::from(shift)) as f32;
            out.fill(0.0);
            for i in 0..half {
                let exponent = (-core::f64::consts::LN_10 * 4.0) as f32 * i as f32 / denominator;
                let angle = f64::from(number * wide::exp(f64::from(exponent)) as f32);
                let (sin, cos) = (wide::sin(angle) as f32, wide::cos(angle) as f32);
                (out[i], out[half + i]) = if flip { (cos, sin) } else { (sin, cos) };
            }
        }
        Projection::Fourier { weight: frequencies, dim } => {
            if number <= 0.0 {
                return Err(InputError::NotPositive);
            }
            let half = dim as usize / 2;
            let frequencies = weight(frequencies).ok_or(InputError::Length)?;
            let log = wide::ln(f64::from(number)) as f32;
            for i in 0..half {
                let angle = f64::from(log * frequencies.at(i) * 2.0 * core::f32::consts::PI);
                (out[i], out[half + i]) = (wide::sin(angle) as f32, wide::cos(angle) as f32);
            }
        }
    }
    Ok(())
}

/// What a network's [`Input::Embedding`]s are filled from, one after the other: the values that were loaded as condition `cond`,
/// which `find` finds by their number; none if the network takes none.
///
/// # Errors
/// [`InputError::NoEmbedding`], or [`InputError::Length`] for another number of values than those inputs have together.
pub fn loaded<'e>(
    interface: Option<Interface>,
    cond: Cond,
    find: impl FnOnce(u32) -> Option<&'e [f32]>,
) -> Result<&'e [f32], InputError> {
    match (interface.map_or(0, |interface| interface.embedding), cond) {
        (0, _) => Ok(&[]),
        (len, Cond::Loaded(number)) => match find(number) {
            Some(values) if values.len() == len => Ok(values),
            Some(_) => Err(InputError::Length),
            None => Err(InputError::NoEmbedding),
        },
        _ => Err(InputError::NoEmbedding),
    }
}

/// Writes what a network is told of its pixels' places: a tensor of `shape`.
///
/// # Errors
/// [`InputError::Length`] for a tensor of another length.
pub fn grid(grid: Grid, shape: Shape, out: &mut [f32]) -> Result<(), InputError> {
    let [w, c] = [shape.w, shape.c].map(|n| n as usize);
    if out.len() as u64 != shape.len() || out.is_empty() {
        return Err(InputError::Length);
    }
    let base = match grid {
        Grid::Waves { base } => base,
        Grid::Index { first, stride } => {
            for (p, pixel) in out.chunks_exact_mut(c).enumerate() {
                let row = u64::from(first) + (p / w) as u64 * u64::from(stride) + (p % w) as u64;
                pixel.fill(row as f32);
            }
            return Ok(());
        }
    };
    // A quarter of the channels each: sines and cosines of the column, then of the row.
    let quarter = c / 4;
    let place = |i: usize, side: u32| i as f32 / (side as f32 / base as f32);
    for y in 0..shape.h as usize {
        for x in 0..w {
            let start = (y * w + x) * c;
            for (first, i, other, side, from) in [(0, x, y, shape.w, x * c), (2 * quarter, y, x, shape.h, y * w * c)] {
                if other > 0 {
                    // As in the first row, or in the first column.
                    out.copy_within(from + first..from + first + 2 * quarter, start + first);
                    continue;
                }
                for j in 0..quarter {
                    let exponent = -core::f64::consts::LN_10 * 4.0 * j as f64 / quarter as f64;
                    let angle = f64::from(place(i, side)) * wide::exp(exponent);
                    out[start + first + j] = wide::sin(angle) as f32;
                    out[start + first + quarter + j] = wide::cos(angle) as f32;
                }
            }
        }
    }
    Ok(())
}

/// Fills one of a network's inputs other than the image, a tensor of `shape`: with the features of time `t` or of condition `cond`, or
/// with the first of `loaded`, which is left with the others. Inputs are filled in the graph's order. `weight` finds the graph's weights.
///
/// # Errors
/// [`InputError`].
pub fn fill<'w>(
    (input, shape): (Input, Shape),
    t: f32,
    cond: Cond,
    weight: impl FnOnce(WeightId) -> Option<WeightData<'w>>,
    loaded: &mut &[f32],
    out: &mut [f32],
) -> Result<(), InputError> {
    match (input, cond) {
        (Input::Sample, _) => Err(InputError::Length),
        (Input::Time(projection), _) => project(projection, t, weight, out),
        (Input::Class(projection), Cond::Class(label)) if label < 1 << 24 => {
            project(projection, label as f32, weight, out)
        }
        (Input::Class(Projection::Index { count }), Cond::Class(_)) => Err(InputError::OutOfRange(count)),
        (Input::Class(_), Cond::Class(_)) => Err(InputError::OutOfRange(1 << 24)),
        (Input::Class(_), _) => Err(InputError::NoClass),
        (Input::Grid(places), _) => grid(places, shape, out),
        (Input::Embedding, _) => {
            let (part, rest) = loaded.split_at_checked(out.len()).ok_or(InputError::Length)?;
            out.copy_from_slice(part);
            *loaded = rest;
            Ok(())
        }
    }
}

/// Checks what [`crate::denoise::Denoise::predict`] was given against the network: lengths, and that conditions are given
/// exactly if the network takes them. Returns the number of images and the number of evaluations (`k * images`).
///
/// # Errors
/// [`InputError::Length`] or [`InputError::Unconditional`].
pub fn check(
    interface: Option<Interface>,
    x: &[f32],
    conds: &[Cond],
    out_values: usize,
) -> Result<(usize, usize), InputError> {
    let Interface { sample, output, conditional, .. } = interface.ok_or(InputError::Length)?;
    let (len, out_len) = (sample.len() as usize, output.len() as usize);
    let images = x.len() / len;
    if images == 0 || images * len != x.len() || conds.is_empty() || !conds.len().is_multiple_of(images) {
        return Err(InputError::Length);
    }
    if conds.len().checked_mul(out_len) != Some(out_values) {
        return Err(InputError::Length);
    }
    if !conditional && conds.iter().any(|c| *c != Cond::None) {
        return Err(InputError::Unconditional);
    }
    Ok((images, conds.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positional_features_follow_the_formula() {
        let mut out = [9.0; 5];
        project(Projection::Positional { dim: 5, flip: false, shift: 1 }, 3.0, |_| None, &mut out).unwrap();
        // Frequencies 1 and 1/10000 (the denominator is 2 - 1), sines first, an odd end of zero.
        let expected = [3.0_f32.sin(), 3e-4_f32.sin(), 3.0_f32.cos(), 3e-4_f32.cos(), 0.0];
        for (a, b) in out.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{out:?} {expected:?}");
        }
    }

    #[test]
    fn fourier_refuses_time_zero() {
        let projection = Projection::Fourier { weight: WeightId(0), dim: 2 };
        let weights = |_| Some(WeightData::F32(&[0.5]));
        assert_eq!(project(projection, 0.0, weights, &mut [0.0; 2]), Err(InputError::NotPositive));
        let mut out = [0.0; 2];
        project(projection, core::f32::consts::E, weights, &mut out).unwrap();
        assert!(out[0].abs() < 1e-6 && (out[1] + 1.0).abs() < 1e-6, "sin and cos of pi: {out:?}");
    }

    #[test]
    fn grids_name_rows_and_columns() {
        let mut rows = [0.0; 6];
        grid(Grid::Index { first: 7, stride: 10 }, Shape::new(2, 3, 1), &mut rows).unwrap();
        assert_eq!(rows, [7.0, 8.0, 9.0, 17.0, 18.0, 19.0]);
        assert_eq!(grid(Grid::Waves { base: 2 }, Shape::new(2, 3, 1), &mut [0.0; 5]), Err(InputError::Length));
        // Eight channels: two frequencies, 1 and 1/100. Three columns are as wide as two.
        let mut waves = [9.0; 48];
        grid(Grid::Waves { base: 2 }, Shape::new(2, 3, 8), &mut waves).unwrap();
        for (p, pixel) in waves.chunks_exact(8).enumerate() {
            let (x, y) = ((p % 3) as f32 / 1.5, (p / 3) as f32);
            let want = [x, y].map(|v| [v.sin(), (v / 100.0).sin(), v.cos(), (v / 100.0).cos()]);
            assert!(
                pixel.iter().zip(want.as_flattened()).all(|(a, b)| (a - b).abs() < 1e-6),
                "{p}: {pixel:?} {want:?}"
            );
        }
    }

    #[test]
    fn indices_are_whole_and_in_range() {
        let index = Projection::Index { count: 7 };
        assert_eq!(project(index, 6.0, |_| None, &mut [0.0]), Ok(()));
        for bad in [7.0, -1.0, 0.5] {
            assert_eq!(project(index, bad, |_| None, &mut [0.0]), Err(InputError::OutOfRange(7)), "{bad}");
        }
        assert_eq!(project(index, f32::NAN, |_| None, &mut [0.0]), Err(InputError::NotFinite));
    }
}
