//! Textual inversions against diffusers: pipelines with words that a file teaches their text encoders, from given noise.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use unfog::backend::{Kind, Request};
use unfog::model::EmbeddingChoice;
use unfog::sample::Options;
use unfog_tests::TestResult;
use unfog_tests::compare::{close, distance, same_bits};
use unfog_tests::golden::{Golden, root};
use unfog_tests::pipeline::{self, folder, kinds, latents, refusal};
use unfog_tests::tolerance;

fn embedding(name: &str, token: Option<&str>) -> EmbeddingChoice {
    let path = root().join(format!("tests/golden/embeddings/{name}.safetensors"));
    EmbeddingChoice { path, token: token.map(str::to_owned) }
}

/// The embeddings of a case.
fn embeddings(case: &Value) -> TestResult<Vec<EmbeddingChoice>> {
    let all = case["embeddings"].as_array().ok_or("no embeddings")?.iter();
    let one = |pair: &Value| Some(embedding(pair[0].as_str()?, Some(pair[1].as_str()?)));
    Ok(all.map(one).collect::<Option<_>>().ok_or("an embedding without name and word")?)
}

#[test]
fn embeddings_agree_with_diffusers() -> TestResult {
    let golden = Golden::read("embeddings")?;
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "embeddings")?;
    assert!(golden.cases().len() >= 4);
    for (number, case) in golden.cases().iter().enumerate() {
        let (noise, want) = (golden.part(number, "noise")?, golden.part(number, "latents")?);
        for (kind, backend) in &kinds()? {
            let what = format!("{} on {}", case["prompt"], kind.name());
            let options = Options { embeddings: embeddings(case)?, ..pipeline::options(case, *kind) };
            let (recipe, got) = latents(options, noise, &folder, &what)?;
            let far = close(&what, &got.values, &want.values, tolerance::pipeline(backend))?;
            println!("{what}: latents {far:.1e} apart");
            let words: Vec<_> = embeddings(case)?.into_iter().filter_map(|choice| choice.token).collect();
            assert_eq!(recipe.embeddings.iter().map(|word| word.token.clone()).collect::<Vec<_>>(), words, "{what}");
            assert!(recipe.embeddings.iter().all(|word| word.sha256.len() == 64), "{what}: {:?}", recipe.embeddings);
        }
    }
    Ok(())
}

#[test]
fn words_have_names() -> TestResult {
    let golden = Golden::read("embeddings")?;
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "words")?;
    let make = |prompt: &str, choice: Option<EmbeddingChoice>| -> TestResult<Vec<f32>> {
        let case = json!({"pipeline": "sd1", "prompt": prompt, "guidance": 4.0, "steps": 2});
        let options = Options { embeddings: choice.into_iter().collect(), ..pipeline::options(&case, Kind::Cpu) };
        Ok(latents(options, golden.part(0, "noise")?, &folder, prompt)?.1.values)
    };
    // The word that the file names, and the file's name.
    let toy = make("a <toy>", Some(embedding("toy", None)))?;
    same_bits("the file's word", &toy, &make("a <toy>", Some(embedding("toy", Some("<toy>"))))?)?;
    same_bits("another word", &toy, &make("a wombat", Some(embedding("toy", Some("wombat"))))?)?;
    same_bits("another case", &toy, &make("a WOMbat", Some(embedding("toy", Some("Wombat"))))?)?;
    let blurred = make("a blurred-2", Some(embedding("Blurred-2", None)))?;
    same_bits("the file's name", &blurred, &make("a <x>", Some(embedding("Blurred-2", Some("<x>"))))?)?;
    for (what, other) in [
        ("none", make("a <toy>", None)?),
        ("one that is not in the prompt", make("a <toy>", Some(embedding("Blurred-2", None)))?),
    ] {
        assert!(distance(&toy, &other) > 1e-4, "{what} makes the same picture");
    }
    same_bits(
        "a word that is not in the prompt",
        &make("a cat", Some(embedding("toy", None)))?,
        &make("a cat", None)?,
    )?;
    Ok(())
}

fn write(path: &Path, tensors: &[(&str, &[usize], f32)]) -> TestResult<EmbeddingChoice> {
    let bytes = |shape: &[usize], value: f32| value.to_le_bytes().repeat(shape.iter().product());
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, shape, value)| bytes(shape, *value)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| TensorView::new(Dtype::F32, shape.to_vec(), bytes).map(|view| (*name, view)));
    serialize_to_file(views.collect::<Result<Vec<_>, _>>()?, None, path)?;
    Ok(EmbeddingChoice { path: path.to_path_buf(), token: None })
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() -> TestResult {
    let folder = folder(env!("CARGO_TARGET_TMPDIR"), "embedding-refusals")?;
    let file = |name: &str| folder.join(name);
    let at = |name: &str| EmbeddingChoice { path: file(name), token: None };
    fs::write(file("pickle.pt"), b"PK\x03\x04 and the rest")?;
    fs::write(file("damaged"), b"\x40\0\0\0\0\0\0\0{\"a\": 1")?;
    let refusals: Vec<(EmbeddingChoice, &str)> = vec![
        (at("missing"), "can't read"),
        (at("pickle.pt"), "is a pickle"),
        (at("damaged"), "no whole safetensors file"),
        (write(&file("wide"), &[("<x>", &[2, 48], 0.0)])?, "the text encoder takes [n, 32]"),
        (write(&file("empty"), &[("<x>", &[0, 32], 0.0)])?, "the text encoder takes [n, 32]"),
        (write(&file("many"), &[("<x>", &[76, 32], 0.0)])?, "the text encoder takes [n, 32]"),
        (write(&file("two"), &[("a", &[1, 32], 0.0), ("b", &[1, 32], 0.0)])?, "holds 2 tensors"),
        (write(&file("nan"), &[("<x>", &[1, 32], f32::NAN)])?, "NaN at index 0"),
        (embedding("pair", None), "it is for another model"),
        (embedding("toy", Some("b")), "has a token \"b\" already"),
        (embedding("toy", Some("<|endoftext|>")), "already"),
    ];
    let case = json!({"pipeline": "sd1", "prompt": "a cat", "guidance": 4.0, "steps": 2});
    let out = file("picture.png");
    let plain = || Options { out: out.clone(), ..pipeline::options(&case, Kind::Cpu) };
    let check = |options: &Options, part: &str| -> TestResult {
        let report = refusal(options)?;
        let first = report.lines().next().unwrap_or_default();
        assert!(first.contains(part) && report.lines().count() <= 2, "{part}: {report}");
        assert!(!out.exists(), "{report}");
        Ok(())
    };
    for (choice, part) in refusals {
        check(&Options { embeddings: vec![choice], ..plain() }, part)?;
    }
    let twice = vec![embedding("toy", None), embedding("toy", None)];
    check(&Options { embeddings: twice, ..plain() }, "has a token \"<toy>\" already")?;
    let xl = json!({"pipeline": "sdxl", "prompt": "a cat", "guidance": 4.0, "steps": 2});
    let of_xl =
        Options { embeddings: vec![embedding("toy", None)], out: out.clone(), ..pipeline::options(&xl, Kind::Cpu) };
    check(&of_xl, "holds 1 embedding, and the model takes two")?;
    let backend = Request { kind: Kind::Cpu, ..Request::default() };
    let of_classes =
        Options { embeddings: vec![embedding("toy", None)], out: out.clone(), backend, ..Options::default() };
    check(&of_classes, "takes no text")
}
