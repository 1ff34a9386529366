//! What a network takes of a device's memory: decided before anything is taken, from sizes alone.
//!
//! Weights stay on the device where they fit beside the arena. Where they don't, the largest stay and the others are packed
//! anew for each evaluation, through a window: kernels that run while the window's other half is filled.

use crate::error::GpuError;

/// Bytes of a staging buffer for the upload of weights at most.
pub(crate) const STAGING: u64 = 4 << 20;
/// And at least.
pub(crate) const LEAST_STAGING: u64 = 4 << 10;

/// Device memory that a network takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Weights that stay on the device.
    pub weights: u64,
    /// Weights that are sent anew for each evaluation; they take no memory but the window.
    pub streamed: u64,
    /// The window that those go through, with its staging buffers; 0 where every weight stays.
    pub window: u64,
    /// Tensors and scratch memory of one image.
    pub arena: u64,
    /// No plan of the arena can take fewer.
    pub arena_bound: u64,
    /// The largest scratch memory of a node; a part of the arena.
    pub workspace: u64,
    /// Staging buffers for the inputs and outputs of one image; 0 where the host reaches the arena.
    pub transfer: u64,
    /// The most images of one submission that all this leaves room for.
    pub images: usize,
}

impl Needs {
    /// Bytes with one image at a time.
    pub fn total(&self) -> u64 {
        [self.weights, self.window, self.arena, self.transfer].iter().fold(0, |sum, &n| sum.saturating_add(n))
    }
}

/// Sizes that [`fit`] goes by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes<'a> {
    /// Bytes of each weight, packed and aligned.
    pub(crate) weights: &'a [u64],
    /// Which weights may be streamed.
    pub(crate) large: &'a [bool],
    /// The weights of each node.
    pub(crate) nodes: &'a [[Option<usize>; 2]],
    /// Bytes of the arena for one image.
    pub(crate) arena: u64,
    /// The least that any plan of it can take.
    pub(crate) arena_bound: u64,
    /// The largest scratch memory of a node.
    pub(crate) workspace: u64,
    /// Bytes of the staging buffers for one image's inputs and outputs.
    pub(crate) transfer: u64,
    /// Whether the host can't reach the device's memory.
    pub(crate) staging: bool,
    /// The most images that anything else allows at once.
    pub(crate) images: usize,
    /// Bytes that all of it may take.
    pub(crate) limit: u64,
}

/// What [`fit`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) needs: Needs,
    /// Which weights are streamed.
    pub(crate) streamed: Vec<bool>,
    /// Bytes of a half of the window; 0 where every weight stays.
    pub(crate) half: u64,
}

/// Buffers of the window: two halves that the host fills in turn, or, where it can't reach the device's memory, two staging
/// buffers and what they are copied to.
pub(crate) const fn halves(staging: bool) -> u64 {
    if staging { 3 } else { 2 }
}

/// Decides which weights stay, and how many images run at once.
///
/// # Errors
/// [`GpuError::Memory`] with the least that would do.
pub(crate) fn fit(sizes: &Sizes<'_>) -> Result<Fit, GpuError> {
    let image = sizes.arena.saturating_add(sizes.transfer);
    // The upload's staging buffer is gone before the arena is there.
    let for_images = |n: u64| image.saturating_mul(n).max(if sizes.staging { LEAST_STAGING } else { 0 });
    // Those that stay first: the largest, since what is left of them decides the window.
    let mut order: Vec<usize> = (0..sizes.weights.len()).filter(|&i| sizes.large[i]).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes.weights[i]), i));
    let sum = |large: bool| -> u64 {
        let chosen = sizes.weights.iter().zip(sizes.large).filter(|(_, l)| **l == large);
        chosen.fold(0, |sum, (&bytes, _)| sum.saturating_add(bytes))
    };
    let (small, large) = (sum(false), sum(true));
    let mut streamed = sizes.large.to_vec();
    // For each number of weights that stay, those weights' bytes and a half of the window.
    let mut choices = vec![(small, widest(sizes, &streamed))];
    for &i in &order {
        streamed[i] = false;
        let (stay, _) = choices[choices.len() - 1];
        choices.push((stay.saturating_add(sizes.weights[i]), widest(sizes, &streamed)));
    }
    let most = sizes.images.max(1) as u64;
    let total = |(stay, half): (u64, u64), images: u64| {
        stay.saturating_add(half.saturating_mul(halves(sizes.staging))).saturating_add(for_images(images))
    };
    let fits = |images: u64| choices.iter().rposition(|&choice| total(choice, images) <= sizes.limit);
    let all = choices.len() - 1;
    let (kept, images) = if total(choices[all], 1) <= sizes.limit {
        let room = sizes.limit - choices[all].0;
        (all, (room / image.max(1)).clamp(1, most))
    } else {
        // One pass of the weights serves all images of a batch, so half of the memory is for them, if that can be.
        let batch = (sizes.limit / 2 / image.max(1)).clamp(1, most);
        let found = fits(batch).map(|kept| (kept, batch)).or_else(|| fits(1).map(|kept| (kept, 1)));
        found.ok_or_else(|| {
            let least = choices.iter().map(|&choice| total(choice, 1)).min().unwrap_or(0);
            GpuError::Memory { needed: least, limit: sizes.limit }
        })?
    };
    let mut streamed = vec![false; sizes.weights.len()];
    order[kept..].iter().for_each(|&i| streamed[i] = true);
    let (weights, half) = choices[kept];
    let needs = Needs {
        weights,
        streamed: small.saturating_add(large).saturating_sub(weights),
        window: half.saturating_mul(halves(sizes.staging)),
        arena: sizes.arena,
        arena_bound: sizes.arena_bound,
        workspace: sizes.workspace,
        transfer: sizes.transfer,
        images: usize::try_from(images).unwrap_or(usize::MAX),
    };
    Ok(Fit { needs, streamed, half })
}

/// The most bytes of streamed weights that one node needs.
fn widest(sizes: &Sizes<'_>, streamed: &[bool]) -> u64 {
    let of_node = |node: &[Option<usize>; 2]| {
        let ids = node.iter().flatten().filter(|&&i| streamed.get(i) == Some(&true));
        ids.fold(0_u64, |sum, &i| sum.saturating_add(sizes.weights[i]))
    };
    sizes.nodes.iter().map(of_node).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three large weights and a small one, for an arena of 100 bytes.
    fn sizes(limit: u64, staging: bool) -> Sizes<'static> {
        Sizes {
            weights: &[50, 10, 300, 200],
            large: &[true, false, true, true],
            nodes: &[[Some(0), Some(1)], [Some(2), None], [Some(3), None], [None, None]],
            arena: 100,
            arena_bound: 90,
            workspace: 7,
            transfer: if staging { 20 } else { 0 },
            staging,
            images: 8,
            limit,
        }
    }

    #[test]
    fn everything_stays_where_it_fits() {
        let fit = fit(&sizes(560 + 250, false)).unwrap();
        assert_eq!((fit.half, fit.streamed.contains(&true)), (0, false));
        assert_eq!((fit.needs.weights, fit.needs.window, fit.needs.images), (560, 0, 2));
        assert_eq!(fit.needs.total(), 660);
        assert_eq!(super::fit(&sizes(u64::MAX, false)).unwrap().needs.images, 8);
    }

    #[test]
    fn the_largest_weights_stay_and_the_least_is_named() {
        // With everything it is 660, which any window makes more of.
        assert!(matches!(fit(&sizes(659, false)), Err(GpuError::Memory { needed: 660, limit: 659 })));
        // Weights of 100, 100, 90, ...: the two largest stay, so that the window's halves take 90.
        let weights = [90, 100, 90, 100, 90, 90, 90, 90];
        let nodes = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| [Some(i), None]);
        let sizes = Sizes {
            weights: &weights,
            large: &[true; 8],
            nodes: &nodes,
            arena: 10,
            limit: 400,
            images: 1,
            ..sizes(0, false)
        };
        let fit = fit(&sizes).unwrap();
        assert_eq!((fit.half, fit.needs.weights, fit.needs.window), (90, 200, 180));
        assert_eq!(fit.streamed, weights.map(|w| w == 90));
    }

    #[test]
    fn a_window_takes_what_does_not_stay() {
        let nodes: Vec<_> = (0..20).map(|i| [Some(i), None]).collect();
        let base =
            Sizes { weights: &[100; 20], large: &[true; 20], nodes: &nodes, arena: 50, images: 4, ..Sizes::default() };
        let fit = |limit, staging| super::fit(&Sizes { limit, staging, ..base.clone() });
        // Half of the memory is for images: four of them take 200. 600 bytes stay, and 200 are the window.
        let found = fit(1000, false).unwrap();
        let needs = found.needs;
        assert_eq!((needs.images, needs.weights, needs.streamed, needs.window), (4, 600, 1400, 200));
        assert_eq!(found.streamed.iter().filter(|s| **s).count(), 14);
        // The least: a window and one image.
        assert_eq!(fit(250, false).unwrap().needs.weights, 0);
        assert!(matches!(fit(249, false), Err(GpuError::Memory { needed: 250, limit: 249 })));
        // Two staging buffers and what they are copied to; the upload's own staging buffer takes more than one image.
        let needs = fit(LEAST_STAGING + 300, true).unwrap().needs;
        assert_eq!((needs.weights, needs.window), (0, 300));
    }
}
