//! The names under which LoRA files may hold what changes a layer.
//!
//! | who wrote the file | a layer of the network, of a text encoder |
//! | --- | --- |
//! | kohya, LyCORIS | `lora_unet_down_blocks_0_...`, or for XL `lora_unet_input_blocks_4_...`; `lora_te_...`, `lora_te1_...`, `lora_te2_...` |
//! | diffusers, peft | `unet.down_blocks.0...`; `text_encoder...`, `text_encoder_2...` |
//! | diffusers before 0.22 | `...attn1.processor.to_q_lora`; `...self_attn.to_q_lora` |

use super::Part;
use crate::model::original;

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// `[rank, in, ...]`.
    Down,
    /// `[out, rank, ...]`.
    Up,
    /// `[rank, rank, h, w]` between them.
    Mid,
    /// The number over the rank that is the scale.
    Alpha,
}

/// How the names of a layer's tensors end.
const ENDS: [(&str, Role); 12] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".alpha", Role::Alpha),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
];

/// The parts of names of what changes weights otherwise.
const OTHERS: [(&str, &str); 9] = [
    (".dora_scale.", "DoRA"),
    (".lora_magnitude_vector.", "DoRA"),
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".diff.", "full differences"),
    (".diff_b.", "full differences"),
    (".lora_B.bias.", "LoRA with biases"),
    (".on_input.", "IA3"),
];

/// The layer that a tensor's name names, and what the tensor is to it.
pub(super) fn split(name: &str) -> Option<(&str, Role)> {
    let (end, role) = ENDS.iter().find(|(end, _)| name.ends_with(end))?;
    Some((name.strip_suffix(end)?, *role))
}

/// By what method the tensor of this name changes weights, if it is a known one other than LoRA.
pub(super) fn other_method(name: &str) -> Option<&'static str> {
    let name = format!("{name}.");
    OTHERS.iter().find(|(part, _)| name.contains(part)).map(|(_, method)| *method)
}

/// The old names of an attention's layers, less `_lora`.
const ATTENTION: [(&str, &str); 8] = [
    ("to_q", "to_q"),
    ("to_k", "to_k"),
    ("to_v", "to_v"),
    ("to_out.0", "to_out"),
    ("q_proj", "to_q"),
    ("k_proj", "to_k"),
    ("v_proj", "to_v"),
    ("out_proj", "to_out"),
];

/// The names that a file may give the layer `module` of a part, as [`split`] returns them.
pub(super) fn of_layer(part: Part, module: &str) -> Vec<String> {
    let old = ATTENTION.iter().find_map(|(new, old)| Some((module.strip_suffix(new)?.strip_suffix('.')?, *old)));
    let kohya = module.replace('.', "_");
    let mut names = Vec::new();
    match part {
        Part::Network { layers } => {
            names.push(format!("lora_unet_{kohya}"));
            let weight = format!("{module}.weight");
            for original in original::network_names(layers, &weight) {
                let module = original.strip_suffix(".weight").unwrap_or(&original);
                names.push(format!("lora_unet_{}", module.replace('.', "_")));
            }
            for prefix in ["unet.", "", "base_model.model."] {
                names.push(format!("{prefix}{module}"));
                names.extend(old.map(|(layer, old)| format!("{prefix}{layer}.processor.{old}")));
            }
        }
        Part::Text(number) => {
            let (short, prefix): (&[&str], _) = match number {
                0 => (&["lora_te_", "lora_te1_"], "text_encoder."),
                _ => (&["lora_te2_"], "text_encoder_2."),
            };
            names.extend(short.iter().map(|start| format!("{start}{kohya}")));
            // transformers 5 leaves out the first part of the name.
            for skipped in ["", "text_model."] {
                let Some(module) = module.strip_prefix(skipped) else { continue };
                names.push(format!("{prefix}{module}"));
                let old = old.and_then(|(layer, old)| Some((layer.strip_prefix(skipped)?, old)));
                names.extend(old.map(|(layer, old)| format!("{prefix}{layer}.{old}")));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_name_a_layer() {
        let module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
        let names = of_layer(Part::Network { layers: 2 }, module);
        for name in [
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0.alpha",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
        ] {
            let (layer, _) = split(name).unwrap();
            assert!(names.iter().any(|known| known == layer), "{name}: {layer}");
        }
        let names = of_layer(Part::Text(0), "text_model.encoder.layers.3.self_attn.q_proj");
        for name in [
            "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight",
            "lora_te1_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder.encoder.layers.3.self_attn.q_proj.lora_B.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.up.weight",
        ] {
            let (layer, role) = split(name).unwrap();
            assert!(names.iter().any(|known| known == layer) && role == Role::Up, "{name}: {layer}");
        }
        assert!(!names.iter().any(|name| name.starts_with("lora_te2_") || name.starts_with("text_encoder_2.")));
    }

    #[test]
    fn other_methods_are_known_by_name() {
        assert_eq!(split("lora_unet_conv_in.lora_mid.weight"), Some(("lora_unet_conv_in", Role::Mid)));
        assert_eq!(split("lora_unet_conv_in.hada_w1_a"), None);
        assert_eq!(other_method("lora_unet_conv_in.hada_w1_a"), Some("LoHa"));
        assert_eq!(other_method("unet.conv_in.lora_magnitude_vector.weight"), Some("DoRA"));
        assert_eq!(other_method("unet.conv_in.weight"), None);
    }
}
