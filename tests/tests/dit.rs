//! Transformers over patches (DiT, Stable Diffusion 3) against diffusers: networks on every backend, whole pipelines, what is refused.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::backend::{Kind, Precision, Request};
use unfog::model::Model;
use unfog::pack::pack;
use unfog::sample::Options;
use unfog_core::denoise::Cond;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::same_bits;
use unfog_tests::golden::{Golden, Tensor, root};
use unfog_tests::net::Net;
use unfog_tests::picture::close_pictures;
use unfog_tests::pipeline::{compare, folder, kinds, refusal, write_noise};
use unfog_tests::tolerance;

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

fn path(name: &str) -> PathBuf {
    root().join("tests/golden/dit").join(name)
}

fn open(path: &Path) -> TestResult<Model> {
    Model::open(Some(path)).map_err(|e| e.report().into())
}

/// The network of a case for the size of its images and its number of tokens.
fn net(case: &Value, x: &Tensor) -> TestResult<Net> {
    let model = open(&path(case["net"].as_str().ok_or("no name")?))?;
    let size = (u32::try_from(x.shape[2])?, u32::try_from(x.shape[3])?);
    Net::of_tokens(model, size, case["tokens"].as_u64().map(|n| n as u32))
}

/// The condition of each image of a case, and the embeddings that it names.
fn conditions(golden: &Golden, number: usize) -> TestResult<(Vec<Cond>, Vec<&[f32]>)> {
    if let Ok(embedding) = golden.part(number, "embedding") {
        let rows: Vec<&[f32]> = embedding.values.chunks_exact(embedding.shape[1]).collect();
        return Ok(((0..rows.len() as u32).map(Cond::Loaded).collect(), rows));
    }
    let labels = golden.cases()[number]["labels"].as_array().ok_or("no labels")?;
    Ok((labels.iter().filter_map(Value::as_u64).map(|label| Cond::Class(label as u32)).collect(), Vec::new()))
}

/// The cases of one kind with their numbers.
fn cases<'g>(golden: &'g Golden, kind: &str) -> Vec<(usize, &'g Value)> {
    let cases: Vec<_> = golden.cases().iter().enumerate().filter(|(_, case)| case["kind"] == kind).collect();
    assert!(cases.len() >= 5, "cases of {kind}: {cases:?}");
    cases
}

#[test]
fn networks_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("dit")?;
    let (users, variants) = (Backend::all()?, Backend::variants()?);
    for (number, case) in cases(&golden, "net") {
        let t = case["t"].as_f64().ok_or("no time")? as f32;
        let (x, want) = (golden.part(number, "x")?, golden.part(number, "out")?);
        let net = net(case, x)?;
        let (conds, embeddings) = conditions(&golden, number)?;
        // Single ops are compared on all variants: each sees one of these networks.
        for backend in users.iter().chain(variants.iter().skip(number % 5).step_by(5)) {
            let what = format!("{} on {}", case["net"], backend.name());
            let mut denoiser = backend.denoiser(&net, &embeddings).map_err(|e| format!("{what}: {e}"))?;
            let mut out = vec![f32::NAN; want.values.len()];
            denoiser.predict(&x.values, t, &conds, &mut out).map_err(|e| format!("{what}: {e}"))?;
            let size = [want.shape[2], want.shape[3]];
            let far = close_pictures(&what, &out, &want.values, size, tolerance::transformer(backend))?;
            println!("{what}: {far:.1e} (diffusers in f32 from f64: {:.1e})", case["floor"].as_f64().unwrap_or(0.0));
            backend.check()?;
        }
    }
    Ok(())
}

#[test]
fn the_published_networks_have_diffusers_sizes() -> TestResult {
    // Parameters of diffusers' modules with the configs of facebook/DiT-XL-2-256 and stable-diffusion-3-medium.
    let dit = json!({"_class_name": "Transformer2DModel", "out_channels": 8});
    let sd3 = json!({"_class_name": "SD3Transformer2DModel", "num_attention_heads": 24, "num_layers": 24,
        "caption_projection_dim": 1536, "pos_embed_max_size": 192});
    // The table of positions is no parameter there; the last layer's text asks nothing.
    let (table, unused) = (192 * 192 * 1536, 1536 * 1536 + 1536);
    for (name, config, parameters) in
        [("dit-xl", dit, 749_826_464), ("sd3-medium", sd3, 2_028_328_000 + table - unused)]
    {
        let folder = folder(TMP, name)?;
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let model = open(&folder)?;
        let (h, w) = model.size().ok_or("no size")?;
        let network = model.network(h, w).map_err(|e| e.report())?;
        assert_eq!(network.parameters(), parameters, "{name}");
    }
    Ok(())
}

#[test]
fn packs_hold_these_networks_too() -> TestResult {
    let golden = Golden::read("dit")?;
    for (number, case) in cases(&golden, "net") {
        let (name, x) = (case["net"].as_str().ok_or("no name")?, golden.part(number, "x")?);
        let file = Path::new(TMP).join(format!("{name}.pack"));
        let size = (u32::try_from(x.shape[3])?, u32::try_from(x.shape[2])?);
        pack(&open(&path(name))?, Some(size), Precision::F32, &file).map_err(|e| e.report())?;
        let packed = Net::open(file.canonicalize()?.to_str().ok_or("no text")?)?;
        // A pack has room for what a run makes of a prompt.
        let plain = Net::sized(open(&path(name))?, (size.1, size.0))?;
        let embedding = plain.graph.interface().ok_or("no image")?.embedding;
        let values: Vec<f32> = (0..embedding).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect();
        let cond = if embedding > 0 { Cond::Loaded(0) } else { Cond::Class(1) };
        let embeddings: &[&[f32]] = if embedding > 0 { &[&values] } else { &[] };
        let evaluate = |net: &Net| -> TestResult<Vec<f32>> {
            let mut denoiser = Backend::Reference.denoiser(net, embeddings)?;
            let mut out = vec![f32::NAN; net.out_len()];
            denoiser.predict(&x.values[..net.len()], 7.0, &[cond], &mut out)?;
            Ok(out)
        };
        same_bits(name, &evaluate(&packed)?, &evaluate(&plain)?)?;
    }
    Ok(())
}

/// The options of a case.
fn options(case: &Value, kind: Kind) -> Options {
    Options {
        model: case["pipeline"].as_str().map(path),
        prompt: case["prompt"].as_str().map(str::to_owned),
        negative: case["negative"].as_str().map(str::to_owned),
        class: case["labels"][0].as_u64().map(|label| label.to_string()),
        guidance: case["guidance"].as_f64().map(|g| g as f32),
        steps: case["steps"].as_u64().map(|n| n as usize),
        count: 2,
        backend: Request { kind, ..Request::default() },
        ..Options::default()
    }
}

#[test]
fn pipelines_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("dit")?;
    let folder = folder(TMP, "dit-pipelines")?;
    let noise = folder.join("noise.safetensors");
    for (number, case) in cases(&golden, "pipeline") {
        write_noise(&noise, golden.part(number, "noise")?)?;
        for (kind, backend) in &kinds()? {
            let what = format!("{number}: {} on {}", case["pipeline"], kind.name());
            let options = Options { noise_in: Some(noise.clone()), ..options(case, *kind) };
            let allowed = tolerance::transformer_pipeline(backend);
            let (recipe, far, most) = compare(&what, options, &folder, &golden, number, allowed)?;
            assert_eq!((recipe.width, recipe.height), (16, 16), "{what}");
            assert_eq!(recipe.prompt.as_deref(), case["prompt"].as_str(), "{what}");
            assert_eq!(recipe.class.map(u64::from), case["labels"][0].as_u64(), "{what}");
            println!("{what}: latents {far:.1e} apart, pictures at most {most} steps");
        }
    }
    Ok(())
}

#[test]
fn classes_have_names() -> TestResult {
    let model = open(&path("dit-pipeline"))?;
    let classes = model.classes().ok_or("no classes")?;
    assert_eq!((classes.null(), classes.count()), (Some(1000), 3));
    assert_eq!(classes.find("Carassius auratus").map_err(|e| e.report())?, 1);
    assert_eq!(classes.find("golden retriever").map_err(|e| e.report())?, 207);
    assert!(classes.find("1001").is_err());
    Ok(())
}

/// What opening a model says whose config is that of the net `name` with `key` set to `value`.
fn refused(name: &str, key: &str, value: Value) -> TestResult<String> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(path(name).join("config.json"))?)?;
    config[key] = value;
    let folder = folder(TMP, &format!("dit-refused-{name}-{key}"))?;
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let network = Model::open(Some(&folder)).and_then(|model| model.network(6, 6).map(|_| ()));
    match network {
        Ok(()) => Err(format!("{name}: a config with this {key} is taken").into()),
        Err(e) => Ok(e.report()),
    }
}

#[test]
fn what_is_not_supported_is_refused_by_its_key() -> TestResult {
    for (name, key, value) in [
        ("dit", "norm_type", json!("ada_norm_single")),
        ("dit", "activation_fn", json!("relu")),
        ("dit", "num_layers", json!(0)),
        ("dit", "num_attention_heads", json!(0)),
        ("dit", "attention_head_dim", json!(1 << 20)),
        ("dit", "patch_size", json!(0)),
        ("dit", "patch_size", json!(40)),
        ("dit", "sample_size", json!([8, 8])),
        ("dit", "sample_size", json!(1)),
        ("dit", "num_embeds_ada_norm", json!(null)),
        ("dit", "cross_attention_dim", json!(768)),
        ("dit", "attention_type", json!("gated")),
        ("dit", "double_self_attention", json!(true)),
        ("sd35", "qk_norm", json!("layer_norm")),
        ("sd35", "qk_norm", json!(7)),
        ("sd35", "caption_projection_dim", json!(25)),
        ("sd35", "dual_attention_layers", json!([2])),
        ("sd35", "dual_attention_layers", json!("0")),
        ("sd35", "num_layers", json!(1000)),
        ("sd35", "pos_embed_max_size", json!(0)),
        ("sd35", "pos_embed_max_size", json!(100_000)),
        ("sd35", "joint_attention_dim", json!(0)),
    ] {
        let said = refused(name, key, value.clone())?;
        assert!(said.contains(key) && said.lines().count() == 1, "{name}: {key} {value}: {said}");
    }
    let odd = refused("sd35", "patch_size", json!(4))?;
    assert!(odd.contains("multiples of 4"), "{odd}");
    let small = refused("sd35", "pos_embed_max_size", json!(2))?;
    assert!(small.contains("its positions reach to 4x4"), "{small}");
    let heads = refused("dit", "attention_head_dim", json!(13))?;
    assert!(heads.contains("26"), "{heads}");
    Ok(())
}

#[test]
fn weights_that_contradict_the_config_are_refused() -> TestResult {
    for (name, key, value, weight) in [
        ("dit", "num_layers", json!(3), "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"),
        ("dit", "num_embeds_ada_norm", json!(9), "embedding_table.weight has the shape [8, 24], expected [10, 24]"),
        ("sd35", "qk_norm", json!(null), ""),
        (
            "sd35",
            "dual_attention_layers",
            json!([0, 1]),
            "norm1.linear.weight has the shape [144, 24], expected [216, 24]",
        ),
        ("sd35", "pos_embed_max_size", json!(5), "pos_embed.pos_embed has the shape [1, 16, 24], expected [25, 24]"),
    ] {
        let folder = folder(TMP, &format!("dit-contradiction-{name}-{key}"))?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(path(name).join("config.json"))?)?;
        config[key] = value;
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let weights = "diffusion_pytorch_model.safetensors";
        std::fs::copy(path(name).join(weights), folder.join(weights))?;
        let model = open(&folder)?;
        let network = model.network(6, 6).map_err(|e| e.report())?;
        match (model.weights(&network), weight) {
            // Weights that nobody asks for are no contradiction, as everywhere.
            (Ok(_), "") => {}
            (Ok(_), _) => return Err(format!("{name} with another {key} is taken").into()),
            (Err(e), weight) => assert!(e.report().contains(weight), "{name}, {key}: {}", e.report()),
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let out = folder(TMP, "dit-refusals")?.join("picture.png");
    let (class, text) = (json!({"pipeline": "dit-pipeline"}), json!({"pipeline": "sd3-pipeline", "prompt": "a cat"}));
    let with = |case: &Value, change: &dyn Fn(&mut Options)| {
        let mut options = Options { out: out.clone(), steps: Some(1), ..options(case, Kind::Cpu) };
        change(&mut options);
        refusal(&options)
    };
    for (report, part) in [
        (with(&class, &|o| o.prompt = Some("a cat".into()))?, "takes no text"),
        (with(&class, &|o| o.class = Some("1001".into()))?, "there is no class 1001"),
        (with(&class, &|o| o.size = Some((18, 16)))?, "multiples of 4"),
        (with(&class, &|o| o.model = Some(path("dit")))?, "4 channels"),
        (with(&text, &|o| o.prompt = None)?, "give --prompt TEXT"),
        (with(&text, &|o| o.class = Some("1".into()))?, "has no classes"),
        (with(&text, &|o| o.size = Some((64, 64)))?, "its positions reach to 12x12"),
        (with(&text, &|o| o.model = Some(path("sd3")))?, "the whole pipeline"),
    ] {
        assert!(report.contains(part) && report.lines().count() == 1, "{part}: {report}");
        assert!(!out.exists(), "{report}");
    }
    Ok(())
}
