//! Linear operators against Pillow, scipy and numpy.

use unfog_core::solve::matrix;
use unfog_core::solve::operator::{Kind, Operator, Shape};
use unfog_core::solve::svd::Svd;
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

fn gaussian(len: usize) -> TestResult<Svd<'static>> {
    let mut rows = vec![0.0; len * len];
    assert!(matrix::gaussian(len, 1.2, &mut rows));
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
        ("gaussian", Kind::Separable { rows: gaussian(height)?, columns: gaussian(width)? }),
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
