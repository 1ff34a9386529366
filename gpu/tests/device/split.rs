//! Nodes that are too large for one submission: cut along their work groups.

use crate::common::{One, Random, context};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::cost::node_flops;
use unfog_core::nn::graph::WeightUse;
use unfog_core::nn::op::{Act, Attention, Conv2d, Op, Shape};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, GpuError, Options, VulkanDenoiser};

const SIDE: u32 = 32;
const CHANNELS: u32 = 32;

fn shape() -> Shape {
    Shape::new(SIDE, SIDE, CHANNELS)
}

fn conv2d() -> One {
    let op = Conv2d { act: Act::Silu, ..Conv2d::new(CHANNELS, CHANNELS, 3, 1) };
    let kernel = ([CHANNELS, CHANNELS, 3, 3], WeightUse::Kernel);
    One::new(Op::Conv2d(op), &[Some(shape())], &[Some(kernel), Some(([CHANNELS, 1, 1, 1], WeightUse::Vector))])
}

fn attention() -> One {
    let op = Attention { heads: 4, head_dim: CHANNELS / 4, scale: 0.3, causal: false, biased: false };
    One::new(Op::Attention(op), &[Some(shape()); 3], &[])
}

/// What a node makes of an image, in how many submissions.
fn predict(context: &Context, one: &One, images: usize, options: Options) -> (Vec<f32>, u64) {
    let graph = one.graph();
    let weights: Vec<Vec<f32>> = graph.weights.iter().map(|w| Random(7).values(w.len())).collect();
    let weights: Vec<WeightData<'_>> = weights.iter().map(|w| WeightData::F32(w)).collect();
    let mut denoiser = VulkanDenoiser::new(context, &graph, &weights, options).unwrap();
    let x = Random(3).values(images as u64 * shape().len());
    let mut out = vec![f32::NAN; x.len()];
    denoiser.predict(&x, 0.0, &vec![Cond::None; images], &mut out).unwrap();
    (out, denoiser.stats().submits)
}

#[test]
fn a_large_node_is_cut_into_submissions_of_the_same_bits() {
    let Some(context) = context("a_large_node_is_cut_into_submissions_of_the_same_bits") else { return };
    for one in [conv2d(), attention()] {
        for images in [1, 2] {
            let flops = images as u64 * node_flops(&one.graph(), &one.graph().nodes[0]);
            let (whole, submits) = predict(&context, &one, images, Options::default());
            assert_eq!(submits, 1);
            for parts in [2, 3, 7] {
                for force_staging in [false, true] {
                    let submit_flops = Some(flops.div_ceil(parts));
                    let options = Options { submit_flops, force_staging, ..Options::default() };
                    let (cut, submits) = predict(&context, &one, images, options);
                    assert_eq!(submits, parts);
                    assert!(cut == whole, "{parts} parts of {images} images");
                }
            }
        }
    }
    assert_eq!(context.messages(), [""; 0]);
}

#[test]
fn a_run_is_stopped_in_the_middle_of_a_node() {
    let Some(context) = context("a_run_is_stopped_in_the_middle_of_a_node") else { return };
    let one = conv2d();
    let graph = one.graph();
    let weights: Vec<Vec<f32>> = graph.weights.iter().map(|w| Random(7).values(w.len())).collect();
    let weights: Vec<WeightData<'_>> = weights.iter().map(|w| WeightData::F32(w)).collect();
    let options = Options { submit_flops: Some(1), ..Options::default() };
    let mut denoiser = VulkanDenoiser::new(&context, &graph, &weights, options).unwrap();
    let x = Random(3).values(shape().len());
    let mut out = vec![0.0; x.len()];
    denoiser.predict(&x, 0.0, &[Cond::None], &mut out).unwrap();
    let all = denoiser.stats().submits;
    assert!(all >= 16, "a submission for each work group, {all}");
    let stop = Arc::new(AtomicBool::new(false));
    denoiser.stop_when(stop.clone());
    // When the other thread comes is a matter of chance: sooner or later it is in the middle.
    let stopped = (0..1000).any(|_| {
        let before = denoiser.stats().submits;
        let later = stop.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(500));
            later.store(true, Ordering::Relaxed);
        });
        let result = denoiser.predict(&x, 0.0, &[Cond::None], &mut out);
        thread.join().unwrap();
        stop.store(false, Ordering::Relaxed);
        let submits = denoiser.stats().submits - before;
        assert!(result.is_ok() == (submits == all), "{submits} of {all}: {result:?}");
        assert!(matches!(result, Ok(()) | Err(GpuError::Stopped)), "{result:?}");
        0 < submits && submits < all
    });
    assert!(stopped, "none of the runs");
}
