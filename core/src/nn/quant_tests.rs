//! Integers are the nearest to the values that they stand for, whatever these are.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runner, RngSeed, TestRunner};

use super::graph::{Weight, WeightUse};
use super::quant::{BLOCK, Q4, q4_lens, quantise_block, quantise_row};
use super::weights::{WeightData, f16_to_f32, f32_to_f16};
use crate::pack::quantise4;

fn runner() -> TestRunner {
    TestRunner::new(Runner {
        cases: 2000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20),
        ..Runner::default()
    })
}

/// Values of some magnitude; some are 0, some as large as any.
fn values(most: usize) -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![8 => -1.0_f32..=1.0, 1 => Just(0.0), 1 => Just(1.0), 1 => Just(-1.0)];
    let scale = (-20_i32..=18).prop_map(|e| 2.0_f32.powi(e));
    (prop::collection::vec(value, 1..=most), scale).prop_map(|(v, s)| v.into_iter().map(|v| v * s).collect())
}

#[test]
fn eight_bits_are_off_by_half_a_step() {
    let check = |row: Vec<f32>| {
        let mut integers = vec![0; row.len()];
        let scale = quantise_row(&row, &mut integers).unwrap();
        let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        prop_assert_eq!(scale, largest / 127.0);
        for (q, v) in integers.iter().zip(&row) {
            let found = f32::from(*q) * scale;
            prop_assert!((found - v).abs() <= scale * 0.50001, "{} for {}, scale {}", found, v, scale);
        }
        Ok(())
    };
    runner().run(&values(100), check).unwrap();
}

#[test]
fn four_bits_are_the_nearest_level_and_no_worse_than_symmetric_ones() {
    let check = |block: Vec<f32>| {
        let mut integers = [0; BLOCK];
        let scale = f16_to_f32(quantise_block(&block, &mut integers).unwrap());
        let largest = block.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        // Half floats have steps of 2^-24 at least.
        let coarse = 7.0 * 2.0_f32.powi(-25);
        let (mut sum, mut plain) = (0.0, 0.0);
        let symmetric = f16_to_f32(f32_to_f16(largest / 7.0).unwrap());
        for (q, v) in integers.iter().zip(&block) {
            prop_assert!(*q < 16);
            let off = ((f32::from(*q) - 8.0) * scale - v).abs();
            let nearest = (-8..8).map(|q| (q as f32 * scale - v).abs()).fold(f32::INFINITY, f32::min);
            prop_assert!(off <= nearest * 1.0001 + 1e-6 * largest, "{} off, {} possible", off, nearest);
            // Half a step inside the levels; beyond them at most a step of the coarsest choice.
            let inside = (-8.0 * scale.abs()..=7.0 * scale.abs()).contains(&(v * scale.signum()));
            let most = if inside { scale.abs() * 0.5001 } else { largest / 7.0 };
            prop_assert!(off <= most + coarse, "{} is {} off, scale {}", v, off, scale);
            sum += off * off;
            if symmetric > 0.0 {
                let q = (v / symmetric).round().clamp(-8.0, 7.0);
                plain += (q * symmetric - v).powi(2);
            }
        }
        prop_assert!(symmetric == 0.0 || sum <= plain * 1.001 + 1e-12 * largest * largest, "{} {}", sum, plain);
        Ok(())
    };
    runner().run(&values(BLOCK), check).unwrap();
}

#[test]
fn zeros_extremes_and_what_is_no_number() {
    let mut integers = [0; 4];
    assert_eq!(quantise_block(&[0.0, -0.0, 0.0, 0.0], &mut integers), Some(0));
    assert_eq!(integers, [8; 4]);
    // The largest magnitude that a scale in half floats reaches, and one beyond.
    let most = 65504.0 * 8.0;
    let bits = quantise_block(&[most, -most, 0.0, 1.0], &mut integers).unwrap();
    assert!(f16_to_f32(bits).is_finite() && integers[2] == 8);
    assert_eq!(quantise_block(&[1e6, 0.0, 0.0, 0.0], &mut integers), None);
    // Below the least scale all is 0, not something of the wrong size.
    assert_eq!(quantise_block(&[1e-9, -1e-9, 0.0, 1e-30], &mut integers), Some(0));
    assert_eq!(integers, [8; 4]);
    assert_eq!(quantise_row(&[0.0, -0.0], &mut [1; 2]), Some(0.0));
    assert_eq!(quantise_row(&[f32::MAX, -f32::MAX], &mut [1; 2]), Some(f32::MAX / 127.0));
    assert_eq!(quantise_row(&[f32::from_bits(1), 0.0], &mut [1; 2]), Some(0.0));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(quantise_block(&[1.0, bad], &mut integers), None);
        assert_eq!(quantise_row(&[1.0, bad], &mut [0; 2]), None);
    }
}

#[test]
fn blocks_hold_their_values_in_the_order_of_torch() {
    for [outputs, inputs, kh, kw] in [[3, 37, 3, 3], [2, 64, 1, 1], [5, 1, 2, 1], [1, 33, 1, 3], [4, 31, 1, 1]] {
        let weight = Weight { shape: [outputs, inputs, kh, kw], role: WeightUse::Kernel };
        let (len, taps) = (weight.len() as usize, (kh * kw) as usize);
        let w: Vec<f32> = (0..len).map(|i| ((i * 37 + i / 5) % 101) as f32 / 50.0 - 1.0).collect();
        let row = len / outputs as usize;
        let [values, scales] = q4_lens(weight.shape).unwrap();
        let (mut values, mut scales) = (vec![0; values], vec![0; scales]);
        let q = quantise4(&weight, WeightData::F32(&w), &mut vec![0.0; row], &mut values, &mut scales).unwrap();
        assert_eq!(q.len(), len);
        // Every value is that of its block, wherever it lies in torch's order.
        for output in 0..outputs as usize {
            for tap in 0..taps {
                for first in (0..inputs as usize).step_by(BLOCK) {
                    let at = |i: usize| output * row + i * taps + tap;
                    let count = BLOCK.min(inputs as usize - first);
                    let block: Vec<f32> = (first..first + count).map(|i| w[at(i)]).collect();
                    let mut integers = [0; BLOCK];
                    let scale = f16_to_f32(quantise_block(&block, &mut integers).unwrap());
                    for (i, &integer) in integers[..count].iter().enumerate() {
                        assert_eq!(q.at(at(first + i)), (f32::from(integer) - 8.0) * scale);
                    }
                }
            }
        }
        // All ways of reading say the same.
        for (first, count) in [(0, row), (row - row / 2, row / 2), (row - 1, 1)] {
            let mut wide = vec![f32::NAN; count];
            q.widen(len - row + first, &mut wide);
            assert!(wide.iter().enumerate().all(|(i, v)| *v == q.at(len - row + first + i)));
        }
        let x: Vec<f32> = (0..inputs).map(|i| i as f32 / 8.0 - 1.0).collect();
        for tap in 0..taps {
            for first in 0..inputs as usize {
                let at = |i: usize| len - row + (first + i) * taps + tap;
                let x = &x[..inputs as usize - first];
                let want = x.iter().enumerate().fold(0.5, |sum, (i, x)| sum + x * q.at(at(i)));
                assert_eq!(q.dot(0.5, x, at(0), taps), want);
                assert_eq!(q.dot(0.0, &x[..1], at(0), 7), x[0] * q.at(at(0)));
            }
        }
    }
    assert_eq!(Q4::new([2, 32, 1, 1], &[0; 32], &[0; 1]), None);
    assert_eq!(Q4::new([2, 32, 1, 1], &[0; 31], &[0; 2]), None);
    assert_eq!(Q4::new([0, 32, 1, 1], &[], &[]), None);
}
