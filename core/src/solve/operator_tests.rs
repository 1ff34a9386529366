//! What holds for any operator: orthonormal bases, the adjoint, the pseudo-inverse; and what each one measures.

use super::*;
use crate::noise::{Noise, Philox};
use crate::solve::matrix;
use std::vec;
use std::vec::Vec;

const SHAPE: Shape = Shape { channels: 3, height: 8, width: 16 };

fn random(image: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Philox::new(3).fill(image, 0, &mut values).unwrap();
    values
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Runs `test` with every kind of operator on pictures of [`SHAPE`].
fn each(test: impl Fn(&str, Operator<'_>)) {
    let Shape { height, width, .. } = SHAPE;
    let known: Vec<bool> = (0..height * width).map(|i| i % 3 != 1).collect();
    let svd = |n: usize, rows: usize, matrix: &[f64], memory: &mut Vec<f32>| {
        let [kept, once] = Svd::memory(rows, n);
        memory.resize(kept, 0.0);
        Svd::new(matrix, [rows, n], 1e-3, memory.leak_copy(), &mut vec![0.0; once]).unwrap()
    };
    let bicubic = |n: usize| {
        let mut rows = vec![0.0; n / 4 * n];
        assert!(matrix::bicubic(n, 4, &mut rows));
        svd(n, n / 4, &rows, &mut Vec::new())
    };
    let blur = |n: usize| {
        let mut rows = vec![0.0; n * n];
        assert!(matrix::gaussian(n, 1.0, &mut rows));
        svd(n, n, &rows, &mut Vec::new())
    };
    let weights: Vec<f32> = (0..SHAPE.len()).map(|i| 0.5 + (i % 7) as f32).collect();
    let kinds = [
        ("identity", Kind::Identity),
        ("weighted", Kind::Weighted { weights: &weights }),
        ("mask", Kind::Mask { known: &known }),
        ("average pool", Kind::AveragePool { factor: 4 }),
        ("average pool of 1", Kind::AveragePool { factor: 1 }),
        ("grey", Kind::Grey { weights: [0.299, 0.587, 0.114] }),
        ("grey of red", Kind::Grey { weights: [2.0, 0.0, 0.0] }),
        ("bicubic", Kind::Separable { rows: bicubic(height), columns: bicubic(width) }),
        ("blur", Kind::Separable { rows: blur(height), columns: blur(width) }),
        ("hadamard", Kind::Hadamard { kept: &known }),
        ("cosine", Kind::Cosine),
    ];
    for (name, kind) in kinds {
        test(name, Operator::new(kind, SHAPE).unwrap());
    }
}

trait LeakCopy {
    /// Memory for as long as the tests run.
    fn leak_copy(&mut self) -> &'static mut [f32];
}

impl LeakCopy for Vec<f32> {
    fn leak_copy(&mut self) -> &'static mut [f32] {
        self.clone().leak()
    }
}

#[test]
fn the_spectrum_is_a_change_of_basis() {
    each(|name, operator| {
        let (x, mut scratch) = (random(0, SHAPE.len()), vec![0.0; operator.scratch()]);
        let mut turned = x.clone();
        operator.spectrum(&mut turned, &mut scratch);
        assert!((dot(&turned, &turned) / dot(&x, &x) - 1.0).abs() < 1e-5, "{name}: lengths change");
        operator.picture(&mut turned, &mut scratch);
        let worst = turned.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{name}: {worst}");
    });
}

#[test]
fn the_adjoint_is_the_transpose() {
    each(|name, operator| {
        let (x, y) = (random(1, SHAPE.len()), random(2, operator.measured_len()));
        let (mut work, mut scratch) = (vec![0.0; SHAPE.len()], vec![0.0; operator.scratch()]);
        let (mut ax, mut ay) = (vec![0.0; y.len()], vec![0.0; x.len()]);
        operator.apply(&x, &mut ax, &mut work, &mut scratch);
        operator.adjoint(&y, &mut ay, &mut scratch);
        let (left, right) = (dot(&ax, &y), dot(&x, &ay));
        assert!((left - right).abs() < 1e-4 * left.abs().max(1.0), "{name}: {left} and {right}");
    });
}

#[test]
fn measuring_what_was_measured_is_the_same_again() {
    each(|name, operator| {
        let x = random(3, SHAPE.len());
        let (mut work, mut scratch) = (vec![0.0; SHAPE.len()], vec![0.0; operator.scratch()]);
        let mut y = vec![0.0; operator.measured_len()];
        operator.apply(&x, &mut y, &mut work, &mut scratch);
        let (mut back, mut again) = (x, vec![0.0; y.len()]);
        operator.pseudo_inverse(&y, &mut back, &mut scratch);
        operator.apply(&back, &mut again, &mut work, &mut scratch);
        let worst = again.iter().zip(&y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Up to 1/cutoff is lost of the digits of what a blur leaves least of.
        assert!(worst < 2e-4, "{name}: {worst}");
    });
}

#[test]
fn operators_measure_what_they_say() {
    let x = random(4, SHAPE.len());
    let Shape { height, width, .. } = SHAPE;
    let mean = |c: usize, top: usize, left: usize| -> f32 {
        let at = |i: usize| x[(c * height + top + i / 4) * width + left + i % 4];
        (0..16).map(at).sum::<f32>() / 16.0
    };
    each(|name, operator| {
        let mut y = vec![0.0; operator.measured_len()];
        let (mut work, mut scratch) = (vec![0.0; SHAPE.len()], vec![0.0; operator.scratch()]);
        operator.apply(&x, &mut y, &mut work, &mut scratch);
        let (got, want) = match name {
            "identity" | "average pool of 1" => (y[17], x[17]),
            // Pixel 19 is lost (19 % 3 is 1), pixel 20 is not.
            "mask" => (y[19] + y[20], x[20]),
            // Row 1, column 2 of the second channel.
            "average pool" => (y[8 + 4 + 2], mean(1, 4, 8)),
            "grey" => (y[5], 0.299 * x[5] + 0.587 * x[5 + height * width] + 0.114 * x[5 + 2 * height * width]),
            "grey of red" => (y[5], 2.0 * x[5]),
            "weighted" => (y[17] + y[18], 3.5 * x[17] + 4.5 * x[18]),
            "hadamard" => (y[0], x[..height * width].iter().sum::<f32>() / 128.0_f32.sqrt()),
            "cosine" => (y[0], (0..64).map(|i| x[i / 8 * width + i % 8]).sum::<f32>() / 8.0),
            // Held to Pillow and scipy elsewhere.
            _ => return,
        };
        assert!((got - want).abs() < 1e-5, "{name}: {got} for {want}");
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let refused = |kind| Operator::new(kind, SHAPE).err();
    assert_eq!(refused(Kind::Mask { known: &[true; 4] }), Some(OperatorError::Sides));
    assert_eq!(refused(Kind::AveragePool { factor: 3 }), Some(OperatorError::Multiple(3)));
    assert_eq!(refused(Kind::AveragePool { factor: 0 }), Some(OperatorError::Multiple(0)));
    assert_eq!(refused(Kind::Grey { weights: [0.0; 3] }), Some(OperatorError::Weights));
    assert_eq!(refused(Kind::Grey { weights: [f32::NAN; 3] }), Some(OperatorError::Weights));
    assert_eq!(refused(Kind::Hadamard { kept: &[true; 5] }), Some(OperatorError::Sides));
    for weights in [&[1.0; 3][..], &[0.0; SHAPE.len()], &[f32::INFINITY; SHAPE.len()], &[-1.0; SHAPE.len()]] {
        assert_eq!(refused(Kind::Weighted { weights }), Some(OperatorError::Weights));
    }
    let empty = Shape { channels: 0, ..SHAPE };
    assert_eq!(Operator::new(Kind::Identity, empty).err(), Some(OperatorError::Empty));
    let odd = Shape { height: 9, ..SHAPE };
    assert_eq!(Operator::new(Kind::Cosine, odd).err(), Some(OperatorError::Multiple(8)));
    let known = [true; 9 * 16];
    assert_eq!(Operator::new(Kind::Hadamard { kept: &known }, odd).err(), Some(OperatorError::PowerOfTwo));
    let grey = Shape { channels: 1, ..SHAPE };
    assert_eq!(Operator::new(Kind::Grey { weights: [1.0; 3] }, grey).err(), Some(OperatorError::Channels));
}
