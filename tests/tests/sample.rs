//! `unfog sample` as a whole against diffusers: a model's folder, its scheduler_config.json and given noise in; the sampler's
//! result out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unfog::backend::{Kind, Request};
use unfog::cpu::CpuOptions;
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::golden::{Golden, root};
use unfog_tests::picture::close_pictures;
use unfog_tests::tolerance;

/// A copy of a model, whose scheduler's config a test may change, in a folder of this name.
fn copy_model(name: &str, folder: &str) -> TestResult<PathBuf> {
    let (from, to) = (root().join("models").join(name), Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder));
    for folder in ["unet", "scheduler"] {
        fs::create_dir_all(to.join(folder))?;
    }
    for file in ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"] {
        fs::copy(from.join(file), to.join(file))?;
    }
    Ok(to)
}

/// Writes the scheduler's config of a case: the model's own, with what the case changes.
fn write_scheduler(name: &str, to: &Path, case: &Value) -> TestResult {
    let file = "scheduler/scheduler_config.json";
    let mut config: Value = serde_json::from_slice(&fs::read(root().join("models").join(name).join(file))?)?;
    config["_class_name"] = match case["sampler"].as_str() {
        Some("ddim") => "DDIMScheduler".into(),
        Some("ddpm") => "DDPMScheduler".into(),
        other => return Err(format!("unknown sampler {other:?}").into()),
    };
    for (key, value) in case["config"].as_object().ok_or("no config")? {
        config[key] = value.clone();
    }
    Ok(fs::write(to.join(file), serde_json::to_vec(&config)?)?)
}

fn compare(name: &str) -> TestResult {
    let golden = Golden::read("chains")?;
    let folder = copy_model(name, name)?;
    let mut made = 0;
    for (number, case) in golden.cases().iter().enumerate().filter(|(_, case)| case["model"] == name) {
        write_scheduler(name, &folder, case)?;
        let want = golden.part(number, "x0")?;
        let latents = folder.join("latents.safetensors");
        let options = Options {
            model: Some(folder.clone()),
            class: case["label"].as_u64().map(|label| label.to_string()),
            guidance: case["guidance"].as_f64().map(|g| g as f32),
            steps: case["steps"].as_u64().map(|n| n as usize),
            eta: (case["sampler"] == "ddim").then(|| case["eta"].as_f64().unwrap_or(0.0) as f32),
            count: u32::try_from(want.shape[0])?,
            backend: Request { kind: Kind::Cpu, ..Request::default() },
            noise_in: Some(
                root().join(format!("tests/golden/noise-{}.safetensors", case["noise"].as_str().unwrap_or(""))),
            ),
            latents_out: Some(latents.clone()),
            out: folder.join("sheet.png"),
            ..Options::default()
        };
        let what = format!("sample {number:02}: {name} {} {} {}", case["sampler"], case["steps"], case["config"]);
        sample(&options, &Stop::default(), &mut |_| {}).map_err(|e| format!("{what}: {}", e.report()))?;
        let got = Golden::read_file(&latents)?;
        let x0 = got.tensor("x0")?;
        assert_eq!(x0.shape, want.shape, "{what}");
        let size = [want.shape[2], want.shape[3]];
        let tolerance = tolerance::chain(&Backend::Cpu(CpuOptions::default()));
        close_pictures(&what, &x0.values, &want.values, size, tolerance)?;
        made += 1;
    }
    assert!(made > 0, "no run was made");
    Ok(())
}

/// glyph-tiny with a scheduler_config.json of another class (tests/golden/make_swapped.py).
#[test]
fn other_schedulers() -> TestResult {
    let golden = Golden::read("swapped")?;
    let own = copy_model("glyph-tiny", "glyph-tiny-swapped")?;
    let mut worst = 0.0_f64;
    for (number, case) in golden.cases().iter().enumerate() {
        let text = case["text"].as_str().ok_or("no text")?;
        fs::write(own.join("scheduler/scheduler_config.json"), text)?;
        let latents = own.join("latents.safetensors");
        let options = Options {
            model: Some(own.clone()),
            steps: case["steps"].as_u64().map(|n| n as usize),
            count: 2,
            backend: Request { kind: Kind::Cpu, ..Request::default() },
            noise_in: Some(root().join("tests/golden/noise-glyph-pair.safetensors")),
            latents_out: Some(latents.clone()),
            out: own.join("sheet.png"),
            ..Options::default()
        };
        let named: Value = serde_json::from_str(&text.replace("-Infinity", "null"))?;
        let what = format!("swapped {number:02}: {}", named["_class_name"]);
        sample(&options, &Stop::default(), &mut |_| {}).map_err(|e| format!("{what}: {}", e.report()))?;
        let got = Golden::read_file(&latents)?;
        let (got, want) = (got.tensor("x0")?, golden.part(number, "x0")?);
        assert_eq!(got.shape, want.shape, "{what}");
        worst = worst.max(close_pictures(&what, &got.values, &want.values, [16, 16], tolerance::swapped())?);
    }
    println!("swapped schedulers: {worst:.1e} apart at most");
    Ok(())
}

#[test]
fn glyph_tiny() -> TestResult {
    compare("glyph-tiny")
}

#[test]
fn mednist_ddpm() -> TestResult {
    compare("mednist-ddpm")
}
