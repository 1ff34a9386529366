//! Pictures for a program that takes them as values.

use super::collect::Pending;
use super::produce::{Sink, produce};
use super::{Event, Options, Setup};
use crate::error::Result;
use crate::model::Model;
use crate::stop::Stop;

/// Makes pictures as [`super::sample`] does, of an opened model, and writes no file: `sink` is given the index of a batch's
/// first image and the values `[n, c, h, w]` of its pictures, from -1 to 1. What `options` say of the model and of files is not
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
    produce(model, options, &setup, stop, report, &mut Values(sink))
}

/// Hands pictures on.
struct Values<'a>(&'a mut dyn FnMut(u64, &[f32]) -> Result<()>);

impl Sink for Values<'_> {
    fn opened(&mut self, _: Pending) -> Result<()> {
        Ok(())
    }

    fn tiled(&mut self, _: u32) {}

    fn glimpse(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn sampled(&mut self, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn pictures(&mut self, first: u64, values: &[f32]) -> Result<()> {
        (self.0)(first, values)
    }
}
