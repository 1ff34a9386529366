//! Memory that the device can still give: what the driver says of it (VK_EXT_memory_budget), or its size less what is taken.

use crate::common::{One, Random, context};
use unfog_core::nn::graph::WeightUse;
use unfog_core::nn::op::{Conv2d, Op, Shape};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{GpuError, Network, Options};

/// A linear layer with a weight of `side` squared floats.
fn linear(side: u32) -> One {
    let op = Op::Conv2d(Conv2d::new(side, side, 1, 0));
    One::new(op, &[Some(Shape::vector(side))], &[Some(([side, side, 1, 1], WeightUse::Kernel)), None])
}

#[test]
fn what_is_left_falls_with_what_is_taken() {
    let Some(context) = context("what_is_left_falls_with_what_is_taken") else { return };
    let one = linear(4096);
    let (graph, values) = (one.graph(), Random(2).values(4096 * 4096));
    let weights = [WeightData::F32(&values)];
    // Other programs take and give memory meanwhile, so now and then there is more left than before: not every time.
    let taken: Vec<(u64, u64)> = (0..5)
        .map(|_| {
            let before = context.available();
            assert!(0 < before && before <= context.info().memory, "{before} of {}", context.info().memory);
            let mut network = Network::new(&context, &graph, &weights, Options::default()).unwrap();
            network.execute().unwrap();
            (before.saturating_sub(context.available()), context.usage().bytes)
        })
        .collect();
    assert!(taken.iter().any(|&(left, taken)| taken > 64 << 20 && left >= taken / 2), "{taken:?}");
    assert_eq!(context.usage().bytes, 0);
    assert_eq!(context.messages(), [""; 0]);
}

#[test]
fn what_is_left_is_the_limit_and_a_lower_one_is_named() {
    let Some(context) = context("what_is_left_is_the_limit_and_a_lower_one_is_named") else { return };
    let one = linear(64);
    let needs = |vram| Network::needs(&context, &one.graph(), Options { vram, ..Options::default() });
    let total = needs(None).unwrap().total();
    assert!(total < context.available());
    // More than there is makes no difference.
    assert_eq!(needs(Some(u64::MAX)).unwrap().total(), total);
    match needs(Some(1000)) {
        Err(GpuError::Memory { needed, limit }) => assert!(limit == 1000 && needed > 1000, "{needed} {limit}"),
        other => panic!("1000 bytes are enough: {other:?}"),
    }
}
