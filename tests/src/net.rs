//! Networks: the models of this repository and the small random ones of the goldens.

use unfog::model::Model;
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use crate::TestResult;
use crate::golden::root;

/// A network with its weights, for the rest of the process.
#[derive(Debug)]
pub struct Net {
    /// The model.
    pub model: Model,
    /// The graph for the model's own size of picture.
    pub graph: Graph<'static>,
    /// The weights, as they are stored.
    pub weights: &'static [WeightData<'static>],
    /// Channels, rows and columns of the noisy image.
    pub shape: [usize; 3],
}

impl Net {
    /// Reads the network at `path`, relative to the repository's root.
    ///
    /// # Errors
    /// Those of the loader.
    pub fn open(path: &str) -> TestResult<Self> {
        let model = Model::open(Some(&root().join(path))).map_err(|e| e.report())?;
        let size = model.size().ok_or("a model without a size")?;
        Self::sized(model, size)
    }

    /// The network of a model for images of `h` rows and `w` columns.
    ///
    /// # Errors
    /// Those of the loader.
    pub fn sized(model: Model, size: (u32, u32)) -> TestResult<Self> {
        Self::of_tokens(model, size, None)
    }

    /// The same for prompts of so many tokens, where that is said.
    ///
    /// # Errors
    /// Those of the loader.
    pub fn of_tokens(model: Model, (h, w): (u32, u32), tokens: Option<u32>) -> TestResult<Self> {
        let network = match tokens {
            Some(tokens) => model.network_for(h, w, tokens),
            None => model.network(h, w),
        };
        // Tests are over soon; until then, borrowed networks keep them simple.
        let network: &'static _ = Box::leak(Box::new(network.map_err(|e| e.report())?));
        let weights = model.weights(network).map_err(|e| e.report())?;
        let weights: &'static _ = Box::leak(Box::new(weights));
        let shape = [model.channels()[0], h, w].map(|n| n as usize);
        Ok(Self { model, graph: network.graph(), weights: weights.data().leak(), shape })
    }

    /// Values of a noisy image.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when an image has no value, which can't be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of a prediction.
    pub fn out_len(&self) -> usize {
        self.graph.shape(self.graph.output).len() as usize
    }
}
