//! What happens when the driver has no memory left or loses the device: a clean error, nothing left behind, and a new network
//! runs. Nothing left behind: by this crate's count, and by the validation layer's when the device is closed.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::cost::node_flops;
use unfog_core::nn::graph::{
    EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Graph, GraphBuilder, GraphError, Input, TensorId, Weight, WeightUse,
};
use unfog_core::nn::op::{Act, Conv2d, GroupNorm, Op, Shape};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, DeviceChoice, Fault, GpuError, Log, Options, VulkanDenoiser};
use unfog_tests::backend::{Gpu, gpus};
use unfog_tests::compare::same_bits;
use unfog_tests::{TestResult, said};

/// A small network with every sort of weight and scratch memory: each of its calls fails in turn.
struct Net {
    graph: Graph<'static>,
    weights: Vec<WeightData<'static>>,
}

impl Net {
    fn len(&self) -> usize {
        self.graph.sample_shape().map_or(0, |shape| shape.len() as usize)
    }
}

fn net() -> TestResult<Net> {
    let (nodes, tensors, weights) =
        (vec![EMPTY_NODE; 4].leak(), vec![EMPTY_TENSOR; 8].leak(), vec![EMPTY_WEIGHT; 8].leak());
    let mut g = GraphBuilder::new(nodes, tensors, weights);
    let build = |g: &mut GraphBuilder<'static>| -> Result<TensorId, GraphError> {
        let x = g.input(Input::Sample, Shape::new(6, 5, 3))?;
        let kernel = g.weight([8, 3, 3, 3], WeightUse::Kernel)?;
        let [bias, gamma, beta] = [
            g.weight([8, 1, 1, 1], WeightUse::Vector)?,
            g.weight([8, 1, 1, 1], WeightUse::Vector)?,
            g.weight([8, 1, 1, 1], WeightUse::Vector)?,
        ];
        let y = g.node(Op::Conv2d(Conv2d::new(3, 8, 3, 1)), [Some(x), None, None], [Some(kernel), Some(bias)])?;
        let norm = Op::GroupNorm(GroupNorm { groups: 2, eps: 1e-5, act: Act::Silu });
        let z = g.node(norm, [Some(y), None, None], [Some(gamma), Some(beta)])?;
        let kernel = g.weight([8, 8, 3, 3], WeightUse::Kernel)?;
        let z = g.node(Op::Conv2d(Conv2d::new(8, 8, 3, 1)), [Some(z), None, Some(y)], [Some(kernel), None])?;
        let kernel = g.weight([3, 8, 1, 1], WeightUse::Kernel)?;
        g.node(Op::Conv2d(Conv2d::new(8, 3, 1, 0)), [Some(z), None, None], [Some(kernel), None])
    };
    let output = build(&mut g).map_err(said)?;
    let graph = g.finish(output);
    let values = |weight: &Weight| -> &'static [f32] {
        (0..weight.len()).map(|i| (i % 11) as f32 / 11.0 - 0.4).collect::<Vec<f32>>().leak()
    };
    Ok(Net { graph, weights: graph.weights.iter().map(|weight| WeightData::F32(values(weight))).collect() })
}

/// Opens a network and evaluates two batches of different sizes.
fn run(context: &Context, net: &Net, options: Options) -> Result<Vec<f32>, GpuError> {
    let mut denoiser = VulkanDenoiser::new(context, &net.graph, &net.weights, options)?;
    let mut out = vec![0.0; 3 * net.len()];
    for n in [1, 3] {
        let x: Vec<f32> = (0..n * net.len()).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect();
        denoiser.predict(&x, 10.0, &vec![Cond::None; n], &mut out[..n * net.len()])?;
    }
    Ok(out)
}

/// Ways to run: weights on the device; through staging copies; through a window, in many submissions.
fn ways(context: &Context, net: &Net) -> TestResult<[Options; 3]> {
    let staging = Options { force_staging: true, ..Options::default() };
    let least = match VulkanDenoiser::new(context, &net.graph, &net.weights, Options { vram: Some(1), ..staging }) {
        Err(GpuError::Memory { needed, .. }) => needed,
        other => return Err(format!("one byte is enough: {other:?}").into()),
    };
    Ok([Options::default(), staging, Options { vram: Some(least), ..staging }])
}

/// A device of its own, with validation where that is there.
fn validated(gpu: &Gpu) -> TestResult<Context> {
    let index = DeviceChoice::Index(gpu.context.info().index);
    Ok(Context::open_validated(&index, None).or_else(|_| Context::open(&index, None))?)
}

/// The layer has seen no misuse, and no object that outlived its device.
fn complete(log: &Log) {
    assert_eq!(log.messages(), [""; 0]);
}

fn clean(context: &Context, what: &str) {
    let usage = context.usage();
    assert_eq!((usage.buffers, usage.bytes, usage.commands), (0, 0, 0), "{what}: something is left");
}

#[test]
fn every_call_that_takes_memory_can_fail() -> TestResult {
    let net = net()?;
    for gpu in gpus()? {
        let context = validated(gpu)?;
        let log = context.log();
        for options in ways(&context, &net)? {
            let want = run(&context, &net, options)?;
            let mut failures = 0;
            for calls in 0.. {
                context.inject(Some((Fault::OutOfMemory, calls)));
                let result = run(&context, &net, options);
                let what = format!("call {calls}, {options:?}");
                clean(&context, &what);
                match result {
                    Ok(out) => {
                        same_bits(&what, &out, &want)?;
                        break;
                    }
                    Err(e) => assert!(e.is_out_of_memory(), "{what}: {e:?}"),
                }
                failures += 1;
            }
            context.inject(None);
            assert!(failures > 2 * 8, "{failures} calls only, {options:?}");
            same_bits("after all that", &run(&context, &net, options)?, &want)?;
        }
        drop(context);
        complete(&log);
    }
    Ok(())
}

#[test]
fn a_network_goes_on_after_memory_was_short() -> TestResult {
    let net = net()?;
    for gpu in gpus()? {
        let context = Context::open(&DeviceChoice::Index(gpu.context.info().index), None)?;
        let want = run(&context, &net, Options::default())?;
        let mut denoiser = VulkanDenoiser::new(&context, &net.graph, &net.weights, Options::default())?;
        let x: Vec<f32> = (0..3 * net.len()).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect();
        let mut out = vec![0.0; 3 * net.len()];
        // The memory for three images fails, then their recording in its middle.
        for calls in [0, 1, 12] {
            context.inject(Some((Fault::OutOfMemory, calls)));
            let failed = denoiser.predict(&x, 10.0, &[Cond::None; 3], &mut out);
            assert!(failed.as_ref().is_err_and(GpuError::is_out_of_memory), "{calls}: {failed:?}");
        }
        denoiser.predict(&x, 10.0, &[Cond::None; 3], &mut out)?;
        same_bits("the same network", &out, &want)?;
    }
    Ok(())
}

#[test]
fn a_lost_device_is_a_clean_error() -> TestResult {
    let net = net()?;
    for gpu in gpus()? {
        let context = validated(gpu)?;
        let log = context.log();
        for options in ways(&context, &net)? {
            // Several submissions, some of them a part of a node.
            let largest = net.graph.nodes.iter().map(|node| node_flops(&net.graph, node)).max().unwrap_or(0);
            let options = Options { submit_flops: Some(largest.div_ceil(2)), ..options };
            let want = run(&context, &net, options)?;
            let mut losses = 0;
            for calls in 0.. {
                context.inject(Some((Fault::DeviceLost, calls)));
                let result = run(&context, &net, options);
                clean(&context, &format!("call {calls}, {options:?}"));
                match result {
                    Ok(_) => break,
                    Err(GpuError::DeviceLost) => losses += 1,
                    Err(e) => return Err(format!("call {calls}, {options:?}: {e:?}").into()),
                }
                // It stays lost.
                let again = run(&context, &net, options);
                assert!(matches!(again, Err(GpuError::DeviceLost)), "{again:?}");
            }
            assert!(losses > 2, "{losses}");
            context.inject(None);
            // A new context is a new device.
            same_bits("on a new device", &run(&validated(gpu)?, &net, options)?, &want)?;
        }
        drop(context);
        complete(&log);
    }
    Ok(())
}
