//! From noise to pictures: options in, files out.

mod generate;
mod options;
mod output;
mod setup;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use generate::{Source, draws, generate};
pub use options::Options;
pub use output::Output;
pub use setup::Setup;

use crate::backend::{Backend, Kind, choose};
use crate::error::{Error, Result};
use crate::files;
use crate::image::Picture;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::stop::Stop;
use crate::tensors::{GivenNoise, write_latents};

/// What a run tells while it is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `auto` chose this backend, for this reason.
    Chosen(Kind, String),
    /// Steps that are done, and those there are.
    Steps(u64, u64),
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The picture files.
    pub files: Vec<PathBuf>,
    /// The recipe.
    pub recipe: Recipe,
    /// The classes of the images, where the model has classes.
    pub classes: Vec<u32>,
    /// Time from the options to the first step: configs, weights, backend.
    pub start_up: Duration,
    /// Time of all steps.
    pub sampling: Duration,
}

/// Makes pictures and writes them.
///
/// # Errors
/// A usage error for options that can't be met, before any work; a failure for what goes wrong later, with no file left half
/// written; [`Error::interrupted`] once `stop` asks for it.
pub fn sample(options: &Options, stop: &Stop, report: &mut dyn FnMut(Event)) -> Result<Outcome> {
    let start = Instant::now();
    let model = Model::open(options.model.as_deref())?;
    options.backend.check()?;
    let setup = Setup::new(&model, options)?;
    let (width, height, channels) = (setup.width, setup.height, setup.channels);
    let network = model.network(height, width)?;
    let output = Output::new(&options.out, setup.first, setup.count, (width, height, channels))?;
    if let Some(path) = &options.latents_out {
        check_latents(path, &output, options, &setup)?;
    }
    let source = source(options, &setup)?;
    let (weights, fingerprint) = model.weights(&network)?;
    stop.check()?;
    let data = weights.data();
    let request = match options.backend.kind {
        Kind::Auto => {
            let chosen = choose(&options.backend, &model, (height, width), &data, stop)?;
            report(Event::Chosen(chosen.kind, chosen.why));
            options.backend.chosen(chosen.kind)
        }
        _ => options.backend.clone(),
    };
    let mut backend = Backend::open(&request, network.graph(), &data, stop)?;
    let (start_up, start) = (start.elapsed(), Instant::now());

    let mut run = Run { latents: Vec::new(), pictures: Vec::new(), files: Vec::new() };
    // Recipes need the weights' fingerprint, which is waited for when the first picture is there.
    let (mut fingerprint, mut known) = (Some(fingerprint), None);
    let ran_on = backend.describe();
    let mut recipe = || -> Result<Recipe> {
        if let Some(fingerprint) = fingerprint.take() {
            known = Some(recipe(options, &setup, &model, ran_on.clone(), fingerprint.finish()?));
        }
        known.clone().ok_or_else(|| Error::failure("the weights' fingerprint could not be computed"))
    };
    let keep_latents = options.latents_out.is_some();
    let mut steps = |done, total| report(Event::Steps(done, total));
    generate(&setup, &model, &mut backend, &source, stop, &mut steps, &mut |first, values| {
        if keep_latents {
            run.latents.extend_from_slice(values);
        }
        for (i, values) in (first..).zip(values.chunks_exact(setup.image_len())) {
            let picture = Picture::from_values(values, width, height, channels)?;
            match output.each() {
                true => run.files.push(output.write_each(&picture, i, &recipe()?)?),
                false => run.pictures.push(picture),
            }
        }
        Ok(())
    })?;
    let sampling = start.elapsed();
    if let Some(path) = &options.latents_out {
        write_latents(path, &run.latents, [setup.count, channels, height, width])?;
    }
    if !output.each() {
        run.files.push(output.write_all(&run.pictures, &recipe()?)?);
    }
    let images = setup.first..setup.first + u64::from(setup.count);
    let class = |i| setup.class.or_else(|| model.classes().and_then(|classes| classes.of_image(i)));
    let classes = images.filter_map(class).collect();
    Ok(Outcome { files: run.files, recipe: recipe()?, classes, start_up, sampling })
}

/// What a run has made so far.
struct Run {
    latents: Vec<f32>,
    pictures: Vec<Picture>,
    files: Vec<PathBuf>,
}

/// The most values that are kept for a latents file.
const MOST_LATENTS: u64 = 1 << 30;

fn check_latents(path: &std::path::Path, output: &Output, options: &Options, setup: &Setup) -> Result<()> {
    files::check_target(path)?;
    if !output.each() && path == options.out {
        return Err(Error::usage("--latents-out and --out name the same file"));
    }
    if u64::from(setup.count).saturating_mul(setup.image_len() as u64) > MOST_LATENTS {
        return Err(Error::usage("--latents-out would be too large").hint("give a smaller --count"));
    }
    Ok(())
}

fn source(options: &Options, setup: &Setup) -> Result<Source> {
    let Some(path) = &options.noise_in else { return Ok(Source::Seed(options.seed)) };
    let given = GivenNoise::read(path)?;
    given.check(setup.count, setup.channels, setup.height, setup.width)?;
    let needed = draws(setup)?;
    if given.draws() < needed as usize {
        return Err(Error::usage(format!(
            "{} holds {} draws of noise, but the run makes {needed}",
            path.display(),
            given.draws()
        )));
    }
    Ok(Source::Given(given))
}

fn recipe(
    options: &Options,
    setup: &Setup,
    model: &Model,
    ran_on: crate::backend::Description,
    weights_sha256: String,
) -> Recipe {
    let config = &setup.settings.config;
    Recipe {
        command: "sample".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        model: model.name().into(),
        weights_sha256,
        class: setup.class,
        guidance: setup.guidance,
        sampler: setup.settings.sampler.name.into(),
        schedule: setup.settings.schedule_name().into(),
        steps: config.steps,
        eta: config.eta,
        seed: options.seed,
        count: setup.count,
        first: setup.first,
        width: setup.width,
        height: setup.height,
        parity: setup.settings.parity_name().into(),
        noise_in: options.noise_in.as_ref().map(|path| path.display().to_string()),
        ran_on,
    }
}
