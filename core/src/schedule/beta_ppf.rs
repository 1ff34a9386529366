//! Quantiles of the beta distribution.

use crate::math::wide;

/// The x for which a beta-distributed value is below x with probability `p`. Parameters are above 0.
///
/// Bisection of the regularised incomplete beta function: 60 halvings, so exact to the last bits of an f64.
pub(super) fn beta_quantile(p: f64, alpha: f64, beta: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return p.clamp(0.0, 1.0);
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if incomplete_beta(middle, alpha, beta) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function, by its continued fraction. Abramowitz and Stegun 1964, 26.5.8.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast below the mean.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta_below(1.0 - x, b, a);
    }
    incomplete_beta_below(x, a, b)
}

fn incomplete_beta_below(x: f64, a: f64, b: f64) -> f64 {
    /// Keeps divisors away from 0. Lentz 1976, in Thompson and Barnett's form.
    const TINY: f64 = 1e-300;
    let away = |v: f64| if v.abs() < TINY { TINY } else { v };
    let log = wide::ln_gamma(a + b) - wide::ln_gamma(a) - wide::ln_gamma(b) + a * wide::ln(x) + b * wide::ln(1.0 - x);
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..300 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away(1.0 + even * d);
        c = away(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away(1.0 + odd * d);
        c = away(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    wide::exp(log) * fraction / a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_scipy() {
        // scipy.stats.beta.ppf(p, a, b), scipy 1.17.1.
        let expected = [
            (0.5, 0.6, 0.6, 0.5),
            (0.1, 0.6, 0.6, 0.03958440558878085),
            (0.9, 0.6, 0.6, 0.9604155944112192),
            (0.05263157894736842, 0.6, 0.6, 0.013671081564469266),
            (0.3, 2.0, 5.0, 0.18180347131894917),
            (0.999, 1.5, 0.7, 0.9999669048121128),
        ];
        for (p, a, b, expected) in expected {
            let q = beta_quantile(p, a, b);
            assert!((q - expected).abs() < 1e-12, "{p} {a} {b}: {q} {expected}");
        }
        assert_eq!([beta_quantile(0.0, 0.6, 0.6), beta_quantile(1.0, 0.6, 0.6)], [0.0, 1.0]);
    }

    #[test]
    fn two_closed_forms() {
        for i in 1..100 {
            let p = f64::from(i) / 100.0;
            // Uniform, and the arcsine distribution.
            assert!((beta_quantile(p, 1.0, 1.0) - p).abs() < 1e-14);
            let arcsine = (core::f64::consts::FRAC_PI_2 * p).sin().powi(2);
            assert!((beta_quantile(p, 0.5, 0.5) - arcsine).abs() < 1e-13, "{p}");
        }
    }
}
