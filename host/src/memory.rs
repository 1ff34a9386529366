//! Memory is known before it is taken: what does not fit is refused with the number.

use std::collections::TryReserveError;

use serde::Serialize;
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};

use crate::backend::Kind;
use crate::error::{Error, Result};

/// Bytes that this machine can still give, where the system tells (Linux).
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Memory that a network takes on a backend, in bytes: known before any is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// The backend.
    pub backend: Kind,
    /// The device, of a GPU.
    pub device: Option<String>,
    /// Weights as the backend holds them; those that are read where they lie in their file are none.
    pub weight_bytes: u64,
    /// Weights that are sent to the device anew for each evaluation.
    pub streamed_bytes: u64,
    /// The window that those go through.
    pub window_bytes: u64,
    /// Activations and scratch memory, for one image.
    pub plan_bytes: u64,
    /// The largest scratch memory of a layer: a part of these.
    pub workspace_bytes: u64,
    /// Buffers for what goes to the device and comes back, for one image.
    pub transfer_bytes: u64,
    /// The most images at once.
    pub images: usize,
    /// Why the network can't run there.
    pub refused: Option<String>,
}

impl Needs {
    /// Nothing.
    pub fn new(backend: Kind) -> Self {
        Self {
            backend,
            device: None,
            weight_bytes: 0,
            streamed_bytes: 0,
            window_bytes: 0,
            plan_bytes: 0,
            workspace_bytes: 0,
            transfer_bytes: 0,
            images: 1,
            refused: None,
        }
    }

    /// Everything, with one image at a time.
    pub fn total(&self) -> u64 {
        let parts = [self.weight_bytes, self.window_bytes, self.plan_bytes, self.transfer_bytes];
        parts.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }
}

/// Bytes of activations for one image, as planned for `target`.
///
/// # Errors
/// A network that has no plan.
pub(crate) fn plan_bytes(graph: &Graph<'_>, target: &Target) -> Result<u64> {
    let mut slots = vec![Slot::default(); slots_needed(graph)];
    let planned = plan(graph, target, &mut slots)
        .map_err(|e| Error::failure(format!("the network has no memory plan: {e:?}")).hint("try a smaller --size"))?;
    Ok(planned.bytes)
}

/// Fails unless this machine can give `bytes` more.
///
/// # Errors
/// A failure that names both numbers.
pub(crate) fn check(bytes: u64, what: &str) -> Result<()> {
    match available() {
        Some(available) if bytes > available => Err(Error::failure(format!(
            "{what} need {} MB of memory, and this machine has {} MB left",
            bytes.div_ceil(1_000_000),
            available / 1_000_000
        ))
        .hint("try a smaller --size")),
        _ => Ok(()),
    }
}

/// `len` values of `value`, or an error where there is no memory for them.
///
/// # Errors
/// A failure that names the number of bytes.
pub(crate) fn vec<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut values = room(len)?;
    values.resize(len, value);
    Ok(values)
}

/// Empty memory for `len` values.
///
/// # Errors
/// As [`vec`].
pub(crate) fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|e| none(len.saturating_mul(size_of::<T>()), e))?;
    Ok(values)
}

/// Makes `values` as long as `len`, filled up with `value`.
///
/// # Errors
/// As [`vec`].
pub(crate) fn resize<T: Clone>(values: &mut Vec<T>, len: usize, value: T) -> Result<()> {
    let more = len.saturating_sub(values.len());
    values.try_reserve_exact(more).map_err(|e| none(more.saturating_mul(size_of::<T>()), e))?;
    values.resize(len, value);
    Ok(())
}

/// Collects values whose number is known.
///
/// # Errors
/// As [`vec`].
pub(crate) fn collect<T>(from: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut values = room(from.len())?;
    values.extend(from);
    Ok(values)
}

/// Appends copies of `values`.
///
/// # Errors
/// As [`vec`].
pub(crate) fn extend<T: Copy>(to: &mut Vec<T>, values: &[T]) -> Result<()> {
    to.try_reserve(values.len()).map_err(|e| none(size_of_val(values), e))?;
    to.extend_from_slice(values);
    Ok(())
}

/// The error of an allocation that failed.
pub(crate) fn none(bytes: usize, e: TryReserveError) -> Error {
    Error::failure(format!("there is no memory for {bytes} bytes more"))
        .hint("try a smaller --size or --count")
        .because(e)
}

/// A number of bytes above 0: `N`, or with K, M or G that many times 1024, 1024^2 or 1024^3. `None` for anything else.
pub fn parse(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[number.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" | "KIB" => 1024.0,
        "M" | "MB" | "MIB" => 1024.0 * 1024.0,
        "G" | "GB" | "GIB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    // Beyond 2^53 not every number is an f64; no device has as much.
    (1.0..=9e15).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn more_than_there_is_is_refused_with_both_numbers() {
        check(1, "a byte").unwrap();
        let message = check(u64::MAX, "all").unwrap_err().to_string();
        assert!(message.starts_with("all need 18446744073710 MB of memory, and this machine has "), "{message}");
    }

    #[test]
    fn bytes_have_units() {
        for (text, want) in [("1", 1), ("512M", 512 << 20), ("2g", 2 << 30), ("1.5K", 1536), ("3MiB", 3 << 20)] {
            assert_eq!(parse(text), Some(want), "{text}");
        }
        for text in ["", "M", "0", "-1", "1T", "1e", "nan", "inf", "0.5", "12 M", "1e300"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
