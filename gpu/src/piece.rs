//! The pieces of an evaluation: nodes that are submitted together. A piece ends before its work would take a slow board so long
//! that its driver gives up, and before the weights that are streamed for it would outgrow the window.

use crate::device::DeviceKind;
use crate::error::GpuError;
use std::ops::Range;

/// Operations of one submission: about half a second on the slowest device of a kind. Where a device is faster, the pause between
/// two submissions (tens of microseconds) must be nothing beside them.
pub(crate) fn most_flops(kind: DeviceKind) -> u64 {
    match kind {
        // Has no time-out, but Ctrl-C acts between submissions. lavapipe makes 5 to 15 GFLOP/s on two cores.
        DeviceKind::Cpu => 2_000_000_000,
        // A Pi 5 makes 5 to 10 GFLOP/s of its 77; a laptop 50 and more.
        DeviceKind::Integrated | DeviceKind::Virtual | DeviceKind::Other => 4_000_000_000,
        DeviceKind::Discrete => 50_000_000_000,
    }
}

/// Nodes that are submitted together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) nodes: Range<usize>,
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
    /// Operations of a piece, unless a single node has more.
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
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(flops: &[u64], streamed: &[&[usize]], most_flops: u64, half: u64) -> Result<Vec<Piece>, GpuError> {
        let weights = [10, 20, 30];
        let streamed = |node: usize| streamed.get(node).map_or(Vec::new(), |weights| weights.to_vec());
        let cut = Cut { flops: &|node| flops[node], streamed: &streamed, weights: &weights, most_flops, half };
        cut.pieces(0..flops.len())
    }

    fn nodes(pieces: &[Piece]) -> Vec<Range<usize>> {
        pieces.iter().map(|piece| piece.nodes.clone()).collect()
    }

    #[test]
    fn pieces_end_before_they_take_too_long() {
        assert_eq!(nodes(&cut(&[4, 4, 4, 30, 1], &[], 10, 0).unwrap()), [0..2, 2..3, 3..4, 4..5]);
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
}
