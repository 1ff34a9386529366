//! A backend's self-test: one evaluation of the built-in network against the reference.

use crate::backend::{Backend, Kind, Request};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::probe::Probe;
use crate::stop::Stop;

/// The largest relative error (L2) of a right result in f32: what the network's tests hold every backend to.
pub const LARGEST_ERROR: f64 = 1e-5;

/// Evaluates glyph-tiny on the backend that `request` names and on the reference. Returns the relative error (L2).
///
/// # Errors
/// Those of the backend; an error above [`LARGEST_ERROR`].
pub fn check(request: &Request, stop: &Stop) -> Result<f64> {
    let model = Model::open(None)?;
    let (h, w) = model.size().unwrap_or((16, 16));
    let network = model.network(h, w)?;
    let weights = model.weights(&network)?;
    let data = weights.data();
    let evaluate = |request: &Request| -> Result<Vec<f32>> {
        let mut backend = Backend::open(request, network.graph(), &data, stop)?;
        let mut probe = Probe::new(&network.graph(), 2)?;
        probe.run(&mut backend)?;
        Ok(probe.output().to_vec())
    };
    let expected = evaluate(&Request { kind: Kind::Reference, ..Request::default() })?;
    let found = evaluate(request)?;
    let square = |v: f64| v * v;
    let difference: f64 = expected.iter().zip(&found).map(|(&e, &f)| square(f64::from(e) - f64::from(f))).sum();
    let size: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    let error = (difference / size).sqrt();
    if error.is_nan() || error > LARGEST_ERROR {
        return Err(Error::failure(format!("the result differs from the reference by {error:.1e} (relative, L2)"))
            .hint("the driver computes wrongly; use --backend cpu"));
    }
    Ok(error)
}
