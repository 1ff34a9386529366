//! Packs sample as the models that they were made from; with weights of 8 bits, and of 4, nearly.

use std::path::{Path, PathBuf};

use unfog::backend::{Kind, Precision, Request};
use unfog::model::Model;
use unfog::pack::pack;
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
fn packed(name: &str, precision: Precision) -> TestResult<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{precision:?}.pack"));
    pack(&Model::open(Some(&folder(name))).map_err(|e| e.report())?, None, precision, &path).map_err(|e| e.report())?;
    Ok(path)
}

/// What a model samples.
fn run(model: &Path, kind: Kind, steps: usize, count: u32) -> TestResult<Vec<f32>> {
    run_in(model, kind, Precision::F32, steps, count)
}

/// The same with its weights held in `precision`.
fn run_in(model: &Path, kind: Kind, precision: Precision, steps: usize, count: u32) -> TestResult<Vec<f32>> {
    let name = model.file_stem().ok_or("no name")?.to_string_lossy().into_owned();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{kind:?}-{precision:?}-{steps}"));
    let options = Options {
        model: Some(model.to_path_buf()),
        steps: Some(steps),
        count,
        seed: 3,
        backend: Request { kind, precision, ..Request::default() },
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
        let pack = run(&packed("glyph-tiny", Precision::F32)?, kind, 5, 3)?;
        same_bits(&format!("glyph-tiny, {kind:?}"), &pack, &run(&folder("glyph-tiny"), kind, 5, 3)?)?;
    }
    let pack = run(&packed("mednist-ddpm", Precision::F32)?, Kind::Cpu, 3, 2)?;
    same_bits("mednist-ddpm", &pack, &run(&folder("mednist-ddpm"), Kind::Cpu, 3, 2)?)
}

#[test]
fn weights_are_narrowed_alike_in_packs_and_in_memory() -> TestResult {
    for precision in [Precision::F16, Precision::Int8, Precision::Q4] {
        for kind in [Kind::Reference, Kind::Cpu] {
            let pack = packed("glyph-tiny", precision)?;
            let (want, held) = (run(&pack, kind, 3, 2)?, run_in(&folder("glyph-tiny"), kind, precision, 3, 2)?);
            same_bits(&format!("glyph-tiny, {precision:?}, {kind:?}"), &held, &want)?;
            // What is narrow already stays as it is.
            same_bits("packed", &run_in(&pack, kind, precision, 3, 2)?, &want)?;
        }
    }
    Ok(())
}

#[test]
fn few_bits_keep_the_pictures() -> TestResult {
    for (name, steps, count) in [("glyph-tiny", 20, 8), ("mednist-ddpm", 10, 6)] {
        let want = run(&folder(name), Kind::Cpu, steps, count)?;
        for (precision, bound) in
            [(Precision::Int8, tolerance::int8_psnr(name)), (Precision::Q4, tolerance::q4_psnr(name))]
        {
            let got = run(&packed(name, precision)?, Kind::Cpu, steps, count)?;
            let len = want.len() / count as usize;
            let each: Vec<f64> = got.chunks(len).zip(want.chunks(len)).map(|(got, want)| psnr(got, want)).collect();
            let all = psnr(&got, &want);
            println!("{name}, {precision:?}: {all:.1} dB, of the images {each:.1?}");
            let expected = format!("at least {} expected: {}", bound.decibels, bound.reason);
            assert!(all >= bound.decibels, "{name}, {precision:?}: {all} dB, {expected}");
        }
    }
    Ok(())
}
