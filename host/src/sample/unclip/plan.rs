//! What a run of unCLIP is asked for, settled before any work.

use std::sync::Arc;

use unfog_core::guidance::Guidance;
use unfog_core::noise::TorchCpu;

use super::super::edit::Read;
use super::super::generate::draws;
use super::super::guidance::Guided;
use super::super::noise::{Drawn, Generator};
use super::super::options::Options;
use super::super::setup::{Setup, Shape};
use crate::error::{Error, Result};
use crate::image::Picture;
use crate::model::{Embedder, Model, Scheduler, UnClip};
use crate::recipe::Edited;
use crate::settings::{Settings, Wishes};
use crate::tiles::Tile;

/// Steps of the prior and of the decoder, and of the last stage: diffusers' defaults.
const STEPS: usize = 25;
const SUPER_RES_STEPS: usize = 7;
/// Scales of their guidance: diffusers' defaults.
const PRIOR_GUIDANCE: f32 = 4.0;
const DECODER_GUIDANCE: f32 = 8.0;

/// The stages of a run, each a chain.
#[derive(Clone, Debug)]
pub(in super::super) struct Stages {
    /// From noise to an embedding, of a model of texts.
    pub(super) prior: Option<Setup>,
    /// From noise to a small picture.
    pub(super) decoder: Setup,
    /// From noise to a large one.
    pub(super) super_res: Setup,
    /// The picture that others like it are made of, of any other model, and what the recipe says of it.
    pub(super) picture: Option<(Picture, Edited)>,
    /// Scale of the prior's guidance.
    pub(super) prior_guidance: f32,
}

impl Stages {
    /// Whether any stage is guided.
    pub(super) fn guided(&self) -> bool {
        let guided = |setup: &Setup| setup.settings.config.guidance != Guidance::None;
        guided(&self.decoder) || self.prior.as_ref().is_some_and(guided)
    }
}

/// Settles everything that `options` leave open.
///
/// # Errors
/// A usage error for what can't be done with this model.
pub(in super::super) fn setup(model: &Model, unclip: &UnClip, options: &Options) -> Result<Setup> {
    check(model, unclip, options)?;
    let picture = match (&unclip.embedder, &options.edit) {
        (Embedder::Prior { .. }, _) | (_, None) => None,
        (Embedder::Vision { .. }, Some(edit)) => {
            let Read { picture, sha256 } = Read::new(&edit.image)?;
            let image = edit.image.display().to_string();
            Some((picture, Edited { image, image_sha256: sha256, ..Edited::default() }))
        }
    };
    // A text counts, whether somebody gave it or not.
    let plain = Options { prompt: Some(String::new()), negative: None, ..Options::default() };
    let guided = |guidance: Option<f32>, default: f32, options: Options, scheduler: &Scheduler| {
        let options = Options { guidance: Some(guidance.unwrap_or(default)), ..options };
        Guided::new(model, &options, scheduler.config.prediction)
    };
    let default = model.default_guidance().unwrap_or(DECODER_GUIDANCE);
    let rules = Options {
        guidance_rule: options.guidance_rule.clone(),
        guidance_rescale: options.guidance_rescale,
        guidance_interval: options.guidance_interval,
        ..plain.clone()
    };
    let decoder_guided = guided(options.guidance, default, rules, &unclip.decoder_scheduler)?;
    if decoder_guided.guidance.conditions() > 2 {
        return Err(Error::usage(
            "--guidance-rule perp-neg is not for this model: its pictures are guided by two texts",
        ));
    }
    let chain = |scheduler: &Scheduler, wishes: Wishes, (name, default): (&str, usize)| {
        let steps = wishes.steps.unwrap_or(default.min(scheduler.config.train_steps));
        if steps < 2 {
            return Err(Error::usage(format!("{name} {steps}: this stage takes 2 or more")));
        }
        Settings::new(Some(scheduler.clone()), &Wishes { steps: Some(steps), ..wishes })
    };
    let stage = |settings: Settings, guided: &Guided, shape: Shape| Setup {
        settings,
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        picture: shape,
        loaded: None,
        plan: None,
        start: None,
        from: None,
        own: None,
        stages: None,
        drawn: Drawn::default(),
        guided: guided.clone(),
        noise: options.noise,
        class: None,
        first: options.first,
        count: options.count,
    };
    let shape = |network: &Model| {
        let (height, width) = network.size().unwrap_or_default();
        Shape { width, height, channels: network.channels()[0] }
    };
    let mut prior_guidance = 1.0;
    let prior = match &unclip.embedder {
        Embedder::Prior { network, scheduler } => {
            let guided = guided(options.prior_guidance, PRIOR_GUIDANCE, plain, scheduler)?;
            prior_guidance = guided.scale;
            let wishes = Wishes {
                steps: options.prior_steps,
                parity: options.parity,
                guidance: guided.guidance,
                ..Wishes::default()
            };
            Some(stage(chain(scheduler, wishes, ("--prior-steps", STEPS))?, &guided, shape(network)))
        }
        Embedder::Vision { .. } => None,
    };
    let wishes = Wishes {
        sampler: options.sampler.clone(),
        schedule: options.schedule.clone(),
        sigmas: options.sigmas.clone(),
        steps: options.steps,
        eta: options.eta,
        parity: options.parity,
        guidance: decoder_guided.guidance,
        ..Wishes::default()
    };
    let settings = chain(&unclip.decoder_scheduler, wishes, ("--steps", STEPS))?;
    let mut decoder = stage(settings, &decoder_guided, shape(&unclip.decoder));
    let unguided = guided(Some(1.0), 1.0, Options::default(), &unclip.super_res_scheduler)?;
    let wishes = Wishes { steps: options.super_res_steps, parity: options.parity, ..Wishes::default() };
    let settings = chain(&unclip.super_res_scheduler, wishes, ("--super-res-steps", SUPER_RES_STEPS))?;
    let large = shape(&unclip.super_res[0]);
    let mut super_res = stage(settings, &unguided, large);
    // A seed's noise goes on where the stage before left it.
    let before = prior.as_ref().map(after).transpose()?.unwrap_or_default();
    decoder.drawn = before;
    super_res.drawn = after(&decoder)?;
    let Shape { width, height, channels } = large;
    let whole = Setup { width, height, channels, picture: large, ..decoder.clone() };
    let stages = Stages { prior, decoder, super_res, picture, prior_guidance };
    if options.negative.is_some() && !stages.guided() {
        return Err(Error::usage("--negative means nothing without guidance")
            .hint("give --guidance or --prior-guidance a scale other than 1"));
    }
    Ok(Setup { stages: Some(Arc::new(stages)), ..whole })
}

/// What has been drawn of a seed's noise once a stage is over.
fn after(setup: &Setup) -> Result<Drawn> {
    let draws = draws(setup)?;
    let noise = TorchCpu::new(0, setup.first, setup.count as usize, setup.image_len());
    let words = noise.words(draws).and_then(|words| words.checked_add(setup.drawn.words));
    let words = words.ok_or_else(|| Error::usage("the run would draw more noise than a seed has"))?;
    Ok(Drawn { draws: setup.drawn.draws.saturating_add(draws), words })
}

/// Refuses what means nothing to these stages.
fn check(model: &Model, unclip: &UnClip, options: &Options) -> Result<()> {
    let name = model.name();
    if options.count == 0 {
        return Err(Error::usage("--count 0 makes no picture").hint("give 1 or more"));
    }
    if options.first.checked_add(u64::from(options.count)).is_none() {
        return Err(Error::usage("--first and --count lead beyond the last image number"));
    }
    let texts = matches!(unclip.embedder, Embedder::Prior { .. });
    let edit = options.edit.as_ref();
    match (texts, &options.prompt, edit) {
        (true, None, _) => {
            return Err(Error::usage(format!("the model {name} makes what a prompt says")).hint("give --prompt TEXT"));
        }
        (true, _, Some(_)) => {
            return Err(Error::usage(format!("the model {name} makes no pictures of pictures"))
                .hint("an UnCLIPImageVariationPipeline does"));
        }
        (false, Some(_), _) => return Err(Error::usage(format!("--prompt: the model {name} takes no text"))),
        (false, None, None) => {
            return Err(
                Error::usage(format!("the model {name} makes pictures like another")).hint("use unfog edit IMAGE")
            );
        }
        _ => {}
    }
    let refused = [
        ("--lora", !options.loras.is_empty()),
        ("--embedding", !options.embeddings.is_empty()),
        ("--control", !options.controls.is_empty()),
        ("--control-image", !options.control_images.is_empty()),
        ("--control-scale", !options.control_scales.is_empty()),
        ("--control-steps", !options.control_steps.is_empty()),
        ("--clip-skip", options.clip_skip.is_some()),
        ("--prediction", options.prediction.is_some()),
        ("--class", options.class.is_some()),
        ("--vae-tile", matches!(options.vae_tile, Tile::Side(_))),
        ("--prior-steps", !texts && options.prior_steps.is_some()),
        ("--prior-guidance", !texts && options.prior_guidance.is_some()),
        ("--negative", !texts && options.negative.is_some()),
        ("--strength", edit.is_some_and(|edit| edit.strength.is_some())),
        ("--mask", edit.is_some_and(|edit| edit.mask.is_some())),
        ("--image-guidance", edit.is_some_and(|edit| edit.image_guidance.is_some())),
        ("--noise-level", edit.is_some_and(|edit| edit.noise_level.is_some())),
        ("--paste", edit.is_some_and(|edit| edit.paste)),
        ("--invert", edit.is_some_and(|edit| edit.invert)),
        ("--from-class", edit.is_some_and(|edit| edit.from_class.is_some())),
        ("--from-prompt", edit.is_some_and(|edit| edit.from_prompt.is_some())),
        ("--keep-coarse", edit.is_some_and(|edit| edit.keep_coarse.is_some())),
        ("--tune", options.backend.tune),
    ];
    if let Some((option, _)) = refused.into_iter().find(|(_, given)| *given) {
        return Err(Error::usage(format!("{option} means nothing to the model {name}, a chain of unCLIP's networks")));
    }
    let own = model.size().map(|(h, w)| (w, h));
    if let Some((width, height)) = options.size.filter(|size| Some(*size) != own) {
        let (w, h) = own.unwrap_or_default();
        return Err(Error::usage(format!("--size {width}x{height}: the model {name} makes pictures of {w}x{h} alone")));
    }
    if options.noise_in.is_some() && options.noise != Generator::default() {
        return Err(Error::usage("--noise means nothing beside --noise-in"));
    }
    match options.noise {
        Generator::Philox | Generator::TorchCpu => Ok(()),
        other => Err(Error::usage(format!("--noise {} is not for chains of several networks", other.name()))
            .hint("philox and torch-cpu are")),
    }
}

/// Refuses what only these stages take, for any other model.
///
/// # Errors
/// A usage error that names the option.
pub(in super::super) fn refuse_stages(model: &Model, options: &Options) -> Result<()> {
    let given = [
        ("--prior-steps", options.prior_steps.is_some()),
        ("--prior-guidance", options.prior_guidance.is_some()),
        ("--super-res-steps", options.super_res_steps.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::usage(format!("{name}: the model {} has no such stage", model.name()))),
        None => Ok(()),
    }
}
