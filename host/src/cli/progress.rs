//! A progress bar with the time left, on a terminal; nothing elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How the bar looks.
const STEPS: &str = "{bar:40} step {pos} of {len}, {eta} left";

/// The same while pictures are decoded.
const PICTURES: &str = "{bar:40} picture {pos} of {len} decoded";

/// A template that can't be read would only cost the looks.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar on standard error that appears with the first step.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar, unless `quiet` or standard error is no terminal.
    pub(crate) fn new(quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        Self(shown.then(|| {
            let bar = ProgressBar::no_length();
            bar.set_style(style(STEPS));
            bar
        }))
    }

    /// Shows that `done` of `total` steps are done.
    pub(crate) fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            if bar.length() != Some(total) {
                bar.set_style(style(STEPS));
                bar.reset_eta();
                bar.set_length(total);
            }
            bar.set_position(done);
        }
    }

    /// Shows that `done` of `total` pictures are decoded.
    pub(crate) fn decoded(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_style(style(PICTURES));
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Shows for how many shapes of layers, of how many, kernels have been measured.
    pub(crate) fn tuning(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_style(style("measuring kernels, {msg}"));
            bar.set_message(format!("{done} of {total}"));
        }
    }

    /// Shows how long kernels have been compiled.
    pub(crate) fn compiling(&self, time: Duration) {
        if let Some(bar) = &self.0 {
            bar.set_style(style("compiling kernels for this device, {msg}"));
            bar.set_message(format!("{:.1} s", time.as_secs_f64()));
        }
    }

    /// Shows a line above the bar, or where there is no bar by itself.
    pub(crate) fn note(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| super::output::note(text)),
            None => super::output::note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
