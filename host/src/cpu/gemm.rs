//! The one safe wrapper of the `gemm` crate.

/// A matrix inside a slice: element (i, j) is `data[i * rows + j * cols]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    /// Distance between rows.
    pub(super) rows: usize,
    /// Distance between columns.
    pub(super) cols: usize,
}

/// `dst = lhs * rhs`, `dst` being `m * n` with contiguous columns that start `dst_cols` apart. On the calling thread
/// alone: the caller splits the work, so that the order of sums can't depend on the number of threads.
///
/// # Panics
/// When a matrix reaches beyond its slice; the graph's shapes rule that out.
pub(super) fn multiply([m, n, k]: [usize; 3], dst: &mut [f32], dst_cols: usize, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    if m == 0 || n == 0 {
        return;
    }
    let fits = |len: usize, i: usize, rows: usize, j: usize, cols: usize| {
        let last = i.checked_sub(1)?.checked_mul(rows)?.checked_add(j.checked_sub(1)?.checked_mul(cols)?)?;
        (last < len && last <= isize::MAX as usize).then_some(())
    };
    let inside = fits(dst.len(), m, 1, n, dst_cols).and(fits(lhs.data.len(), m, lhs.rows, k, lhs.cols)).and(fits(
        rhs.data.len(),
        k,
        rhs.rows,
        n,
        rhs.cols,
    ));
    assert!(inside.is_some() && (n == 1 || dst_cols >= m), "a matrix reaches beyond its slice");
    #[expect(unsafe_code, reason = "the gemm crate takes raw pointers")]
    // SAFETY: the assertion above shows that the largest index into each matrix lies inside its slice (all strides are
    // non-negative) and fits isize; `dst` is borrowed mutably, so it overlaps neither operand, and its columns don't
    // overlap each other.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            dst_cols as isize,
            1,
            false,
            lhs.data.as_ptr(),
            lhs.cols as isize,
            lhs.rows as isize,
            rhs.data.as_ptr(),
            rhs.cols as isize,
            rhs.rows as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_strided_matrices() {
        let (lhs, rhs) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, -1.0, 2.0]);
        let mut dst = [9.0; 2];
        let lhs = Matrix { data: &lhs, rows: 3, cols: 1 };
        multiply([2, 1, 3], &mut dst, 2, lhs, Matrix { data: &rhs, rows: 1, cols: 3 });
        assert_eq!(dst, [5.0, 11.0]);
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn refuses_what_lies_outside() {
        let data = [0.0; 5];
        let matrix = Matrix { data: &data, rows: 3, cols: 1 };
        multiply([2, 1, 3], &mut [0.0; 2], 2, matrix, Matrix { data: &[0.0; 3], rows: 1, cols: 3 });
    }
}
