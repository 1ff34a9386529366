//! Edits by inversion, with masks that are found, with a coarse part that is kept: against diffusers, from given noise; and what must hold
//! without it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unfog::backend::{Kind, Request};
use unfog::cpu::CpuOptions;
use unfog::image::load;
use unfog::sample::{Edit, Mask, Options, sample};
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::backend::{Backend, gpus};
use unfog_tests::compare::close;
use unfog_tests::given::write_picture;
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, pipeline, refusal, run, write_noise};
use unfog_tests::tolerance;

fn folder(name: &str) -> TestResult<PathBuf> {
    pipeline::folder(env!("CARGO_TARGET_TMPDIR"), name)
}

/// mednist-ddpm.
fn scans() -> PathBuf {
    root().join("models/mednist-ddpm")
}

/// One of the gallery's scans.
fn scan(name: &str) -> PathBuf {
    root().join("docs/gallery/inputs").join(format!("{name}.png"))
}

/// The options of a case, whose files lie in `folder`.
fn options(case: &Value, folder: &Path, kind: Kind) -> TestResult<Options> {
    let text = |key: &str| case[key].as_str().map(str::to_owned);
    let texts = text("pipeline");
    let (from_class, from_prompt) = if texts.is_some() { (None, text("source")) } else { (text("source"), None) };
    let (class, prompt) = if texts.is_some() { (None, text("prompt")) } else { (text("prompt"), None) };
    let edit = Edit {
        image: match text("picture") {
            Some(name) => scan(&name),
            None => folder.join("picture.ppm"),
        },
        strength: case["strength"].as_f64(),
        invert: case["kind"] == "invert",
        from_class,
        from_prompt,
        mask: match case["mask"].as_str() {
            Some("auto") => Some(Mask::Auto),
            Some(_) => Some(folder.join("mask.pgm").into()),
            None => None,
        },
        keep_coarse: case["coarse"].as_u64().map(|n| n as u32),
        ..Edit::default()
    };
    Ok(Options {
        model: Some(texts.map_or_else(scans, |name| pipeline(&name))),
        class,
        prompt,
        negative: text("negative"),
        guidance: case["guidance"].as_f64().map(|g| g as f32),
        steps: case["steps"].as_u64().map(|n| n as usize),
        parity: text("parity").map(|name| unfog::settings::parity(&name)).transpose().map_err(|e| e.report())?,
        count: 2,
        noise_in: Some(folder.join("noise")),
        latents_out: Some(folder.join("latents")),
        out: folder.join("{i}.png"),
        edit: Some(edit),
        backend: Request { kind, ..Request::default() },
        ..Options::default()
    })
}

/// Runs the cases on a backend: all of them, or those of texts and the shortest of classes.
fn agree(backend: &Backend, kind: Kind, all: bool) -> TestResult {
    let golden = Golden::read("invert")?;
    let folder = folder(&format!("invert-{}", kind.name()))?;
    for (number, case) in golden.cases().iter().enumerate() {
        let what = format!("{number}: {case} on {}", kind.name());
        if !all && case["picture"].is_string() && case["parity"] != "table" {
            continue;
        }
        write_noise(&folder.join("noise"), golden.part(number, "noise")?)?;
        if case["pipeline"].is_string() {
            write_picture(&folder.join("picture.ppm"), golden.part(number, "picture")?)?;
        }
        if case["mask"] == "given" {
            write_picture(&folder.join("mask.pgm"), golden.part(number, "given")?)?;
        }
        let recipe = run(&options(case, &folder, kind)?, &what)?;
        let edited = recipe.edit.ok_or("no edit")?;
        assert_eq!(edited.invert, case["kind"] == "invert", "{what}");
        assert_eq!(edited.keep_coarse.map(u64::from), case["coarse"].as_u64(), "{what}");
        let made = Golden::read_file(&folder.join("latents"))?;
        if case["mask"] == "auto" {
            assert_eq!(made.tensor("mask")?, golden.part(number, "mask")?, "{what}");
        }
        let (got, want) = (made.tensor("x0")?, golden.part(number, "latents")?);
        assert_eq!(got.shape, want.shape, "{what}");
        let far = close(&what, &got.values, &want.values, tolerance::invert(backend))?;
        println!("{what}: {far:.1e} apart");
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

/// An edit of a scan with mednist-ddpm on the CPU.
fn edit(folder: &Path, name: &str, change: impl Fn(&mut Options, &mut Edit)) -> Options {
    let mut edit = Edit { image: scan(name), ..Edit::default() };
    let mut options = Options {
        model: Some(scans()),
        steps: Some(5),
        out: folder.join("{i}.png"),
        latents_out: Some(folder.join("latents")),
        backend: Request { kind: Kind::Cpu, ..Request::default() },
        ..Options::default()
    };
    change(&mut options, &mut edit);
    Options { edit: Some(edit), ..options }
}

/// What the sampler leaves.
fn left(options: &Options, what: &str) -> TestResult<Vec<f32>> {
    run(options, what)?;
    let path = options.latents_out.as_ref().ok_or("no latents")?;
    Ok(Golden::read_file(path)?.tensor("x0")?.values.clone())
}

#[test]
fn a_picture_comes_back_the_better_the_more_steps() -> TestResult {
    let folder = folder("invert-back")?;
    let own = load(&scan("hand-1")).and_then(|picture| picture.to_values(1)).map_err(|e| e.report())?;
    let far = |steps: usize| -> TestResult<f64> {
        let options = edit(&folder, "hand-1", |options, edit| {
            (edit.invert, edit.strength, edit.from_class) = (true, Some(0.5), Some("Hand".into()));
            (options.steps, options.class) = (Some(steps), Some("Hand".into()));
        });
        let made = left(&options, "there and back")?;
        let squares = made.iter().zip(&own).map(|(a, b)| f64::from(a - b).powi(2));
        Ok((squares.sum::<f64>() / own.len() as f64).sqrt())
    };
    let errors = [far(4)?, far(16)?, far(64)?];
    println!("root mean square errors after 4, 16 and 64 steps: {errors:.4?}");
    assert!(errors[0] > errors[1] && errors[1] > errors[2] && errors[2] < 0.03, "{errors:?}");
    Ok(())
}

#[test]
fn what_is_edited_does_not_depend_on_its_batch_or_threads() -> TestResult {
    let folder = folder("invert-batch")?;
    let make = |first: u64, count: u32, threads: usize| {
        let options = edit(&folder, "cxr-1", |options, edit| {
            (edit.invert, edit.mask, edit.keep_coarse) = (true, Some(Mask::Auto), Some(16));
            (edit.from_class, edit.strength) = (Some("CXR".into()), Some(0.6));
            (options.first, options.count, options.class) = (first, count, Some("Hand".into()));
            options.guidance = Some(1.5);
            options.backend.threads = Some(threads);
        });
        left(&options, "a batch")
    };
    // Each image finds a mask of its own, by noise of its own.
    let together = make(3, 3, 2)?;
    for i in 0..3 {
        let alone = make(3 + i as u64, 1, 1)?;
        assert_eq!(alone, together[i * alone.len()..][..alone.len()], "image {}", 3 + i);
    }
    assert_ne!(together[..4096], together[4096..8192]);
    Ok(())
}

#[test]
fn what_is_coarse_stays() -> TestResult {
    let folder = folder("invert-coarse")?;
    let own = load(&scan("hand-1")).and_then(|picture| picture.to_values(1)).map_err(|e| e.report())?;
    // Means of blocks of 16 by 16, where the filter's own blocks are 8 wide.
    let means = |values: &[f32]| -> Vec<f32> {
        let block =
            |b: usize| (0..256).map(|i| values[(b / 4 * 16 + i / 16) * 64 + b % 4 * 16 + i % 16]).sum::<f32>() / 256.0;
        (0..16).map(block).collect()
    };
    let far = |keep: Option<u32>| -> TestResult<f32> {
        let options = edit(&folder, "hand-1", |options, edit| {
            (edit.keep_coarse, edit.strength, options.class) = (keep, Some(1.0), Some("HeadCT".into()));
        });
        let apart = means(&left(&options, "coarse")?).into_iter().zip(means(&own)).map(|(a, b)| (a - b).abs());
        Ok(apart.fold(0.0, f32::max))
    };
    let (kept, free) = (far(Some(8))?, far(None)?);
    println!("the means of blocks are at most {kept:.4} apart where they are kept, and {free:.4} elsewhere");
    // What is small and large again is not quite the coarse part of itself.
    assert!(kept < 0.1 && free > 0.3, "{kept} {free}");
    Ok(())
}

#[test]
fn what_means_nothing_is_refused_in_one_line() -> TestResult {
    let folder = folder("invert-refusals")?;
    let with = |change: &dyn Fn(&mut Options, &mut Edit)| edit(&folder, "hand-1", change);
    let glyph: &dyn Fn(&mut Options, &mut Edit) = &|options, edit| (options.model, edit.invert) = (None, true);
    let refusals: [(Options, &str); 15] = [
        (
            with(&|_, edit| edit.from_class = Some("Hand".into())),
            "--from-class means nothing without --invert or --mask auto",
        ),
        (with(&|_, edit| (edit.invert, edit.from_class) = (true, Some("foot".into()))), "there is no class"),
        (with(&|_, edit| (edit.invert, edit.from_prompt) = (true, Some("a hand".into()))), "takes no text"),
        (
            with(&|options, edit| (edit.invert, options.sampler) = (true, Some("euler".into()))),
            "means nothing to euler",
        ),
        (with(&|options, edit| (edit.invert, options.eta) = (true, Some(0.5))), "--invert means nothing with --eta"),
        (with(&|_, edit| (edit.invert, edit.strength) = (true, Some(0.1))), "is no step"),
        (with(&|_, edit| (edit.mask, edit.paste) = (Some(Mask::Auto), true)), "--paste means nothing to --mask auto"),
        (with(&|_, edit| edit.keep_coarse = Some(1)), "--keep-coarse 1"),
        (with(&|_, edit| edit.keep_coarse = Some(3)), "--keep-coarse 3: it must be 2 or more, and divide"),
        (
            with(&|options, edit| {
                glyph(options, edit);
                edit.from_class = Some("1".into());
            }),
            "has no classes",
        ),
        (
            with(&|options, edit| {
                (options.model, options.prompt) = (Some(pipeline("sd1")), Some("a cat".into()));
                (edit.invert, edit.from_class) = (true, Some("1".into()));
            }),
            "--from-class: the model",
        ),
        (
            with(&|options, edit| {
                (options.model, options.prompt) = (Some(pipeline("sd1")), Some("a cat".into()));
                edit.from_prompt = Some("a dog".into());
            }),
            "--from-prompt means nothing without",
        ),
        (
            with(&|options, edit| {
                (options.model, options.prompt) =
                    (Some(root().join("tests/golden/dit/sd3-pipeline")), Some("a cat".into()));
                edit.invert = true;
            }),
            "it has no betas",
        ),
        // The prediction is the same for the same class: nothing is found.
        (
            with(&|options, edit| {
                (edit.mask, edit.from_class, options.class) = (Some(Mask::Auto), Some("4".into()), Some("4".into()));
            }),
            "no mask was found for image 0",
        ),
        (
            with(&|options, edit| {
                (edit.invert, options.prediction) = (true, unfog::settings::prediction("sample").ok())
            }),
            "predicts the image itself",
        ),
    ];
    for (options, part) in refusals {
        let report = refusal(&options)?;
        assert!(report.lines().next().is_some_and(|line| line.contains(part)), "{part}: {report}");
        assert!(fs::read_dir(&folder)?.next().is_none(), "{part}");
    }
    Ok(())
}

#[test]
fn a_network_without_classes_inverts_too() -> TestResult {
    let folder = folder("invert-glyph")?;
    let options = edit(&folder, "hand-1", |options, edit| {
        (options.model, options.count, edit.invert, edit.strength) = (None, 2, true, Some(1.0));
    });
    let outcome = sample(&options, &Stop::default(), &mut |_| {}).map_err(|e| e.report())?;
    // Nothing is random: all images are the same.
    let pixels = |i: usize| load(&outcome.files[i]).map(|picture| picture.pixels().to_vec()).map_err(|e| e.report());
    assert_eq!(pixels(0)?, pixels(1)?);
    Ok(())
}
