//! The text encoders: transformers' `CLIPTextModel` under a prefix (Stable Diffusion 1, the first of XL), or OpenCLIP's with names of its
//! own (2, the second of XL).

use serde_json::{Value, json};

use super::{Part, Shapes, number, replace_start};
use crate::error::{Error, Result};
use crate::model::weights::StoredName;

/// Whose names a text encoder has, and what they begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// transformers'.
    Clip(&'static str),
    /// OpenCLIP's.
    Open(&'static str),
}

/// Where the first text encoder may be, and the second.
const FIRST: [Names; 3] = [
    Names::Clip("cond_stage_model.transformer.text_model."),
    Names::Clip("conditioner.embedders.0.transformer.text_model."),
    Names::Open("cond_stage_model.model."),
];
const SECOND: [Names; 1] = [Names::Open("conditioner.embedders.1.model.")];

impl Names {
    fn of(shapes: &Shapes, part: Part) -> Option<Self> {
        let known = if part == Part::Text2 { &SECOND[..] } else { &FIRST };
        known.iter().copied().find(|names| match names {
            Self::Clip(prefix) => shapes.has(&format!("{prefix}embeddings.token_embedding.weight")),
            Self::Open(prefix) => shapes.has(&format!("{prefix}token_embedding.weight")),
        })
    }
}

/// Whether the file holds this one.
pub(super) fn is_in(shapes: &Shapes, part: Part) -> bool {
    Names::of(shapes, part).is_some()
}

/// Whether it is OpenCLIP's.
pub(super) fn is_open(shapes: &Shapes, part: Part) -> bool {
    matches!(Names::of(shapes, part), Some(Names::Open(_)))
}

/// The config.json that diffusers would have for it.
pub(super) fn config(shapes: &Shapes, part: Part) -> Result<Value> {
    let names = Names::of(shapes, part).ok_or_else(|| Error::failure("the file holds no text encoder"))?;
    let (prefix, [tokens, positions, layers, inner]) = match names {
        Names::Open(prefix) => {
            (prefix, ["token_embedding.weight", "positional_embedding", "transformer.resblocks.", "mlp.c_fc.weight"])
        }
        Names::Clip(prefix) => (
            prefix,
            [
                "embeddings.token_embedding.weight",
                "embeddings.position_embedding.weight",
                "encoder.layers.",
                "mlp.fc1.weight",
            ],
        ),
    };
    let own = |name: &str| format!("{prefix}{name}");
    let open = matches!(names, Names::Open(_));
    let width = shapes.side(&own(tokens), 1)?;
    let vocabulary = shapes.side(&own(tokens), 0)?;
    let count = shapes.count(&own(layers), ".");
    // Stable Diffusion 2 reads the last layer but one, which diffusers does by leaving out the last; XL says so by itself.
    let left_out = usize::from(open && part == Part::Text);
    let mut config = json!({
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "max_position_embeddings": shapes.side(&own(positions), 0)?,
        "hidden_size": width,
        "intermediate_size": shapes.side(&own(&format!("{layers}0.{inner}")), 0)?,
        "num_hidden_layers": count.saturating_sub(left_out),
        // Both have heads of 64 channels.
        "num_attention_heads": (width / 64).max(1),
        "hidden_act": if open { "gelu" } else { "quick_gelu" },
        "layer_norm_eps": 1e-5,
        // The last token of CLIP's vocabulary.
        "eos_token_id": vocabulary.saturating_sub(1),
    });
    if part == Part::Text2 {
        config["architectures"] = json!(["CLIPTextModelWithProjection"]);
        config["projection_dim"] = json!(shapes.side(&own("text_projection"), 1)?);
    }
    Ok(config)
}

/// The names that transformers' `name` may have in the file.
pub(super) fn names(shapes: &Shapes, part: Part, name: &str) -> Vec<StoredName> {
    let bare = name.strip_prefix("text_model.").unwrap_or(name);
    let found = Names::of(shapes, part).and_then(|names| match names {
        Names::Clip(prefix) => Some(StoredName::whole(format!("{prefix}{bare}"))),
        Names::Open(prefix) => {
            open_name(bare).map(|stored| StoredName { name: format!("{prefix}{}", stored.name), ..stored })
        }
    });
    found.into_iter().collect()
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
    if name == "text_projection.weight" {
        // A matrix that is multiplied from the right there.
        return Some(StoredName { transposed: true, ..StoredName::whole("text_projection".into()) });
    }
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
    let part = Some((index, parts.len()));
    Some(StoredName { part, ..StoredName::whole(format!("{block}attn.in_proj_{kind}")) })
}
