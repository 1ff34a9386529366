//! Text to image as a whole against diffusers: a pipeline's folder, a prompt and given noise in; latents and pictures out.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::backend::Kind;
use unfog::image::load;
use unfog::sample::Options;
use unfog_tests::TestResult;
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, compare, kinds, refusal, run, write_noise};
use unfog_tests::tolerance;

/// An empty folder for a test.
fn folder(name: &str) -> TestResult<PathBuf> {
    pipeline::folder(env!("CARGO_TARGET_TMPDIR"), name)
}

/// The options of a case, for two pictures.
fn options(case: &Value, kind: Kind) -> Options {
    Options { count: 2, ..pipeline::options(case, kind) }
}

/// What a test changes of a case's options.
type Change = Box<dyn Fn(&mut Options)>;

#[test]
fn pipelines_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("pipelines")?;
    let folder = folder("pipelines")?;
    let noise = folder.join("noise.safetensors");
    let backends = kinds()?;
    for (number, case) in golden.cases().iter().enumerate() {
        write_noise(&noise, golden.part(number, "noise")?)?;
        for (kind, backend) in &backends {
            let what = format!("{number}: {} on {}", case["prompt"], kind.name());
            let options = Options { noise_in: Some(noise.clone()), ..options(case, *kind) };
            let allowed = tolerance::pipeline(backend);
            let (recipe, far, most) = compare(&what, options, &folder, &golden, number, allowed)?;
            assert_eq!((recipe.width, recipe.height), (16, 16), "{what}");
            assert_eq!(recipe.prompt.as_deref(), case["prompt"].as_str(), "{what}");
            assert_eq!(recipe.negative_prompt.as_deref(), case["negative"].as_str(), "{what}");
            println!("{what}: latents {far:.1e} apart, pictures at most {most} steps");
        }
    }
    Ok(())
}

#[test]
fn a_picture_does_not_depend_on_its_batch() -> TestResult {
    let folder = folder("pipeline-batch")?;
    let case = json!({"pipeline": "sdxl", "prompt": "a cat", "negative": "a dog", "guidance": 4.0, "steps": 2});
    let make = |first, count, name: &str| -> TestResult<Vec<f32>> {
        let latents = folder.join(name);
        let options = Options {
            first,
            count,
            latents_out: Some(latents.clone()),
            out: folder.join("{i}.png"),
            ..options(&case, Kind::Cpu)
        };
        run(&options, name)?;
        Ok(Golden::read_file(&latents)?.tensor("x0")?.values.clone())
    };
    let together = make(0, 3, "together")?;
    let pictures: Vec<Vec<u8>> = (0..3).map(|i| pixels(&folder.join(format!("{i}.png")))).collect::<TestResult<_>>()?;
    for i in 0..3 {
        let alone = make(i as u64, 1, "alone")?;
        assert_eq!(alone, together[i * alone.len()..][..alone.len()], "latents of image {i}");
        assert_eq!(pixels(&folder.join(format!("{i}.png")))?, pictures[i], "picture {i}");
    }
    assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2]);
    Ok(())
}

fn pixels(path: &Path) -> TestResult<Vec<u8>> {
    Ok(load(path).map_err(|e| e.report())?.pixels().to_vec())
}

#[test]
fn prompts_matter() -> TestResult {
    let folder = folder("prompts")?;
    let out = folder.join("picture.png");
    let case = json!({"pipeline": "sd1", "prompt": "a cat", "negative": null, "guidance": 4.0, "steps": 2});
    let make = |change: &dyn Fn(&mut Options)| -> TestResult<Vec<u8>> {
        let mut options = Options { count: 1, out: out.clone(), ..options(&case, Kind::Cpu) };
        change(&mut options);
        run(&options, "prompts")?;
        pixels(&out)
    };
    let plain = make(&|_| {})?;
    assert_eq!(make(&|_| {})?, plain, "the same again");
    let long = ["a red cat and a dog"; 20].join(", ");
    let others: [(&str, Change); 6] = [
        ("another prompt", Box::new(|o| o.prompt = Some("a dog".into()))),
        ("a weight", Box::new(|o| o.prompt = Some("a (cat:1.5)".into()))),
        ("a negative prompt", Box::new(|o| o.negative = Some("dog".into()))),
        ("a skipped layer", Box::new(|o| o.clip_skip = Some(1))),
        ("no guidance", Box::new(|o| o.guidance = Some(1.0))),
        ("a prompt of several chunks", Box::new(move |o| o.prompt = Some(long.clone()))),
    ];
    for (what, change) in &others {
        assert_ne!(make(&|o| change(o))?, plain, "{what} changes nothing");
    }
    assert_eq!(make(&|o| o.prompt = Some(r"a (cat:1.0)".into()))?, plain, "a weight of 1 changes nothing");
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let out = folder("pipeline-refusals")?.join("picture.png");
    let case = json!({"pipeline": "sd1", "prompt": "a cat", "negative": null, "guidance": 4.0, "steps": 2});
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = Options { out: out.clone(), ..options(&case, Kind::Cpu) };
        change(&mut options);
        refusal(&options)
    };
    let long = "a cat, ".repeat(700);
    let refusals = [
        (with(&|o| o.prompt = None)?, "give --prompt TEXT"),
        (with(&|o| o.class = Some("3".into()))?, "--class"),
        (with(&|o| o.size = Some((17, 16)))?, "both sides must be multiples of 4"),
        (with(&|o| o.clip_skip = Some(40))?, "layers"),
        (with(&|o| o.prompt = Some(long.clone()))?, "are the most"),
        (with(&|o| (o.model, o.class) = (None, None))?, "takes no text"),
        (with(&|o| o.model = Some(root().join("tests/golden/nets/sd1")))?, "the whole pipeline"),
        (with(&|o| (o.guidance, o.negative) = (Some(1.0), Some("dog".into())))?, "--negative means nothing"),
    ];
    for (report, part) in refusals {
        assert!(report.contains(part) && report.lines().count() == 1, "{part}: {report}");
        assert!(!out.exists(), "{report}");
    }
    Ok(())
}
