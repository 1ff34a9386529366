//! Every op on every backend against torch and against its twin.

use std::collections::BTreeSet;

use unfog_core::nn::op::{Act, Op};
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::compare::{close, same_bits};
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

#[test]
fn the_cases_leave_nothing_out() -> TestResult {
    let cases = OpCase::all()?;
    let tested: BTreeSet<&str> = cases.iter().map(|c| c.op.name()).collect();
    let untested: Vec<&str> = Op::NAMES.into_iter().filter(|name| !tested.contains(name)).collect();
    assert!(untested.is_empty(), "ops without a case: {untested:?}");
    let acts = |pick: fn(&Op) -> Option<Act>| -> Vec<Act> {
        Act::ALL.into_iter().filter(|act| !cases.iter().any(|c| pick(&c.op) == Some(*act))).collect()
    };
    let none: [Act; 0] = [];
    assert_eq!(acts(|op| if let Op::Conv2d(op) = op { Some(op.act) } else { None }), none, "conv2d without these");
    assert_eq!(
        acts(|op| if let Op::GroupNorm(op) = op { Some(op.act) } else { None }),
        none,
        "group_norm without these"
    );
    Ok(())
}
