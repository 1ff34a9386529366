//! Packs sample as the models that they were made from; with 8-bit weights, nearly.

use std::path::{Path, PathBuf};

use unfog::backend::{Kind, Request};
use unfog::model::Model;
use unfog::pack::{Storage, pack};
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::compare::{psnr, same_bits};
use unfog_tests::golden::{Golden, root};
use unfog_tests::tolerance;

fn folder(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// The pack of a model, and where it is.
fn packed(name: &str, storage: Storage) -> TestResult<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{storage:?}.pack"));
    pack(&Model::open(Some(&folder(name))).map_err(|e| e.report())?, None, storage, &path).map_err(|e| e.report())?;
    Ok(path)
}

/// What a model samples.
fn run(model: &Path, kind: Kind, steps: usize, count: u32) -> TestResult<Vec<f32>> {
    let name = model.file_stem().ok_or("no name")?.to_string_lossy().into_owned();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{kind:?}-{steps}"));
    let options = Options {
        model: Some(model.to_path_buf()),
        steps: Some(steps),
        count,
        seed: 3,
        backend: Request { kind, ..Request::default() },
        latents_out: Some(out.with_extension("safetensors")),
        out: out.with_extension("png"),
        ..Options::default()
    };
    sample(&options, &Stop::default(), &mut |_| ()).map_err(|e| e.report())?;
    Ok(Golden::read_file(&out.with_extension("safetensors"))?.tensor("x0")?.values.clone())
}

#[test]
fn a_pack_samples_what_its_model_does() -> TestResult {
    for kind in [Kind::Reference, Kind::Cpu] {
        let pack = run(&packed("glyph-tiny", Storage::F32)?, kind, 5, 3)?;
        same_bits(&format!("glyph-tiny, {kind:?}"), &pack, &run(&folder("glyph-tiny"), kind, 5, 3)?)?;
    }
    let pack = run(&packed("mednist-ddpm", Storage::F32)?, Kind::Cpu, 3, 2)?;
    same_bits("mednist-ddpm", &pack, &run(&folder("mednist-ddpm"), Kind::Cpu, 3, 2)?)
}

#[test]
fn eight_bit_weights_keep_the_pictures() -> TestResult {
    for (name, steps, count) in [("glyph-tiny", 20, 8), ("mednist-ddpm", 10, 6)] {
        let want = run(&folder(name), Kind::Cpu, steps, count)?;
        let got = run(&packed(name, Storage::Int8)?, Kind::Cpu, steps, count)?;
        let len = want.len() / count as usize;
        let each: Vec<f64> = got.chunks(len).zip(want.chunks(len)).map(|(got, want)| psnr(got, want)).collect();
        let all = psnr(&got, &want);
        println!("{name}: {all:.1} dB, of the images {each:.1?}");
        let bound = tolerance::int8_psnr(name);
        assert!(all >= bound.decibels, "{name}: {all} dB, at least {} expected: {}", bound.decibels, bound.reason);
    }
    Ok(())
}
