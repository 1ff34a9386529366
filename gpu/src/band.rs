//! Tensors that are larger than what the device binds: kernels run over them in bands, a dispatch each, on parts that aren't.
//!
//! A band is some of the units in a row that a kernel's output falls into (pixels, runs of pixels, rows), and what of the inputs
//! those depend on. To the kernel it is a smaller picture: no shader knows of it, and each value is computed as ever. A
//! convolution's band has the rows above and below that it reads too, and zeros around the picture alone.

use crate::dispatch::{ALIGN, Step};
use crate::error::GpuError;
use crate::tiling::sides;
use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use std::ops::Range;
use unfog_shaders::push::{self, has, modulate, norm};

/// Bytes of a vector of four floats.
const VECTOR: u64 = 16;

/// A kernel on parts of its operands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Band {
    pub(crate) step: Step,
    /// The bytes of each operand, of one image, that it works on; the whole operand where there is none.
    pub(crate) parts: Vec<Option<Range<u64>>>,
}

/// Cuts a kernel whose operands have so many bytes into as few bands as have at most `limit` of each. One that fits is left whole.
///
/// # Errors
/// [`GpuError::Binding`] where a kernel needs more than that of an operand at once.
pub(crate) fn bands(step: Step, bytes: &[u64], limit: u64) -> Result<Vec<Band>, GpuError> {
    let largest = bytes.iter().copied().max().unwrap_or(0);
    if largest <= limit {
        let parts = vec![None; step.operands.len()];
        return Ok(vec![Band { step, parts }]);
    }
    let refused = GpuError::Binding { what: "tensor", bytes: largest, limit };
    let Some(units) = units(&step) else { return Err(refused) };
    let fits = |band: &Band| {
        let taken = band.parts.iter().zip(bytes).map(|(part, &all)| part.as_ref().map_or(all, |p| p.end - p.start));
        taken.max().unwrap_or(0) <= limit
    };
    for count in 1..=units {
        // Parts start where bindings may, whatever a unit's size: it is whole vectors.
        let len = units.div_ceil(count).next_multiple_of((ALIGN / VECTOR) as u32);
        let starts = (0..units).step_by(len as usize);
        let bands: Option<Vec<Band>> = starts.map(|start| cut(&step, start..units.min(start + len))).collect();
        let bands = bands.filter(|bands| bands.iter().all(fits));
        if let Some(bands) = bands {
            return Ok(bands);
        }
        if len == (ALIGN / VECTOR) as u32 {
            break;
        }
    }
    Err(refused)
}

/// Units of a kernel's output; none of one that can't be cut.
fn units(step: &Step) -> Option<u32> {
    let per = |items: u32, c4: u32| items.checked_div(c4);
    match step.variant.kernel {
        "affine" => read(step, |p: push::Affine| per(p.items, p.c4)),
        // What a query may see of the keys, and which position a token has, depends on where it stands in the whole.
        "attention" if step.variant.constants.get(5) != Some(&0) => None,
        "attention" => read(step, |p: push::Attention| Some(p.queries)),
        "avg_pool" => read(step, |p: push::AvgPool| per(p.items, p.c4 * p.out_w)),
        "concat" => read(step, |p: push::Concat| per(p.items, p.c4)),
        "conv2d" | "conv2d_tile" | "conv2d_split" | "conv2d_matrix" => {
            read(step, |p: push::Conv2d| per(p.out_pixels, p.out_w))
        }
        "embedding" => read(step, |p: push::Embedding| per(p.items, p.c4).filter(|_| p.has_positions == 0)),
        "gate" => read(step, |p: push::Gate| per(p.items, p.c4)),
        "group_norm_partial" => read(step, |p: push::GroupNormPartial| per(p.items, p.c4)),
        "group_norm_stats" => Some(1),
        "group_norm" => read(step, |p: push::GroupNorm| per(p.items, p.c4)),
        "layer_norm" | "layer_norm_group" => read(step, |p: push::LayerNorm| Some(p.items)),
        "modulate" => read(step, |p: push::Modulate| per(p.items, p.c4)),
        "unpatchify" => read(step, |p: push::Unpatchify| per(p.items, p.c4 * p.out_w * p.size)),
        "upsample" => read(step, |p: push::Upsample| per(p.items, p.c4 * p.out_w * p.factor)),
        _ => None,
    }
}

fn read<P: Pod, T>(step: &Step, of: impl FnOnce(P) -> Option<T>) -> Option<T> {
    (step.push.len() == size_of::<P>()).then(|| pod_read_unaligned(&step.push)).and_then(of)
}

/// What a band takes of an operand, in vectors.
type Take = Option<Range<u64>>;

/// The band of `units`.
fn cut(step: &Step, units: Range<u32>) -> Option<Band> {
    let n = units.end - units.start;
    let each =
        |vectors: u32| Some(u64::from(units.start) * u64::from(vectors)..u64::from(units.end) * u64::from(vectors));
    let whole: Take = None;
    let constant = |i: usize| step.variant.constants.get(i).copied().filter(|&c| c > 0);
    // One invocation an item.
    let items = |push: &[u8], items: u32, takes: Vec<Take>| {
        Some(band(step, push, u64::from(items.div_ceil(constant(0)?)), takes))
    };
    match step.variant.kernel {
        "affine" => read(step, |p: push::Affine| {
            let divisor = if p.has_divisor != 0 { whole } else { each(p.c4) };
            let push = push::Affine { items: n * p.c4, ..p };
            items(bytes_of(&push), push.items, vec![each(p.c4), divisor, each(p.c4)])
        }),
        "attention" => read(step, |p: push::Attention| {
            let push = push::Attention { queries: n, ..p };
            let tiles = n.div_ceil(constant(0)? * constant(4)?);
            let groups = u64::from(tiles) * u64::from(p.heads) * u64::from(p.blocks);
            Some(band(step, bytes_of(&push), groups, vec![each(p.c4), whole.clone(), whole, each(p.c4)]))
        }),
        "avg_pool" => read(step, |p: push::AvgPool| {
            let push = push::AvgPool { items: n * p.c4 * p.out_w, ..p };
            items(bytes_of(&push), push.items, vec![each(p.size * p.in_w * p.c4), each(p.out_w * p.c4)])
        }),
        "concat" => read(step, |p: push::Concat| {
            let push = push::Concat { items: n * p.c4, ..p };
            items(bytes_of(&push), push.items, vec![each(p.ca.div_ceil(4)), each(p.cb.div_ceil(4)), each(p.c4)])
        }),
        "conv2d" | "conv2d_tile" | "conv2d_split" | "conv2d_matrix" => read(step, |p| conv2d(step, p, units.clone())),
        "embedding" => read(step, |p: push::Embedding| {
            let push = push::Embedding { items: n * p.c4, ..p };
            items(bytes_of(&push), push.items, vec![each(1), whole.clone(), whole, each(p.c4)])
        }),
        "gate" => read(step, |p: push::Gate| {
            let push = push::Gate { items: n * p.c4, ..p };
            items(bytes_of(&push), push.items, vec![each(p.c.div_ceil(2)), each(p.c4)])
        }),
        "group_norm_partial" => read(step, |p: push::GroupNormPartial| {
            let pixels = p.pixels.min(units.end * p.run) - units.start * p.run;
            let push = push::GroupNormPartial { items: n * p.c4, pixels, ..p };
            let first = u64::from(units.start * p.run) * u64::from(p.c4);
            let x = Some(first..first + u64::from(pixels) * u64::from(p.c4));
            items(bytes_of(&push), push.items, vec![x, each(p.c4 * 2)])
        }),
        // Reads no pixel: only what stands for an operand that is absent may be too large.
        "group_norm_stats" => read(step, |p: push::GroupNormStats| {
            let shift = if p.has_scale_shift != 0 { None } else { Some(0..1) };
            items(&step.push, p.groups, vec![None, None, shift, None, None])
        }),
        "group_norm" => read(step, |p: push::GroupNorm| {
            let pixels = p.pixels.min(units.end * p.run) - units.start * p.run;
            let push = push::GroupNorm { items: n * p.c4, pixels, ..p };
            let first = u64::from(units.start * p.run) * u64::from(p.c4);
            let part = Some(first..first + u64::from(pixels) * u64::from(p.c4));
            items(bytes_of(&push), push.items, vec![part.clone(), None, part])
        }),
        "layer_norm" | "layer_norm_group" => read(step, |p: push::LayerNorm| {
            let push = push::LayerNorm { items: n, ..p };
            // Pixels of a group.
            let pixels = constant(usize::from(step.variant.kernel == "layer_norm_group"))?;
            let groups = u64::from(n.div_ceil(pixels));
            // What is absent is the input again.
            let weight = |bit: u32| if p.has & bit != 0 { None } else { each(p.c4) };
            let takes = vec![each(p.c4), weight(norm::GAMMA), weight(norm::BETA), each(p.c4)];
            Some(band(step, bytes_of(&push), groups, takes))
        }),
        "modulate" => read(step, |p: push::Modulate| {
            let push = push::Modulate { items: n * p.c4, ..p };
            let vector = if p.has & (modulate::SCALE | modulate::SHIFT) != 0 { None } else { each(p.c4) };
            items(bytes_of(&push), push.items, vec![each(p.c4), vector, each(p.c4), each(p.c4)])
        }),
        "unpatchify" => read(step, |p: push::Unpatchify| {
            let push = push::Unpatchify { items: n * p.c4 * p.out_w * p.size, ..p };
            items(bytes_of(&push), push.items, vec![each(p.in_w * p.in4), each(p.size * p.out_w * p.c4)])
        }),
        "upsample" => read(step, |p: push::Upsample| {
            let push = push::Upsample { items: n * p.c4 * p.out_w * p.factor, ..p };
            items(bytes_of(&push), push.items, vec![each(p.in_w * p.c4), each(p.factor * p.out_w * p.c4)])
        }),
        _ => None,
    }
}

/// The place of the enlargement among the specialization constants of every kernel of convolutions.
const UPSAMPLE: usize = 5;

/// Rows of a convolution's output.
fn conv2d(step: &Step, p: push::Conv2d, rows: Range<u32>) -> Option<Band> {
    let upsample = *step.variant.constants.get(UPSAMPLE)?;
    let [pixels, outs] = sides(step.variant.kernel, &step.variant.constants)?;
    let enlarged = i64::from(upsample.max(1));
    // In rows of the enlarged input: the first that is read, and behind the last.
    let at = |row: u32| i64::from(row) * i64::from(p.stride) - i64::from(p.pad_top);
    let (top, bottom) = (at(rows.start), at(rows.end - 1) + i64::from(p.kernel_h));
    let last = i64::from(p.in_h);
    // Down to where a binding may start.
    let row_vectors = u64::from(p.in_w) * u64::from(p.in4);
    let first = top.div_euclid(enlarged).clamp(0, last - 1) as u64;
    let first = (0..=first).rev().find(|row| (row * row_vectors).is_multiple_of(ALIGN / VECTOR))?;
    let end = (bottom + enlarged - 1).div_euclid(enlarged).clamp(first as i64 + 1, last) as u64;
    let n = rows.end - rows.start;
    let push = push::Conv2d {
        in_h: (end - first) as u32,
        out_pixels: n * p.out_w,
        // Below 0 where the band starts above what it reads first: the shader takes it for a signed number.
        pad_top: (first as i64 * enlarged - top) as u32,
        ..p
    };
    let x = Some(first * row_vectors..end * row_vectors);
    let vectors = u64::from(p.out_w) * u64::from(p.out4);
    let out = Some(u64::from(rows.start) * vectors..u64::from(rows.end) * vectors);
    // What is absent is the input again.
    let other = |bit: u32, take: Take| if p.has & bit != 0 { take } else { x.clone() };
    let takes = vec![
        x.clone(),
        None,
        other(has::BIAS, None),
        other(has::CHANNEL, None),
        other(has::RESIDUAL, out.clone()),
        out,
    ];
    let groups = u64::from(push.out_pixels.div_ceil(pixels)) * u64::from(push.out4.div_ceil(outs));
    Some(band(step, bytes_of(&push), groups, takes))
}

fn band(step: &Step, push: &[u8], groups: u64, takes: Vec<Take>) -> Band {
    let bytes = |take: Take| take.map(|vectors| vectors.start * VECTOR..vectors.end * VECTOR);
    Band { step: Step { push: push.to_vec(), groups, ..step.clone() }, parts: takes.into_iter().map(bytes).collect() }
}
