//! Comparison of values with the truth.

use crate::TestResult;
use crate::tolerance::Tolerance;

/// The relative L2 distance of `got` from `want`: `|got - want| / |want|`, in f64. Infinite for what is no number, and for
/// anything but zeros where only zeros are wanted.
pub fn distance(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    match (error == 0.0, norm == 0.0) {
        (true, _) => 0.0,
        (false, true) => f64::INFINITY,
        _ if error.is_nan() => f64::INFINITY,
        _ => (error / norm).sqrt(),
    }
}

/// The peak signal-to-noise ratio of images from -1 to 1, in decibels.
pub fn psnr(got: &[f32], want: &[f32]) -> f64 {
    let square = |(g, w): (&f32, &f32)| (f64::from(*g) - f64::from(*w)).powi(2);
    let error = got.iter().zip(want).map(square).sum::<f64>() / want.len() as f64;
    if got.len() == want.len() { 10.0 * (4.0 / error).log10() } else { f64::NEG_INFINITY }
}

/// The distance of `got` from `want`.
///
/// # Errors
/// A length that differs, a value that is not finite, a distance above the tolerance; `what` names the case.
pub fn close(what: &str, got: &[f32], want: &[f32], tolerance: Tolerance) -> TestResult<f64> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values instead of {}", got.len(), want.len()).into());
    }
    if let Some(i) = got.iter().position(|v| !v.is_finite()) {
        return Err(format!("{what}: value {i} is {}", got[i]).into());
    }
    let distance = distance(got, want);
    if distance <= tolerance.relative {
        return Ok(distance);
    }
    let worst = (0..got.len()).max_by(|&a, &b| (got[a] - want[a]).abs().total_cmp(&(got[b] - want[b]).abs()));
    let worst = worst.unwrap_or(0);
    Err(format!(
        "{what}: relative error {distance:.2e}, allowed {:.1e} ({}); the worst value is number {worst}: {} instead of {}",
        tolerance.relative, tolerance.reason, got[worst], want[worst]
    )
    .into())
}

/// Fails unless both hold the same bits.
///
/// # Errors
/// The first difference; `what` names the case.
pub fn same_bits(what: &str, got: &[f32], want: &[f32]) -> TestResult {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values instead of {}", got.len(), want.len()).into());
    }
    match got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits()) {
        Some(i) => Err(format!("{what}: value {i} is {:e}, not {:e}", got[i], want[i]).into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((distance(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-12);
        assert_eq!(distance(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(distance(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(distance(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn what_is_wrong_fails() {
        let tolerance = Tolerance { relative: 1e-3, reason: "a test" };
        assert!(close("x", &[1.0005], &[1.0], tolerance).is_ok());
        assert!(close("x", &[1.002], &[1.0], tolerance).is_err());
        assert!(close("x", &[f32::NAN], &[1.0], tolerance).is_err());
        assert!(close("x", &[], &[1.0], tolerance).is_err());
        assert!(same_bits("x", &[0.0], &[-0.0]).is_err());
    }
}
