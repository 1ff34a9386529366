//! The arithmetic of a LoRA.

use rayon::prelude::*;

use crate::error::Result;
use crate::memory;

/// A tensor: its shape and its values.
type Tensor = (Vec<usize>, Vec<f32>);

/// What is added to a weight: `scale * up x down`.
#[derive(Debug, PartialEq)]
pub(super) struct Factors {
    scale: f32,
    rank: usize,
    /// `[rank, in * h * w]`.
    down: Vec<f32>,
    /// `[out, rank]`.
    up: Vec<f32>,
}

impl Factors {
    /// For a weight of `shape`: `down` `[rank, in, h, w]` and `up` `[out, rank, 1, 1]`; or, with `mid` `[rank, rank, h, w]` (a
    /// CP decomposition), `down` `[rank, in, 1, 1]`. `None` if they don't fit.
    pub(super) fn new(shape: [u32; 4], scale: f32, down: Tensor, up: Tensor, mid: Option<Tensor>) -> Option<Self> {
        let [out, within, h, w] = shape.map(|n| n as usize);
        let window = h.checked_mul(w)?;
        let rank = *down.0.first()?;
        let second = |shape: &[usize]| shape.get(1).copied().unwrap_or(1);
        if rank == 0 || up.0.first() != Some(&out) || second(&up.0) != rank || up.1.len() != out * rank {
            return None;
        }
        if second(&down.0) != within {
            return None;
        }
        let down = match mid {
            None => down.1,
            Some((shape, mid)) if shape == [rank, rank, h, w] && down.1.len() == rank * within => {
                let mut whole = vec![0.0; rank * within * window];
                for (mid, whole) in mid.chunks_exact(rank * window).zip(whole.chunks_exact_mut(within * window)) {
                    for (mid, down) in mid.chunks_exact(window).zip(down.1.chunks_exact(within)) {
                        for (place, d) in whole.chunks_exact_mut(window).zip(down) {
                            place.iter_mut().zip(mid).for_each(|(v, m)| *v += d * m);
                        }
                    }
                }
                whole
            }
            Some(_) => return None,
        };
        (down.len() == rank * within * window).then_some(Self { scale, rank, down, up: up.1 })
    }

    /// Adds it to the weight's values, in the same order of sums whatever the number of threads.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn add(&self, values: &mut [f32]) -> Result<()> {
        let row = (self.down.len() / self.rank).max(1);
        // Sums of their own are rounded less often than the weight would be.
        let empty = memory::vec(row, 0.0_f32)?;
        values.par_chunks_mut(row).zip(self.up.par_chunks(self.rank)).for_each_init(
            || empty.clone(),
            |sum, (values, up)| {
                sum.fill(0.0);
                for (u, down) in up.iter().zip(self.down.chunks_exact(row)) {
                    sum.iter_mut().zip(down).for_each(|(s, d)| *s += u * d);
                }
                values.iter_mut().zip(sum).for_each(|(v, s)| *v += self.scale * *s);
            },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_multiplied() {
        let down = (vec![2, 3], vec![1.0, 2.0, 3.0, 0.0, 1.0, 0.0]);
        let up = (vec![2, 2], vec![1.0, 10.0, 0.0, 1.0]);
        let factors = Factors::new([2, 3, 1, 1], 0.5, down.clone(), up.clone(), None).unwrap();
        let mut values = [1.0; 6];
        factors.add(&mut values).unwrap();
        assert_eq!(values, [1.5, 7.0, 2.5, 1.0, 1.5, 1.0]);
        for shape in [[3, 3, 1, 1], [2, 2, 1, 1], [2, 3, 3, 3]] {
            assert_eq!(Factors::new(shape, 0.5, down.clone(), up.clone(), None), None, "{shape:?}");
        }
    }

    /// `sum over n, m of up[i, n] mid[n, m, y, x] down[m, j]`.
    #[test]
    fn three_factors_are_multiplied() {
        let (rank, out, within, window) = (2, 2, 3, 4);
        let numbers = |n: usize, f: usize| (0..n).map(|i| ((i * f) % 7) as f32 - 3.0).collect::<Vec<_>>();
        let (down, up, mid) = (numbers(rank * within, 3), numbers(out * rank, 5), numbers(rank * rank * window, 2));
        let factors = Factors::new(
            [2, 3, 2, 2],
            1.0,
            (vec![2, 3, 1, 1], down.clone()),
            (vec![2, 2, 1, 1], up.clone()),
            Some((vec![2, 2, 2, 2], mid.clone())),
        );
        let mut values = vec![0.0; out * within * window];
        factors.unwrap().add(&mut values).unwrap();
        for (place, value) in values.iter().enumerate() {
            let (i, j, p) = (place / (within * window), place / window % within, place % window);
            let pairs = (0..rank).flat_map(|n| (0..rank).map(move |m| (n, m)));
            let sum: f32 =
                pairs.map(|(n, m)| up[i * rank + n] * mid[(n * rank + m) * window + p] * down[m * within + j]).sum();
            assert_eq!(*value, sum, "{place}");
        }
    }
}
