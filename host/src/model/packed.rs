//! A model in one file that `unfog pack` wrote.

use std::path::Path;
use std::sync::Arc;

use unfog_core::config::Config;
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Input, Interface, Projection, WeightId};
use unfog_core::nn::op::Shape;
use unfog_core::nn::weights::WeightData;
use unfog_core::pack::{Memory, Pack, PackError};
use unfog_core::sampler;
use unfog_core::schedule::BetaSchedule;

use super::mapped::{self, Bytes};
use super::network::Network;
use super::scheduler::Scheduler;
use super::weights::WeightFile;
use crate::error::{Error, Result};

/// A pack that was read and checked. Its weights stay in the file.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    file: Arc<WeightFile>,
    network: Network,
    interface: Interface,
    scheduler: Option<Scheduler>,
    notes: Vec<u8>,
}

impl Packed {
    /// Opens the pack at `path`.
    ///
    /// # Errors
    /// A file that is no pack, or a damaged one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = mapped::map(path)?;
        let name = path.display().to_string();
        let refuse = |e| explain(&name, e);
        let pack = Pack::open(&bytes).map_err(refuse)?;
        let interface = Exec::packed(pack).map_err(refuse)?.program().interface();
        let interface =
            interface.ok_or_else(|| Error::failure(format!("the network of the pack {name} takes no image")))?;
        let network = network(&pack).map_err(refuse)?;
        let scheduler = scheduler(&pack, &name)?;
        let notes = pack.notes().to_vec();
        Ok(Self { file: Arc::new(WeightFile { name, bytes }), network, interface, scheduler, notes })
    }

    /// The file, mapped.
    pub(super) fn file(&self) -> Arc<WeightFile> {
        self.file.clone()
    }

    /// The model_index.json of the packed model, if it had one: a name for it and its text.
    pub(super) fn index(&self) -> Option<(String, Vec<u8>)> {
        let name = format!("the model_index.json in {}", self.file.name);
        Some((name, self.notes.clone())).filter(|(_, text)| !text.is_empty())
    }

    /// The noisy image and the prediction.
    pub(super) fn shapes(&self) -> [Shape; 2] {
        [self.interface.sample, self.interface.output]
    }

    /// How a class enters the network, if one does.
    pub(super) fn class(&self) -> Option<Projection> {
        self.network.graph().inputs().find_map(|(_, input, _)| match input {
            Input::Class(projection) => Some(projection),
            _ => None,
        })
    }

    /// Whether the network takes an embedding that somebody else makes.
    pub(super) fn takes_embedding(&self) -> bool {
        self.network.graph().inputs().any(|(_, input, _)| input == Input::Embedding)
    }

    /// What the scheduler of the packed model said.
    pub(super) fn scheduler(&self) -> Option<Scheduler> {
        self.scheduler.clone()
    }

    /// The network, for pictures of `h * w`.
    ///
    /// # Errors
    /// A usage error for another size than the pack was made for.
    pub(super) fn network(&self, h: u32, w: u32) -> Result<Network> {
        let Shape { h: rows, w: columns, .. } = self.interface.sample;
        if (h, w) != (rows, columns) {
            return Err(Error::usage(format!("the pack {} is for pictures of {columns}x{rows}", self.file.name))
                .hint(format!("pack the model again with --size {w}x{h}")));
        }
        Ok(self.network.clone())
    }
}

/// The weights in `bytes`, which were checked when the pack was opened.
pub(super) fn weights<'b>(bytes: &'b Bytes, count: usize) -> Vec<WeightData<'b>> {
    // Without the checksum, which would read all of the file once more.
    let Ok(pack) = Pack::open_header(bytes) else { return Vec::new() };
    (0..count).filter_map(|id| pack.weight(WeightId(id as u16))).map(|(_, data)| data).collect()
}

fn network(pack: &Pack<'_>) -> std::result::Result<Network, PackError> {
    let counts = pack.counts();
    let mut nodes = vec![EMPTY_NODE; counts.nodes];
    let mut tensors = vec![EMPTY_TENSOR; counts.tensors];
    let mut weights = vec![EMPTY_WEIGHT; counts.weights];
    let mut data = vec![WeightData::F32(&[]); counts.weights];
    let memory = Memory { nodes: &mut nodes, tensors: &mut tensors, weights: &mut weights, data: &mut data };
    let (graph, _) = pack.load(memory)?;
    // Packs hold no names.
    let names = (0..counts.weights).map(|id| format!("number {id}")).collect();
    Ok(Network::copy(&graph, names))
}

fn scheduler(pack: &Pack<'_>, name: &str) -> Result<Option<Scheduler>> {
    let Some(settings) = pack.settings().map_err(|e| explain(name, e))? else { return Ok(None) };
    let sampler = sampler::find(settings.sampler).ok_or_else(|| {
        Error::failure(format!("the pack {name} asks for the sampler {:?}, which unfog doesn't know", settings.sampler))
    })?;
    let Config { betas, .. } = settings.config;
    let trained_betas = (betas == BetaSchedule::Trained).then(|| {
        // A pack holds what became of the betas; they come back but for the last bits.
        let before = std::iter::once(1.0).chain(settings.alpha_bar.iter().map(|a| f64::from(*a)));
        let beta = |(a, before): (&f32, f64)| (1.0 - f64::from(*a) / before).clamp(0.0, 1.0) as f32;
        settings.alpha_bar.iter().zip(before).map(beta).collect()
    });
    Ok(Some(Scheduler::of(settings.config, sampler, trained_betas)))
}

fn explain(name: &str, e: PackError) -> Error {
    let error = |what: String| Error::failure(format!("{name} {what}"));
    match e {
        PackError::Magic => error("is neither a model's folder nor a pack".into())
            .hint("give a folder as diffusers saves it, or a file that unfog pack wrote"),
        PackError::Version { format, abi } => error(format!(
            "is a pack of another version: format {format} for core {abi}, and this is format {} for core {}",
            unfog_core::pack::FORMAT,
            unfog_core::pack::ABI
        ))
        .hint("pack the model again"),
        PackError::Length { said, given } => error(format!("has {given} bytes and should have {said}: it was cut off")),
        PackError::Checksum => error("was damaged: its checksum is wrong".into()),
        e => error(format!("can't be read as a pack: {e:?}")),
    }
}
