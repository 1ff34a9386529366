//! unCLIP's networks (the prior, the decoder, the two that enlarge) on every backend against diffusers, and what is refused.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unfog::backend::Precision;
use unfog::model::Model;
use unfog::pack::pack;
use unfog::sample::Options;
use unfog_core::denoise::Cond;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::same_bits;
use unfog_tests::golden::{Golden, root};
use unfog_tests::net::Net;
use unfog_tests::picture::close_pictures;
use unfog_tests::pipeline::{folder, refusal};
use unfog_tests::tolerance;

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

fn path(name: &str) -> PathBuf {
    root().join("tests/golden/unclip").join(name)
}

fn open(path: &Path) -> TestResult<Model> {
    Model::open(Some(path)).map_err(|e| e.report().into())
}

/// The network of a case, for its size and its number of tokens.
fn net(golden: &Golden, number: usize) -> TestResult<Net> {
    let (case, x) = (&golden.cases()[number], golden.part(number, "x")?);
    let size = (u32::try_from(x.shape[2])?, u32::try_from(x.shape[3])?);
    let model = open(&path(case["net"].as_str().ok_or("no name")?))?;
    Net::of_tokens(model, size, case["tokens"].as_u64().map(|n| n as u32))
}

#[test]
fn networks_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("unclip")?;
    let (users, variants) = (Backend::all()?, Backend::variants()?);
    assert_eq!(golden.cases().len(), 6);
    for (number, case) in golden.cases().iter().enumerate() {
        let t = case["t"].as_f64().ok_or("no time")? as f32;
        let (x, want) = (golden.part(number, "x")?, golden.part(number, "out")?);
        let net = net(&golden, number)?;
        let embedding = golden.part(number, "embedding").ok();
        let rows: Vec<&[f32]> = embedding.map_or(Vec::new(), |e| e.values.chunks_exact(e.shape[1]).collect());
        let conds: Vec<Cond> =
            (0..x.shape[0] as u32).map(|i| if rows.is_empty() { Cond::None } else { Cond::Loaded(i) }).collect();
        // Single ops are compared on all variants: each sees one of these networks.
        for backend in users.iter().chain(variants.iter().skip(number).step_by(golden.cases().len())) {
            let what = format!("{} on {}", case["net"], backend.name());
            let mut denoiser = backend.denoiser(&net, &rows).map_err(|e| format!("{what}: {e}"))?;
            let mut out = vec![f32::NAN; want.values.len()];
            denoiser.predict(&x.values, t, &conds, &mut out).map_err(|e| format!("{what}: {e}"))?;
            let far = close_pictures(&what, &out, &want.values, [x.shape[2], x.shape[3]], tolerance::network(backend))?;
            println!("{what}: {far:.1e} (diffusers in f32 from f64: {:.1e})", case["floor"].as_f64().unwrap_or(0.0));
            backend.check()?;
        }
    }
    Ok(())
}

#[test]
fn padding_is_not_seen() -> TestResult {
    let golden = Golden::read("unclip")?;
    for number in 0..4 {
        let case = &golden.cases()[number];
        let (x, embedding) = (golden.part(number, "x")?, golden.part(number, "embedding")?);
        let net = net(&golden, number)?;
        // The second image's text is the one with padding; its last token is some.
        let (len, row) = (net.len(), &embedding.values[embedding.shape[1]..]);
        let tokens = row.iter().filter(|v| **v == unfog_core::nn::model::transformer::UNSEEN).count();
        assert!(tokens > 0, "{number}");
        let at = match case["tokens"].as_u64() {
            // The text comes first.
            Some(all) => (all as usize - 1) * if case["net"] == "decoder" { 10 } else { 5 },
            // It is all but the biases, and comes last.
            None => embedding.shape[1] - if case["net"] == "prior" { 9 } else { 5 } - 1,
        };
        let run = |change: bool| -> TestResult<Vec<f32>> {
            let mut row = row.to_vec();
            row[at] += if change { 3.0 } else { 0.0 };
            let mut denoiser = Backend::Reference.denoiser(&net, &[&row])?;
            let mut out = vec![f32::NAN; net.out_len()];
            denoiser.predict(&x.values[len..2 * len], 5.0, &[Cond::Loaded(0)], &mut out)?;
            Ok(out)
        };
        same_bits(&format!("{}", case["net"]), &run(true)?, &run(false)?)?;
    }
    Ok(())
}

#[test]
fn packs_hold_these_networks_too() -> TestResult {
    for (name, size) in [("prior", (1, 1)), ("decoder", (8, 8)), ("last", (8, 8))] {
        let file = Path::new(TMP).join(format!("unclip-{name}.pack"));
        pack(&open(&path(name))?, Some(size), Precision::F32, &file).map_err(|e| e.report())?;
        let packed = Net::open(file.canonicalize()?.to_str().ok_or("no text")?)?;
        let plain = Net::sized(open(&path(name))?, size)?;
        let embedding = plain.graph.interface().ok_or("no image")?.embedding;
        let values: Vec<f32> = (0..embedding).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect();
        let embeddings: &[&[f32]] = if embedding > 0 { &[&values] } else { &[] };
        let x: Vec<f32> = (0..plain.len()).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect();
        let evaluate = |net: &Net| -> TestResult<Vec<f32>> {
            let cond = if embedding > 0 { Cond::Loaded(0) } else { Cond::None };
            let mut denoiser = Backend::Reference.denoiser(net, embeddings)?;
            let mut out = vec![f32::NAN; net.out_len()];
            denoiser.predict(&x, 7.0, &[cond], &mut out)?;
            Ok(out)
        };
        same_bits(name, &evaluate(&packed)?, &evaluate(&plain)?)?;
    }
    Ok(())
}

/// What opening a model says whose config is that of the net `name` with `key` set to `value`.
fn refused(name: &str, key: &str, value: Value, size: u32) -> TestResult<String> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(path(name).join("config.json"))?)?;
    config[key] = value;
    let folder = folder(TMP, &format!("unclip-refused-{name}-{key}"))?;
    std::fs::write(folder.join("config.json"), config.to_string())?;
    match Model::open(Some(&folder)).and_then(|model| model.network(size, size).map(|_| ())) {
        Ok(()) => Err(format!("{name}: a config with this {key} is taken").into()),
        Err(e) => Ok(e.report()),
    }
}

#[test]
fn what_is_not_supported_is_refused_by_its_key() -> TestResult {
    for (name, key, value) in [
        ("prior", "additional_embeddings", json!(3)),
        ("prior", "norm_in_type", json!("layer")),
        ("prior", "embedding_proj_norm_type", json!("layer")),
        ("prior", "encoder_hid_proj_type", json!(null)),
        ("prior", "added_emb_type", json!(null)),
        ("prior", "time_embed_act_fn", json!("tanhexp")),
        ("prior", "num_layers", json!(0)),
        ("prior", "num_attention_heads", json!(1 << 20)),
        ("decoder", "down_block_types", json!(["ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"])),
        ("decoder", "up_block_types", json!(["CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"])),
        ("decoder", "mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("decoder", "only_cross_attention", json!(true)),
        ("decoder", "attention_head_dim", json!(99)),
        ("decoder", "cross_attention_norm", json!("layer_norm")),
    ] {
        let said = refused(name, key, value.clone(), if name == "prior" { 1 } else { 8 })?;
        assert!(said.contains(key) && said.lines().count() == 1, "{name}: {key} {value}: {said}");
    }
    let size = refused("prior", "dropout", json!(0.5), 2)?;
    assert!(size.contains("embeddings"), "{size}");
    for name in ["prior", "decoder"] {
        let out = folder(TMP, "unclip-sample")?.join("picture.png");
        let options = Options { model: Some(path(name)), out, ..Options::default() };
        let said = refusal(&options)?;
        assert!(said.contains("takes an embedding") && said.lines().count() == 1, "{name}: {said}");
    }
    Ok(())
}
