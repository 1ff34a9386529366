//! Weighted words and prompts of several chunks, against a few lines of torch after AUTOMATIC1111's rule (tests/golden/make_weighted.py).

use std::path::PathBuf;

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use unfog::backend::{Kind, Request};
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::close;
use unfog_tests::golden::{Golden, root};
use unfog_tests::tolerance;

#[test]
fn weights_and_chunks_agree_with_the_rule() -> TestResult {
    let golden = Golden::read("weighted")?;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("weighted");
    std::fs::create_dir_all(&folder)?;
    let (noise, latents_out) = (folder.join("noise"), folder.join("latents"));
    for (number, case) in golden.cases().iter().enumerate() {
        let given = golden.part(number, "noise")?;
        let bytes: Vec<u8> = given.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = [&[1], &given.shape[..]].concat();
        serialize_to_file([("noise", TensorView::new(Dtype::F32, shape, &bytes)?)], None, &noise)?;
        let text = |key: &str| case[key].as_str().map(str::to_owned);
        let options = Options {
            model: text("pipeline").map(|name| root().join("tests/golden/pipelines").join(name)),
            prompt: text("prompt"),
            negative: text("negative"),
            guidance: case["guidance"].as_f64().map(|g| g as f32),
            steps: case["steps"].as_u64().map(|n| n as usize),
            backend: Request { kind: Kind::Cpu, ..Request::default() },
            noise_in: Some(noise.clone()),
            latents_out: Some(latents_out.clone()),
            out: folder.join("out.png"),
            ..Options::default()
        };
        let what = format!("{number}: {}", text("prompt").unwrap_or_default());
        sample(&options, &Stop::default(), &mut |_| {}).map_err(|e| format!("{what}: {}", e.report()))?;
        let got = Golden::read_file(&latents_out)?;
        let want = &golden.part(number, "latents")?.values;
        let allowed = tolerance::pipeline(&Backend::Cpu(Default::default()));
        let far = close(&what, &got.tensor("x0")?.values, want, allowed)?;
        println!("{what}: {far:.1e} apart, {} chunks", case["chunks"]);
    }
    Ok(())
}
