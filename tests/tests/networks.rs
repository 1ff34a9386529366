//! One evaluation of whole networks on every backend against diffusers.

use serde_json::Value;
use unfog_core::denoise::Cond;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::golden::Golden;
use unfog_tests::net::Net;
use unfog_tests::picture::close_pictures;
use unfog_tests::tolerance;

/// Networks of which one is evaluated on a variant.
const SHARE: usize = 3;

/// The condition of each image of a case, and the embeddings that it names.
fn conditions(golden: &Golden, number: usize, images: usize) -> TestResult<(Vec<Cond>, Vec<&[f32]>)> {
    if let Ok(embedding) = golden.part(number, "embedding") {
        let rows = embedding.values.chunks_exact(embedding.shape[1]);
        return Ok(((0..images as u32).map(Cond::Loaded).collect(), rows.collect()));
    }
    match golden.cases()[number]["labels"].as_array() {
        Some(labels) => {
            let label = |v: &Value| v.as_u64().map(|l| Cond::Class(l as u32)).ok_or("a label that is no number");
            Ok((labels.iter().map(label).collect::<Result<_, _>>()?, Vec::new()))
        }
        None => Ok((vec![Cond::None; images], Vec::new())),
    }
}

/// Every backend evaluates every network, and each of its variants every third one: single ops are compared on all of them.
#[test]
fn one_evaluation_agrees_with_diffusers() -> TestResult {
    let golden = Golden::read("nets")?;
    let (users, variants) = (Backend::all()?, Backend::variants()?);
    let mut seen = vec![0; SHARE];
    for (number, case) in golden.cases().iter().enumerate() {
        let (name, path) = (case["net"].as_str().ok_or("no name")?, case["path"].as_str().ok_or("no path")?);
        let t = case["t"].as_f64().ok_or("no time")? as f32;
        let net = Net::open(path)?;
        let (x, want) = (golden.part(number, "x")?, golden.part(number, "out")?);
        let (conds, embeddings) = conditions(&golden, number, x.shape[0])?;
        let share = number % SHARE;
        for backend in users.iter().chain(variants.iter().skip(share).step_by(SHARE)) {
            let what = format!("{name} at t = {t} on {}", backend.name());
            let mut denoiser = backend.denoiser(&net, &embeddings).map_err(|e| format!("{what}: {e}"))?;
            let mut out = vec![f32::NAN; want.values.len()];
            denoiser.predict(&x.values, t, &conds, &mut out).map_err(|e| format!("{what}: {e}"))?;
            let size = [want.shape[2], want.shape[3]];
            let far = close_pictures(&what, &out, &want.values, size, tolerance::network(backend))?;
            println!("{what}: {far:.1e} (diffusers in f32 from f64: {:.1e})", case["floor"].as_f64().unwrap_or(0.0));
            backend.check()?;
        }
        seen[share] += 1;
    }
    assert!(seen.iter().all(|cases| *cases > 0), "there are variants that saw no network: {seen:?}");
    Ok(())
}
