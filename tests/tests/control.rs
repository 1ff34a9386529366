//! ControlNets and T2I adapters against diffusers: pipelines that are steered by pictures, from given noise.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::backend::{Kind, Request};
use unfog::sample::{Options, Share};
use unfog_tests::TestResult;
use unfog_tests::compare::{close, distance, same_bits};
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, folder, kinds, latents, pipeline, refusal};
use unfog_tests::tolerance;

/// What a test changes of a case's options.
type Change = Box<dyn Fn(&mut Options)>;

fn file(name: &str) -> PathBuf {
    root().join("tests/golden/control").join(name)
}

fn copy(from: &Path, to: &Path) -> TestResult {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to.to_path_buf());
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::copy(entry.path(), to).map(|_| ())?,
        }
    }
    Ok(())
}

/// The pipeline of a case, with another network where the case names one: then a copy in `folder`.
fn model(case: &Value, folder: &Path) -> TestResult<PathBuf> {
    let own = pipeline(case["pipeline"].as_str().ok_or("no pipeline")?);
    let Some(unet) = case["unet"].as_str() else { return Ok(own) };
    let to = folder.join(unet);
    copy(&own, &to)?;
    fs::remove_dir_all(to.join("unet"))?;
    copy(&file(unet), &to.join("unet"))?;
    Ok(to)
}

/// The options of a case.
fn options(case: &Value, kind: Kind) -> TestResult<Options> {
    let texts = |key: &str| case[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    let scales = case["scales"].as_array().into_iter().flatten().filter_map(Value::as_f64);
    let ends = |share: &Value| Some(Share { start: share[0].as_f64()?, end: share[1].as_f64()? });
    let shares = case["shares"].as_array().into_iter().flatten().filter_map(ends);
    Ok(Options {
        controls: texts("controls").map(file).collect(),
        control_images: texts("images").map(|name| file(&format!("{name}.png"))).collect(),
        control_scales: scales.map(|scale| scale as f32).collect(),
        control_steps: shares.collect(),
        ..pipeline::options(case, kind)
    })
}

#[test]
fn controls_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("control")?;
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "controls")?;
    assert!(golden.cases().len() >= 8);
    for (number, case) in golden.cases().iter().enumerate() {
        let (noise, want) = (golden.part(number, "noise")?, golden.part(number, "latents")?);
        let model = Some(model(case, &folder)?);
        for (kind, backend) in &kinds()? {
            let what = format!("{} on {}", case["controls"], kind.name());
            let options = Options { model: model.clone(), ..options(case, *kind)? };
            let scales = options.control_scales.clone();
            let shares: Vec<_> = options.control_steps.iter().map(|share| Some([share.start, share.end])).collect();
            let (recipe, got) = latents(options, noise, &folder, &what)?;
            let far = close(&what, &got.values, &want.values, tolerance::pipeline(backend))?;
            println!("{what}: latents {far:.1e} apart");
            assert_eq!(recipe.controls.iter().map(|control| control.scale).collect::<Vec<_>>(), scales, "{what}");
            let told: Vec<_> = recipe.controls.iter().filter_map(|c| c.steps.map(Some)).collect();
            assert_eq!(told, shares, "{what}");
            let hashes = recipe.controls.iter().flat_map(|control| [&control.sha256, &control.image_sha256]);
            assert!(
                hashes.clone().count() == 2 * scales.len() && hashes.clone().all(|hash| hash.len() == 64),
                "{what}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_pipeline_brings_its_own_control() -> TestResult {
    let golden = Golden::read("control")?;
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "own-control")?;
    let (case, noise) = (&golden.cases()[0], golden.part(0, "noise")?);
    let whole = folder.join("whole");
    copy(&pipeline("sd1"), &whole)?;
    copy(&file("net-sd1"), &whole.join("controlnet"))?;
    let index = fs::read_to_string(whole.join("model_index.json"))?;
    fs::write(
        whole.join("model_index.json"),
        index.replace("StableDiffusionPipeline", "StableDiffusionControlNetPipeline"),
    )?;
    let make = |change: &dyn Fn(&mut Options)| -> TestResult<Vec<f32>> {
        let mut options = Options { steps: Some(2), ..options(case, Kind::Cpu)? };
        change(&mut options);
        Ok(latents(options, noise, &folder, "own control")?.1.values)
    };
    let beside = make(&|_| {})?;
    let own = make(&|o| (o.model, o.controls) = (Some(whole.clone()), Vec::new()))?;
    same_bits("the pipeline's own", &own, &beside)?;
    let plain = make(&|o| (o.controls, o.control_images, o.control_scales) = (Vec::new(), Vec::new(), Vec::new()))?;
    let none = make(&|o| o.control_scales = vec![0.0])?;
    close("a scale of 0", &none, &plain, tolerance::pipeline(&unfog_tests::backend::Backend::Reference))?;
    let others: [(&str, Change); 3] = [
        ("another picture", Box::new(|o| o.control_images = vec![file("b.png")])),
        ("a scale", Box::new(|o| o.control_scales = vec![0.5])),
        ("no control", Box::new(|o| (o.controls, o.control_images, o.control_scales) = Default::default())),
    ];
    for (what, change) in others {
        assert!(distance(&make(&change)?, &beside) > 1e-4, "{what} changes nothing");
    }
    // Without its picture it makes nothing.
    let options = Options {
        model: Some(whole),
        controls: Vec::new(),
        control_images: Vec::new(),
        control_scales: Vec::new(),
        ..options(case, Kind::Cpu)?
    };
    assert!(refusal(&options)?.contains("give --control-image"));
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "control-refusals")?;
    let out = folder.join("picture.png");
    let case = json!({"pipeline": "sd1", "prompt": "a cat", "guidance": 4.0, "steps": 2, "controls": ["net-sd1"], "images": ["a"], "scales": [1.0]});
    let changed = |name: &str, key: &str, value: Value| -> TestResult<PathBuf> {
        let to = folder.join(name);
        copy(&file("net-sd1"), &to)?;
        let mut config: Value = serde_json::from_slice(&fs::read(to.join("config.json"))?)?;
        config[key] = value;
        fs::write(to.join("config.json"), config.to_string())?;
        Ok(to)
    };
    let pooled = changed("pooled", "global_pool_conditions", json!(true))?;
    let ordered = changed("ordered", "controlnet_conditioning_channel_order", json!("rbg"))?;
    let other = changed("other", "_class_name", json!("SparseControlNetModel"))?;
    let deeper = changed("deeper", "conditioning_embedding_out_channels", json!([4, 8, 8]))?;
    let wider = changed("wider", "attention_head_dim", json!(2))?;
    let shapes = changed("shapes", "conditioning_embedding_out_channels", json!([4, 6]))?;
    let empty_folder = pipeline::folder(env!("CARGO_TARGET_TMPDIR"), "no-control")?;
    let lost = changed("lost", "freq_shift", json!(0))?;
    fs::remove_file(lost.join("diffusion_pytorch_model.safetensors"))?;
    let one = |folder: &Path| -> Change {
        let folder = folder.to_path_buf();
        Box::new(move |o| o.controls = vec![folder.clone()])
    };
    let cases: Vec<(Change, &str)> = vec![
        (one(&folder.join("missing")), "there is no control"),
        (one(&empty_folder), "lacks a config.json"),
        (one(&pooled), "global_pool_conditions"),
        (one(&ordered), "controlnet_conditioning_channel_order"),
        (one(&other), "SparseControlNetModel, which steers nothing"),
        (one(&deeper), "does not fit the model's network"),
        (one(&shapes), "has the shape"),
        (one(&lost), "lacks diffusion_pytorch_model.safetensors"),
        (one(&file("net-sdxl")), "does not fit the model's network"),
        (one(&file("adapter-xl")), "does not fit the model's network"),
        (Box::new(|o| o.control_images = vec![file("missing.png")]), "can't read the picture"),
        (Box::new(|o| o.control_images = vec![file("net-sd1/config.json")]), "can't read the picture"),
        (Box::new(|o| o.control_images = Vec::new()), "1 controls have 0 pictures"),
        (Box::new(|o| o.controls = Vec::new()), "has no control of its own"),
        (Box::new(|o| o.control_scales = vec![1.0, 2.0]), "1 controls have 2 scales"),
        (Box::new(|o| o.control_scales = vec![f32::NAN]), "is no number"),
        (Box::new(|o| o.control_steps = vec![Share::ALL; 2]), "1 controls have 2 parts of the steps"),
        (Box::new(|o| o.control_steps = vec![Share { start: 0.5, end: 0.5 }]), "0.5:0.5 is no part of the steps"),
        (Box::new(|o| o.model = None), "none that pictures steer"),
    ];
    for (change, part) in cases {
        let mut options = Options { out: out.clone(), ..options(&case, Kind::Cpu)? };
        change(&mut options);
        if options.model.is_none() {
            options = Options { prompt: None, guidance: None, ..options };
        }
        let report = refusal(&options)?;
        let first = report.lines().next().unwrap_or_default();
        assert!(first.contains(part) && report.lines().count() <= 2, "{part}: {report}");
        assert!(!out.exists(), "{report}");
    }
    // The number of heads is no weight's shape: it is another network that fits.
    let mut options = Options {
        out: out.clone(),
        backend: Request { kind: Kind::Cpu, ..Request::default() },
        ..options(&case, Kind::Cpu)?
    };
    options.controls = vec![wider];
    pipeline::run(&options, "other heads")?;
    Ok(())
}
