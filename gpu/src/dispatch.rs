//! What kernels an op runs: shapes in, plain data out. A pure function of the device's limits and the shape of one image,
//! so that the same picture comes out whatever else is in the batch.

use crate::error::GpuError;
use crate::pack::{Stored, packed_bytes};
use crate::pipeline::Variant;
use crate::tiling::Tiling;
use bytemuck::bytes_of;
use unfog_core::nn::graph::{Graph, Node, TensorId, WeightId, WeightUse};
use unfog_core::nn::op::{Act, Attention, Conv2d, GroupNorm, Op, Shape};
use unfog_core::nn::plan::Target;
use unfog_shaders::Reads;
use unfog_shaders::push::{self, has, modulate, norm};

/// Channels of a pixel are padded to whole vectors.
pub(crate) const LANES: u32 = 4;
/// Tensors start at multiples of this many bytes: no device asks for more.
pub(crate) const ALIGN: u64 = 256;

/// What a kernel's buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// A tensor.
    Tensor(TensorId),
    /// A packed weight.
    Weight(WeightId),
    /// The node's scratch memory.
    Workspace,
}

/// A kernel to run, for any number of images.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) variant: Variant,
    pub(crate) operands: Vec<Operand>,
    pub(crate) push: Vec<u8>,
    /// Work groups for one image.
    pub(crate) groups: u64,
}

const fn c4(c: u32) -> u32 {
    c.div_ceil(LANES)
}

/// Vectors from one image of a tensor to the next, as [`unfog_core::nn::plan`] lays them out.
fn stride(shape: Shape) -> u32 {
    let bytes = shape.pixels() * u64::from(c4(shape.c)) * 16;
    (bytes.next_multiple_of(ALIGN) / 16) as u32
}

/// Pixels that one invocation of group normalisation's first stage sums up: about the square root of their number, so
/// that neither stage has a long chain.
fn norm_run(pixels: u32) -> u32 {
    pixels.div_ceil(64).max(16)
}

/// Scratch bytes of group normalisation: partial results, then what the last stage applies (in vectors).
fn norm_workspace(shape: Shape) -> [u32; 2] {
    let pixels = shape.pixels() as u32;
    [pixels.div_ceil(norm_run(pixels)) * c4(shape.c) * 2, c4(shape.c) * 3]
}

/// Scratch bytes of a node, for one image.
pub(crate) fn workspace(graph: &Graph<'_>, node: &Node) -> u64 {
    match (node.op, node.inputs[0]) {
        (Op::GroupNorm(_), Some(x)) => norm_workspace(graph.shape(x)).iter().map(|&n| u64::from(n) * 16).sum(),
        _ => 0,
    }
}

/// The planner's target. Tensors may be larger than what a device binds: see [`crate::band`].
pub(crate) const TARGET: Target = Target { align: ALIGN, lanes: LANES, max_binding: u64::MAX, workspace, fused: false };

/// Bytes of each operand of a step of a node, for one image; weights, which have a limit of their own, count nothing.
pub(crate) fn operand_bytes(graph: &Graph<'_>, node: &Node, tiling: Tiling, step: &Step) -> Vec<u64> {
    let site = Site { graph, node, tiling };
    let bytes = |operand: &Operand| match operand {
        Operand::Weight(_) => 0,
        other => 16 * site.vectors(other),
    };
    step.operands.iter().map(bytes).collect()
}

/// The kernels of node `index`, in order.
pub(crate) fn steps(graph: &Graph<'_>, index: usize, tiling: Tiling) -> Result<Vec<Step>, GpuError> {
    let node = graph.nodes.get(index).ok_or(GpuError::Node(index))?;
    let site = Site { graph, node, tiling };
    if !site.fits() {
        return Err(GpuError::Node(index));
    }
    let mut steps = site.steps().ok_or(GpuError::Node(index))?;
    for step in &mut steps {
        let small = step.operands.iter().all(|operand| site.vectors(operand) <= tiling.texels);
        step.variant.reads = if small { Reads::Texel } else { Reads::Storage };
    }
    Ok(steps)
}

/// A bit that says that something is there.
fn flag(present: bool, bit: u32) -> u32 {
    if present { bit } else { 0 }
}

struct Site<'a> {
    graph: &'a Graph<'a>,
    node: &'a Node,
    tiling: Tiling,
}

impl Site<'_> {
    fn shape(&self, i: usize) -> Option<Shape> {
        self.node.inputs[i].map(|id| self.graph.shape(id))
    }

    /// The stride of an input, 0 where it is absent.
    fn stride(&self, i: usize) -> u32 {
        self.shape(i).map_or(0, stride)
    }

    /// Vectors of an operand: of a tensor or scratch memory, those of one image.
    fn vectors(&self, operand: &Operand) -> u64 {
        match *operand {
            Operand::Tensor(id) => u64::from(stride(self.graph.shape(id))),
            Operand::Weight(id) => {
                packed_bytes(&self.graph.weights[usize::from(id.0)], self.tiling.precision).div_ceil(16)
            }
            Operand::Workspace => workspace(self.graph, self.node).div_ceil(16),
        }
    }

    fn input(&self, i: usize) -> Option<Operand> {
        self.node.inputs[i].map(Operand::Tensor)
    }

    fn weight(&self, i: usize) -> Option<Operand> {
        self.node.weights[i].map(Operand::Weight)
    }

    /// Kernels read what shapes and roles promise, unchecked: a graph that no builder made is held to its rules here.
    fn fits(&self) -> bool {
        let Node { op, inputs, weights, output } = self.node;
        let exist = |id: &TensorId| usize::from(id.0) < self.graph.tensors.len();
        if !inputs.iter().flatten().chain([output]).all(exist) {
            return false;
        }
        let weights = weights.map(|id| id.map(|id| self.graph.weights.get(usize::from(id.0)).copied()));
        if weights.contains(&Some(None)) {
            return false;
        }
        let (weights, out) = (weights.map(Option::flatten), self.graph.shape(*output));
        let roles = match op {
            Op::Conv2d(_) => [WeightUse::Kernel, WeightUse::Vector],
            Op::Embedding(_) => [WeightUse::Table; 2],
            _ => [WeightUse::Vector; 2],
        };
        op.shape([0, 1, 2].map(|i| self.shape(i))) == Ok(out)
            && op.check_weights(out, weights).is_ok()
            && weights.iter().zip(roles).all(|(weight, role)| weight.is_none_or(|w| w.role == role))
    }

    fn output(&self) -> (Operand, Shape, u32) {
        let shape = self.graph.shape(self.node.output);
        (Operand::Tensor(self.node.output), shape, stride(shape))
    }

    /// A kernel with one invocation an item.
    fn step(&self, kernel: &'static str, items: u32, operands: Vec<Operand>, push: &[u8]) -> Step {
        let local = self.tiling.local;
        let variant = Variant { kernel, reads: Reads::Storage, constants: vec![local] };
        Step { variant, operands, push: push.to_vec(), groups: u64::from(items.div_ceil(local)) }
    }

    /// The kernels of the node; `None` when it lacks an operand.
    fn steps(&self) -> Option<Vec<Step>> {
        let (x, xs) = (self.input(0)?, self.shape(0)?);
        let (out, os, out_image) = self.output();
        let (items, out4) = (os.pixels() as u32 * c4(os.c), c4(os.c));
        let x_image = stride(xs);
        let one = |step| Some(vec![step]);
        match self.node.op {
            Op::Conv2d(op) => one(self.conv2d(&op, xs)?),
            Op::GroupNorm(op) => self.group_norm(&op, xs),
            Op::Attention(op) => one(self.attention(&op, xs)?),
            Op::Upsample(op) => {
                let push =
                    push::Upsample { items, c4: out4, in_w: xs.w, out_w: os.w, factor: op.factor, x_image, out_image };
                one(self.step("upsample", items, vec![x, out], bytes_of(&push)))
            }
            Op::AvgPool(op) => {
                let push =
                    push::AvgPool { items, c4: out4, in_w: xs.w, out_w: os.w, size: op.size, x_image, out_image };
                one(self.step("avg_pool", items, vec![x, out], bytes_of(&push)))
            }
            Op::Concat(_) => {
                let (b, bs) = (self.input(1)?, self.shape(1)?);
                let (a_image, b_image) = (x_image, stride(bs));
                let push = push::Concat { items, c4: out4, ca: xs.c, cb: bs.c, a_image, b_image, out_image };
                one(self.step("concat", items, vec![x, b, out], bytes_of(&push)))
            }
            Op::Embedding(op) => {
                let (table, positions) = (self.weight(0)?, self.weight(1));
                let has_positions = u32::from(positions.is_some());
                let (c4, count, index_image) = (out4, op.count, x_image);
                let push = push::Embedding { items, c4, count, index_image, out_image, has_positions };
                one(self.step("embedding", items, vec![x, table, positions.unwrap_or(table), out], bytes_of(&push)))
            }
            Op::Affine(op) => {
                let divisor = self.input(1);
                let push = push::Affine {
                    items,
                    c4: out4,
                    c: os.c,
                    x_image,
                    divisor_image: self.stride(1),
                    out_image,
                    has_divisor: u32::from(divisor.is_some()),
                    scale: op.scale,
                    shift: op.shift,
                    act: op.act as u32,
                };
                one(self.step("affine", items, vec![x, divisor.unwrap_or(x), out], bytes_of(&push)))
            }
            Op::LayerNorm(op) => {
                // Heads are whole vectors: to the kernel they are pixels.
                let (items, c) = (os.pixels() as u32 * op.heads, os.c / op.heads.max(1));
                let (gamma, beta) = (self.weight(0), self.weight(1));
                let has =
                    flag(gamma.is_some(), norm::GAMMA) | flag(beta.is_some(), norm::BETA) | flag(op.rms, norm::RMS);
                let push = push::LayerNorm { items, c4: c4(c), c, x_image, out_image, has, eps: op.eps };
                let operands = vec![x, gamma.unwrap_or(x), beta.unwrap_or(x), out];
                one(self.layer_norm(items, operands, bytes_of(&push)))
            }
            Op::Gate(op) => {
                let push = push::Gate { items, c4: out4, c: os.c, x_image, out_image, act: op.act as u32 };
                one(self.step("gate", items, vec![x, out], bytes_of(&push)))
            }
            Op::Modulate(op) => {
                let (vector, residual) = (self.input(1), self.input(2));
                let push = push::Modulate {
                    items,
                    c4: out4,
                    c: os.c,
                    x_image,
                    vector_image: self.stride(1),
                    residual_image: self.stride(2),
                    out_image,
                    has: flag(op.scale.is_some(), modulate::SCALE)
                        | flag(op.shift.is_some(), modulate::SHIFT)
                        | flag(residual.is_some(), modulate::RESIDUAL),
                    factor: op.factor,
                    scale: op.scale.unwrap_or(0),
                    shift: op.shift.unwrap_or(0),
                };
                let operands = vec![x, vector.unwrap_or(x), residual.unwrap_or(x), out];
                one(self.step("modulate", items, operands, bytes_of(&push)))
            }
            Op::Join(op) => {
                let (skip, a_items) = (op.first * out4, xs.pixels() as u32 * out4);
                let (a_image, b_image) = (x_image, self.stride(1));
                let push = push::Join { items, skip, a_items, a_image, b_image, out_image };
                one(self.step("join", items, vec![x, self.input(1).unwrap_or(x), out], bytes_of(&push)))
            }
            Op::Unpatchify(op) => {
                let (in4, c) = (c4(xs.c), os.c);
                let (in_w, out_w, size) = (xs.w, os.w, op.size);
                let push = push::Unpatchify { items, c4: out4, c, in4, in_w, out_w, size, x_image, out_image };
                one(self.step("unpatchify", items, vec![x, out], bytes_of(&push)))
            }
        }
    }

    fn layer_norm(&self, pixels: u32, operands: Vec<Operand>, push: &[u8]) -> Step {
        let Some(local) = self.tiling.layer_norm() else {
            return self.step("layer_norm", pixels, operands, push);
        };
        let variant = Variant { kernel: "layer_norm_group", reads: Reads::Storage, constants: local.to_vec() };
        Step { variant, operands, push: push.to_vec(), groups: u64::from(pixels.div_ceil(local[1])) }
    }

    fn conv2d(&self, op: &Conv2d, xs: Shape) -> Option<Step> {
        let (x, weight) = (self.input(0)?, self.weight(0)?);
        let (out, os, out_image) = self.output();
        let (channel, residual, bias) = (self.input(1), self.input(2), self.weight(1));
        let push = push::Conv2d {
            in_h: xs.h,
            in_w: xs.w,
            in4: c4(xs.c),
            out_w: os.w,
            out_pixels: os.pixels() as u32,
            out4: c4(os.c),
            out_c: os.c,
            kernel_h: op.kernel[0],
            kernel_w: op.kernel[1],
            stride: op.stride,
            pad_top: op.pad[0],
            pad_left: op.pad[1],
            x_image: stride(xs),
            channel_image: self.stride(1),
            residual_image: self.stride(2),
            out_image,
            has: flag(bias.is_some(), has::BIAS)
                | flag(channel.is_some(), has::CHANNEL)
                | flag(residual.is_some(), has::RESIDUAL),
            scale: op.scale,
            act: op.act as u32,
        };
        let tile = self.tiling.conv2d(push.out_pixels, push.out4);
        let stored = Stored::of(&self.graph.weights[usize::from(self.node.weights[0]?.0)], self.tiling.precision);
        let operands = vec![x, weight, bias.unwrap_or(x), channel.unwrap_or(x), residual.unwrap_or(x), out];
        Some(Step {
            variant: Variant {
                kernel: tile.kernel,
                reads: Reads::Storage,
                constants: tile.constants(stored as u32, op.upsample),
            },
            operands,
            push: bytes_of(&push).to_vec(),
            groups: tile.groups(push.out_pixels, push.out4),
        })
    }

    fn group_norm(&self, op: &GroupNorm, xs: Shape) -> Option<Vec<Step>> {
        let x = self.input(0)?;
        let (out, _, out_image) = self.output();
        let (c4, pixels, x_image) = (c4(xs.c), xs.pixels() as u32, stride(xs));
        let (run, apply_run) = (norm_run(pixels), self.tiling.apply_run);
        let [partial_len, _] = norm_workspace(xs);
        // Both results of one image lie side by side: the partial ones, then the final ones.
        let workspace = workspace(self.graph, self.node).next_multiple_of(ALIGN) / 16;
        let image = u32::try_from(workspace).ok()?;
        let items = pixels.div_ceil(run) * c4;
        let partial = push::GroupNormPartial { items, c4, pixels, run, x_image, partial_image: image };
        let stats = push::GroupNormStats {
            groups: op.groups,
            group_size: xs.c / op.groups.max(1),
            c4,
            c: xs.c,
            pixels,
            run,
            image,
            stats_first: partial_len,
            scale_shift_image: self.stride(1),
            has_scale_shift: u32::from(self.input(1).is_some()),
            eps: op.eps,
        };
        let apply = push::GroupNorm {
            items: pixels.div_ceil(apply_run) * c4,
            c4,
            pixels,
            run: apply_run,
            x_image,
            stats_first: partial_len,
            stats_image: image,
            out_image,
            act: op.act as u32,
        };
        let scratch = Operand::Workspace;
        let operands = vec![self.weight(0)?, self.weight(1)?, self.input(1).unwrap_or(x), scratch, scratch];
        Some(vec![
            self.step("group_norm_partial", items, vec![x, scratch], bytes_of(&partial)),
            self.step("group_norm_stats", op.groups, operands, bytes_of(&stats)),
            self.step("group_norm", apply.items, vec![x, scratch, out], bytes_of(&apply)),
        ])
    }

    fn attention(&self, op: &Attention, qs: Shape) -> Option<Step> {
        /// Vectors of a head that one invocation accumulates at most: what fits registers.
        const MOST: u32 = 16;
        let (q, k, v) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let (out, _, out_image) = self.output();
        let head4 = c4(op.head_dim);
        let blocks = head4.div_ceil(MOST);
        let vectors = head4.div_ceil(blocks.max(1));
        let push = push::Attention {
            queries: qs.pixels() as u32,
            keys: self.shape(1)?.pixels() as u32,
            heads: op.heads,
            head_dim: op.head_dim,
            blocks,
            c4: c4(qs.c),
            k4: c4(self.shape(1)?.c),
            c: qs.c,
            q_image: stride(qs),
            k_image: self.stride(1),
            v_image: self.stride(2),
            out_image,
            scale: op.scale,
        };
        let local = self.tiling.local;
        let (aligned, whole) = (u32::from(op.head_dim.is_multiple_of(LANES)), u32::from(blocks == 1));
        // No more queries an invocation than there are, in powers of two: few pipelines.
        let most = push.queries.div_ceil(local).next_power_of_two();
        let queries = (self.tiling.queries / vectors.max(1)).clamp(1, 4).min(most);
        let constants = vec![local, vectors, aligned, whole, queries, u32::from(op.causal), u32::from(op.biased)];
        Some(Step {
            variant: Variant { kernel: "attention", reads: Reads::Storage, constants },
            operands: vec![q, k, v, out],
            push: bytes_of(&push).to_vec(),
            groups: u64::from(push.queries.div_ceil(local * queries)) * u64::from(op.heads) * u64::from(blocks),
        })
    }
}

/// Every activation has the number that the shaders know it by.
const _: () = assert!(Act::None as u32 == 0 && Act::Silu as u32 == 1 && Act::Mish as u32 == 2);
const _: () = assert!(Act::Gelu as u32 == 3 && Act::Relu as u32 == 4);
const _: () = assert!(Act::QuickGelu as u32 == 5 && Act::Tanh as u32 == 6);
