//! The one inner loop of all matrix products: a few rows of numbers times a panel of 16 columns, in registers.
//!
//! Every sum runs over its products in order, each fused into the sum, whatever the number of rows at a time and the width of
//! the processor's vectors: neither the threads nor the batch nor the processor's generation changes a bit. (Processors without
//! fused multiplication, such as x86 before 2013, round twice.)

use pulp::{Arch, Scalar128b, Simd, WithSimd};

/// Columns of a panel.
pub(super) const PANEL: usize = 16;
/// Rows of a tile: with two vectors of 8 columns they fill 12 of AVX2's 16 registers, which hides the latency of its sums.
pub(super) const ROWS: usize = 6;
/// Rows of a tile where a panel's row is one vector (AVX-512).
const MANY_ROWS: usize = 12;

/// Work that is compiled for each kind of vector. `NV` vectors make the width of a panel.
pub(super) trait Task {
    /// What it returns.
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`, and so is what they call, for that is how they come to be compiled for the
    /// vectors at hand.
    fn run<S: Simd, const NV: usize>(self, simd: S) -> Self::Output;
}

struct Dispatched<T>(T);

impl<T: Task> WithSimd for Dispatched<T> {
    type Output = T::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T::Output {
        match S::F32_LANES {
            16 => self.0.run::<S, 1>(simd),
            8 => self.0.run::<S, 2>(simd),
            4 => self.0.run::<S, 4>(simd),
            // Plain numbers: pulp knows no vectors here, but the compiler may.
            _ => self.0.run::<Scalar128b, 4>(Scalar128b),
        }
    }
}

/// Runs `task` with the processor's vectors.
pub(super) fn run<T: Task>(arch: Arch, task: T) -> T::Output {
    arch.dispatch(Dispatched(task))
}

/// Pieces of rows that are read one after the other, at most.
pub(super) const PIECES: usize = 9;

/// The sums of a tile: for each of its rows, `pieces[..][row][i] * panel[..][..]` in order, added to what `sums` (a panel's width for each
/// row) holds unless it is `fresh`. Pieces are of equal length. Compiled apart from what calls it, so that the sums have all registers.
#[inline(always)]
pub(super) fn add<S: Simd, const N: usize>(
    simd: S,
    pieces: &[[&[f32]; N]],
    panel: &[f32],
    sums: &mut [f32],
    fresh: bool,
) {
    simd.vectorize(Dispatched(Add { pieces, panel, sums, fresh }));
}

struct Add<'a, const N: usize> {
    pieces: &'a [[&'a [f32]; N]],
    panel: &'a [f32],
    sums: &'a mut [f32],
    fresh: bool,
}

impl<const N: usize> Task for Add<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
        let Self { pieces, panel, sums: places, fresh } = self;
        let mut sums = [[simd.splat_f32s(0.0); NV]; N];
        if !fresh {
            for (sums, place) in sums.iter_mut().zip(places.chunks_exact(PANEL)) {
                *sums = load::<S, NV>(place);
            }
        }
        let (mut columns, _) = S::as_simd_f32s(panel);
        for rows in pieces {
            let count = rows[0].len();
            let mut cut = *rows;
            for row in &mut cut {
                *row = &row[..count];
            }
            let (now, later) = columns.split_at(count * NV);
            columns = later;
            for (i, columns) in now.chunks_exact(NV).take(count).enumerate() {
                for (sums, row) in sums.iter_mut().zip(&cut) {
                    let factor = simd.splat_f32s(row[i]);
                    for (sum, &column) in sums.iter_mut().zip(columns) {
                        *sum = simd.mul_add_e_f32s(factor, column, *sum);
                    }
                }
            }
        }
        for (sums, place) in sums.iter().zip(places.chunks_exact_mut(PANEL)) {
            store::<S, NV>(place, sums);
        }
    }
}

/// What is done with tiles, for any number of rows that there is code for.
pub(super) trait Tiles {
    /// Does rows `first` to `first + count`; `count <= N`. If fewer, the last is read again in place of those that lack.
    fn tile<S: Simd, const NV: usize, const N: usize>(&mut self, simd: S, first: usize, count: usize);
}

/// Does rows `first..end`, a tile at a time.
#[inline(always)]
pub(super) fn tiles<S: Simd, const NV: usize>(simd: S, mut first: usize, end: usize, work: &mut impl Tiles) {
    while first < end {
        let count = end - first;
        let done = if NV == 1 && count >= MANY_ROWS {
            work.tile::<S, NV, MANY_ROWS>(simd, first, MANY_ROWS);
            MANY_ROWS
        } else if count > 4 {
            let done = count.min(ROWS);
            work.tile::<S, NV, ROWS>(simd, first, done);
            done
        } else if count > 2 {
            work.tile::<S, NV, 4>(simd, first, count);
            count
        } else if count == 2 {
            work.tile::<S, NV, 2>(simd, first, 2);
            2
        } else {
            work.tile::<S, NV, 1>(simd, first, 1);
            1
        };
        first += done;
    }
}

/// The sums of a row as they lie in memory, a panel's width.
#[inline(always)]
pub(super) fn load<S: Simd, const NV: usize>(row: &[f32]) -> [S::f32s; NV] {
    let (vectors, _) = S::as_simd_f32s(&row[..PANEL]);
    let mut sums = [vectors[0]; NV];
    sums.copy_from_slice(&vectors[..NV]);
    sums
}

/// The inverse of [`load`].
#[inline(always)]
pub(super) fn store<S: Simd, const NV: usize>(row: &mut [f32], sums: &[S::f32s; NV]) {
    let (vectors, _) = S::as_mut_simd_f32s(&mut row[..PANEL]);
    vectors[..NV].copy_from_slice(sums);
}

/// A vector of `values`, which are as many as it has lanes, or fewer: then with zeros.
#[inline(always)]
pub(super) fn load_lanes<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values).0.first() {
        Some(vector) => *vector,
        None => simd.partial_load_f32s(values),
    }
}

/// The inverse of [`load_lanes`].
#[inline(always)]
pub(super) fn store_lanes<S: Simd>(simd: S, values: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(values).0.first_mut() {
        Some(place) => *place = vector,
        None => simd.partial_store_f32s(values, vector),
    }
}

/// A copy of a row of at most a panel's width.
#[inline(always)]
pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    match (from.first_chunk::<PANEL>(), to.first_chunk_mut::<PANEL>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
    }
}
