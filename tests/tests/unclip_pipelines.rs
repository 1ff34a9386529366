//! unCLIP as a whole against diffusers: a folder, a prompt or a picture, and given noise in; each stage's result and the pictures out.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use unfog::backend::{Kind, Request};
use unfog::image::load;
use unfog::inspect::inspect;
use unfog::model::Model;
use unfog::recipe::Recipe;
use unfog::replay::{Changes, replay};
use unfog::sample::{Edit, Generator, Options};
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::compare::{close, same_bits};
use unfog_tests::given::{overlay, write_picture};
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, kinds, refusal, run, steps_apart};
use unfog_tests::tolerance;

/// The stages whose noise is given.
const NOISE: [&str; 3] = ["prior_noise", "decoder_noise", "super_res_noise"];
/// The case of a picture.
const PICTURE: usize = 3;

fn folder(name: &str) -> TestResult<PathBuf> {
    pipeline::folder(env!("CARGO_TARGET_TMPDIR"), name)
}

fn model(name: &str) -> PathBuf {
    root().join("tests/golden/unclip-pipelines").join(name)
}

/// The options of a case, for two pictures; the picture that it begins from lies in `folder`.
fn options(golden: &Golden, number: usize, kind: Kind, folder: &Path) -> TestResult<Options> {
    let case = &golden.cases()[number];
    let steps = |key: &str| case[key].as_u64().map(|n| n as usize);
    let scale = |key: &str| case[key].as_f64().map(|g| g as f32);
    let edit = match golden.part(number, "picture") {
        Ok(picture) => {
            let image = folder.join("given.ppm");
            write_picture(&image, picture)?;
            Some(Edit { image, ..Edit::default() })
        }
        Err(_) => None,
    };
    Ok(Options {
        model: case["pipeline"].as_str().map(model),
        prompt: case["prompt"].as_str().map(str::to_owned),
        prior_steps: steps("prior_steps"),
        steps: steps("steps"),
        super_res_steps: steps("super_res_steps"),
        prior_guidance: scale("prior_guidance"),
        guidance: scale("guidance"),
        edit,
        count: 2,
        backend: Request { kind, ..Request::default() },
        out: folder.join("{i}.png"),
        ..Options::default()
    })
}

/// Writes the noise of a case.
fn write_noise(golden: &Golden, number: usize, path: &Path) -> TestResult {
    let noise: Vec<_> =
        NOISE.iter().filter_map(|name| golden.part(number, name).ok().map(|noise| (*name, noise))).collect();
    let bytes: Vec<Vec<u8>> =
        noise.iter().map(|(_, noise)| noise.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = noise.iter().zip(&bytes);
    let views = views.map(|((name, noise), b)| Ok((*name, TensorView::new(Dtype::F32, noise.shape.clone(), b)?)));
    let views = views.collect::<TestResult<Vec<_>>>()?;
    Ok(serialize_to_file(views, None, path)?)
}

/// What a run leaves: its recipe, and its tensors.
fn left(options: Options, what: &str, folder: &Path) -> TestResult<(Recipe, Golden)> {
    let latents = folder.join("latents.safetensors");
    let recipe = run(&Options { latents_out: Some(latents.clone()), ..options }, what)?;
    Ok((recipe, Golden::read_file(&latents)?))
}

#[test]
fn every_stage_agrees_with_diffusers() -> TestResult {
    let (golden, folder) = (Golden::read("unclip-pipelines")?, folder("unclip-stages")?);
    let noise_in = folder.join("noise.safetensors");
    assert_eq!(golden.cases().len(), 5);
    let backends = kinds()?;
    for (number, case) in golden.cases().iter().enumerate() {
        write_noise(&golden, number, &noise_in)?;
        for (kind, backend) in &backends {
            let what = format!("{number}: {} on {}", case["pipeline"], kind.name());
            let options = Options { noise_in: Some(noise_in.clone()), ..options(&golden, number, *kind, &folder)? };
            let (recipe, left) = left(options, &what, &folder)?;
            let mut far = Vec::new();
            for (stage, part) in [("image_embedding", "image_embedding"), ("decoded", "decoded"), ("x0", "latents")] {
                let (got, want) = (left.tensor(stage)?, golden.part(number, part)?);
                assert_eq!(got.shape, want.shape, "{what}: {stage}");
                let what = format!("{what}: {stage}");
                // As diffusers is; and as it would be if it did not round the steps' coefficients.
                close(&what, &got.values, &want.values, tolerance::unclip())?;
                let want = golden.part(number, &format!("exact_{part}"))?;
                far.push(format!(
                    "{stage} {:.1e}",
                    close(&what, &got.values, &want.values, tolerance::pipeline(backend))?
                ));
            }
            let image = golden.part(number, "image")?;
            let mut most = 0;
            for (i, values) in image.values.chunks_exact(3 * 20 * 20).enumerate() {
                let picture = load(&folder.join(format!("{i}.png"))).map_err(|e| e.report())?;
                most = most.max(steps_apart(&picture, values, [3, 20, 20])?);
            }
            assert!(most <= 1, "{what}: pictures are {most} steps of 255 apart");
            assert_eq!(
                (recipe.width, recipe.height, recipe.steps as u64),
                (20, 20, case["steps"].as_u64().unwrap_or(0))
            );
            assert_eq!(recipe.prior_steps.map(|n| n as u64), case["prior_steps"].as_u64(), "{what}");
            assert_eq!(recipe.super_res_steps.map(|n| n as u64), case["super_res_steps"].as_u64(), "{what}");
            println!("{what}: {}, pictures at most {most} steps", far.join(", "));
        }
    }
    Ok(())
}

/// The goldens' noise is torch's for the seeds from 200 on: one stream for all stages.
#[test]
fn torchs_stream_goes_on_from_stage_to_stage() -> TestResult {
    let (golden, folder) = (Golden::read("unclip-pipelines")?, folder("unclip-torch")?);
    let noise_in = folder.join("noise.safetensors");
    for number in [0, PICTURE] {
        write_noise(&golden, number, &noise_in)?;
        let options = options(&golden, number, Kind::Cpu, &folder)?;
        let (_, given) = left(Options { noise_in: Some(noise_in.clone()), ..options.clone() }, "given", &folder)?;
        let seeded = Options { noise: Generator::TorchCpu, seed: 200 + number as u64, ..options };
        let (_, drawn) = left(seeded, "torch's", &folder)?;
        same_bits("x0", &given.tensor("x0")?.values, &drawn.tensor("x0")?.values)?;
    }
    Ok(())
}

#[test]
fn a_picture_does_not_depend_on_its_batch() -> TestResult {
    let (golden, folder) = (Golden::read("unclip-pipelines")?, folder("unclip-batch")?);
    for number in [0, PICTURE] {
        let options = options(&golden, number, Kind::Cpu, &folder)?;
        // More than a batch holds.
        let (_, together) = left(Options { count: 9, ..options.clone() }, "together", &folder)?;
        for i in [0, 1, 8] {
            let (_, alone) = left(Options { first: i, count: 1, ..options.clone() }, "alone", &folder)?;
            for stage in ["image_embedding", "decoded", "x0"] {
                let (alone, together) = (&alone.tensor(stage)?.values, &together.tensor(stage)?.values);
                same_bits(stage, alone, &together[i as usize * alone.len()..][..alone.len()])?;
            }
        }
        let x0 = &together.tensor("x0")?.values;
        assert_ne!(x0[..1200], x0[1200..2400], "images of other numbers are others");
        // No stage begins with the noise of another.
        let embeddings = &together.tensor("image_embedding")?.values;
        assert_eq!(embeddings[..32] == embeddings[32..64], number == PICTURE);
    }
    Ok(())
}

/// What a test changes of a case's options.
type Change = Box<dyn Fn(&mut Options)>;

#[test]
fn every_option_acts_on_its_stage() -> TestResult {
    let (golden, folder) = (Golden::read("unclip-pipelines")?, folder("unclip-options")?);
    let plain = options(&golden, 0, Kind::Cpu, &folder)?;
    let (_, was) = left(plain.clone(), "plain", &folder)?;
    let changes: [(&str, usize, Change); 8] = [
        ("another prompt", 0, Box::new(|o| o.prompt = Some("a dog".into()))),
        ("a weight", 0, Box::new(|o| o.prompt = Some("a photo of a (red:1.5) apple".into()))),
        ("a negative prompt", 0, Box::new(|o| o.negative = Some("blurry".into()))),
        ("steps of the prior", 0, Box::new(|o| o.prior_steps = Some(4))),
        ("guidance of the prior", 0, Box::new(|o| o.prior_guidance = Some(2.0))),
        ("steps of the decoder", 1, Box::new(|o| o.steps = Some(5))),
        ("guidance of the decoder", 1, Box::new(|o| o.guidance = Some(1.0))),
        ("steps of the last stage", 2, Box::new(|o| o.super_res_steps = Some(4))),
    ];
    let stages = ["image_embedding", "decoded", "x0"];
    for (what, from, change) in &changes {
        let mut options = plain.clone();
        change(&mut options);
        let (_, is) = left(options, what, &folder)?;
        for (i, stage) in stages.into_iter().enumerate() {
            // With the steps of a stage, the draws of those that follow move too.
            let same = was.tensor(stage)?.values == is.tensor(stage)?.values;
            assert_eq!(same, i < *from, "{what}: {stage}");
        }
    }
    let (_, other) = left(Options { seed: 1, ..plain.clone() }, "another seed", &folder)?;
    assert_ne!(was.tensor("x0")?, other.tensor("x0")?);
    let euler = Options { sampler: Some("euler".into()), ..plain };
    let (recipe, _) = left(euler, "another sampler", &folder)?;
    assert_eq!(recipe.sampler, "euler");
    Ok(())
}

#[test]
fn replays_make_the_same_pictures() -> TestResult {
    let (golden, folder) = (Golden::read("unclip-pipelines")?, folder("unclip-replay")?);
    for (number, kind) in [(0, Kind::Cpu), (0, Kind::Vulkan), (PICTURE, Kind::Reference)] {
        if kinds()?.iter().all(|(known, _)| *known != kind) {
            continue;
        }
        let options = Options { seed: 5, ..options(&golden, number, kind, &folder)? };
        let recipe = run(&options, "replay")?;
        assert_eq!(recipe.command, if number == PICTURE { "edit" } else { "sample" });
        for i in 0..2 {
            let path = folder.join(format!("{i}.png"));
            let found = replay(&path, &Changes::default(), &Stop::default(), &mut |_| {}).map_err(|e| e.report())?;
            assert_eq!((found.values, found.differing), (20 * 20 * 3, 0), "{number} on {}", kind.name());
        }
    }
    Ok(())
}

#[test]
fn inspect_names_the_stages() -> TestResult {
    for (name, second) in [("karlo", "prior"), ("variation", "image_encoder")] {
        let model = Model::open(Some(&model(name))).map_err(|e| e.report())?;
        let request = Request { kind: Kind::Cpu, ..Request::default() };
        let found = inspect(&model, None, &request).map_err(|e| e.report())?;
        let stages: Vec<&str> = found.stages.iter().map(|stage| stage.stage.as_str()).collect();
        let expected = [
            "text_encoder",
            second,
            "text_proj text",
            "text_proj image",
            "decoder",
            "super_res_first",
            "super_res_last",
        ];
        assert_eq!(stages, expected);
        for stage in &found.stages {
            assert!(stage.parameters > 0 && stage.weight_bytes > 0 && stage.flops > 0, "{}", stage.stage);
            assert!(stage.memory.iter().all(|needs| needs.refused.is_none()), "{}", stage.stage);
        }
        assert_eq!((found.width, found.height, found.sampler), (20, 20, Some("ddpm")));
        let other = inspect(&model, Some((32, 32)), &request).map(drop).map_err(|e| e.report());
        assert!(other.is_err_and(|report| report.contains("20x20 alone")));
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let (golden, folder) = (Golden::read("unclip-pipelines")?, folder("unclip-refusals")?);
    let noise = folder.join("noise.safetensors");
    write_noise(&golden, 1, &noise)?;
    let with = |number: usize, change: &dyn Fn(&mut Options)| -> TestResult<String> {
        let mut options = options(&golden, number, Kind::Cpu, &folder)?;
        change(&mut options);
        refusal(&options)
    };
    let long = "a cat and ".repeat(40);
    let refusals = [
        (with(0, &|o| o.prompt = None)?, "give --prompt TEXT"),
        (with(0, &|o| o.prompt = Some(long.clone()))?, "75 tokens"),
        (with(0, &|o| o.size = Some((64, 64)))?, "20x20 alone"),
        (with(0, &|o| o.steps = Some(1))?, "--steps 1"),
        (with(0, &|o| o.prior_steps = Some(1001))?, "1000 timesteps"),
        (with(0, &|o| o.super_res_steps = Some(1))?, "--super-res-steps 1"),
        (with(0, &|o| o.clip_skip = Some(1))?, "--clip-skip"),
        (with(0, &|o| o.class = Some("1".into()))?, "--class"),
        (with(0, &|o| o.noise = Generator::Lattice)?, "--noise lattice"),
        (with(0, &|o| o.guidance_rule = Some("perp-neg".into()))?, "perp-neg"),
        (with(0, &|o| o.edit = Some(Edit::default()))?, "UnCLIPImageVariationPipeline"),
        (with(1, &|o| o.negative = Some("a dog".into()))?, "--negative"),
        // Noise of another case has other numbers of draws.
        (with(0, &|o| o.noise_in = Some(noise.clone()))?, "decoder_noise"),
        (with(1, &|o| (o.noise_in, o.count) = (Some(noise.clone()), 3))?, "[draws, 3, 3, 8, 8]"),
        (with(PICTURE, &|o| o.edit = None)?, "unfog edit IMAGE"),
        (with(PICTURE, &|o| o.prompt = Some("a cat".into()))?, "takes no text"),
        (with(PICTURE, &|o| o.prior_steps = Some(3))?, "--prior-steps"),
        (with(PICTURE, &|o| o.edit.iter_mut().for_each(|edit| edit.strength = Some(0.5)))?, "--strength"),
        (with(0, &|o| o.model = Some(pipeline::pipeline("sd1")))?, "--prior-steps"),
    ];
    for (report, part) in refusals {
        assert!(report.contains(part) && report.lines().count() == 1, "{part}: {report}");
        assert!(!folder.join("0.png").exists(), "{report}");
    }
    Ok(())
}

/// What opening a copy of a model says once `change` was made to it.
fn broken(name: &str, change: impl Fn(&Path) -> TestResult) -> TestResult<String> {
    let copy = folder("unclip-broken")?;
    overlay(&model(name), &copy)?;
    change(&copy)?;
    match Model::open(Some(&copy)) {
        Ok(_) => Err("a broken model is opened".into()),
        Err(e) => Ok(e.report()),
    }
}

fn set(path: &Path, key: &str, value: Value) -> TestResult {
    let mut config: Value = serde_json::from_slice(&fs::read(path)?)?;
    config[key] = value;
    Ok(fs::write(path, config.to_string())?)
}

#[test]
fn folders_that_are_not_whole_are_refused_by_the_stage() -> TestResult {
    let shared = [
        "text_encoder",
        "tokenizer",
        "text_proj",
        "decoder",
        "decoder_scheduler",
        "super_res_first",
        "super_res_last",
        "super_res_scheduler",
    ];
    for (name, own) in [("karlo", ["prior", "prior_scheduler"]), ("variation", ["image_encoder", "feature_extractor"])]
    {
        for stage in shared.into_iter().chain(own) {
            let report = broken(name, |copy| Ok(fs::remove_dir_all(copy.join(stage))?))?;
            let part = format!("lacks its stage {stage}");
            assert!(report.ends_with(&part) && report.lines().count() == 1, "{part}: {report}");
        }
    }
    let wrong: [(&str, &str, &str, Value, &str); 14] = [
        ("karlo", "prior/config.json", "embedding_dim", json!(30), "prior's embedding_dim is 30"),
        ("karlo", "prior/config.json", "_class_name", json!("UNet2DModel"), "expected a PriorTransformer"),
        ("karlo", "text_proj/config.json", "cross_attention_dim", json!(13), "text_proj's cross_attention_dim 13"),
        ("karlo", "text_proj/config.json", "time_embed_dim", json!(64), "text_proj's time_embed_dim 64"),
        ("karlo", "text_proj/config.json", "time_embed_dim", json!(null), "time_embed_dim is null"),
        ("karlo", "text_encoder/config.json", "projection_dim", json!(16), "text_encoder's projection_dim is 16"),
        ("karlo", "decoder/config.json", "out_channels", json!(3), "learned_range"),
        ("karlo", "decoder/config.json", "class_embed_type", json!(null), "identity"),
        ("karlo", "decoder/config.json", "sample_size", json!(null), "decoder names no sample_size"),
        ("karlo", "super_res_last/config.json", "sample_size", json!(24), "other values of sample_size"),
        ("karlo", "super_res_first/config.json", "in_channels", json!(3), "super_res_first's in_channels is 3"),
        ("karlo", "prior_scheduler/scheduler_config.json", "variance_type", json!("fixed_small"), "variance_type"),
        ("variation", "image_encoder/config.json", "projection_dim", json!(16), "image_encoder's projection_dim is 16"),
        ("variation", "feature_extractor/preprocessor_config.json", "resample", json!(2), "resample is 2"),
    ];
    for (name, file, key, value, part) in wrong {
        let report = broken(name, |copy| set(&copy.join(file), key, value.clone()))?;
        assert!(report.contains(part) && report.lines().next().is_some_and(|l| l.contains(part)), "{part}: {report}");
    }
    Ok(())
}
