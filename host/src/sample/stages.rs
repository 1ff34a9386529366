//! How long the stages of a run take.

use std::time::{Duration, Instant};

use super::Event;

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The text encoders, opened and run.
    Texts,
    /// What makes unCLIP's embeddings, opened and run.
    Embedding,
    /// The network's backend, opened.
    Opening,
    /// All steps of all images; of a model without an autoencoder with the writing of their files.
    Sampling,
    /// The decoder, opened and run, and files written.
    Decoding,
    /// unCLIP's last stage, opened and run, and files written.
    SuperRes,
}

impl Stage {
    /// What the stage does, in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Texts => "texts",
            Self::Embedding => "embedding",
            Self::Opening => "opening",
            Self::Sampling => "sampling",
            Self::Decoding => "decoding",
            Self::SuperRes => "super-resolution",
        }
    }
}

/// Tells how long stages take that follow one another.
pub(super) struct Clock(Instant);

impl Clock {
    /// The first stage begins.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// This stage is over, and the next one begins.
    pub(super) fn took(&mut self, stage: Stage, report: &mut dyn FnMut(Event)) {
        let now = Instant::now();
        let took: Duration = now.duration_since(self.0);
        self.0 = now;
        report(Event::Took(stage, took));
    }
}
