//! Options and a model become the settings of a run; whatever can be refused is refused here, before any work.

use std::sync::Arc;

use unfog_core::denoise::Cond;
use unfog_core::guidance::{Classifier, Guidance, Rule};
use unfog_core::sampler;

use super::controls;
use super::edit::{Given, Kind, Plan, Source, Start, image_guidance, noise_level, own_size, strength};
use super::guidance::Guided;
use super::noise::{Drawn, Generator};
use super::options::Options;
use super::prompt::Loaded;
use super::unclip::{self, Stages};
use crate::error::{Error, Result};
use crate::model::{Autoencoder, Model};
use crate::settings::{Settings, Wishes};
use crate::tiles::Tile;

/// The most values that a picture may have.
const MOST_VALUES: u64 = 1 << 28;

/// The shape of the pictures of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 1 or 3.
    pub channels: u32,
}

impl Shape {
    /// Values of a picture.
    pub fn len(self) -> usize {
        self.height as usize * self.width as usize * self.channels as usize
    }

    /// Whether there is no pixel.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The chain.
    pub settings: Settings,
    /// Rows of what is sampled: the picture, or the latents that it is decoded from.
    pub height: u32,
    /// Columns of it.
    pub width: u32,
    /// Channels of it.
    pub channels: u32,
    /// The pictures.
    pub picture: Shape,
    /// The prompts, once a backend holds them.
    pub loaded: Option<Loaded>,
    /// How it begins from a picture, if from any.
    pub plan: Option<Plan>,
    /// The picture as the network has it, once it is encoded.
    pub start: Option<Arc<Start>>,
    /// The condition that describes the picture that it begins from, of a model without texts.
    pub(super) from: Option<Cond>,
    /// The conditions of each image, `[k, n]`, where a stage before has made them.
    pub(super) own: Option<Arc<Vec<Vec<Cond>>>>,
    /// The chains of unCLIP, of which this is the decoder's with the size of the pictures.
    pub(super) stages: Option<Arc<Stages>>,
    /// What stages before have drawn of the noise.
    pub(super) drawn: Drawn,
    /// What guides it.
    pub guided: Guided,
    /// How the seed becomes noise.
    pub noise: Generator,
    /// The class that was asked for.
    pub class: Option<u32>,
    /// Index of the first image.
    pub first: u64,
    /// Number of images.
    pub count: u32,
}

impl Setup {
    /// Settles everything that `options` leave open, from `model`.
    ///
    /// # Errors
    /// A usage error for what can't be done with this model, a failure for a model that is not whole.
    pub fn new(model: &Model, options: &Options) -> Result<Self> {
        if let Some(unclip) = model.unclip() {
            return unclip::setup(model, unclip, options);
        }
        unclip::refuse_stages(model, options)?;
        if options.count == 0 {
            return Err(Error::usage("--count 0 makes no picture").hint("give 1 or more"));
        }
        if options.first.checked_add(u64::from(options.count)).is_none() {
            return Err(Error::usage("--first and --count lead beyond the last image number"));
        }
        if !options.loras.is_empty() && model.architecture() == "pack" {
            return Err(Error::usage("--lora: the weights of a pack can't be changed").hint("give the model's folder"));
        }
        controls::Choice::all(model, options)?;
        let autoencoder = text(model, options)?;
        let [channels, out_channels] = model.channels();
        let picture_channels = autoencoder.as_ref().map_or(channels, |autoencoder| autoencoder.channels()[1]);
        if picture_channels != 1 && picture_channels != 3 {
            return Err(Error::failure(format!(
                "the model {} makes images of {picture_channels} channels; pictures have 1 or 3",
                model.name()
            )));
        }
        if let Some(latents) = autoencoder.as_ref().map(Autoencoder::latent_channels).filter(|c| *c != channels) {
            return Err(Error::failure(format!(
                "the network samples {channels} channels and the autoencoder makes {latents}"
            )));
        }
        if out_channels != channels && Some(out_channels) != channels.checked_mul(2) {
            return Err(Error::failure(format!(
                "the network takes {channels} channels and predicts {out_channels}, which no sampler can use"
            )));
        }
        let multiple = autoencoder.as_ref().map_or(1, |autoencoder| autoencoder.multiples()[1]);
        let kind = Kind::of(model, autoencoder.as_ref())?;
        let given = options.edit.as_ref().map(Given::read).transpose()?;
        let size = match (options.size, &given) {
            // A model of pixels knows pictures of its own size.
            (None, Some(given)) if autoencoder.is_some() || model.size().is_none() => {
                let (w, h) = given.size(multiple);
                let times = if kind == Kind::Upscale { multiple } else { 1 };
                let larger = (w.saturating_mul(times), h.saturating_mul(times));
                Some(own_size(larger, multiple.saturating_mul(model.multiple()))?)
            }
            (asked, _) => asked,
        };
        let picture = picture(model.pixels(size, multiple)?, picture_channels)?;
        let (width, height) = (picture.width / multiple, picture.height / multiple);
        let scheduler = model.scheduler()?;
        if scheduler.is_none() && options.schedule.is_none() {
            return Err(Error::failure(format!("the model {} has no scheduler_config.json", model.name()))
                .hint("say what it was trained with: --schedule NAME"));
        }
        let own = scheduler.as_ref().map(|scheduler| scheduler.config.prediction);
        let prediction = options.prediction.or(own).unwrap_or_default();
        let guided = match (&options.edit, kind) {
            (Some(edit), Kind::Instruct) => {
                Guided::new(model, options, prediction)?.with_picture(image_guidance(edit))?
            }
            _ => Guided::new(model, options, prediction)?,
        };
        let origin = options.edit.as_ref().map(|edit| Source::new(model, options, edit, kind)).transpose()?.flatten();
        let invert = options.edit.as_ref().is_some_and(|edit| edit.invert);
        if invert && !prediction.is_over_alpha_bar() {
            return Err(Error::usage(format!("--invert means nothing to the model {}: it has no betas", model.name()))
                .hint("it goes by ddim"));
        }
        let wishes = Wishes {
            sampler: options.sampler.clone().or_else(|| invert.then(|| sampler::DDIM.name.into())),
            schedule: options.schedule.clone(),
            sigmas: options.sigmas.clone(),
            steps: options.steps,
            eta: options.eta,
            parity: options.parity,
            // A network sees each pixel, or each patch, of what is sampled.
            tokens: (width / model.patch()).checked_mul(height / model.patch()),
            guidance: guided.guidance,
            prediction: options.prediction,
            strength: within_strength(model, options, kind)?,
        };
        let mut settings = Settings::new(scheduler, &wishes)?;
        if invert {
            Source::settle(&mut settings)?;
        }
        let plan = match (&options.edit, &given) {
            (Some(edit), Some(given)) => {
                let steps = (settings.config.steps, settings.is_within_strength());
                let (shape, noise) = match kind {
                    Kind::Upscale => (Shape { width, height, ..picture }, Some(noise_level(model, edit)?)),
                    _ => (picture, None),
                };
                let mut plan = Plan::new(edit, given, kind, autoencoder.as_ref(), noise, shape, steps)?;
                plan.scaled = model.scales_what_it_edits()?;
                plan.check_coarse([width, height])?;
                if let Some(origin) = &origin {
                    plan.came_from(origin.class, origin.prompt.clone());
                }
                Some(plan)
            }
            _ if kind != Kind::Noised => {
                return Err(Error::usage(format!("the model {} makes a picture of another", model.name()))
                    .hint("use unfog edit IMAGE"));
            }
            _ => None,
        };
        let noise = options.noise;
        if noise != Generator::default() && options.noise_in.is_some() {
            return Err(Error::usage("--noise means nothing beside --noise-in"));
        }
        let class = class(model, options)?;
        let (first, count) = (options.first, options.count);
        Ok(Self {
            settings,
            height,
            width,
            channels,
            picture,
            loaded: None,
            plan,
            start: None,
            from: origin.map(|origin| origin.class.map_or(Cond::None, Cond::Class)),
            own: None,
            stages: None,
            drawn: Drawn::default(),
            guided,
            noise,
            class,
            first,
            count,
        })
    }

    /// Values of what is sampled for an image.
    pub fn image_len(&self) -> usize {
        self.height as usize * self.width as usize * self.channels as usize
    }

    /// How many prompts the guidance takes.
    pub(super) fn prompts(&self) -> usize {
        match self.settings.config.guidance {
            Guidance::Classifier(Classifier { rule: Rule::Picture { .. }, .. }) => 2,
            guidance => guidance.conditions(),
        }
    }

    /// The condition that describes the picture that a run begins from, where it takes one.
    pub(super) fn origin(&self) -> Cond {
        self.loaded.and_then(|loaded| loaded.from).or(self.from).unwrap_or_default()
    }

    /// The conditions of `n` images from image number `first` on: `[k, n]`, the wanted ones first.
    pub fn conds(&self, model: &Model, first: u64, n: usize) -> Vec<Cond> {
        if let Some(own) = &self.own {
            let before = usize::try_from(first.saturating_sub(self.first)).unwrap_or(usize::MAX);
            return own.iter().flat_map(|conds| conds.iter().skip(before).take(n)).copied().collect();
        }
        if let Some(Loaded { wanted, others, .. }) = self.loaded {
            let all = std::iter::once(wanted).chain(others.into_iter().flatten());
            let own = |cond| self.start.as_ref().and_then(|start| start.conds(cond, first, n)).map(<[Cond]>::to_vec);
            return all.flat_map(|cond| own(cond).unwrap_or_else(|| vec![cond; n])).collect();
        }
        let of_image = |i| self.class.or_else(|| model.classes().and_then(|classes| classes.of_image(first + i)));
        let mut conds: Vec<Cond> = (0..n as u64).map(|i| of_image(i).map_or(Cond::None, Cond::Class)).collect();
        if self.settings.config.guidance != Guidance::None {
            let null = model.classes().and_then(|classes| classes.null()).map_or(Cond::None, Cond::Class);
            // Most rules lead away from the negative class where others lead away from none; one takes both.
            let negative = self.guided.negative.map(Cond::Class);
            let others = match self.settings.config.guidance.conditions() {
                3 => [Some(null), negative],
                _ => [Some(negative.unwrap_or(null)), None],
            };
            others.into_iter().flatten().for_each(|cond| conds.extend(std::iter::repeat_n(cond, n)));
        }
        conds
    }
}

/// The strength of an edit by LCM's own rule, as diffusers' pipelines of consistency models have it; none for any other edit.
fn within_strength(model: &Model, options: &Options, kind: Kind) -> Result<Option<f64>> {
    match &options.edit {
        Some(edit) if kind == Kind::Noised && edit.mask.is_none() && model.is_of_consistency()? => {
            strength(edit, kind).map(Some)
        }
        _ => Ok(None),
    }
}

/// Checks what `options` say of prompts. Returns the autoencoder of a model that makes latents.
fn text(model: &Model, options: &Options) -> Result<Option<Autoencoder>> {
    let autoencoder = model.autoencoder()?;
    let prompted = autoencoder.is_some() && !model.text_encoders()?.is_empty();
    if model.takes_embedding() && !prompted {
        return Err(Error::failure(format!(
            "the model {} takes an embedding as its condition, and has no text encoder and autoencoder beside it",
            model.name()
        ))
        .hint("give the folder or the file of the whole pipeline"));
    }
    match (prompted, &options.prompt) {
        (true, None) => {
            Err(Error::usage(format!("the model {} makes what a prompt says", model.name())).hint("give --prompt TEXT"))
        }
        (false, Some(_)) => Err(Error::usage(format!("--prompt: the model {} takes no text", model.name()))),
        (false, None) if !options.embeddings.is_empty() => {
            Err(Error::usage(format!("--embedding: the model {} takes no text", model.name())))
        }
        (false, None) if options.clip_skip.is_some() => {
            Err(Error::usage(format!("--clip-skip: the model {} takes no text", model.name())))
        }
        (false, None) if options.tokenizer.is_some() => {
            Err(Error::usage(format!("--tokenizer: the model {} takes no text", model.name())))
        }
        (false, None) if options.vae_tile != Tile::default() && autoencoder.is_none() => {
            Err(Error::usage(format!("--vae-tile: the model {} has no autoencoder", model.name())))
        }
        _ => Ok(autoencoder),
    }
}

/// The shape of pictures of this width and height.
fn picture((width, height): (u32, u32), channels: u32) -> Result<Shape> {
    if u64::from(width) * u64::from(height) * u64::from(channels) > MOST_VALUES {
        return Err(Error::usage(format!("pictures of {width}x{height} are too large")));
    }
    Ok(Shape { width, height, channels })
}

fn class(model: &Model, options: &Options) -> Result<Option<u32>> {
    match (&options.class, model.classes()) {
        (None, Some(classes)) if classes.count() == 0 => {
            Err(Error::usage("this network takes a class and names none").hint("give --class N"))
        }
        // What is made of a picture shows what the picture does, whatever that is.
        (None, Some(classes)) if options.edit.is_some() => classes.unknown("--class").map(Some),
        (None, _) => Ok(None),
        (Some(text), Some(classes)) => classes.find(text).map(Some),
        (Some(_), None) => Err(Error::usage(format!("--class: the model {} has no classes", model.name()))),
    }
}
