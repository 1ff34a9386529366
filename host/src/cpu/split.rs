//! How work is cut up for threads. What is cut where changes no bit of a result: every element is summed by one thread, in the order
//! that its kernel has.

use rayon::prelude::*;

use super::tile::PANEL;

/// Tasks a thread: enough that one which was held up leaves work to the others.
const TASKS: usize = 3;
/// Rows beside which it is nothing to widen weights twice.
const MANY_ROWS: usize = 512;
/// Rows that are cut into columns at a time, which bounds the list of their parts.
const ROWS_AT_ONCE: usize = 1 << 12;

/// A rectangle of a matrix: the same columns of consecutive rows.
pub(super) struct Part<'a> {
    /// Its first row.
    pub(super) row: usize,
    /// Its first column, a multiple of [`PANEL`].
    pub(super) column: usize,
    /// What it has of each row.
    pub(super) rows: Vec<&'a mut [f32]>,
}

/// Cuts a matrix of `width` columns, whose first row is called `first`, into parts of at most `columns` columns and `rows` rows.
fn cut(out: &mut [f32], first: usize, width: usize, rows: usize, columns: usize) -> Vec<Part<'_>> {
    let groups = width.div_ceil(columns);
    let mut parts = Vec::with_capacity(groups * (out.len() / width).div_ceil(rows));
    for (i, block) in out.chunks_mut(rows * width).enumerate() {
        let start = parts.len();
        let count = block.len() / width;
        let part = |group| Part { row: first + i * rows, column: group * columns, rows: Vec::with_capacity(count) };
        parts.extend((0..groups).map(part));
        for row in block.chunks_exact_mut(width) {
            for (part, piece) in parts[start..].iter_mut().zip(row.chunks_mut(columns)) {
                part.rows.push(piece);
            }
        }
    }
    parts
}

/// How finely a matrix is cut: rows and columns of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grain {
    rows: usize,
    columns: usize,
}

impl Grain {
    /// For `threads`: by columns, so that each weight is read (and widened) once; where there are too few, by rows too, of which a part
    /// has a multiple of `unit`.
    pub(super) fn by_columns(threads: usize, rows: usize, width: usize, unit: usize) -> Self {
        let panels = width.div_ceil(PANEL);
        if threads == 1 {
            return Self { rows: rows.next_multiple_of(unit), columns: panels * PANEL };
        }
        // Of a few numbers of groups the one that leaves the threads with the most equal shares.
        let columns = |groups: usize| panels.div_ceil(groups.min(panels));
        let groups = |columns: usize| panels.div_ceil(columns);
        // The largest share, in panels.
        let share = |columns: usize| groups(columns).div_ceil(threads) * columns;
        let columns =
            (1..=TASKS).rev().map(|n| columns(n * threads)).min_by_key(|&columns| share(columns)).unwrap_or(1);
        let even = share(columns) * threads * 8 <= panels * 9;
        let many = groups(columns) >= 2 * threads || rows < MANY_ROWS;
        let blocks = if even && many { 1 } else { (threads * TASKS).div_ceil(groups(columns)) };
        let rows = rows.div_ceil(unit).div_ceil(blocks).max(1) * unit;
        Self { rows, columns: columns * PANEL }
    }

    /// Parts of `rows` rows and `columns` columns, not only multiples of a panel.
    pub(super) fn exactly(rows: usize, columns: usize) -> Self {
        Self { rows, columns }
    }

    /// The same with at most `rows` rows.
    pub(super) fn at_most(self, rows: usize) -> Self {
        Self { rows: self.rows.min(rows), ..self }
    }
}

/// Runs `task` on every part of `out`, a matrix of `width` columns, over the pool's threads. `unit`: rows that belong together.
pub(super) fn for_parts(
    out: &mut [f32],
    width: usize,
    grain: Grain,
    unit: usize,
    task: impl Fn(Part<'_>) + Send + Sync,
) {
    // One column group needs no list of all parts: each task makes its own.
    if grain.columns >= width {
        return out.par_chunks_mut(grain.rows * width).enumerate().for_each(|(i, block)| {
            let rows = block.chunks_exact_mut(width).collect();
            task(Part { row: i * grain.rows, column: 0, rows });
        });
    }
    let at_once = ROWS_AT_ONCE.next_multiple_of(unit);
    for (i, block) in out.chunks_mut(at_once * width).enumerate() {
        cut(block, i * at_once, width, grain.rows, grain.columns).into_par_iter().for_each(&task);
    }
}

/// Runs `task` on every chunk of `out`, over the pool's threads.
pub(super) fn for_chunks<T: Send>(out: &mut [T], chunk: usize, task: impl Fn((usize, &mut [T])) + Send + Sync) {
    if out.len() <= chunk {
        if !out.is_empty() {
            task((0, out));
        }
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_matrix_once() {
        for (rows, width, threads, unit) in
            [(1, 5, 2, 1), (7, 320, 2, 1), (130, 48, 3, 8), (4200, 33, 2, 6), (64, 1280, 16, 1)]
        {
            let mut out = vec![0.0; rows * width];
            let grain = Grain::by_columns(threads, rows, width, unit);
            for_parts(&mut out, width, grain, unit, |part| {
                for (i, row) in part.rows.into_iter().enumerate() {
                    for (j, value) in row.iter_mut().enumerate() {
                        *value += ((part.row + i) * width + part.column + j + 1) as f32;
                    }
                }
                assert!(part.row.is_multiple_of(unit) && part.column.is_multiple_of(PANEL));
            });
            assert!(out.iter().enumerate().all(|(i, &value)| value == (i + 1) as f32), "{rows} x {width}");
        }
    }

    #[test]
    fn shares_are_equal() {
        let columns = |threads, width| Grain::by_columns(threads, 128, width, 1);
        assert_eq!(columns(2, 320), Grain { rows: 128, columns: 80 });
        assert_eq!(columns(2, 1280), Grain { rows: 128, columns: 320 });
        assert_eq!(columns(1, 1280), Grain { rows: 128, columns: 1280 });
    }
}
