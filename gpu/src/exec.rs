//! The Vulkan backend behind the seam between sampling and networks.

use crate::device::Context;
use crate::error::GpuError;
use crate::network::{Network, Options, Stats};
use crate::transfer::padded;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::{Graph, Input, WeightId, WeightUse};
use unfog_core::nn::layout::{interleave, planar};
use unfog_core::nn::project::{self, InputError};
use unfog_core::nn::weights::WeightData;

/// A network on a Vulkan device that denoises.
///
/// The same input gives the same bits from run to run, alone or in a batch.
#[derive(Debug)]
pub struct VulkanDenoiser<'w> {
    network: Network<'w>,
    /// Weights that the host reads to make features, by number; the others are empty.
    host_weights: Vec<Vec<f32>>,
    embeddings: Vec<Vec<f32>>,
}

impl<'w> VulkanDenoiser<'w> {
    /// Plans memory, uploads the weights and compiles the pipelines. Weight i of the graph is `weights[i]`.
    ///
    /// # Errors
    /// Those of [`Network::new`].
    pub fn new(
        context: &Context,
        graph: &Graph<'_>,
        weights: &[WeightData<'w>],
        options: Options,
    ) -> Result<Self, GpuError> {
        let network = Network::new(context, graph, weights, options)?;
        let host = |(weight, data): (&unfog_core::nn::graph::Weight, &WeightData<'_>)| match weight.role {
            WeightUse::Host => (0..data.len()).map(|i| data.at(i)).collect(),
            _ => Vec::new(),
        };
        let host_weights = graph.weights.iter().zip(weights).map(host).collect();
        Ok(Self { network, host_weights, embeddings: Vec::new() })
    }

    /// Looks at `stop` between submissions and ends with [`GpuError::Stopped`] once it is set.
    pub fn stop_when(&mut self, stop: Arc<AtomicBool>) {
        self.network.stop = stop;
    }

    /// Loads a condition: the values of the network's embeddings, each `[pixels, channels]`, one after the other. For use as
    /// [`Cond::Loaded`] with the number returned.
    ///
    /// # Errors
    /// [`GpuError::Input`] when the network takes none or one of another length.
    pub fn load_embedding(&mut self, values: &[f32]) -> Result<u32, GpuError> {
        let len = self.network.graph().interface().map_or(0, |interface| interface.embedding);
        if len == 0 || len != values.len() {
            return Err(InputError::Length.into());
        }
        self.embeddings.push(values.to_vec());
        Ok(self.embeddings.len() as u32 - 1)
    }

    /// Forgets every loaded embedding.
    pub fn clear_embeddings(&mut self) {
        self.embeddings.clear();
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.network.stats()
    }

    /// The graph on the device.
    pub fn network(&self) -> &Network<'w> {
        &self.network
    }

    /// The graph on the device, to run parts of it.
    pub fn network_mut(&mut self) -> &mut Network<'w> {
        &mut self.network
    }

    /// Sets every input of image `slot` of the batch.
    fn fill(&mut self, slot: usize, x: &[f32], t: f32, cond: Cond) -> Result<(), GpuError> {
        let inputs: Vec<_> = self.network.graph().inputs().collect();
        let find = |number: u32| self.embeddings.get(number as usize).map(Vec::as_slice);
        let mut loaded = project::loaded(self.network.graph().interface(), cond, find)?;
        for (id, input, shape) in inputs {
            if input == Input::Sample {
                let space = self.network.input_mut(id, slot).ok_or(InputError::Length)?;
                interleave(x, shape, padded(shape), space);
                continue;
            }
            let weight = |id: WeightId| self.host_weights.get(usize::from(id.0)).map(|w| WeightData::F32(w));
            let mut values = vec![0.0; shape.len() as usize];
            project::fill((input, shape), t, cond, weight, &mut loaded, &mut values)?;
            self.network.set_input(id, slot, &values)?;
        }
        Ok(())
    }
}

impl Denoise for VulkanDenoiser<'_> {
    type Error = GpuError;

    fn out_len(&self) -> usize {
        let graph = self.network.graph();
        graph.shape(graph.output).len() as usize
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), GpuError> {
        let (images, evaluations) = project::check(self.network.graph().interface(), x, conds, out.len())?;
        let (len, out_len) = (x.len() / images, self.out_len());
        let shape = {
            let graph = self.network.graph();
            graph.shape(graph.output)
        };
        let batch = self.network.max_images();
        for first in (0..evaluations).step_by(batch) {
            let count = batch.min(evaluations - first);
            self.network.prepare(count)?;
            for slot in 0..count {
                let image = (first + slot) % images * len;
                self.fill(slot, &x[image..image + len], t, conds[first + slot])?;
            }
            self.network.execute()?;
            for slot in 0..count {
                let to = &mut out[(first + slot) * out_len..][..out_len];
                let values = self.network.padded_output(slot).ok_or(InputError::Length)?;
                planar(values, shape, padded(shape), to);
            }
        }
        Ok(())
    }
}
