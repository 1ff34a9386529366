//! LoRAs against diffusers: pipelines with what a file adds to their weights, from given noise.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use unfog::backend::{Kind, Precision, Request};
use unfog::model::LoraChoice;
use unfog::sample::Options;
use unfog_tests::TestResult;
use unfog_tests::compare::{close, distance, same_bits};
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, folder, kinds, latents, pipeline, refusal};
use unfog_tests::tolerance;

/// A LoRA of the goldens.
fn lora(name: &str, weight: f32) -> LoraChoice {
    LoraChoice { path: root().join(format!("tests/golden/loras/{name}.safetensors")), weight }
}

/// The LoRAs of a case.
fn loras(case: &Value) -> TestResult<Vec<LoraChoice>> {
    let all = case["loras"].as_array().ok_or("no loras")?.iter();
    let one = |pair: &Value| Some(lora(pair[0].as_str()?, pair[1].as_f64()? as f32));
    Ok(all.map(one).collect::<Option<_>>().ok_or("a lora without name and weight")?)
}

#[test]
fn loras_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("loras")?;
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "loras")?;
    assert!(golden.cases().len() >= 5);
    for (number, case) in golden.cases().iter().enumerate() {
        let (noise, want) = (golden.part(number, "noise")?, golden.part(number, "latents")?);
        for (kind, backend) in &kinds()? {
            let what = format!("{} on {}", case["loras"], kind.name());
            let options = Options { loras: loras(case)?, ..pipeline::options(case, *kind) };
            let (recipe, got) = latents(options, noise, &folder, &what)?;
            let far = close(&what, &got.values, &want.values, tolerance::pipeline(backend))?;
            println!("{what}: latents {far:.1e} apart");
            let names: Vec<String> = loras(case)?.iter().map(|lora| lora.path.display().to_string()).collect();
            assert_eq!(recipe.loras.iter().map(|lora| lora.file.clone()).collect::<Vec<_>>(), names, "{what}");
            assert!(recipe.loras.iter().all(|lora| lora.sha256.len() == 64), "{what}: {:?}", recipe.loras);
        }
    }
    Ok(())
}

#[test]
fn weights_add_up() -> TestResult {
    let golden = Golden::read("loras")?;
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "lora-weights")?;
    let noise = golden.part(0, "noise")?;
    let make = |loras: &[LoraChoice], precision| -> TestResult<Vec<f32>> {
        let case = &golden.cases()[0];
        let options = Options { loras: loras.to_vec(), steps: Some(2), ..pipeline::options(case, Kind::Cpu) };
        let options = Options { backend: Request { precision, ..options.backend }, ..options };
        Ok(latents(options, noise, &folder, "weights")?.1.values)
    };
    let whole = make(&[lora("kohya", 1.0)], Precision::F32)?;
    let plain = make(&[], Precision::F32)?;
    assert!(distance(&whole, &plain) > 1e-2, "it changes nothing");
    same_bits("a weight of 0", &make(&[lora("kohya", 0.0)], Precision::F32)?, &plain)?;
    same_bits("again", &make(&[lora("kohya", 1.0)], Precision::F32)?, &whole)?;
    let halves = make(&[lora("kohya", 0.25), lora("kohya", 0.75)], Precision::F32)?;
    close("two that are one", &halves, &whole, tolerance::pipeline(&unfog_tests::backend::Backend::Reference))?;
    // What is merged is rounded to half floats where all kernels are.
    let narrow = make(&[lora("kohya", 1.0)], Precision::F16)?;
    close("in half floats", &narrow, &whole, tolerance::half_pipeline())?;
    Ok(())
}

/// A LoRA file with these tensors, of zeros.
fn write(path: &Path, tensors: &[(&str, &[usize])]) -> TestResult<LoraChoice> {
    fill(path, tensors, 0.0)
}

/// A LoRA file with these tensors, of one value.
fn fill(path: &Path, tensors: &[(&str, &[usize])], value: f32) -> TestResult<LoraChoice> {
    let bytes = |shape: &[usize]| value.to_le_bytes().repeat(shape.iter().product());
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| bytes(shape)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| TensorView::new(Dtype::F32, shape.to_vec(), bytes).map(|view| (*name, view)));
    serialize_to_file(views.collect::<Result<Vec<_>, _>>()?, None, path)?;
    Ok(LoraChoice { path: path.to_path_buf(), weight: 1.0 })
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "lora-refusals")?;
    let file = |name: &str| folder.join(name);
    let layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    let (down, up) = (format!("{layer}.lora_down.weight"), format!("{layer}.lora_up.weight"));
    let at = |name: &str| LoraChoice { path: file(name), weight: 1.0 };
    fs::write(file("pickle"), b"PK\x03\x04 and the rest")?;
    fs::write(file("damaged"), b"\x40\0\0\0\0\0\0\0{\"a\": 1")?;
    let unknown = "lora_unet_down_blocks_7_attentions_0_proj_in.lora_down.weight";
    let unknown_up = "lora_unet_down_blocks_7_attentions_0_proj_in.lora_up.weight";
    let refusals: Vec<(LoraChoice, &str)> = vec![
        (at("missing"), "can't read"),
        (at("pickle"), "is a pickle"),
        (at("damaged"), "no whole safetensors file"),
        (LoraChoice { path: pipeline("sd1"), weight: 1.0 }, "no whole safetensors file"),
        (write(&file("down"), &[(&down, &[2, 16])])?, "lacks one of its two factors"),
        (write(&file("shape"), &[(&down, &[2, 17]), (&up, &[16, 2])])?, "don't fit the weight down_blocks.0"),
        (write(&file("rank"), &[(&down, &[2, 16]), (&up, &[16, 3])])?, "don't fit the weight down_blocks.0"),
        (write(&file("huge"), &[(&down, &[0, 16]), (&up, &[16, 0])])?, "don't fit the weight down_blocks.0"),
        (
            write(&file("other"), &[(&down, &[2, 16]), (&up, &[16, 2]), (unknown, &[2, 16]), (unknown_up, &[16, 2])])?,
            "changes 1 of 2 layers that the model does not have, the first is lora_unet_down_blocks_7",
        ),
        (write(&file("stray"), &[(&down, &[2, 16]), (&up, &[16, 2]), ("emb_params", &[1, 32])])?, "emb_params"),
        (
            write(&file("dora"), &[(&down, &[2, 16]), (&up, &[16, 2]), (&format!("{layer}.dora_scale"), &[16, 1])])?,
            "is DoRA",
        ),
        (write(&file("loha"), &[(&format!("{layer}.hada_w1_a"), &[16, 2])])?, "is LoHa"),
        (write(&file("lokr"), &[(&format!("{layer}.lokr_w1"), &[4, 4])])?, "is LoKr"),
        (write(&file("none"), &[])?, "holds no LoRA"),
        (fill(&file("large"), &[(&down, &[2, 16]), (&up, &[16, 2])], 1e30)?, "attn1.to_q.weight becomes inf"),
        (lora("kohya-xl", 1.0), "it is for another model"),
    ];
    let case = json!({"pipeline": "sd1", "prompt": "a cat", "guidance": 4.0, "steps": 2});
    let out = file("picture.png");
    for (choice, part) in refusals {
        let options = Options { loras: vec![choice], out: out.clone(), ..pipeline::options(&case, Kind::Cpu) };
        let report = refusal(&options)?;
        let first = report.lines().next().unwrap_or_default();
        assert!(first.contains(part) && report.lines().count() <= 2, "{part}: {report}");
        assert!(!out.exists(), "{report}");
    }
    // A LoRA for a pipeline of texts does not fit a model of classes.
    let options = Options {
        loras: vec![lora("kohya", 1.0)],
        out,
        backend: Request { kind: Kind::Cpu, ..Request::default() },
        ..Options::default()
    };
    assert!(refusal(&options)?.contains("it is for another model"));
    Ok(())
}
