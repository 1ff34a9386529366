//! Linear operators, and restoration with them, against Pillow, scipy and numpy.

use unfog_core::solve::matrix;
use unfog_core::solve::operator::{Kind, Operator, Shape};
use unfog_core::solve::svd::Svd;
use unfog_core::solve::update::{Between, Solver, Value};
use unfog_tests::TestResult;
use unfog_tests::compare::close;
use unfog_tests::golden::Golden;
use unfog_tests::tolerance;

/// A decomposition with its memory.
fn decomposed(matrix: &[f64], shape: [usize; 2]) -> TestResult<Svd<'static>> {
    let [kept, once] = Svd::memory(shape[0], shape[1]);
    // Lives as long as the process, which is over soon.
    let memory = vec![0.0; kept].leak();
    Ok(Svd::new(matrix, shape, 1e-6, memory, &mut vec![0.0; once]).ok_or("no decomposition")?)
}

fn bicubic(len: usize, factor: usize) -> TestResult<Svd<'static>> {
    let mut rows = vec![0.0; len / factor * len];
    assert!(matrix::bicubic(len, factor, &mut rows));
    decomposed(&rows, [len / factor, len])
}

fn gaussian(len: usize, sigma: f64) -> TestResult<Svd<'static>> {
    let mut rows = vec![0.0; len * len];
    assert!(matrix::gaussian(len, sigma, &mut rows));
    decomposed(&rows, [len, len])
}

#[test]
fn measurements_agree_with_other_libraries() -> TestResult {
    let golden = Golden::read("operators")?;
    let x = golden.tensor("x")?;
    let [channels, height, width] = x.shape[..] else { return Err("x is no picture".into()) };
    let kept = vec![true; height * width];
    let shorter = |factor| -> TestResult<Kind<'static>> {
        Ok(Kind::Separable { rows: bicubic(height, factor)?, columns: bicubic(width, factor)? })
    };
    let kinds = [
        ("bicubic2", shorter(2)?),
        ("bicubic4", shorter(4)?),
        ("bicubic8", shorter(8)?),
        ("gaussian", Kind::Separable { rows: gaussian(height, 1.2)?, columns: gaussian(width, 1.2)? }),
        ("pool4", Kind::AveragePool { factor: 4 }),
        ("grey", Kind::Grey { weights: [0.299, 0.587, 0.114] }),
        ("hadamard", Kind::Hadamard { kept: &kept }),
        ("cosine", Kind::Cosine),
    ];
    assert_eq!(golden.names().len(), kinds.len() + 1, "a tensor that no operator is held to");
    for (name, kind) in kinds {
        let operator = Operator::new(kind, Shape { channels, height, width }).map_err(|e| format!("{name}: {e:?}"))?;
        let want = golden.tensor(name)?;
        let mut y = vec![f32::NAN; operator.measured_len()];
        let (mut work, mut scratch) = (vec![0.0; x.values.len()], vec![0.0; operator.scratch()]);
        operator.apply(&x.values, &mut y, &mut work, &mut scratch);
        println!("{name}: {:.1e}", close(name, &y, &want.values, tolerance::operator())?);
    }
    Ok(())
}

fn solver(case: &serde_json::Value) -> TestResult<Solver> {
    let number = |name: &str| case[name].as_f64().map(|v| v as f32).ok_or_else(|| format!("no {name}"));
    Ok(match case["name"].as_str() {
        Some("ddrm") => Solver::Ddrm { eta: number("eta")?, eta_b: number("eta_b")? },
        Some("ddnm") => Solver::Ddnm { eta: number("eta")? },
        Some("diffpir") => Solver::DiffPir { lambda: number("lambda")?, zeta: number("zeta")? },
        Some("replace") => Solver::Replace,
        _ => return Err("an unknown solver".into()),
    })
}

#[test]
fn steps_agree_with_whole_matrices() -> TestResult {
    let golden = Golden::read("solvers")?;
    let shape = Shape { channels: 3, height: 8, width: 16 };
    let known: Vec<bool> = (0..shape.height * shape.width).map(|i| i % 3 != 1).collect();
    let (rows, columns) = (bicubic(8, 4)?, bicubic(16, 4)?);
    let (tall, wide) = (gaussian(8, 0.8)?, gaussian(16, 0.8)?);
    assert!(!golden.cases().is_empty());
    let mut worst = 0.0_f64;
    for (number, case) in golden.cases().iter().enumerate() {
        let name = case["operator"].as_str().ok_or("no operator")?;
        let kind = match name {
            "identity" => Kind::Identity,
            "mask" => Kind::Mask { known: &known },
            "pool4" => Kind::AveragePool { factor: 4 },
            "grey" => Kind::Grey { weights: [0.299, 0.587, 0.114] },
            "bicubic4" => Kind::Separable { rows, columns },
            "gaussian" => Kind::Separable { rows: tall, columns: wide },
            _ => return Err(format!("an unknown operator: {name}").into()),
        };
        let operator = Operator::new(kind, shape).map_err(|e| format!("{name}: {e:?}"))?;
        let mut scratch = vec![0.0; operator.scratch()];
        let mut spectrum = |part: &str| -> TestResult<Vec<f32>> {
            let mut values = golden.part(number, part)?.values.clone();
            operator.spectrum(&mut values, &mut scratch);
            Ok(values)
        };
        let (x, x0, eps, z) = (spectrum("x")?, spectrum("x0")?, spectrum("eps")?, spectrum("z")?);
        let mut y = vec![f32::NAN; shape.len()];
        operator.measured_spectrum(&golden.part(number, "y")?.values, &mut y);
        let number_of = |key: &str| case[key].as_f64().map(|v| v as f32).ok_or_else(|| format!("no {key}"));
        let between = Between { at: number_of("at")?, to: number_of("to")? };
        let (rule, sigma_y) = (solver(&case["solver"])?, number_of("sigma_y")?);
        let value = |i: usize| {
            let singular = operator.singular(i);
            rule.update(between, sigma_y, Value { singular, y: y[i], x: x[i], x0: x0[i], eps: eps[i], z: z[i] })
        };
        let mut out: Vec<f32> = (0..shape.len()).map(value).collect();
        operator.picture(&mut out, &mut scratch);
        let what = format!("{name}, {rule:?}, {between:?}, sigma {sigma_y}");
        worst = worst.max(close(&what, &out, &golden.part(number, "out")?.values, tolerance::solver())?);
    }
    println!("at most {worst:.1e}");
    Ok(())
}
