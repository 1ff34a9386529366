//! From noise to pictures: options in, files out.

mod collect;
mod controls;
mod decode;
mod edit;
mod generate;
mod guidance;
mod in_memory;
mod layout;
mod noise;
pub(crate) mod open;
mod options;
mod output;
mod phases;
mod preview;
mod produce;
mod prompt;
mod replayed;
mod setup;
mod stages;
mod tokenizers;
mod unclip;
mod words;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use unfog_core::guidance::Guidance;

pub use edit::{Draws, Edit, Kind as EditKind, Mask, Plan, Start};
pub use generate::{Made, draws, generate};
pub(crate) use generate::{at_once, chain_failed, noise_failed, step_failed};
pub use guidance::Guided;
pub use in_memory::sample_in_memory;
pub use noise::{Generator, Source};
pub use options::Options;
pub use output::Output;
pub use phases::Share;
pub use prompt::Loaded;
pub(crate) use replayed::again;
pub use setup::{Setup, Shape};
pub use stages::Stage;

use unfog_core::nn::weights::WeightData;

use crate::backend::{Description, Kind, Leftover, Request, choose};
use crate::error::{Error, Result};
use crate::model::{LoraChoice, Model, Network};
use crate::recipe::{self, Recipe};
use crate::settings::prediction_name;
use crate::stop::Stop;
use crate::tensors::GivenNoise;
use collect::{Collector, Latents};
use controls::Controls;
use preview::Preview;
use produce::produce;
use words::Words;

/// What a run tells while it is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `auto` chose this backend, for this reason.
    Chosen(Kind, String),
    /// A GPU's kernels have been compiled for so long by now; not told where they come from the cache.
    Compiling(Duration),
    /// They are, and that took so long.
    Compiled(Duration),
    /// Shapes of layers whose kernels are measured, and those there are.
    Tuning(u64, u64),
    /// What tuning found.
    Tuned(String),
    /// Steps that are done, and those there are.
    Steps(u64, u64),
    /// Images that are decoded from their latents, and those there are.
    Decoded(u64, u64),
    /// A stage is over, and took so long.
    Took(Stage, Duration),
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
    /// Time of all steps, and of decoding.
    pub sampling: Duration,
    /// How long each stage took, in their order.
    pub stages: Vec<(Stage, Duration)>,
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
    let output = Output::new(&options.out, setup.first, setup.count, setup.picture)?;
    let latents = options.latents_out.as_ref().map(|path| Latents::new(path, &setup, &options.out)).transpose()?;
    let preview = Preview::new(options, &model, &setup)?;
    let mut collector = Collector::new(&setup, output, latents, preview);
    let mut stages = Vec::new();
    let mut told = |event: Event| {
        if let Event::Took(stage, time) = event {
            stages.push((stage, time));
        }
        report(event);
    };
    produce(&model, options, &setup, stop, &mut told, &mut collector)?;
    let opened = collector.opened_at().unwrap_or(start);
    let (start_up, sampling) = (opened.duration_since(start), opened.elapsed());
    let (files, recipe) = collector.finish()?;
    let images = setup.first..setup.first + u64::from(setup.count);
    let class = |i| setup.class.or_else(|| model.classes().and_then(|classes| classes.of_image(i)));
    let classes = images.filter_map(class).collect();
    Ok(Outcome { files, recipe, classes, start_up, sampling, stages })
}

/// The backend to open: what `auto` chooses, or what was asked for, its kernels measured if that was asked for. What the choice leaves
/// is to be kept until the run is over.
pub(crate) fn settle(
    options: &Options,
    model: &Model,
    network: &Network,
    data: &[WeightData<'_>],
    stop: &Stop,
    report: &mut dyn FnMut(Event),
) -> Result<(Request, Leftover)> {
    let (mut request, mut leftover) = (options.backend.clone(), Leftover::default());
    if request.kind == Kind::Auto {
        let size = network.graph().sample_shape().unwrap_or_default();
        let chosen = choose(&request, model, (size.h, size.w), data, stop)?;
        let nothing = if request.tune && chosen.kind != Kind::Vulkan { "; there is nothing to tune" } else { "" };
        report(Event::Chosen(chosen.kind, chosen.why + nothing));
        (request, leftover) = (request.chosen(chosen.kind), chosen.leftover);
    }
    let mut tuning = |done, all| report(Event::Tuning(done, all));
    let (request, found) = request.tuned(&network.graph(), data, stop, &mut tuning)?;
    if let Some(found) = found {
        report(Event::Tuned(found));
    }
    Ok((request, leftover))
}

/// The noise of a chain, of the tensor `name` where it is given.
fn source(options: &Options, setup: &Setup, name: &str) -> Result<Source> {
    let Some(path) = &options.noise_in else { return Ok(Source::Seed(setup.noise, options.seed)) };
    let given = GivenNoise::named(path, name)?;
    given.check(setup.count, setup.channels, setup.height, setup.width)?;
    let needed = draws(setup)?;
    if given.draws() < needed as usize {
        return Err(Error::usage(format!(
            "{} holds {} draws of {name}, but the run makes {needed}",
            path.display(),
            given.draws()
        )));
    }
    Ok(Source::Given(given))
}

fn recipe_of_lora(choice: &LoraChoice) -> recipe::Lora {
    recipe::Lora { file: choice.path.display().to_string(), sha256: String::new(), weight: choice.weight }
}

/// The recipe, but for the fingerprints.
fn recipe(
    options: &Options,
    setup: &Setup,
    model: &Model,
    (words, controls): (Option<&Words>, &Controls),
    ran_on: Description,
) -> Recipe {
    let config = &setup.settings.config;
    Recipe {
        command: if setup.plan.is_some() { "edit" } else { "sample" }.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        model: model.name().into(),
        weights_sha256: String::new(),
        loras: options.loras.iter().map(recipe_of_lora).collect(),
        embeddings: words.map(Words::recipe).unwrap_or_default(),
        controls: controls.recipe(),
        prompt: options.prompt.clone(),
        negative_prompt: setup.loaded.and_then(|loaded| loaded.negative()).and(options.negative.clone()),
        clip_skip: options.clip_skip,
        tokenizer: options.tokenizer.as_ref().map(|path| path.display().to_string()),
        prior_steps: None,
        prior_guidance: None,
        super_res_steps: None,
        prediction: options.prediction.map(|prediction| prediction_name(prediction).into()),
        // Told once it is known.
        vae_tile: None,
        edit: setup.plan.as_ref().map(|plan| plan.edited().clone()),
        restore: None,
        class: setup.class,
        negative: setup.guided.negative,
        guidance: setup.guided.scale,
        guidance_rule: (config.guidance != Guidance::None).then(|| setup.guided.rule.into()),
        guidance_rescale: options.guidance_rescale,
        guidance_interval: options.guidance_interval,
        sampler: setup.settings.sampler.name.into(),
        schedule: setup.settings.schedule_name().into(),
        sigmas: setup.settings.sigmas_name(),
        steps: config.steps,
        eta: config.eta,
        seed: options.seed,
        count: setup.count,
        first: setup.first,
        width: setup.picture.width,
        height: setup.picture.height,
        parity: setup.settings.parity_name().into(),
        noise: options.noise_in.is_none().then(|| setup.noise.name().into()),
        noise_in: options.noise_in.as_ref().map(|path| path.display().to_string()),
        vram: options.backend.vram.filter(|_| ran_on.backend == Kind::Vulkan),
        ran_on,
    }
}
