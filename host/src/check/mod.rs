//! A device's self-test: every kernel on operands that are known, against the ops' twins, then a whole network.

#[cfg(feature = "vulkan")]
mod cases;
#[cfg(feature = "vulkan")]
mod kernels;

use serde::Serialize;

use crate::backend::{Backend, Kind, Narrowed, Request};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::probe::Probe;
use crate::stop::Stop;

/// The largest relative error (L2) of a right result in f32: what the network's tests hold every backend to.
pub const LARGEST_ERROR: f64 = 1e-5;

/// One op with its operands on one device.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// What was computed.
    pub what: String,
    /// How weights were stored, and which kernels were asked for.
    pub how: String,
    /// The kernels that ran, with their specialization constants.
    pub kernels: Vec<String>,
    /// The relative error (L2), where there is a result.
    pub error: Option<f64>,
    /// What is wrong.
    pub failure: Option<String>,
}

/// A device, checked.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every case, every way.
    pub cases: Vec<Checked>,
    /// Relative error (L2) of an evaluation of glyph-tiny, if it is right.
    pub network_error: Option<f64>,
    /// What is wrong with it.
    pub network_failure: Option<String>,
}

impl Report {
    /// What went wrong.
    pub fn broken(&self) -> impl Iterator<Item = &Checked> {
        self.cases.iter().filter(|case| case.failure.is_some())
    }

    /// Whether everything is right.
    pub fn is_right(&self) -> bool {
        self.network_failure.is_none() && self.broken().next().is_none()
    }
}

/// Runs every case on the device that `request` names and compares it with the twin, then glyph-tiny with the reference.
///
/// # Errors
/// A device that can't be opened; [`Error::interrupted`]. What computes wrongly, or fails, is in the report.
pub fn check(request: &Request, stop: &Stop) -> Result<Report> {
    let cases = cases(request, stop)?;
    let (network_error, network_failure) = match network(request, stop) {
        Ok(error) => (Some(error), None),
        Err(e) => {
            stop.check()?;
            (None, Some(e.to_string()))
        }
    };
    Ok(Report { cases, network_error, network_failure })
}

#[cfg(feature = "vulkan")]
fn cases(request: &Request, stop: &Stop) -> Result<Vec<Checked>> {
    kernels::check(request, stop)
}

#[cfg(not(feature = "vulkan"))]
fn cases(_: &Request, _: &Stop) -> Result<Vec<Checked>> {
    Err(crate::backend::without_vulkan())
}

/// Evaluates glyph-tiny on the backend that `request` names and on the reference. Returns the relative error (L2).
///
/// # Errors
/// Those of the backend; an error above [`LARGEST_ERROR`].
pub fn network(request: &Request, stop: &Stop) -> Result<f64> {
    let model = Model::open(None)?;
    let (h, w) = model.size().unwrap_or((16, 16));
    let network = model.network(h, w)?;
    let weights = model.weights(&network)?;
    let data = weights.data();
    let evaluate = |request: &Request| -> Result<Vec<f32>> {
        let narrowed = Narrowed::new(request, &network, &data)?;
        let data = narrowed.data(&data);
        let mut backend = Backend::open(request, network.graph(), &data, stop)?;
        let mut probe = Probe::new(&network.graph(), 2, &mut backend)?;
        probe.run(&mut backend)?;
        Ok(probe.output().to_vec())
    };
    let expected = evaluate(&Request { kind: Kind::Reference, ..Request::default() })?;
    let found = evaluate(request)?;
    right(&found, &expected).map_err(|e| e.hint("the driver computes wrongly; use --backend cpu"))
}

/// The relative error (L2) of `found`, if it is right.
fn right(found: &[f32], expected: &[f32]) -> Result<f64> {
    let square = |v: f64| v * v;
    let difference: f64 = expected.iter().zip(found).map(|(&e, &f)| square(f64::from(e) - f64::from(f))).sum();
    let size: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    let error = (difference / size).sqrt();
    if expected.len() != found.len() || error.is_nan() || error > LARGEST_ERROR {
        return Err(Error::failure(format!("the result differs from the reference by {error:.1e} (relative, L2)")));
    }
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        assert!(right(&[1.0, 2.0], &[1.0, 2.0]).is_ok_and(|error| error == 0.0));
        assert!(right(&[1.0, 2.001], &[1.0, 2.0]).is_err());
        assert!(right(&[1.0], &[1.0, 2.0]).is_err());
        assert!(right(&[f32::NAN, 2.0], &[1.0, 2.0]).is_err());
        let case = |failure: Option<&str>| Checked {
            what: "one".into(),
            how: "f32".into(),
            kernels: Vec::new(),
            error: None,
            failure: failure.map(str::to_owned),
        };
        let report = |cases, network_failure| Report { cases, network_error: None, network_failure };
        assert!(report(vec![case(None)], None).is_right());
        assert!(!report(vec![case(None), case(Some("wrong"))], None).is_right());
        assert!(!report(vec![case(None)], Some("wrong".into())).is_right());
    }
}
