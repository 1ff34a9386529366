//! Pipelines that begin from a picture: against diffusers as a whole, from given noise; with pixel models; what does not fit.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::backend::{Kind, Request};
use unfog::cpu::CpuOptions;
use unfog::image::{Picture, load};
use unfog::sample::{Edit, Options, Share, sample};
use unfog::stop::Stop;
use unfog::tensors::write_latents;
use unfog_tests::TestResult;
use unfog_tests::backend::{Backend, gpus};
use unfog_tests::given::{overlay, write_picture};
use unfog_tests::golden::{Golden, Tensor, root};
use unfog_tests::pipeline::{self, compare, pipeline, run, steps_apart, write_noise};
use unfog_tests::tolerance;

fn folder(name: &str) -> TestResult<PathBuf> {
    pipeline::folder(env!("CARGO_TARGET_TMPDIR"), name)
}

/// The folder of a case's model: a pipeline's, with some parts in place of its own where the case says so.
fn model(case: &Value, folder: &Path) -> TestResult<PathBuf> {
    let own = pipeline(case["pipeline"].as_str().ok_or("no pipeline")?);
    let Some(parts) = case["parts"].as_str() else { return Ok(own) };
    let model = folder.join(format!("{}-{parts}", case["pipeline"]));
    if !model.exists() {
        overlay(&own, &model)?;
        overlay(&root().join("tests/golden/edit").join(parts), &model)?;
    }
    Ok(model)
}

/// The options of a case, whose files lie in `folder`.
fn options(case: &Value, folder: &Path, kind: Kind) -> TestResult<Options> {
    let text = |key: &str| case[key].as_str().map(str::to_owned);
    let given = case["latents"].is_array();
    let size = case["size"].as_array().and_then(|size| Some((size[0].as_u64()? as u32, size[1].as_u64()? as u32)));
    let edit = Edit {
        image: folder.join(if given { "given.safetensors" } else { "picture.ppm" }),
        strength: case["strength"].as_f64(),
        mask: case["kind"]
            .as_str()
            .is_some_and(|kind| kind.contains("Inpaint"))
            .then(|| folder.join("mask.pgm").into()),
        image_guidance: case["image_guidance"].as_f64().map(|g| g as f32),
        noise_level: case["noise_level"].as_u64().map(|n| n as u32),
        ..Edit::default()
    };
    let control = case["control"].as_str();
    let share =
        case["share"].as_array().and_then(|ends| Some(Share { start: ends[0].as_f64()?, end: ends[1].as_f64()? }));
    Ok(Options {
        model: Some(model(case, folder)?),
        controls: control.map(|name| root().join("tests/golden/edit").join(name)).into_iter().collect(),
        control_images: control.map(|_| folder.join("hint.ppm")).into_iter().collect(),
        control_scales: case["scale"].as_f64().map(|scale| scale as f32).into_iter().collect(),
        control_steps: share.into_iter().collect(),
        prompt: text("prompt"),
        negative: text("negative"),
        sampler: text("sampler"),
        guidance: case["guidance"].as_f64().map(|g| g as f32),
        steps: case["steps"].as_u64().map(|n| n as usize),
        count: 2,
        size: size.filter(|_| given),
        out: folder.join("{i}.png"),
        // A case of no kind begins from noise.
        edit: (case["kind"] != "").then_some(edit),
        backend: Request { kind, ..Request::default() },
        ..Options::default()
    })
}

fn read(path: &Path) -> TestResult<Picture> {
    load(path).map_err(|e| e.report().into())
}

/// Runs the cases on a backend: all of them, or the first of each thing that is made of a picture.
fn agree(backend: &Backend, kind: Kind, all: bool) -> TestResult {
    let golden = Golden::read("edit")?;
    let folder = folder(&format!("edit-{}", kind.name()))?;
    let mut seen = Vec::new();
    for (number, case) in golden.cases().iter().enumerate() {
        let what = format!("{number}: {case} on {}", kind.name());
        let sort = [&case["parts"], &case["kind"], &case["control"], &case["latents"]];
        let other_sampler = ["single", "deis", "turbo", "lms"].iter().any(|parts| case["parts"] == *parts);
        if !all && (seen.contains(&sort) || other_sampler || case["kind"] == "") {
            continue;
        }
        seen.push(sort);
        write_noise(&folder.join("noise"), golden.part(number, "noise")?)?;
        write_picture(&folder.join("picture.ppm"), golden.part(number, "picture")?)?;
        write_picture(&folder.join("mask.pgm"), golden.part(number, "mask")?)?;
        if case["latents"].is_array() {
            let Tensor { shape, values } = golden.part(number, "given")?;
            let shape: [usize; 4] = shape.clone().try_into().map_err(|_| "not four sides")?;
            write_latents(&folder.join("given.safetensors"), values, shape.map(|side| side as u32))?;
        }
        if case["control"].is_string() {
            write_picture(&folder.join("hint.ppm"), golden.part(number, "hint")?)?;
        }
        let options = Options { noise_in: Some(folder.join("noise")), ..options(case, &folder, kind)? };
        let (recipe, far, most) = compare(&what, options, &folder, &golden, number, tolerance::edit(backend))?;
        let command = if recipe.edit.is_some() { "edit" } else { "sample" };
        assert_eq!((recipe.command.as_str(), recipe.edit.is_none()), (command, case["kind"] == ""), "{what}");
        assert!(recipe.edit.is_none_or(|edited| edited.image_sha256.len() == 64), "{what}");
        assert_eq!(golden.part(number, "image")?.shape[0], 2, "{what}");
        println!("{what}: latents {far:.1e} apart, pictures at most {most} steps");
    }
    Ok(())
}

#[test]
fn the_reference_agrees_with_diffusers() -> TestResult {
    agree(&Backend::Reference, Kind::Reference, false)
}

#[test]
fn the_cpu_agrees_with_diffusers() -> TestResult {
    agree(&Backend::Cpu(CpuOptions::default()), Kind::Cpu, true)
}

#[test]
fn vulkan_agrees_with_diffusers() -> TestResult {
    let Some(gpu) = gpus()?.first() else { return Ok(()) };
    agree(&Backend::Vulkan { gpu, options: unfog_gpu::Options::default() }, Kind::Vulkan, false)
}

#[test]
fn pictures_are_resized_as_by_pil() -> TestResult {
    let golden = Golden::read("edit")?;
    let folder = folder("edit-resize")?;
    write_picture(&folder.join("picture.ppm"), golden.part(0, "picture")?)?;
    let picture = read(&folder.join("picture.ppm"))?;
    for name in ["smaller", "larger"] {
        let want = golden.tensor(name)?;
        let size = [want.shape[1], want.shape[2]];
        let got = picture.resized(size[1] as u32, size[0] as u32).map_err(|e| e.report())?;
        let values: Vec<f32> = want.values.iter().map(|v| v / 255.0).collect();
        let most = steps_apart(&got, &values, [3, size[0], size[1]])?;
        println!("{name}: {most} steps apart");
        assert!(most <= 1, "{name}: {most} steps apart");
    }
    Ok(())
}

/// A picture of `h` rows and `w` columns, a mask whose right half is white, and the options of an edit with glyph-tiny.
fn glyphs(folder: &Path) -> TestResult<Options> {
    let picture = Tensor { shape: vec![16, 16], values: (0..256).map(|i| f32::from((i * 37 % 256) as u8)).collect() };
    let mask = Tensor { shape: vec![16, 16], values: (0..256).map(|i| if i % 16 < 8 { 0.0 } else { 255.0 }).collect() };
    write_picture(&folder.join("picture.pgm"), &picture)?;
    write_picture(&folder.join("mask.pgm"), &mask)?;
    let edit = Edit { image: folder.join("picture.pgm"), ..Edit::default() };
    let backend = Request { kind: Kind::Cpu, ..Request::default() };
    Ok(Options { edit: Some(edit), steps: Some(10), out: folder.join("out.png"), backend, ..Options::default() })
}

fn with(options: &Options, change: impl Fn(&mut Edit)) -> Options {
    let mut options = options.clone();
    options.edit.iter_mut().for_each(change);
    options
}

#[test]
fn pixel_models_edit_too() -> TestResult {
    let folder = folder("edit-pixels")?;
    let options = glyphs(&folder)?;
    let own = read(&folder.join("picture.pgm"))?;
    let far = |strength: f64| -> TestResult<f64> {
        run(&with(&options, |edit| edit.strength = Some(strength)), "pixels")?;
        let made = read(&folder.join("out.png"))?;
        let apart = made.pixels().iter().zip(own.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b)));
        Ok(apart.sum::<f64>() / 256.0)
    };
    let (little, much) = (far(0.1)?, far(0.9)?);
    assert!(little < much && little < 40.0, "{little} {much}");
    // With a mask the left half stays to the bit, and the right one does not.
    run(&with(&options, |edit| edit.mask = Some(folder.join("mask.pgm").into())), "a mask")?;
    let made = read(&folder.join("out.png"))?;
    let same = |(i, (a, b)): (usize, (&u8, &u8))| (i % 16 < 8, a == b);
    let all: Vec<(bool, bool)> = made.pixels().iter().zip(own.pixels()).enumerate().map(same).collect();
    assert!(all.iter().all(|(stays, same)| *same || !stays));
    assert!(all.iter().any(|(stays, same)| !same && !stays));
    Ok(())
}

#[test]
fn an_edit_does_not_depend_on_its_batch() -> TestResult {
    let folder = folder("edit-batch")?;
    let golden = Golden::read("edit")?;
    write_picture(&folder.join("picture.ppm"), golden.part(0, "picture")?)?;
    write_picture(&folder.join("mask.pgm"), golden.part(0, "mask")?)?;
    let case = json!({"pipeline": "sd2", "parts": "inpaint", "kind": "Inpaint", "prompt": "a cat", "steps": 2, "strength": 1.0});
    let make = |first, count| -> TestResult<Vec<f32>> {
        let latents_out = Some(folder.join("latents"));
        run(&Options { first, count, latents_out, ..options(&case, &folder, Kind::Cpu)? }, "a batch")?;
        Ok(Golden::read_file(&folder.join("latents"))?.tensor("x0")?.values.clone())
    };
    let together = make(0, 3)?;
    for i in 0..3 {
        let alone = make(i as u64, 1)?;
        assert_eq!(alone, together[i * alone.len()..][..alone.len()], "latents of image {i}");
    }
    Ok(())
}

#[test]
fn what_stays_can_be_pasted() -> TestResult {
    let folder = folder("edit-paste")?;
    let golden = Golden::read("edit")?;
    write_picture(&folder.join("picture.ppm"), golden.part(0, "picture")?)?;
    write_picture(&folder.join("mask.pgm"), golden.part(0, "mask")?)?;
    let (own, mask) = (read(&folder.join("picture.ppm"))?, read(&folder.join("mask.pgm"))?);
    let case = json!({"pipeline": "sd2", "kind": "Inpaint", "prompt": "a cat", "steps": 2, "strength": 1.0});
    let options = options(&case, &folder, Kind::Cpu)?;
    for paste in [false, true] {
        run(&with(&options, |edit| edit.paste = paste), "paste")?;
        let made = read(&folder.join("0.png"))?;
        let pixels = made.pixels().chunks_exact(3).zip(own.pixels().chunks_exact(3)).zip(mask.pixels());
        let stays = pixels.filter(|(_, mask)| **mask < 128).all(|((a, b), _)| a == b);
        assert_eq!(stays, paste, "the pixels that stay are the picture's");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let folder = folder("edit-refusals")?;
    let options = glyphs(&folder)?;
    let black = Tensor { shape: vec![16, 16], values: vec![0.0; 256] };
    write_picture(&folder.join("black.pgm"), &black)?;
    write_picture(&folder.join("small.pgm"), &Tensor { shape: vec![8, 16], values: vec![255.0; 128] })?;
    fs::write(folder.join("text"), "not a picture")?;
    let decoder = folder.join("decoder");
    overlay(&pipeline("sd1"), &decoder)?;
    strip_encoder(&decoder.join("vae/diffusion_pytorch_model.safetensors"))?;
    let inpaint = model(&json!({"pipeline": "sd2", "parts": "inpaint"}), &folder)?;
    let consistency = model(&json!({"pipeline": "sd1", "parts": "consistency"}), &folder)?;
    let text = |model: &Path| Options { model: Some(model.into()), prompt: Some("a cat".into()), ..options.clone() };
    let given = |name: &str, shape: [u32; 4]| -> TestResult<PathBuf> {
        let path = folder.join(name);
        write_latents(&path, &vec![0.5; shape.iter().product::<u32>() as usize], shape)?;
        Ok(path)
    };
    let one = given("one.safetensors", [1, 4, 4, 4])?;
    let (two, narrow) = (given("two.safetensors", [2, 4, 4, 4])?, given("narrow.safetensors", [1, 3, 4, 4])?);
    let from = |model: &Path, latents: &Path| with(&text(model), |edit| edit.image = latents.into());
    // Latents need no encoder.
    sample(&from(&decoder, &one), &Stop::default(), &mut |_| {}).map_err(|e| e.report())?;
    fs::remove_file(folder.join("out.png"))?;
    let masked = |options: &Options| with(options, |edit| edit.mask = Some(folder.join("black.pgm").into()));
    let upscaler = model(&json!({"pipeline": "sd2", "parts": "upscale"}), &folder)?;
    let refusals = [
        (with(&options, |edit| edit.image = one.clone()), 2, "the model makes pixels"),
        (from(&pipeline("sd1"), &two), 2, "latents of 2 pictures"),
        (from(&pipeline("sd1"), &narrow), 2, "the latents have 3 channels"),
        (from(&pipeline("sd1"), &folder.join("noise.safetensors")), 1, "noise.safetensors"),
        (masked(&from(&pipeline("sd1"), &one)), 2, "--mask means nothing to latents"),
        (from(&upscaler, &one), 2, "latents mean nothing to this model"),
        (with(&options, |edit| edit.image = folder.join("nowhere.png")), 1, "nowhere.png"),
        (with(&options, |edit| edit.image = folder.join("text")), 1, "known are PNG"),
        (with(&options, |edit| edit.strength = Some(1.5)), 2, "--strength 1.5 is not above 0 and up to 1"),
        (with(&options, |edit| edit.strength = Some(0.01)), 2, "is no step"),
        (with(&options, |edit| edit.mask = Some(folder.join("black.pgm").into())), 2, "the mask has no white"),
        (with(&options, |edit| edit.mask = Some(folder.join("small.pgm").into())), 2, "the mask has 16x8 pixels"),
        (with(&options, |edit| edit.paste = true), 2, "--paste means nothing without --mask"),
        (Options { prompt: Some("a cat".into()), ..options.clone() }, 2, "takes no text"),
        (Options { size: Some((18, 16)), ..text(&pipeline("sd1")) }, 2, "multiple"),
        (text(&decoder), 1, "encoder."),
        (text(&inpaint), 2, "give --mask IMAGE"),
        (with(&text(&consistency), |edit| edit.strength = Some(0.1)), 2, "leaves 5 of the network's 50 timesteps"),
        (Options { edit: None, ..text(&inpaint) }, 2, "use unfog edit IMAGE"),
    ];
    for (options, code, part) in refusals {
        match sample(&options, &Stop::default(), &mut |_| {}) {
            Ok(_) => return Err(format!("this is not refused: {part}").into()),
            Err(e) => {
                let report = e.report();
                assert!(
                    report.contains(part) && report.lines().next().is_some_and(|l| l.contains(part)),
                    "{part}: {report}"
                );
                assert_eq!(e.exit_code(), code, "{report}");
            }
        }
        assert!(!folder.join("out.png").exists(), "{part}");
    }
    Ok(())
}

/// Leaves out of an autoencoder's weights those of its encoder.
fn strip_encoder(path: &Path) -> TestResult {
    let bytes = fs::read(path)?;
    let all = safetensors::SafeTensors::deserialize(&bytes)?;
    let kept = all.tensors().into_iter().filter(|(name, _)| !name.starts_with("encoder."));
    Ok(safetensors::serialize_to_file(kept, None, path)?)
}
