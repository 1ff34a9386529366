//! The stages of a run, one after the other: text encoders, the chain, the decoder. Each gives its memory back before the next takes its own.

use std::sync::Arc;

use super::collect::Pending;
use super::controls::Controls;
use super::decode::Decoder;
use super::edit::{Encoder, Kind, Plan, Start};
use super::options::Options;
use super::phases::Phased;
use super::prompt::Prompts;
use super::setup::Setup;
use super::stages::{Clock, Stage};
use super::words::Words;
use super::{Event, Made, generate, open, recipe, settle, source, unclip};
use crate::backend::{Backend, Narrowed, Precision, Request};
use crate::error::Result;
use crate::memory;
use crate::model::{Loras, Model, Part, Weights};
use crate::stop::Stop;

/// Where the images of a run go.
pub(super) trait Sink {
    /// The backend is open: what the run's recipe is.
    fn opened(&mut self, recipe: Pending) -> Result<()>;
    /// Latents are decoded in tiles of this side.
    fn tiled(&mut self, tile: u32);
    /// The images that the network predicted in one of a batch's steps, `[n, c, h, w]`.
    fn glimpse(&mut self, step: usize, x0: &[f32]) -> Result<()>;
    /// What the sampler left of the next images `[n, c, h, w]`.
    fn sampled(&mut self, values: &[f32]) -> Result<()>;
    /// The pictures of the images from number `first` on `[n, c, h, w]`, from -1 to 1.
    fn pictures(&mut self, first: u64, values: &[f32]) -> Result<()>;
    /// What one stage handed to the next, of all images.
    fn between(&mut self, name: &'static str, values: &[f32], shape: &[u32]) -> Result<()> {
        let _ = (name, values, shape);
        Ok(())
    }
}

/// Copies what stays of the picture that a run begins from to what it makes.
struct Pasting<'a> {
    plan: &'a Plan,
    sink: &'a mut dyn Sink,
}

impl Sink for Pasting<'_> {
    fn opened(&mut self, recipe: Pending) -> Result<()> {
        self.sink.opened(recipe)
    }

    fn tiled(&mut self, tile: u32) {
        self.sink.tiled(tile);
    }

    fn glimpse(&mut self, step: usize, x0: &[f32]) -> Result<()> {
        self.sink.glimpse(step, x0)
    }

    fn sampled(&mut self, values: &[f32]) -> Result<()> {
        self.sink.sampled(values)
    }

    fn pictures(&mut self, first: u64, values: &[f32]) -> Result<()> {
        let mut values = values.to_vec();
        self.plan.paste(&mut values);
        self.sink.pictures(first, &values)
    }

    fn between(&mut self, name: &'static str, values: &[f32], shape: &[u32]) -> Result<()> {
        self.sink.between(name, values, shape)
    }
}

/// Makes the images of a run.
///
/// # Errors
/// Those of the model, the backend, and the sink; [`crate::Error::interrupted`].
pub(super) fn produce(
    model: &Model,
    options: &Options,
    setup: &Setup,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
    sink: &mut dyn Sink,
) -> Result<()> {
    if let (Some(unclip), Some(stages)) = (model.unclip(), &setup.stages) {
        return unclip::produce(model, (unclip, stages), options, setup, stop, report, sink);
    }
    let sink: &mut dyn Sink = match setup.plan.as_ref().filter(|plan| plan.pastes()) {
        Some(plan) => &mut Pasting { plan, sink },
        None => sink,
    };
    let source = source(options, setup, "noise")?;
    let mut loras = Loras::open(&options.loras)?;
    let prompts = Prompts::read(model, options, setup, &mut loras)?;
    let size = (setup.height, setup.width);
    let network = match &prompts {
        Some(prompts) => model.network_for(size.0, size.1, prompts.tokens())?,
        None => model.network(size.0, size.1)?,
    };
    let mut weights = model.weights(&network)?;
    let layers = model.condition().and_then(|config| config.levels.first()).map_or(1, |level| level.layers as usize);
    loras.merge(Part::Network { layers }, &network, &[], &mut weights, halves(options))?;
    loras.finish()?;
    let mut controls = Controls::read(model, options, setup)?;
    let tokens = prompts.as_ref().map_or(0, Prompts::tokens);
    let steered = if controls.is_empty() { None } else { Some(controls.network(model, setup, tokens)?) };
    let autoencoder = model.autoencoder()?;
    let encoder = match (&setup.plan, &autoencoder) {
        (Some(plan), Some(autoencoder)) if plan.kind != Kind::Upscale && plan.latents.is_none() => {
            Some(Encoder::read(autoencoder.clone(), [setup.picture.height, setup.picture.width])?)
        }
        _ => None,
    };
    let decoder = autoencoder.map(|autoencoder| Decoder::new(autoencoder, setup, options.vae_tile)).transpose()?;
    let texts = prompts.as_ref().map(Prompts::weights).unwrap_or_default();
    let all: Vec<&Weights> =
        texts.into_iter().chain([&weights]).chain(decoder.as_ref().map(Decoder::weights)).collect();
    let fingerprint = Weights::fingerprint_of(&all);
    let words = prompts.as_ref().map(Prompts::words);
    let fingerprints = loras.fingerprints().into_iter().chain(words.into_iter().flat_map(Words::fingerprints));
    let fingerprints = fingerprints.chain(controls.fingerprints()).collect();
    stop.check()?;
    let data = weights.data();
    let (request, _leftover) = settle(options, model, &network, &data, stop, report)?;

    // Text encoders and decoders are small beside the network, and suffer more.
    let beside = Request { precision: request.precision.min(Precision::F16), ..request.clone() };
    let picture = [setup.picture.width, setup.picture.height];
    let mut clock = Clock::start();
    let conditions = prompts.as_ref().map(|prompts| prompts.encode(&beside, picture, stop)).transpose()?;
    let hints = controls.hints(&beside, stop)?;
    let phases = controls.phases(setup)?;
    if prompts.is_some() {
        clock.took(Stage::Texts, report);
    }
    let (network, data) = match &steered {
        Some(steered) => (steered, controls.data(steered, &data)),
        None => (&network, data),
    };
    let begun = setup
        .plan
        .as_ref()
        .map(|plan| Start::new(plan, setup, encoder.as_ref(), &beside, &mut *source.noise(setup), stop));
    let mut start = begun.transpose()?;
    drop(encoder);
    let narrowed = Narrowed::new(&request, network, &data)?;
    let data = narrowed.data(&data);
    let mut backend = open::open(&request, network.graph(), &data, stop, report)?;
    let (mut loaded, mut count) = (None, 0);
    for (number, kind) in phases.kinds().iter().enumerate() {
        let (Some(prompts), Some(conditions)) = (&prompts, &conditions) else { break };
        let [features, hints] = hints.told(kind)?;
        let mut hand = |parts: &[&[f32]]| {
            count += u32::from(number == 0);
            backend.load_embedding(&joined(parts)?)
        };
        let conditions = conditions.iter().map(|condition| joined(&[condition, &features]));
        let conditions = conditions.collect::<Result<Vec<_>>>()?;
        let mut load = |values: &[f32]| match &mut start {
            Some(start) => start.load(values, &hints, &mut hand),
            None => hand(&[values, &hints]),
        };
        let mut of_kind = prompts.load(&conditions, &mut load)?;
        // Guided by text and picture: beside the wanted condition none of them, and the picture alone.
        if let (Some(other), Some(start)) = (prompts.other(), start.as_ref().filter(|start| start.instructs())) {
            let none = conditions.get(other).map(|values| start.load_without(values, &hints, &mut hand)).transpose()?;
            of_kind.others = [none, of_kind.others.into_iter().flatten().next()];
        }
        loaded.get_or_insert(of_kind);
    }
    let setup = &Setup { loaded, start: start.map(Arc::new), ..setup.clone() };
    clock.took(Stage::Opening, report);
    let recipe = recipe(options, setup, model, (words, &controls), backend.describe());
    sink.opened(Pending::new(recipe, fingerprint, fingerprints))?;

    let (mut latents, mut masks) = (Vec::new(), Vec::new());
    let mut steps = |done, total| report(Event::Steps(done, total));
    let mut network = Phased::new(&mut backend, phases, count);
    generate(setup, model, &mut network, &source, stop, &mut steps, &mut |made| {
        let (first, values) = match made {
            Made::Step(step, x0) => return sink.glimpse(step, x0),
            Made::Images(first, values) => (first, values),
            Made::Masks(values) => return memory::extend(&mut masks, values),
        };
        sink.sampled(values)?;
        match &decoder {
            Some(_) => memory::extend(&mut latents, values),
            None => sink.pictures(first, values),
        }
    })?;
    drop::<Backend<'_>>(backend);
    if !masks.is_empty() {
        sink.between("mask", &masks, &[setup.count, setup.height, setup.width])?;
    }
    clock.took(Stage::Sampling, report);
    let Some(decoder) = decoder else { return Ok(()) };
    let count = u64::from(setup.count);
    let mut decoded = |done| report(Event::Decoded(done, count));
    decoder.run(setup, &beside, &mut latents, stop, &mut decoded, sink)?;
    clock.took(Stage::Decoding, report);
    Ok(())
}

/// Values one after the other.
fn joined(parts: &[&[f32]]) -> Result<Vec<f32>> {
    let mut values = memory::room(parts.iter().map(|part| part.len()).sum())?;
    parts.iter().for_each(|part| values.extend_from_slice(part));
    Ok(values)
}

/// Whether weights that a run changes are held in half floats: where kernels are to have no more bits anyway.
pub(super) fn halves(options: &Options) -> bool {
    options.backend.precision != Precision::F32
}
