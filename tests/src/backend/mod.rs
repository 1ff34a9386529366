//! The backends of this machine behind one face.

mod session;

use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use crate::TestResult;
pub use session::Session;

/// A backend and how it is set up.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The ops' twins.
    Reference,
    /// The fast CPU backend.
    Cpu {
        /// Threads; 0 for one a core.
        threads: usize,
    },
}

impl Backend {
    /// Every backend of this machine.
    ///
    /// # Errors
    /// None yet.
    pub fn all() -> TestResult<Vec<Self>> {
        Ok(vec![Backend::Reference, Backend::Cpu { threads: 0 }])
    }

    /// Its name, for messages.
    pub fn name(&self) -> String {
        match self {
            Backend::Reference => "reference".into(),
            Backend::Cpu { threads: 0 } => "cpu".into(),
            Backend::Cpu { threads } => format!("cpu with {threads} threads"),
        }
    }

    /// A graph on this backend, to be run tensor by tensor.
    ///
    /// # Errors
    /// The backend's.
    pub fn session<'a>(
        &self,
        graph: &'a Graph<'a>,
        weights: &'a [WeightData<'a>],
    ) -> TestResult<Box<dyn Session + 'a>> {
        Ok(match self {
            Backend::Reference => Box::new(session::reference(graph, weights)?),
            Backend::Cpu { threads } => Box::new(session::cpu(graph, weights, *threads)?),
        })
    }
}
