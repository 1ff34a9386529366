//! The singular value decomposition of a small matrix, in memory that the caller lends.

use crate::math::wide;

/// `A = U S V'` of a matrix `[rows, cols]`, with all of V: directions that A loses are there too, with the value 0.
#[derive(Clone, Copy, Debug)]
pub struct Svd<'a> {
    rows: usize,
    cols: usize,
    /// `[cols]`, in no order.
    values: &'a [f32],
    /// V', `[cols, cols]`.
    right: &'a [f32],
    /// U', `[cols, rows]`: zeros where the value is 0.
    left: &'a [f32],
}

/// Rounds of rotations; each brings the rest to about its square, so that a handful is enough.
const ROUNDS: usize = 40;

impl<'a> Svd<'a> {
    /// Values of memory that a decomposition is kept in, and f64 values that making it takes, once.
    pub const fn memory(rows: usize, cols: usize) -> [usize; 2] {
        [cols.saturating_mul(cols.saturating_add(rows).saturating_add(1)), cols.saturating_mul(cols).saturating_mul(2)]
    }

    /// Decomposes `matrix` `[rows, cols]`. Values of less than `cutoff` times the largest count as 0: what they carry can't be told
    /// from noise. Cyclic Jacobi rotations of A'A (Golub and Van Loan, 8.5).
    ///
    /// `None` for memory of other lengths than [`Self::memory`] says, a matrix that is not finite or zero, or more rows than columns.
    pub fn new(
        matrix: &[f64],
        [rows, cols]: [usize; 2],
        cutoff: f64,
        memory: &'a mut [f32],
        work: &mut [f64],
    ) -> Option<Self> {
        let [kept, once] = Self::memory(rows, cols);
        let fits = rows > 0 && rows <= cols && rows.checked_mul(cols) == Some(matrix.len());
        if !fits || memory.len() != kept || work.len() != once || !matrix.iter().all(|v| v.is_finite()) {
            return None;
        }
        let (gram, basis) = work.split_at_mut(cols * cols);
        for i in 0..cols {
            for j in 0..cols {
                gram[i * cols + j] = (0..rows).map(|r| matrix[r * cols + i] * matrix[r * cols + j]).sum();
                basis[i * cols + j] = if i == j { 1.0 } else { 0.0 };
            }
        }
        diagonalise(gram, basis, cols);
        let (values, rest) = memory.split_at_mut(cols);
        let (right, left) = rest.split_at_mut(cols * cols);
        let value = |i: usize| wide::sqrt(gram[i * cols + i].max(0.0));
        let largest = (0..cols).map(value).fold(0.0, f64::max);
        if largest == 0.0 {
            return None;
        }
        for i in 0..cols {
            let direction = &basis[i * cols..][..cols];
            right[i * cols..][..cols].iter_mut().zip(direction).for_each(|(out, v)| *out = *v as f32);
            let own = value(i);
            let lost = own < cutoff * largest;
            values[i] = if lost { 0.0 } else { own as f32 };
            for (r, out) in left[i * rows..][..rows].iter_mut().enumerate() {
                let dot: f64 = matrix[r * cols..][..cols].iter().zip(direction).map(|(a, v)| a * v).sum();
                *out = if lost { 0.0 } else { (dot / own) as f32 };
            }
        }
        Some(Self { rows, cols, values, right, left })
    }

    /// A decomposition that [`Self::new`] has left in `memory`: firmware may have it in flash.
    ///
    /// `None` for memory of another length than [`Self::memory`] says.
    pub fn kept(memory: &'a [f32], [rows, cols]: [usize; 2]) -> Option<Self> {
        if rows == 0 || rows > cols || memory.len() != Self::memory(rows, cols)[0] {
            return None;
        }
        let (values, rest) = memory.split_at(cols);
        let (right, left) = rest.split_at(cols * cols);
        Some(Self { rows, cols, values, right, left })
    }

    /// Rows and columns of the matrix.
    pub const fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The singular values, `[cols]`.
    pub const fn values(&self) -> &'a [f32] {
        self.values
    }

    /// V', a row a direction, `[cols, cols]`.
    pub const fn right(&self) -> &'a [f32] {
        self.right
    }

    /// U', `[cols, rows]`: the zeros belong to directions that are lost.
    pub const fn left(&self) -> &'a [f32] {
        self.left
    }
}

/// Rotates the symmetric `gram` `[n, n]` until it is diagonal, and the rows of `basis` with it: they become its eigenvectors.
fn diagonalise(gram: &mut [f64], basis: &mut [f64], n: usize) {
    let trace: f64 = (0..n).map(|i| gram[i * n + i]).sum();
    for _ in 0..ROUNDS {
        let mut rest = 0.0;
        for p in 0..n {
            for q in p + 1..n {
                let off = gram[p * n + q];
                rest += off * off;
                if off.abs() <= 1e-18 * trace {
                    continue;
                }
                let theta = (gram[q * n + q] - gram[p * n + p]) / (2.0 * off);
                let sign = if theta < 0.0 { -1.0 } else { 1.0 };
                let t = sign / (theta.abs() + wide::sqrt(theta * theta + 1.0));
                let c = 1.0 / wide::sqrt(t * t + 1.0);
                rotate(gram, basis, n, [p, q], [c, t * c]);
            }
        }
        if wide::sqrt(rest) <= 1e-15 * trace {
            break;
        }
    }
}

fn rotate(gram: &mut [f64], basis: &mut [f64], n: usize, [p, q]: [usize; 2], [c, s]: [f64; 2]) {
    let turn = |a: &mut [f64], i: usize, j: usize| {
        let (x, y) = (a[i], a[j]);
        a[i] = c * x - s * y;
        a[j] = s * x + c * y;
    };
    for k in 0..n {
        turn(gram, k * n + p, k * n + q);
    }
    for k in 0..n {
        turn(gram, p * n + k, q * n + k);
        turn(basis, p * n + k, q * n + k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::matrix;
    use std::vec;
    use std::vec::Vec;

    fn check(matrix: &[f64], [m, n]: [usize; 2]) {
        let [kept, once] = Svd::memory(m, n);
        let (mut memory, mut work) = (vec![0.0; kept], vec![0.0; once]);
        let svd = Svd::new(matrix, [m, n], 1e-6, &mut memory, &mut work).unwrap();
        for r in 0..m {
            for c in 0..n {
                let sum: f64 = (0..n)
                    .map(|i| {
                        f64::from(svd.left()[i * m + r])
                            * f64::from(svd.values()[i])
                            * f64::from(svd.right()[i * n + c])
                    })
                    .sum();
                assert!((sum - matrix[r * n + c]).abs() < 1e-6, "{r}, {c}: {sum} for {}", matrix[r * n + c]);
            }
        }
        for i in 0..n {
            for j in 0..n {
                let dot: f32 = (0..n).map(|k| svd.right()[i * n + k] * svd.right()[j * n + k]).sum();
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((dot - want).abs() < 1e-5, "directions {i} and {j}: {dot}");
            }
        }
        assert_eq!(svd.values().iter().filter(|v| **v > 0.0).count(), m, "the rank");
    }

    #[test]
    fn the_parts_make_the_matrix_again() {
        let mut rows = vec![0.0; 4 * 16];
        assert!(matrix::bicubic(16, 4, &mut rows));
        check(&rows, [4, 16]);
        let mut rows = vec![0.0; 81];
        assert!(matrix::gaussian(9, 0.6, &mut rows));
        check(&rows, [9, 9]);
        let odd: Vec<f64> = (0..15).map(|i| f64::from(i * i % 7) - 2.5).collect();
        check(&odd, [3, 5]);
    }

    #[test]
    fn small_values_are_cut_off() {
        let (mut memory, mut work) = (vec![0.0; Svd::memory(2, 2)[0]], vec![0.0; Svd::memory(2, 2)[1]]);
        let svd = Svd::new(&[1.0, 0.0, 0.0, 1e-4], [2, 2], 1e-3, &mut memory, &mut work).unwrap();
        assert_eq!(svd.values(), [1.0, 0.0]);
        assert_eq!(svd.left(), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let mut memory = vec![0.0; Svd::memory(1, 2)[0]];
        let mut work = vec![0.0; Svd::memory(1, 2)[1]];
        assert!(Svd::new(&[0.0, 0.0], [1, 2], 0.0, &mut memory, &mut work).is_none());
        assert!(Svd::new(&[f64::NAN, 1.0], [1, 2], 0.0, &mut memory, &mut work).is_none());
        assert!(Svd::new(&[1.0, 1.0], [2, 1], 0.0, &mut memory, &mut work).is_none());
        assert!(Svd::new(&[1.0, 1.0], [1, 2], 0.0, &mut memory[1..], &mut work).is_none());
    }
}
