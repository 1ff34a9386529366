//! Every op on every backend against torch and against its twin.

use std::collections::BTreeSet;

use unfog_core::nn::op::{Act, Op};
use unfog_gpu::Precision;
use unfog_shaders::KERNELS;
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::{close, same_bits};
use unfog_tests::golden::root;
use unfog_tests::ops::{OpCase, OpRun, Stored};
use unfog_tests::tolerance;

/// Runs a case and checks what does not depend on the numbers.
fn run(case: &OpCase, backend: &Backend, stored: Stored) -> TestResult<OpRun> {
    let what = format!("{} on {}", case.name, backend.name());
    let run = case.run(backend, stored).map_err(|e| format!("{what}: {e}"))?;
    match run.damage {
        Some(damage) => Err(format!("{what}: {damage}").into()),
        None => Ok(run),
    }
}

#[test]
fn every_op_agrees_with_torch_and_with_its_twin() -> TestResult {
    let cases = OpCase::all()?;
    for backend in Backend::all()?.into_iter().chain(Backend::variants()?) {
        let mut worst = std::collections::BTreeMap::<&str, f64>::new();
        for case in &cases {
            let what = format!("{} on {}", case.name, backend.name());
            let tolerance = tolerance::op(&case.op, &backend);
            let got = run(case, &backend, Stored::F32)?.out;
            let far = close(&format!("{what}, against torch"), &got, &case.want, tolerance)?;
            let twin = run(case, &Backend::Reference, Stored::F32)?.out;
            close(&format!("{what}, against the twin"), &got, &twin, tolerance)?;
            let most = worst.entry(case.op.name()).or_default();
            *most = most.max(far);
        }
        println!("{}, largest relative error against torch: {worst:?}", backend.name());
        backend.check()?;
    }
    Ok(())
}

#[test]
fn half_weights_are_widened_exactly() -> TestResult {
    for backend in Backend::all()? {
        for case in OpCase::all()? {
            let what = format!("{} on {}", case.name, backend.name());
            // The goldens' weights are f16 values: stored as such they are the same numbers.
            let wide = run(&case, &backend, Stored::F32)?.out;
            let half = run(&case, &backend, Stored::F16)?.out;
            same_bits(&format!("{what}, f16"), &half, &wide)?;
            let twin = run(&case, &Backend::Reference, Stored::Bf16)?.out;
            let brief = run(&case, &backend, Stored::Bf16)?.out;
            close(&format!("{what}, bf16"), &brief, &twin, tolerance::op(&case.op, &backend))?;
        }
    }
    Ok(())
}

/// The twin has the same integers and scales, so no more than the order of sums is between them.
#[test]
fn integer_weights_agree_with_the_twin() -> TestResult {
    let cases = OpCase::all()?;
    // What a file holds, and what a device holds of it: the same, and the same widened.
    let ways = [
        (Stored::Int8, Precision::Int8),
        (Stored::Q4, Precision::Q4),
        (Stored::Int8, Precision::F32),
        (Stored::Blocks, Precision::F32),
    ];
    for (stored, precision) in ways {
        for backend in Backend::all()?.iter().flat_map(|backend| backend.with(precision)) {
            let mut worst = 0.0_f64;
            for case in cases.iter().filter(|case| matches!(case.op, Op::Conv2d(_))) {
                let what = format!("{} on {}, {stored:?}", case.name, backend.name());
                let got = run(case, &backend, stored)?.out;
                let twin = run(case, &Backend::Reference, stored)?.out;
                worst = worst.max(close(&what, &got, &twin, tolerance::op(&case.op, &backend))?);
            }
            println!("{}, {stored:?}, largest relative error against the twin: {worst:e}", backend.name());
            backend.check()?;
        }
    }
    Ok(())
}

#[test]
fn every_op_has_a_twin_a_shader_a_dispatch_and_cases() -> TestResult {
    let cases = OpCase::all()?;
    let files = |folder: &str, extension: &str| -> TestResult<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == extension) {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        Ok(names)
    };
    let none: [&str; 0] = [];
    let lacking =
        |there: BTreeSet<&str>| -> Vec<&str> { Op::NAMES.into_iter().filter(|op| !there.contains(op)).collect() };

    let mut twins = files("core/src/nn/op", "rs")?;
    twins.remove("mod");
    assert_eq!(lacking(twins.iter().map(String::as_str).collect()), none, "ops without a twin");
    assert_eq!(twins.len(), Op::NAMES.len(), "Op::NAMES and the files of twins differ: {twins:?}");

    assert_eq!(lacking(KERNELS.iter().map(|k| k.op).collect()), none, "ops without a shader");
    let shaders = files("shaders", "comp")?;
    let listed: BTreeSet<String> = KERNELS.iter().map(|k| k.name.to_owned()).collect();
    assert_eq!(shaders, listed, "shaders and the table of kernels differ");

    // Every case runs on every backend, so what has a case has a dispatch.
    assert_eq!(lacking(cases.iter().map(|c| c.op.name()).collect()), none, "ops without a case");
    let untested = |pick: fn(&Op) -> Option<Act>| -> Vec<Act> {
        Act::ALL.into_iter().filter(|act| !cases.iter().any(|c| pick(&c.op) == Some(*act))).collect()
    };
    let conv2d = untested(|op| if let Op::Conv2d(op) = op { Some(op.act) } else { None });
    let group_norm = untested(|op| if let Op::GroupNorm(op) = op { Some(op.act) } else { None });
    let gate = untested(|op| if let Op::Gate(op) = op { Some(op.act) } else { None });
    assert_eq!((conv2d, group_norm, gate), (vec![], vec![], vec![]), "activations without a case");
    Ok(())
}
