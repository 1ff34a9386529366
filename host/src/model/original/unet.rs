//! The denoising network: `UNetModel` there, `UNet2DConditionModel` in diffusers.

use serde_json::{Value, json};

use super::{Family, Shapes, number, replace_start};
use crate::error::{Error, Result};
use crate::model::weights::StoredName;

pub(super) const PREFIX: &str = "model.diffusion_model.";
/// The first weight of every such network, without its prefix.
pub(super) const FIRST: &str = "input_blocks.0.0.weight";

/// Where blocks are: there they have numbers, one after the other; in diffusers levels and layers.
struct Layout {
    /// Residual blocks of a level.
    layers: usize,
    levels: usize,
}

impl Layout {
    fn of(shapes: &Shapes) -> Result<Self> {
        let blocks = shapes.count(&format!("{PREFIX}input_blocks."), ".");
        // The first block that halves the image ends a level; a network without any has one level.
        let end = (1..blocks).find(|n| shapes.has(&format!("{PREFIX}input_blocks.{n}.0.op.weight"))).unwrap_or(blocks);
        let layers = end.saturating_sub(1);
        match blocks % (layers + 1) {
            0 if layers > 0 => Ok(Self { layers, levels: blocks / (layers + 1) }),
            _ => Err(Error::failure(format!("{blocks} input blocks are none of Stable Diffusion's"))),
        }
    }

    fn input(&self, level: usize, layer: usize) -> usize {
        level * (self.layers + 1) + layer + 1
    }
}

pub(super) fn family(shapes: &Shapes) -> Family {
    let attention = ".transformer_blocks.0.attn2.to_k.weight";
    let width = shapes.0.iter().find(|(name, _)| name.starts_with(PREFIX) && name.ends_with(attention));
    match width.and_then(|(_, shape)| shape.get(1)) {
        Some(1024) => Family::Two,
        Some(2048) => Family::Xl,
        _ => Family::One,
    }
}

/// The config.json that diffusers would have for it.
pub(super) fn config(shapes: &Shapes, family: Family) -> Result<Value> {
    let layout = Layout::of(shapes)?;
    let own = |name: &str| format!("{PREFIX}{name}");
    let (mut channels, mut depths, mut down, mut up) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut wide = None;
    for level in 0..layout.levels {
        let block = own(&format!("input_blocks.{}.", layout.input(level, 0)));
        channels.push(shapes.side(&format!("{block}0.out_layers.3.weight"), 0)?);
        let depth = shapes.count(&format!("{block}1.transformer_blocks."), ".");
        depths.push(depth);
        down.push(if depth > 0 { "CrossAttnDownBlock2D" } else { "DownBlock2D" });
        let block = own(&format!("output_blocks.{}.1.transformer_blocks.0.", level * (layout.layers + 1)));
        up.push(if shapes.starts(&block) { "CrossAttnUpBlock2D" } else { "UpBlock2D" });
    }
    let mid = own("middle_block.1.");
    let mid_depth = shapes.count(&format!("{mid}transformer_blocks."), ".");
    // Where a level has no attention, diffusers' number counts for the middle alone.
    let last = depths.len() - 1;
    depths.iter_mut().for_each(|depth| *depth = (*depth).max(1));
    if mid_depth > 0 && down[last] == "DownBlock2D" {
        depths[last] = mid_depth;
    }
    let linear = shapes.get(&format!("{mid}proj_in.weight")).is_some_and(|shape| shape.len() == 2);
    // Shapes don't tell heads apart. Those with linear projections (2 and XL) have heads of 64 channels, those without 8 heads.
    let heads = match linear {
        false => json!(8),
        true => json!(channels.iter().map(|channels| (channels / 64).max(1)).collect::<Vec<_>>()),
    };
    if mid_depth > 0 {
        wide = Some(shapes.side(&format!("{mid}transformer_blocks.0.attn2.to_k.weight"), 1)?);
    }
    let size = match family {
        Family::One => 64,
        Family::Two => 96,
        Family::Xl => 128,
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "sample_size": size,
        "in_channels": shapes.side(&own("input_blocks.0.0.weight"), 1)?,
        "out_channels": shapes.side(&own("out.2.weight"), 0)?,
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": up,
        "mid_block_type": if mid_depth > 0 { "UNetMidBlock2DCrossAttn" } else { "UNetMidBlock2D" },
        "layers_per_block": layout.layers,
        "transformer_layers_per_block": depths,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
    });
    let Some(wide) = wide else {
        return Err(Error::failure("a network without attention in its middle is none of Stable Diffusion's"));
    };
    config["cross_attention_dim"] = json!(wide);
    if let Some(shape) = shapes.get(&own("label_emb.weight")) {
        config["num_class_embeds"] = json!(shape.first());
    }
    if shapes.has(&own("label_emb.0.0.weight")) {
        config["projection_class_embeddings_input_dim"] = json!(shapes.side(&own("label_emb.0.0.weight"), 1)?);
        match wide {
            _ if family == Family::Xl || wide == 1280 => {
                config["addition_embed_type"] = json!("text_time");
                config["addition_time_embed_dim"] = json!(256);
            }
            _ => config["class_embed_type"] = json!("projection"),
        }
    }
    Ok(config)
}

/// The names that diffusers' `name` may have in the file.
pub(super) fn names(shapes: &Shapes, name: &str) -> Vec<StoredName> {
    let found = Layout::of(shapes).ok().map(|layout| translate(&layout, name)).unwrap_or_default();
    found.into_iter().map(|name| StoredName::whole(format!("{PREFIX}{name}"))).collect()
}

/// The names in the original program, less their prefix, of what is `name` in diffusers, for a network with so many layers in a level.
pub(in crate::model) fn network_names(layers: usize, name: &str) -> Vec<String> {
    translate(&Layout { layers, levels: 0 }, name)
}

fn translate(layout: &Layout, name: &str) -> Vec<String> {
    const ENDS: [(&str, &str); 10] = [
        ("conv_in.", "input_blocks.0.0."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("class_embedding.linear_1.", "label_emb.0.0."),
        ("class_embedding.linear_2.", "label_emb.0.2."),
        ("class_embedding.weight", "label_emb.weight"),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
    ];
    if let Some(name) = replace_start(name, &ENDS) {
        return vec![name];
    }
    if let Some(name) = name.strip_prefix("mid_block.") {
        let resnet =
            number(name, "resnets.").and_then(|(n, rest)| Some(format!("middle_block.{}.{}", 2 * n, resnet(rest)?)));
        let attention = number(name, "attentions.").map(|(n, rest)| format!("middle_block.{}.{rest}", 2 * n + 1));
        return resnet.or(attention).into_iter().collect();
    }
    if let Some((level, name)) = number(name, "down_blocks.") {
        let block = |layer: usize| format!("input_blocks.{}", layout.input(level, layer));
        if let Some(rest) = name.strip_prefix("downsamplers.0.conv.") {
            return vec![format!("{}.0.op.{rest}", block(layout.layers))];
        }
        return in_block(block, name);
    }
    if let Some((level, name)) = number(name, "up_blocks.") {
        let block = |layer: usize| format!("output_blocks.{}", level * (layout.layers + 1) + layer);
        if let Some(rest) = name.strip_prefix("upsamplers.0.conv.") {
            // It follows the attention, if there is one.
            return [2, 1].map(|place| format!("{}.{place}.conv.{rest}", block(layout.layers))).into();
        }
        return in_block(block, name);
    }
    Vec::new()
}

/// A residual block or an attention of a level.
fn in_block(block: impl Fn(usize) -> String, name: &str) -> Vec<String> {
    let resnet =
        number(name, "resnets.").and_then(|(layer, rest)| Some(format!("{}.0.{}", block(layer), resnet(rest)?)));
    let attention = number(name, "attentions.").map(|(layer, rest)| format!("{}.1.{rest}", block(layer)));
    resnet.or(attention).into_iter().collect()
}

fn resnet(name: &str) -> Option<String> {
    const PARTS: [(&str, &str); 6] = [
        ("norm1.", "in_layers.0."),
        ("conv1.", "in_layers.2."),
        ("time_emb_proj.", "emb_layers.1."),
        ("norm2.", "out_layers.0."),
        ("conv2.", "out_layers.3."),
        ("conv_shortcut.", "skip_connection."),
    ];
    replace_start(name, &PARTS)
}
