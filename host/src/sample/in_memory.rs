//! Pictures for a program that takes them as values.

use super::{Event, Options, Setup, generate, open, settle, source};
use crate::error::Result;
use crate::model::Model;
use crate::stop::Stop;

/// Makes pictures as [`super::sample`] does, of an opened model, and writes no file: `sink` is given the index of a batch's
/// first image and the values `[n, c, h, w]` of its images, from -1 to 1. What `options` say of the model and of files is not
/// looked at.
///
/// # Errors
/// Those of [`super::sample`], and the sink's.
///
/// ```
/// use unfog::{model::Model, sample::{Options, sample_in_memory}, stop::Stop};
/// # let backend = unfog::backend::Request { kind: unfog::backend::Kind::Cpu, ..Default::default() };
/// let options = Options { count: 2, steps: Some(2), backend, ..Options::default() };
/// let mut values = Vec::new();
/// sample_in_memory(&Model::open(None)?, &options, &Stop::default(), &mut |_| (), &mut |_, batch| {
///     values.extend_from_slice(batch);
///     Ok(())
/// })?;
/// assert_eq!(values.len(), 2 * 16 * 16);
/// # Ok::<(), unfog::Error>(())
/// ```
pub fn sample_in_memory(
    model: &Model,
    options: &Options,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
    sink: &mut dyn FnMut(u64, &[f32]) -> Result<()>,
) -> Result<()> {
    options.backend.check()?;
    let setup = Setup::new(model, options)?;
    let network = model.network(setup.height, setup.width)?;
    let source = source(options, &setup)?;
    let weights = model.weights(&network)?;
    stop.check()?;
    let data = weights.data();
    let (request, _leftover) = settle(options, model, (setup.height, setup.width), &data, stop, report)?;
    let mut backend = open::open(&request, network.graph(), &data, stop, report)?;
    let mut steps = |done, total| report(Event::Steps(done, total));
    generate(&setup, model, &mut backend, &source, stop, &mut steps, sink)
}
