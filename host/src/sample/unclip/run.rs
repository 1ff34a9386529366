//! The stages, one after the other. Each gives its memory back before the next takes its own.

use std::sync::Arc;

use unfog_core::denoise::Cond;

use super::super::collect::Pending;
use super::super::controls::Controls;
use super::super::generate::{Made, generate};
use super::super::noise::Source;
use super::super::options::Options;
use super::super::produce::Sink;
use super::super::setup::Setup;
use super::super::stages::{Clock, Stage};
use super::super::{Event, recipe, settle, source};
use super::decode::{Told, decode};
use super::embed::Embed;
use super::super_res::SuperRes;
use super::texts::Texts;
use super::{Part, Stages, end_scale, transposed};
use crate::backend::{Backend, Narrowed, Precision, Request};
use crate::error::{Error, Result};
use crate::image::bicubic;
use crate::memory;
use crate::model::{Embedder, Model, UnClip, Weights};
use crate::stop::Stop;

/// Makes the images of a run.
///
/// # Errors
/// Those of the model, the backend, and the sink; [`Error::interrupted`].
pub(in super::super) fn produce(
    model: &Model,
    (unclip, stages): (&UnClip, &Stages),
    options: &Options,
    setup: &Setup,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
    sink: &mut dyn Sink,
) -> Result<()> {
    let given = |setup: &Setup, name: &str| source(options, setup, name);
    let sources = [given(&stages.decoder, "decoder_noise")?, given(&stages.super_res, "super_res_noise")?];
    let texts = Texts::read(model, unclip, options, stages.guided())?;
    let embed = match (&unclip.embedder, &stages.prior, &stages.picture) {
        (Embedder::Prior { network, .. }, Some(prior), _) => {
            Embed::prior(network, unclip.statistics()?, prior, given(prior, "prior_noise")?)?
        }
        (Embedder::Vision { network, extractor }, _, Some((picture, _))) => Embed::vision(network, extractor, picture)?,
        _ => return Err(Error::failure("the run has nothing to make embeddings of")),
    };
    let told = Told::read(unclip, texts.tokens())?;
    let decoder = &stages.decoder;
    let network = unclip.decoder.network_for(decoder.height, decoder.width, told.tokens(texts.tokens()))?;
    let weights = unclip.decoder.weights(&network)?;
    let decoder_part = Part { network, weights };
    let large = unclip.super_res.iter().map(|model| {
        let network = model.network(setup.height, setup.width)?;
        model.weights(&network).map(|weights| Part { network, weights })
    });
    let large = large.collect::<Result<Vec<_>>>()?;
    let all: Vec<&Weights> = [&texts.part.weights, embed.weights(), told.weights(), &decoder_part.weights]
        .into_iter()
        .chain(large.iter().map(|part| &part.weights))
        .collect();
    let fingerprint = Weights::fingerprint_of(&all);
    stop.check()?;
    let data = decoder_part.weights.data();
    let (request, _leftover) = settle(options, &unclip.decoder, &decoder_part.network, &data, stop, report)?;
    drop(data);
    // Text encoders are small beside the other networks, and suffer more.
    let beside = Request { precision: request.precision.min(Precision::F16), ..request.clone() };

    let mut clock = Clock::start();
    let encoded = texts.encode(&beside, stop, report)?;
    clock.took(Stage::Texts, report);
    let mut fingerprint = Some(fingerprint);
    let mut opened = |backend: &Backend<'_>| match fingerprint.take() {
        None => Ok(()),
        Some(fingerprint) => {
            let mut recipe = recipe(options, setup, model, (None, &Controls::default()), backend.describe());
            recipe.negative_prompt = options.negative.clone();
            recipe.prior_steps = stages.prior.as_ref().map(|prior| prior.settings.config.steps);
            recipe.prior_guidance = stages.prior.as_ref().map(|_| stages.prior_guidance);
            recipe.super_res_steps = Some(stages.super_res.settings.config.steps);
            if let Some((_, edited)) = &stages.picture {
                (recipe.command, recipe.edit) = ("edit".into(), Some(edited.clone()));
            }
            sink.opened(Pending::new(recipe, fingerprint, Vec::new()))
        }
    };
    let count = setup.count as usize;
    // A vision tower suffers as a text encoder does; a prior is a network like any other.
    let of_embedder = if stages.prior.is_some() { &request } else { &beside };
    let embeddings = embed.run(&encoded, count, of_embedder, stop, report, &mut |backend| match stages.prior {
        Some(_) => opened(backend),
        None => Ok(()),
    })?;
    clock.took(Stage::Embedding, report);
    let conditions = told.run(&encoded, &embeddings, &beside, stop, report)?;
    let network = (&*unclip.decoder, &decoder_part);
    let small = decode(network, decoder, &sources[0], &conditions, &request, stop, report, &mut opened)?;
    clock.took(Stage::Sampling, report);
    let dim = (embeddings.len() / count.max(1)) as u32;
    sink.between("image_embedding", &embeddings, &[setup.count, dim])?;
    sink.between("decoded", &small, &[setup.count, decoder.channels, decoder.height, decoder.width])?;
    drop(conditions);
    enlarge(
        &unclip.super_res[0],
        &large,
        (decoder, &small),
        &stages.super_res,
        &sources[1],
        &request,
        stop,
        report,
        sink,
    )?;
    clock.took(Stage::SuperRes, report);
    Ok(())
}

/// Makes the pictures `small` of the stage `from` larger, and hands them on.
#[expect(clippy::too_many_arguments, reason = "what a run hands on from hand to hand")]
fn enlarge(
    model: &Model,
    parts: &[Part],
    (from, small): (&Setup, &[f32]),
    setup: &Setup,
    source: &Source,
    request: &Request,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
    sink: &mut dyn Sink,
) -> Result<()> {
    let [first, last] = parts else { return Err(Error::failure("there are no two networks")) };
    let (len, pixels) = (setup.image_len(), setup.height as usize * setup.width as usize);
    let sizes = [[from.height, from.width], [setup.height, setup.width]];
    let planes = bicubic(small, sizes[0], sizes[1], |v| v as f32)?;
    let mut pictures = memory::room(planes.len())?;
    planes.chunks_exact(len).for_each(|planes| pictures.extend(transposed(planes, pixels)));
    drop(planes);
    let stored = [first.weights.data(), last.weights.data()];
    let narrowed =
        [Narrowed::new(request, &first.network, &stored[0])?, Narrowed::new(request, &last.network, &stored[1])?];
    let data = [narrowed[0].data(&stored[0]), narrowed[1].data(&stored[1])];
    let networks = [(first.network.graph(), &data[0][..]), (last.network.graph(), &data[1][..])];
    let mut tables = setup.settings.tables()?;
    let end = tables.schedule()?.timesteps().last().map_or(0.0, |t| *t as f32);
    let mut network = SuperRes::new(request, stop, networks, (&pictures, len), end);
    let own = vec![(0..setup.count).map(Cond::Loaded).collect()];
    let setup = &Setup { own: Some(Arc::new(own)), ..setup.clone() };
    let scale = end_scale(setup)?;
    let mut steps = |done, total| report(Event::Steps(done, total));
    generate(setup, model, &mut network, source, stop, &mut steps, &mut |made| match made {
        Made::Step(step, x0) => sink.glimpse(step, x0),
        // Nothing here is made of a part of a picture.
        Made::Masks(_) => Ok(()),
        Made::Images(first, values) => {
            let mut left = memory::room(values.len())?;
            left.extend(values.iter().map(|v| v * scale));
            sink.sampled(&left)?;
            sink.pictures(first, &left)
        }
    })
}
