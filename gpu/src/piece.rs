//! The pieces of an evaluation: nodes that are submitted together. A piece ends before its work would take a slow board so long
//! that its driver gives up, and before the weights that are streamed for it would outgrow the window. A node that would take that
//! long alone is cut along its work groups.

use crate::device::DeviceKind;
use crate::error::GpuError;
use std::ops::Range;

/// Operations of one submission: about half a second on the slowest device of a kind. Where a device is faster, what a submission costs
/// (tens of microseconds) must be nothing beside them.
pub(crate) fn most_flops(kind: DeviceKind) -> u64 {
    match kind {
        // Has no time-out, but Ctrl-C acts between submissions. lavapipe makes 5 to 15 GFLOP/s on two cores.
        DeviceKind::Cpu => 2_000_000_000,
        // A Pi 5 makes 5 to 10 GFLOP/s of its 77; a laptop 50 and more.
        DeviceKind::Integrated | DeviceKind::Virtual | DeviceKind::Other => 4_000_000_000,
        DeviceKind::Discrete => 50_000_000_000,
    }
}

/// A share of the work groups of a node's kernels, these taken one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which, from 0 on.
    pub(crate) number: u64,
    /// How many there are; at least 1.
    pub(crate) of: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self { number: 0, of: 1 }
    }
}

impl Share {
    /// What it has of each kernel, for kernels of so many work groups. Where a kernel has more than `row` of them, it is cut at
    /// multiples of `row`: no part but the last has rows that aren't full.
    pub(crate) fn groups(self, kernels: &[u64], row: u64) -> Vec<Range<u64>> {
        let all: u128 = kernels.iter().map(|&groups| u128::from(groups)).sum();
        let end_of = |number: u64| all * u128::from(number) / u128::from(self.of.max(1));
        let (start, end) = (end_of(self.number), end_of(self.number.saturating_add(1)));
        let mut before = 0_u128;
        let part = |&groups: &u64| {
            let inside = |at: u128| match at.saturating_sub(before).min(u128::from(groups)) as u64 {
                at if at < groups && groups > row => at / row * row,
                at => at,
            };
            let part = inside(start)..inside(end);
            before += u128::from(groups);
            part
        };
        kernels.iter().map(part).collect()
    }
}

/// Nodes that are submitted together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) nodes: Range<usize>,
    /// Of a single node, how much; otherwise everything.
    pub(crate) share: Share,
    /// How many times the window was filled anew before: all shares of a node run with the same weights.
    pub(crate) turn: usize,
    /// The weights to put into the window beforehand, each with its place there.
    pub(crate) loads: Vec<(usize, u64)>,
    /// Bytes of the window that they take.
    pub(crate) bytes: u64,
}

/// What decides where pieces end.
pub(crate) struct Cut<'a> {
    /// Operations of each node, for all images.
    pub(crate) flops: &'a dyn Fn(usize) -> u64,
    /// The streamed weights of a node.
    pub(crate) streamed: &'a dyn Fn(usize) -> Vec<usize>,
    /// Bytes of each weight, aligned.
    pub(crate) weights: &'a [u64],
    /// Work groups of each node's kernels together.
    pub(crate) groups: &'a dyn Fn(usize) -> u64,
    /// Operations of a piece, unless a single work group has more.
    pub(crate) most_flops: u64,
    /// Bytes of a half of the window.
    pub(crate) half: u64,
}

impl Cut<'_> {
    /// Cuts `nodes` into pieces.
    ///
    /// # Errors
    /// [`GpuError::Bug`] when a node's weights are larger than the window.
    pub(crate) fn pieces(&self, nodes: Range<usize>) -> Result<Vec<Piece>, GpuError> {
        let mut pieces = Vec::new();
        let mut now = Piece { nodes: nodes.start..nodes.start, ..Piece::default() };
        let mut flops = 0_u64;
        for node in nodes {
            let more = (self.flops)(node);
            let mut wanted = (self.streamed)(node);
            let new = |wanted: &[usize], piece: &Piece| -> u64 {
                let there = |i: &&usize| !piece.loads.iter().any(|(load, _)| load == *i);
                wanted.iter().filter(there).map(|&i| self.weights[i]).sum()
            };
            let full = now.bytes + new(&wanted, &now) > self.half || flops.saturating_add(more) > self.most_flops;
            if full && !now.nodes.is_empty() {
                pieces.push(std::mem::replace(&mut now, Piece { nodes: node..node, ..Piece::default() }));
                flops = 0;
            }
            wanted.retain(|i| !now.loads.iter().any(|(load, _)| load == i));
            for weight in wanted {
                now.loads.push((weight, now.bytes));
                now.bytes += self.weights[weight];
            }
            if now.bytes > self.half {
                return Err(GpuError::Bug("weights larger than their window"));
            }
            now.nodes.end = node + 1;
            flops = flops.saturating_add(more);
        }
        if !now.nodes.is_empty() {
            pieces.push(now);
        }
        Ok(pieces.into_iter().enumerate().flat_map(|(turn, piece)| self.shares(Piece { turn, ..piece })).collect())
    }

    /// A piece of a node that has too many operations, in shares that don't.
    fn shares(&self, piece: Piece) -> impl Iterator<Item = Piece> {
        let parts = |node| (self.flops)(node).div_ceil(self.most_flops.max(1)).min((self.groups)(node)).max(1);
        let of = if piece.nodes.len() == 1 { parts(piece.nodes.start) } else { 1 };
        (0..of).map(move |number| Piece { share: Share { number, of }, ..piece.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(flops: &[u64], streamed: &[&[usize]], most_flops: u64, half: u64) -> Result<Vec<Piece>, GpuError> {
        let weights = [10, 20, 30];
        let streamed = |node: usize| streamed.get(node).map_or(Vec::new(), |weights| weights.to_vec());
        let (flops_of, groups) = (|node: usize| flops[node], |_| 2);
        let cut = Cut { flops: &flops_of, streamed: &streamed, weights: &weights, groups: &groups, most_flops, half };
        cut.pieces(0..flops.len())
    }

    fn nodes(pieces: &[Piece]) -> Vec<Range<usize>> {
        pieces.iter().map(|piece| piece.nodes.clone()).collect()
    }

    #[test]
    fn pieces_end_before_they_take_too_long() {
        assert_eq!(nodes(&cut(&[4, 4, 4, 10, 1], &[], 10, 0).unwrap()), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(nodes(&cut(&[4, 4, 4], &[], 100, 0).unwrap()), vec![0..3]);
        assert_eq!(cut(&[], &[], 100, 0).unwrap(), []);
    }

    #[test]
    fn pieces_end_before_the_window_is_full() {
        // Weight 0 is used twice and loaded once.
        let streamed: [&[usize]; 5] = [&[0], &[1], &[0], &[], &[2]];
        let pieces = cut(&[1; 5], &streamed, 100, 30).unwrap();
        assert_eq!(nodes(&pieces), [0..4, 4..5]);
        assert_eq!((&pieces[0].loads[..], pieces[0].bytes), (&[(0, 0), (1, 10)][..], 30));
        assert_eq!(pieces[1].loads, [(2, 0)]);
        assert!(matches!(cut(&[1; 5], &streamed, 100, 29), Err(GpuError::Bug(_))));
    }

    #[test]
    fn a_node_that_takes_too_long_is_cut_and_its_weights_sent_once() {
        // Two work groups: no more than two shares.
        let pieces = cut(&[4, 30, 1], &[&[], &[1], &[2]], 10, 30).unwrap();
        assert_eq!(nodes(&pieces), [0..1, 1..2, 1..2, 2..3]);
        let shares: Vec<_> = pieces.iter().map(|p| (p.share.number, p.share.of, p.turn)).collect();
        assert_eq!(shares, [(0, 1, 0), (0, 2, 1), (1, 2, 1), (0, 1, 2)]);
    }

    #[test]
    fn shares_have_every_group_once_and_whole_rows() {
        for (kernels, row) in [(&[7, 1, 12][..], 100), (&[25], 10), (&[10, 3], 10), (&[1], 1)] {
            for of in 1..9 {
                let mut ends = vec![0; kernels.len()];
                for number in 0..of {
                    let parts = Share { number, of }.groups(kernels, row);
                    for ((part, end), &groups) in parts.iter().zip(&mut ends).zip(kernels) {
                        assert_eq!(part.start, *end, "{kernels:?} {number} of {of}");
                        assert!(groups <= row || part.end == groups || part.end % row == 0, "{part:?} of {groups}");
                        *end = part.end;
                    }
                    // A kernel starts when the one before is done.
                    let open = parts.iter().zip(kernels).position(|(part, &groups)| part.end < groups);
                    assert!(open.is_none_or(|i| parts[i + 1..].iter().all(|part| part.end == 0)), "{parts:?}");
                }
                assert_eq!(ends, kernels);
            }
        }
    }
}
