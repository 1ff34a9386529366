//! Whole models in one file under their original names, against diffusers: the file, a prompt and given noise in; latents and pictures out.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::Value;
use unfog::backend::{Kind, Request};
use unfog::model::Model;
use unfog::sample::{Options, sample};
use unfog::settings::prediction;
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, compare, kinds, write_noise};
use unfog_tests::tolerance;

/// The values of a weight: the rule of tests/golden/make_single.py.
fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let fan = if shape.len() == 1 { 64 } else { shape[1..].iter().product() };
    let log = (0..).find(|log| 4_usize.pow(*log) >= fan).unwrap_or(0);
    let scale = 2_f32.powi(1 - log as i32 - 9);
    let mean = f32::from(u8::from(shape.len() == 1 && name.ends_with("weight")));
    let value = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 54) as f32 - 511.5
    };
    (0..shape.iter().product::<usize>() as u64).map(|i| value(i) * scale + mean).collect()
}

/// The shapes of a model's file, as the golden has them.
fn shapes(model: &str) -> TestResult<Vec<(String, Vec<usize>)>> {
    let bytes = fs::read(root().join("tests/golden/single.safetensors"))?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let text = header.metadata().as_ref().and_then(|m| m.get("shapes")).ok_or("no shapes")?;
    let all: Value = serde_json::from_str(text)?;
    let of = all[model].as_object().ok_or("no such model")?;
    of.iter().map(|(name, shape)| Ok((name.clone(), serde_json::from_value(shape.clone())?))).collect()
}

/// Writes the file of a model without the weights that `without` names.
fn write(path: &Path, model: &str, without: &dyn Fn(&str) -> bool) -> TestResult {
    let shapes = shapes(model)?.into_iter().filter(|(name, _)| !without(name));
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .map(|(name, shape)| {
            let bytes = values(&name, &shape).iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let mut views = Vec::new();
    for (name, shape, bytes) in &stored {
        views.push((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes)?));
    }
    Ok(serialize_to_file(views, None, path)?)
}

/// An empty folder for a test.
fn folder(name: &str) -> TestResult<PathBuf> {
    pipeline::folder(env!("CARGO_TARGET_TMPDIR"), name)
}

fn tokenizer() -> PathBuf {
    root().join("tests/golden/pipelines/sd1/tokenizer")
}

#[test]
fn files_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("single")?;
    let folder = folder("single")?;
    for model in ["sd1", "sd2", "sdxl"] {
        write(&folder.join(format!("{model}.safetensors")), model, &|_| false)?;
    }
    let noise = folder.join("noise.safetensors");
    let backends = kinds()?;
    for (number, case) in golden.cases().iter().enumerate() {
        write_noise(&noise, golden.part(number, "noise")?)?;
        // Networks are tried on all backends elsewhere: here one model with everything on a GPU, and one on the reference.
        let once = |kind: Kind| match (case["model"].as_str(), kind) {
            (Some("sdxl"), Kind::Vulkan) | (Some("sd2"), Kind::Reference) => case["negative"].is_null(),
            (_, kind) => kind == Kind::Cpu,
        };
        for (kind, backend) in backends.iter().filter(|(kind, _)| once(*kind)) {
            let what = format!("{number}: {} on {}", case["model"], kind.name());
            let options = Options {
                model: case["model"].as_str().map(|model| folder.join(format!("{model}.safetensors"))),
                tokenizer: Some(tokenizer()),
                prompt: case["prompt"].as_str().map(str::to_owned),
                negative: case["negative"].as_str().map(str::to_owned),
                prediction: case["prediction"].as_str().map(prediction).transpose().map_err(|e| e.report())?,
                sampler: case["sampler"].as_str().map(str::to_owned),
                guidance: case["guidance"].as_f64().map(|g| g as f32),
                steps: case["steps"].as_u64().map(|n| n as usize),
                size: Some((16, 16)),
                count: 2,
                backend: Request { kind: *kind, ..Request::default() },
                noise_in: Some(noise.clone()),
                ..Options::default()
            };
            let allowed = tolerance::pipeline(backend);
            let (recipe, far, most) = compare(&what, options, &folder, &golden, number, allowed)?;
            assert_eq!(recipe.prediction.as_deref(), case["prediction"].as_str(), "{what}");
            println!("{what}: latents {far:.1e} apart, pictures at most {most} steps");
        }
    }
    Ok(())
}

#[test]
fn what_a_file_lacks_is_said() -> TestResult {
    let folder = folder("single-lacks")?;
    let whole = folder.join("whole.safetensors");
    write(&whole, "sd1", &|_| false)?;
    let no_vae = folder.join("no-vae.safetensors");
    write(&no_vae, "sd1", &|name| name.starts_with("first_stage_model"))?;
    let no_text = folder.join("no-text.safetensors");
    write(&no_text, "sdxl", &|name| name.starts_with("conditioner"))?;
    let no_weight = folder.join("no-weight.safetensors");
    write(&no_weight, "sd1", &|name| name == "first_stage_model.decoder.up.0.block.0.conv1.weight")?;
    let run = |model: &Path, tokenizer: Option<PathBuf>| -> Result<String, String> {
        let options = Options {
            model: Some(model.into()),
            tokenizer,
            prompt: Some("a cat".into()),
            steps: Some(1),
            size: Some((16, 16)),
            backend: Request { kind: Kind::Cpu, ..Request::default() },
            out: folder.join("out.png"),
            ..Options::default()
        };
        sample(&options, &Stop::default(), &mut |_| {}).map(|o| o.recipe.weights_sha256).map_err(|e| e.report())
    };
    let refusals = [
        (run(&whole, None), "brings no tokenizer, and there is none beside it; give --tokenizer FOLDER"),
        (run(&whole, Some(folder.clone())), "has no tokenizer"),
        (run(&whole, Some(folder.join("none"))), "there is no model"),
        (run(&no_vae, Some(tokenizer())), "has no text encoder and autoencoder beside it"),
        (run(&no_text, Some(tokenizer())), "has no text encoder and autoencoder beside it"),
        (run(&no_weight, Some(tokenizer())), "lacks the weight decoder.up_blocks.1.resnets.0.conv1.weight"),
    ];
    for (said, part) in refusals {
        let report = said.err().ok_or(format!("{part}: it was taken"))?;
        assert!(report.contains(part) && report.lines().count() == 1, "{part}: {report}");
    }
    // A tokenizer beside the file is found, and the file is hashed once.
    fs::create_dir_all(folder.join("tokenizer"))?;
    for file in fs::read_dir(tokenizer())? {
        let file = file?.path();
        fs::copy(&file, folder.join("tokenizer").join(file.file_name().ok_or("no name")?))?;
    }
    let found = run(&whole, None)?;
    let model = Model::open(Some(&whole)).map_err(|e| e.report())?;
    let weights = model.network(8, 8).and_then(|network| model.weights(&network)).map_err(|e| e.report())?;
    assert_eq!(found, weights.fingerprint().finish().map_err(|e| e.report())?);
    Ok(())
}
