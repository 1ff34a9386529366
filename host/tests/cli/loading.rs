//! Every way in which a model may be stored gives the same network.

use std::fs;

use safetensors::tensor::Dtype;

use crate::common::{Place, Tensor, WEIGHTS, halves};

#[test]
fn the_embedded_model_is_the_folder() {
    let place = Place::new();
    place.model().is_glyph_tiny("model");
}

#[test]
fn the_network_s_own_folder_is_a_model_too() {
    let place = Place::new();
    let model = place.model();
    model.is_glyph_tiny("model/unet");
    // Also without the folder around it, if a schedule is named.
    fs::rename(model.folder.join("unet"), place.path("network")).unwrap();
    place.fail(&["sample", "--model", "network", "--steps", "1"], 1, "--schedule");
    place.succeed(&["sample", "--model", "network", "--backend", "cpu", "--steps", "1", "--schedule", "cosine"]);
}

#[test]
fn older_models_keep_everything_in_one_folder() {
    let place = Place::new();
    let model = place.model();
    for file in ["unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"] {
        let name = file.rsplit('/').next().unwrap();
        fs::rename(model.folder.join(file), model.folder.join(name)).unwrap();
    }
    fs::remove_dir(model.folder.join("unet")).unwrap();
    fs::remove_dir(model.folder.join("scheduler")).unwrap();
    model.is_glyph_tiny("model");
}

#[test]
fn variants_and_shards() {
    let place = Place::new();
    let model = place.model();
    let (weights, unet) = (model.folder.join(WEIGHTS), model.folder.join("unet"));
    fs::rename(&weights, unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    model.is_glyph_tiny("model");
    fs::rename(unet.join("diffusion_pytorch_model.fp16.safetensors"), &weights).unwrap();

    let mut tensors = model.tensors();
    let rest = tensors.split_off(tensors.len() / 3);
    let mut map = Vec::new();
    for (file, tensors) in [("one.safetensors", &tensors), ("two.safetensors", &rest)] {
        model.write(&format!("unet/{file}"), tensors);
        map.extend(tensors.iter().map(|t| format!("{:?}: {file:?}", t.name)));
    }
    fs::remove_file(&weights).unwrap();
    let index = format!(r#"{{"metadata": {{"total_size": 0}}, "weight_map": {{{}}}}}"#, map.join(", "));
    fs::write(unet.join("diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    model.is_glyph_tiny("model");
}

#[test]
fn misaligned_weights_are_read_too() {
    let place = Place::new();
    let model = place.model();
    let bytes = fs::read(model.folder.join(WEIGHTS)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    // A space more in the header moves every weight by a byte.
    let header = [&bytes[8..8 + length as usize], b" "].concat();
    let moved = [&(length + 1).to_le_bytes(), &header[..], &bytes[8 + length as usize..]].concat();
    fs::write(model.folder.join(WEIGHTS), moved).unwrap();
    model.is_glyph_tiny("model");
}

#[test]
fn names_from_before_diffusers_0_15() {
    let place = Place::new();
    let model = place.model();
    model.change(|t| {
        for (new, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
            t.name = t.name.replace(new, old);
        }
    });
    assert!(model.tensors().iter().any(|t| t.name.ends_with("proj_attn.weight")));
    model.is_glyph_tiny("model");
}

/// A model whose values f16 or bf16 hold exactly gives the same result in f32.
#[test]
fn half_precision_files_are_widened_exactly() {
    for bf16 in [false, true] {
        let place = Place::new();
        let model = place.model();
        let narrow = |t: &mut Tensor| {
            t.bytes = halves(&t.bytes, bf16);
            t.dtype = if bf16 { Dtype::BF16 } else { Dtype::F16 };
        };
        model.change(narrow);
        let run = |out: &str| {
            let run = ["sample", "--model", "model", "--backend", "reference", "--steps", "2", "--latents-out"];
            place.succeed(&[&run[..], &[out]].concat());
            place.read(out)
        };
        let narrowed = run("narrow");
        model.change(|t| {
            let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
            let widen = |h: u16| if bf16 { f32::from_bits(u32::from(h) << 16) } else { f16(h) };
            t.bytes = t.bytes.chunks_exact(2).flat_map(|b| widen(half(b)).to_le_bytes()).collect();
            t.dtype = Dtype::F32;
        });
        assert_eq!(narrowed, run("wide"), "bf16: {bf16}");
    }
}

/// The value of a normal half float or zero, from its definition.
fn f16(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    if exponent == 0 { sign * 0.0 } else { sign * (1.0 + fraction / 1024.0) * 2.0_f32.powi(exponent - 15) }
}
