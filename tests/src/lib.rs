//! What the tests across backends share: goldens, networks, backends, tolerances, comparison.
//!
//! The tests themselves are in `tests/tests/`; the goldens, with the script that wrote them, in `tests/golden/`.

pub mod backend;
pub mod bits;
pub mod compare;
pub mod given;
pub mod golden;
pub mod net;
pub mod ops;
pub mod picture;
pub mod pipeline;
pub mod run;
pub mod tolerance;

/// The result of a test: errors say what was being done.
pub type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// An error of core, which has no words of its own.
pub fn said(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
