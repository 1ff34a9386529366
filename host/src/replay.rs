//! A picture made again from the recipe that it carries, and compared with what it shows, bit by bit.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::backend::{Description, Kind, Request};
use crate::error::{Error, Result};
use crate::image::{Picture, load};
use crate::model::{EmbeddingChoice, LoraChoice, Model};
use crate::recipe::Recipe;
use crate::restore::{self, Content};
use crate::sample::{Edit, Event, Mask, Options, Setup, Share, again};
use crate::settings::{self, parity, prediction};
use crate::stop::Stop;
use crate::tiles::Tile;

/// What may be otherwise than in the recipe.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Where the model is now.
    pub model: Option<PathBuf>,
    /// Where its tokenizer is now.
    pub tokenizer: Option<PathBuf>,
    /// Where the given noise is now.
    pub noise_in: Option<PathBuf>,
    /// The backend to run on instead.
    pub backend: Option<Kind>,
    /// The Vulkan device to run on instead.
    pub device: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Values of the picture: a byte for each channel of each pixel.
    pub values: usize,
    /// How many of them are not what they were.
    pub differing: usize,
    /// How far the farthest is, of 255.
    pub largest: u8,
    /// What the picture was made on.
    pub was: Description,
    /// What it was made on now.
    pub now: Description,
    /// The version that it was made by.
    pub version: String,
}

/// What the built-in model calls itself.
const BUILT_IN: &str = "glyph-tiny";

/// Makes the picture at `path` again and compares.
///
/// # Errors
/// A file without a recipe, or with one that says what is not known; what has become of the model: that it is gone, or has other weights;
/// those of [`crate::sample::sample`].
pub fn replay(path: &Path, changes: &Changes, stop: &Stop, report: &mut dyn FnMut(Event)) -> Result<Comparison> {
    let recipe = Recipe::read_whole(path)?;
    if recipe.restore.is_some() {
        return restored(path, recipe, changes, stop, report);
    }
    let picture = load(path)?;
    let options = options(&recipe, changes)?;
    let model = Model::open(options.model.as_deref())?;
    let (options, setup) = settle(&model, options, &recipe)?;
    let (found, now) = again(&model, &options, &setup, &recipe, stop, report)?;
    let shape = |picture: &Picture| (picture.width(), picture.height(), picture.channels());
    if shape(&found) != shape(&picture) {
        let [a, b] = [&picture, &found].map(|p| format!("{}x{}x{}", p.width(), p.height(), p.channels()));
        return Err(Error::failure(format!("{} has {a} values, and its recipe makes {b}", path.display()))
            .hint("the picture was cut or scaled"));
    }
    let apart = || picture.pixels().iter().zip(found.pixels()).map(|(a, b)| a.abs_diff(*b));
    Ok(Comparison {
        values: picture.pixels().len(),
        differing: apart().filter(|&apart| apart > 0).count(),
        largest: apart().max().unwrap_or(0),
        was: recipe.ran_on,
        now: now.ran_on,
        version: recipe.version,
    })
}

/// As [`replay`], of a picture that was restored.
fn restored(
    path: &Path,
    recipe: Recipe,
    changes: &Changes,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
) -> Result<Comparison> {
    let was = Content::read(path)?;
    let from = (model(&recipe, changes), request(&recipe, changes));
    let (found, now) = restore::again((path, &recipe), from, stop, report)?;
    if was.values.len() != found.values.len() || was.full != found.full {
        let of = |content: &Content| format!("{} values of {}", content.values.len(), content.full);
        return Err(Error::failure(format!(
            "{} has {}, and its recipe makes {}",
            path.display(),
            of(&was),
            of(&found)
        )));
    }
    let apart = || was.values.iter().zip(&found.values).map(|(a, b)| a.abs_diff(*b));
    let largest = apart().max().unwrap_or(0);
    Ok(Comparison {
        values: was.values.len(),
        differing: apart().filter(|&apart| apart > 0).count(),
        largest: (u64::from(largest) * 255).div_ceil(u64::from(was.full.max(1))) as u8,
        was: recipe.ran_on,
        now: now.ran_on,
        version: recipe.version,
    })
}

/// Where the model is.
fn model(recipe: &Recipe, changes: &Changes) -> Option<PathBuf> {
    let own = (recipe.model != BUILT_IN).then(|| PathBuf::from(&recipe.model));
    changes.model.clone().or(own)
}

/// What it is to run on.
fn request(Recipe { ran_on, vram, .. }: &Recipe, changes: &Changes) -> Request {
    let kind = changes.backend.unwrap_or(ran_on.backend);
    let gpu = kind == Kind::Vulkan;
    let recorded = || (ran_on.backend == Kind::Vulkan).then(|| ran_on.device.clone());
    Request {
        kind,
        device: changes.device.clone().or_else(|| recorded().filter(|_| gpu && changes.backend.is_none())),
        precision: ran_on.precision,
        vram: vram.filter(|_| gpu),
        tuned: if gpu { ran_on.tuned.clone() } else { Vec::new() },
        ..Request::default()
    }
}

/// The options that say what the recipe says, but for those that the model may say by itself.
fn options(recipe: &Recipe, changes: &Changes) -> Result<Options> {
    // Named one by one, so that no part of a recipe is left out without a word.
    let Recipe {
        command,
        version: _,
        model: _,
        weights_sha256: _,
        loras,
        embeddings,
        controls,
        prompt,
        negative_prompt,
        clip_skip,
        edit,
        tokenizer,
        prior_steps,
        prior_guidance,
        super_res_steps,
        prediction: predicts,
        vae_tile,
        class,
        negative,
        guidance,
        guidance_rule,
        guidance_rescale,
        guidance_interval,
        sampler: _,
        schedule: _,
        sigmas: _,
        steps,
        eta: _,
        seed,
        count,
        first,
        width,
        height,
        parity: _,
        noise,
        noise_in,
        vram: _,
        ran_on: _,
        restore: _,
    } = recipe;
    if !matches!((command.as_str(), edit), ("sample", None) | ("edit", Some(_))) {
        return Err(Error::failure(format!(
            "the recipe is of the command {command:?}, and only those of sample, edit and restore are known"
        )));
    }
    let options = Options {
        model: self::model(recipe, changes),
        prompt: prompt.clone(),
        loras: loras.iter().map(|l| LoraChoice { path: (&l.file).into(), weight: l.weight }).collect(),
        embeddings: embeddings
            .iter()
            .map(|e| EmbeddingChoice { path: (&e.file).into(), token: Some(e.token.clone()) })
            .collect(),
        controls: controls.iter().map(|control| (&control.model).into()).collect(),
        control_images: controls.iter().map(|control| (&control.image).into()).collect(),
        control_scales: controls.iter().map(|control| control.scale).collect(),
        control_steps: controls
            .iter()
            .map(|control| control.steps.map_or(Share::ALL, |[start, end]| Share { start, end }))
            .collect(),
        clip_skip: *clip_skip,
        edit: edit.as_ref().map(|edit| Edit {
            image: (&edit.image).into(),
            strength: edit.strength,
            mask: edit.mask.as_ref().map(|mask| match edit.mask_sha256 {
                Some(_) => Mask::Picture(mask.into()),
                None => Mask::Auto,
            }),
            image_guidance: edit.image_guidance,
            noise_level: edit.noise_level,
            paste: edit.paste,
            invert: edit.invert,
            from_class: edit.from_class.map(|class| class.to_string()),
            from_prompt: edit.from_prompt.clone(),
            keep_coarse: edit.keep_coarse,
        }),
        tokenizer: changes.tokenizer.clone().or(tokenizer.clone().map(PathBuf::from)),
        prediction: predicts.as_deref().map(prediction).transpose()?,
        class: class.map(|class| class.to_string()),
        negative: negative_prompt.clone().or(negative.map(|class| class.to_string())),
        guidance: Some(*guidance),
        guidance_rule: guidance_rule.clone(),
        guidance_rescale: *guidance_rescale,
        guidance_interval: *guidance_interval,
        steps: Some(*steps),
        prior_steps: *prior_steps,
        prior_guidance: *prior_guidance,
        super_res_steps: *super_res_steps,
        seed: *seed,
        count: *count,
        first: *first,
        size: Some((*width, *height)),
        backend: request(recipe, changes),
        noise: noise.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        noise_in: changes.noise_in.clone().or(noise_in.clone().map(PathBuf::from)),
        // What was decoded as a whole is again, and no otherwise.
        vae_tile: match (vae_tile, prompt) {
            (Some(side), _) => Tile::Side(*side),
            (None, Some(_)) => Tile::Off,
            (None, None) => Tile::default(),
        },
        ..Options::default()
    };
    options.backend.check()?;
    Ok(options)
}

/// Asks for what the model does not do by itself as the recipe says: parity, sampler, schedule, noise levels, share of fresh noise.
fn settle(model: &Model, mut options: Options, recipe: &Recipe) -> Result<(Options, Setup)> {
    let mut setup = Setup::new(model, &options)?;
    if setup.settings.parity_name() != recipe.parity {
        options.parity = Some(parity(&recipe.parity)?);
        setup = Setup::new(model, &options)?;
    }
    if setup.settings.sampler.name != recipe.sampler {
        options.sampler = Some(recipe.sampler.clone());
        setup = Setup::new(model, &options)?;
    }
    if setup.settings.schedule_name() != recipe.schedule {
        options.schedule = Some(recipe.schedule.clone());
        setup = Setup::new(model, &options)?;
    }
    if setup.settings.sigmas_name() != recipe.sigmas {
        options.sigmas = recipe.sigmas.clone();
        setup = Setup::new(model, &options)?;
    }
    if setup.settings.config.eta != recipe.eta && settings::has_eta(setup.settings.sampler) {
        options.eta = Some(recipe.eta);
        setup = Setup::new(model, &options)?;
    }
    let settings = &setup.settings;
    let settled = [
        ("parity", settings.parity_name() == recipe.parity),
        ("sampler", settings.sampler.name == recipe.sampler),
        ("schedule", settings.schedule_name() == recipe.schedule),
        ("sigmas", settings.sigmas_name() == recipe.sigmas),
        ("eta", settings.config.eta == recipe.eta),
    ];
    match settled.iter().find(|(_, same)| !same) {
        None => Ok((options, setup)),
        Some((name, _)) => {
            Err(Error::failure(format!("the model {} can't be run with the recipe's {name}", model.name())))
        }
    }
}
