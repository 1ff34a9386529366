//! The only file that names libm: every transcendental function of this crate goes through it, so that the reference
//! backend gives the same bits on every processor.

/// `e^x`.
#[inline]
pub fn exp(x: f32) -> f32 {
    libm::expf(x)
}

/// Natural logarithm.
#[inline]
pub fn ln(x: f32) -> f32 {
    libm::logf(x)
}

/// Square root, correctly rounded.
#[inline]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// Sine of `x` radians.
#[inline]
pub fn sin(x: f32) -> f32 {
    libm::sinf(x)
}

/// Cosine of `x` radians.
#[inline]
pub fn cos(x: f32) -> f32 {
    libm::cosf(x)
}

/// Hyperbolic tangent.
#[inline]
pub fn tanh(x: f32) -> f32 {
    libm::tanhf(x)
}

/// Error function.
#[inline]
pub fn erf(x: f32) -> f32 {
    libm::erff(x)
}

/// `ln(1 + x)`, accurate near zero.
#[inline]
pub fn ln_1p(x: f32) -> f32 {
    libm::log1pf(x)
}

/// `a * b + c`, rounded once.
#[inline]
pub fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    libm::fmaf(a, b, c)
}

/// The f64 functions, for the few values that need them: schedules, coefficients, time features.
pub mod wide {
    /// `e^x`.
    #[inline]
    pub fn exp(x: f64) -> f64 {
        libm::exp(x)
    }

    /// Natural logarithm.
    #[inline]
    pub fn ln(x: f64) -> f64 {
        libm::log(x)
    }

    /// Square root, correctly rounded.
    #[inline]
    pub fn sqrt(x: f64) -> f64 {
        libm::sqrt(x)
    }

    /// Sine of `x` radians.
    #[inline]
    pub fn sin(x: f64) -> f64 {
        libm::sin(x)
    }

    /// Cosine of `x` radians.
    #[inline]
    pub fn cos(x: f64) -> f64 {
        libm::cos(x)
    }

    /// `ln(1 + x)`, accurate near zero.
    #[inline]
    pub fn ln_1p(x: f64) -> f64 {
        libm::log1p(x)
    }

    /// `e^x - 1`, accurate near zero.
    #[inline]
    pub fn exp_m1(x: f64) -> f64 {
        libm::expm1(x)
    }

    /// `x` to the power of `y`.
    #[inline]
    pub fn pow(x: f64, y: f64) -> f64 {
        libm::pow(x, y)
    }

    /// Tangent of `x` radians.
    #[inline]
    pub fn tan(x: f64) -> f64 {
        libm::tan(x)
    }

    /// The angle in radians whose tangent is `x`.
    #[inline]
    pub fn atan(x: f64) -> f64 {
        libm::atan(x)
    }

    /// Natural logarithm of the gamma function's magnitude.
    #[inline]
    pub fn ln_gamma(x: f64) -> f64 {
        libm::lgamma(x)
    }

    /// The nearest whole number, halves to the even one: what NumPy's `round` does.
    #[inline]
    pub fn round_ties_even(x: f64) -> f64 {
        libm::rint(x)
    }
}
