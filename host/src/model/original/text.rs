//! The text encoder: transformers' `CLIPTextModel` under a prefix (Stable Diffusion 1), or OpenCLIP's with names of its own (2).

use serde_json::{Value, json};

use super::{Shapes, number, replace_start};
use crate::error::Result;
use crate::model::weights::StoredName;

/// transformers' names follow.
const CLIP: &str = "cond_stage_model.transformer.text_model.";
/// OpenCLIP's names follow.
const OPEN: &str = "cond_stage_model.model.";

/// The config.json that diffusers would have for it.
pub(super) fn config(shapes: &Shapes) -> Result<Value> {
    let open = shapes.has(&format!("{OPEN}token_embedding.weight"));
    let (tokens, positions, layers, inner) = match open {
        true => ("token_embedding.weight", "positional_embedding", "transformer.resblocks.", "mlp.c_fc.weight"),
        false => (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.",
            "mlp.fc1.weight",
        ),
    };
    let own = |name: &str| format!("{}{name}", if open { OPEN } else { CLIP });
    let width = shapes.side(&own(tokens), 1)?;
    let count = shapes.count(&own(layers), ".");
    Ok(json!({
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": shapes.side(&own(tokens), 0)?,
        "max_position_embeddings": shapes.side(&own(positions), 0)?,
        "hidden_size": width,
        "intermediate_size": shapes.side(&own(&format!("{layers}0.{inner}")), 0)?,
        // Stable Diffusion 2 reads the last layer but one, which diffusers does by leaving out the last.
        "num_hidden_layers": if open { count.saturating_sub(1) } else { count },
        // Both have heads of 64 channels.
        "num_attention_heads": (width / 64).max(1),
        "hidden_act": if open { "gelu" } else { "quick_gelu" },
        "layer_norm_eps": 1e-5,
    }))
}

/// The names that transformers' `name` may have in the file.
pub(super) fn names(name: &str) -> Vec<StoredName> {
    let bare = name.strip_prefix("text_model.").unwrap_or(name);
    let clip = StoredName::whole(format!("{CLIP}{bare}"));
    let open = open_name(bare).map(|stored| StoredName { name: format!("{OPEN}{}", stored.name), ..stored });
    [Some(clip), open].into_iter().flatten().collect()
}

fn open_name(name: &str) -> Option<StoredName> {
    const ENDS: [(&str, &str); 3] = [
        ("embeddings.token_embedding.", "token_embedding."),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("final_layer_norm.", "ln_final."),
    ];
    const LAYER: [(&str, &str); 5] = [
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
        ("self_attn.out_proj.", "attn.out_proj."),
    ];
    if let Some(name) = replace_start(name, &ENDS) {
        return Some(StoredName::whole(name));
    }
    let (layer, rest) = number(name, "encoder.layers.")?;
    let block = format!("transformer.resblocks.{layer}.");
    if let Some(rest) = replace_start(rest, &LAYER) {
        return Some(StoredName::whole(block + &rest));
    }
    // Query, key and value are one matrix there, one after the other.
    let parts = ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."];
    let (index, kind) = parts.iter().enumerate().find_map(|(index, part)| Some((index, rest.strip_prefix(part)?)))?;
    Some(StoredName { name: format!("{block}attn.in_proj_{kind}"), part: Some((index, parts.len())) })
}
