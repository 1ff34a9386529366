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

/// Images, the condition of each, and the embeddings that those name.
type Inputs = (Vec<f32>, Vec<Cond>, Vec<Vec<f32>>);

/// The images of a case, the condition of each, and the embeddings that those name. What a network takes beside the noisy image is at
/// the end of an embedding, `[h, w, c]`.
fn inputs(golden: &Golden, number: usize, net: &Net) -> TestResult<Inputs> {
    let x = golden.part(number, "x")?;
    let (images, len, pixels) = (x.shape[0], x.values.len() / x.shape[0], x.shape[2] * x.shape[3]);
    if let Ok(embedding) = golden.part(number, "embedding") {
        let mut rows: Vec<Vec<f32>> = embedding.values.chunks_exact(embedding.shape[1]).map(<[f32]>::to_vec).collect();
        let mut samples = Vec::new();
        for (x, row) in x.values.chunks_exact(len).zip(&mut rows) {
            let (sample, known) = x.split_at(net.len());
            samples.extend_from_slice(sample);
            row.extend((0..pixels).flat_map(|i| known.chunks_exact(pixels).map(move |plane| plane[i])));
        }
        return Ok((samples, (0..images as u32).map(Cond::Loaded).collect(), rows));
    }
    let (conds, none) = conditions(golden, number, images)?;
    Ok((x.values.clone(), conds, none))
}

fn conditions(golden: &Golden, number: usize, images: usize) -> TestResult<(Vec<Cond>, Vec<Vec<f32>>)> {
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
        let want = golden.part(number, "out")?;
        let (x, conds, embeddings) = inputs(&golden, number, &net)?;
        let embeddings: Vec<&[f32]> = embeddings.iter().map(Vec::as_slice).collect();
        let share = number % SHARE;
        for backend in users.iter().chain(variants.iter().skip(share).step_by(SHARE)) {
            let what = format!("{name} at t = {t} on {}", backend.name());
            let mut denoiser = backend.denoiser(&net, &embeddings).map_err(|e| format!("{what}: {e}"))?;
            let mut out = vec![f32::NAN; want.values.len()];
            denoiser.predict(&x, t, &conds, &mut out).map_err(|e| format!("{what}: {e}"))?;
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
