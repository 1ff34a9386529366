//! Restoration: noise, missing pixels, small size, blur and lost colour made good by a model of pixels that has learned what pictures look like.
//! No training for the task, no gradients: see [`unfog_core::solve`].

mod chain;
mod estimate;
mod lost;
mod noise;
mod one;
mod places;
mod quality;
mod report;
mod source;
mod strip;
mod task;
mod tiled;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use unfog_core::config::Parity;
use unfog_core::sampler::RESTORE;

pub use estimate::noise_level;
pub use noise::NoiseModel;
pub use quality::{Quality, quality};
pub use task::{Kernel, Method, Task, Travel};

use crate::backend::{Backend, Narrowed, Request};
use crate::error::{Error, Result};
use crate::model::{Model, Weights};
use crate::recipe::Recipe;
use crate::sample::{self, Setup, open, settle};
use crate::scan::Window;
use crate::stop::Stop;
use one::Run;
use places::{Job, Places};
pub(crate) use source::Content;

/// What a run of `restore` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Folder of the model, or the built-in one.
    pub model: Option<PathBuf>,
    /// Pictures, and folders of them.
    pub inputs: Vec<PathBuf>,
    /// Where the result goes: a file, or of several pictures a folder; `restored.png` or `restored` if absent.
    pub out: Option<PathBuf>,
    /// What is to be made good.
    pub task: Task,
    /// How.
    pub method: Method,
    /// Standard deviation of the pictures' noise, of 255: if absent, for [`Task::Denoise`] estimated, of a blurred picture that of rounding, else
    /// none.
    pub noise: Option<f32>,
    /// What the noise of [`Task::Denoise`] is like; of another than Gaussian `noise` is that of each measurement.
    pub noise_model: NoiseModel,
    /// Of [`NoiseModel::PoissonGaussian`]: how much variance a step of 255 of intensity adds.
    pub gain: Option<f32>,
    /// Of scans: what the network sees of their range; if absent, what the file says.
    pub window: Option<Window>,
    /// Of [`Task::Inpaint`]: a picture of the same size, or a folder with one for each; what is white is missing.
    pub mask: Option<PathBuf>,
    /// Of [`Task::Upscale`]: how many times as large.
    pub factor: u32,
    /// Of [`Task::Upscale`]: how the picture was made smaller.
    pub kernel: Kernel,
    /// Of [`Task::Deblur`]: standard deviation of the Gaussian blur, in pixels.
    pub blur: f32,
    /// Samples, of which the mean is the result.
    pub samples: u32,
    /// Number of the first sample: sample i of a seed is always the same.
    pub first: u64,
    /// How often the chain goes back.
    pub travel: Travel,
    /// Steps; 50 if absent.
    pub steps: Option<usize>,
    /// Share of fresh noise, 0 to 1; if absent what the method's authors take.
    pub eta: Option<f32>,
    /// Class of the pictures, by number or name, of a model of classes; "no class" if absent.
    pub class: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Where to compute.
    pub backend: Request,
    /// What the pictures should be: a picture, or a folder with one for each. The result is compared with it.
    pub reference: Option<PathBuf>,
    /// Whether the samples' standard deviation is written too: `NAME.uncertainty.png`, 16 bits, 65535 is the picture's whole range.
    pub uncertainty: bool,
    /// Factor on it.
    pub spread: f32,
    /// Whether what there was, what became of it, the uncertainty and the reference are written side by side: `NAME.strip.png`.
    pub strip: bool,
    /// Whether what was done is written, too: `NAME.report.json`.
    pub report: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: None,
            inputs: Vec::new(),
            out: None,
            task: Task::default(),
            method: Method::default(),
            noise: None,
            noise_model: NoiseModel::default(),
            gain: None,
            window: None,
            mask: None,
            factor: 4,
            kernel: Kernel::default(),
            blur: 2.0,
            samples: 1,
            first: 0,
            travel: Travel::NONE,
            steps: None,
            eta: None,
            class: None,
            seed: 0,
            backend: Request::default(),
            reference: None,
            uncertainty: false,
            spread: 1.0,
            strip: false,
            report: false,
        }
    }
}

impl Options {
    /// Checks what can be wrong without any file.
    fn check(&self) -> Result<()> {
        let usage = |text: String| Err(Error::usage(text));
        if self.inputs.is_empty() {
            return usage("no picture is given".into());
        }
        if self.method == Method::Mean && self.task != Task::Denoise {
            return usage("--method mean is for --task denoise".into());
        }
        if let Some(noise) = self.noise.filter(|noise| !(0.0..=255.0).contains(noise)) {
            return usage(format!("--noise {noise} is not from 0 to 255"));
        }
        self.check_noise_model()?;
        match (self.task, &self.mask) {
            (Task::Inpaint, None) => return usage("--task inpaint needs --mask IMAGE".into()),
            (Task::Inpaint, Some(_)) | (_, None) => {}
            (_, Some(_)) => return usage("--mask is for --task inpaint".into()),
        }
        if self.task == Task::Upscale && !(2..=16).contains(&self.factor) {
            return usage(format!("--factor {} is not from 2 to 16", self.factor));
        }
        if self.task == Task::Deblur && !(self.blur > 0.0 && self.blur <= 64.0) {
            return usage(format!("--blur {} is not above 0 and at most 64", self.blur));
        }
        if self.samples == 0 || self.first.checked_add(u64::from(self.samples)).is_none() {
            return usage("--samples must be 1 or more".into());
        }
        if self.uncertainty && self.samples < 2 {
            return usage("--uncertainty needs --samples 2 or more".into());
        }
        if let Some(eta) = self.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            return usage(format!("--eta {eta} is not from 0 to 1"));
        }
        if self.eta.is_some() && self.method.eta().is_none() {
            return usage(format!("--eta means nothing to --method {}", self.method.name()));
        }
        if !(self.spread.is_finite() && self.spread > 0.0) {
            return usage(format!("--spread {} is not above 0", self.spread));
        }
        Ok(())
    }

    /// Checks what the noise is said to be like.
    fn check_noise_model(&self) -> Result<()> {
        let name = self.noise_model.name();
        let uneven = self.noise_model != NoiseModel::Gaussian;
        let counted = self.noise_model == NoiseModel::PoissonGaussian;
        match (self.gain, self.noise) {
            _ if uneven && self.task != Task::Denoise => {
                Err(Error::usage(format!("--noise-model {name} is for --task denoise")))
            }
            (Some(_), _) if !counted => Err(Error::usage("--gain is for --noise-model poisson-gaussian")),
            (None, _) if counted => Err(Error::usage("--noise-model poisson-gaussian needs --gain")
                .hint("the variance, of 255, that a step of intensity adds")),
            (Some(gain), _) if !(gain.is_finite() && gain >= 0.0) => {
                Err(Error::usage(format!("--gain {gain} is not 0 or more")))
            }
            (_, None) if uneven => {
                Err(Error::usage(format!("--noise-model {name} needs --noise"))
                    .hint("only Gaussian noise is estimated"))
            }
            _ => Ok(()),
        }
    }

    /// The share of fresh noise.
    fn eta(&self) -> f32 {
        self.eta.or(self.method.eta()).unwrap_or(0.0)
    }

    /// The same as a run of `sample`, as far as they are the same.
    fn sample(&self) -> sample::Options {
        sample::Options {
            model: self.model.clone(),
            class: self.class.clone(),
            sampler: Some(unfog_core::sampler::DDIM.name.into()),
            steps: self.steps,
            parity: Some(Parity::Table),
            seed: self.seed,
            count: self.samples,
            first: self.first,
            backend: self.backend.clone(),
            ..sample::Options::default()
        }
    }
}

/// What a run tells while it is under way.
#[derive(Debug)]
pub enum Event<'a> {
    /// What a run of `sample` tells, too.
    Sample(sample::Event),
    /// A picture is done.
    Done(&'a Entry),
    /// A picture of several can't be restored.
    Failed(&'a Error),
    /// Files of a folder are left out: they are no pictures.
    LeftOut(usize),
}

/// What became of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The picture.
    pub input: PathBuf,
    /// The restored one.
    pub output: PathBuf,
    /// Whether it was there already, made with the same settings of the same picture: then nothing else is known.
    pub kept: bool,
    /// Standard deviation of the noise that was assumed, of 255.
    pub noise: f32,
    /// How near the result is to the reference.
    pub quality: Option<Quality>,
    /// How long it took.
    pub time: Duration,
}

/// Restores pictures and writes them.
///
/// # Errors
/// A usage error for options that can't be met, before any work. Of one picture, what is wrong with it; of several, that some failed, after all
/// the others are done. [`Error::interrupted`] once `stop` asks for it; what is done by then stays.
pub fn restore(options: &Options, stop: &Stop, report: &mut dyn FnMut(Event<'_>)) -> Result<Vec<Entry>> {
    options.check()?;
    options.backend.check()?;
    let places = Places::find(options)?;
    if places.left_out > 0 {
        report(Event::LeftOut(places.left_out));
    }
    let (mut entries, mut failed) = (Vec::new(), 0);
    let alone = places.jobs.len() == 1;
    opened(options, stop, report, &mut |run, backend, report| {
        for job in &places.jobs {
            stop.check()?;
            let began = Instant::now();
            let mut steps = |done, all| report(Event::Sample(sample::Event::Steps(done, all)));
            match run.restore(job, backend, stop, &mut steps) {
                Ok(entry) => {
                    let entry = Entry { time: began.elapsed(), ..entry };
                    report(Event::Done(&entry));
                    entries.push(entry);
                }
                Err(e) if alone || stop.asked() => return Err(e),
                Err(e) => {
                    let input = job.input.display().to_string();
                    let named = e.to_string().contains(&input);
                    let e = if named { e } else { Error::failure(format!("{input} can't be restored")).because(e) };
                    report(Event::Failed(&e));
                    failed += 1;
                }
            }
        }
        Ok(())
    })?;
    match failed {
        0 => Ok(entries),
        _ => Err(Error::failure(format!("{failed} of {} pictures could not be restored", places.jobs.len()))),
    }
}

/// What is done while the network is open.
type Opened<'o> = &'o mut dyn FnMut(&mut Run<'_>, &mut Backend<'_>, &mut dyn FnMut(Event<'_>)) -> Result<()>;

/// Opens the model on its backend for `work`.
fn opened(options: &Options, stop: &Stop, report: &mut dyn FnMut(Event<'_>), work: Opened<'_>) -> Result<()> {
    let model = Model::open(options.model.as_deref())?;
    if model.autoencoder()?.is_some() {
        return Err(Error::usage(format!(
            "the model {} works on latents, and what a picture lost is known of its pixels",
            model.name()
        ))
        .hint("use a model of pixels, or unfog edit"));
    }
    let sampled = options.sample();
    let mut setup = Setup::new(&model, &sampled)?;
    if let (None, Some(classes)) = (setup.class, model.classes()) {
        setup.class = Some(classes.unknown("--class")?);
    }
    if !setup.settings.config.prediction.is_over_alpha_bar() {
        return Err(Error::usage(format!("the model {} has no betas, and restoration needs them", model.name())));
    }
    setup.settings.sampler = &RESTORE;
    let network = model.network(setup.height, setup.width)?;
    let weights = model.weights(&network)?;
    let fingerprint = Weights::fingerprint_of(&[&weights]);
    let data = weights.data();
    let mut told = |event| report(Event::Sample(event));
    let (request, _leftover) = settle(&sampled, &model, &network, &data, stop, &mut told)?;
    let narrowed = Narrowed::new(&request, &network, &data)?;
    let data = narrowed.data(&data);
    let mut backend = open::open(&request, network.graph(), &data, stop, &mut told)?;
    let mut run = Run::new(options, &model, &setup, fingerprint.finish()?, backend.describe());
    work(&mut run, &mut backend, report)
}

/// Makes again what the recipe in the file `path` of a run of `restore` made, with `request` and where `model` says, and its recipe then.
///
/// # Errors
/// Those of [`restore`]; another picture, mask or other weights than the recipe's.
pub(crate) fn again(
    (path, recipe): (&Path, &Recipe),
    (model, request): (Option<PathBuf>, Request),
    stop: &Stop,
    report: &mut dyn FnMut(sample::Event),
) -> Result<(Content, Recipe)> {
    let Some(restored) = &recipe.restore else { return Err(Error::failure("the recipe is of no restored picture")) };
    let method: Method = recipe.sampler.parse()?;
    let options = Options {
        model,
        inputs: vec![(&restored.image).into()],
        task: restored.task,
        method,
        noise: Some(restored.noise),
        noise_model: restored.noise_model.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        gain: restored.gain,
        window: restored.window,
        mask: restored.mask.as_ref().map(PathBuf::from),
        factor: restored.factor.unwrap_or(Options::default().factor),
        kernel: restored.kernel.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        blur: restored.blur.unwrap_or(Options::default().blur),
        samples: recipe.count,
        first: recipe.first,
        travel: restored.travel.map_or(Travel::NONE, |[length, times]| Travel { length, times }),
        steps: Some(recipe.steps),
        eta: method.eta().map(|_| recipe.eta),
        class: recipe.class.map(|class| class.to_string()),
        seed: recipe.seed,
        backend: request,
        ..Options::default()
    };
    options.check()?;
    options.backend.check()?;
    let job = Job { input: (&restored.image).into(), output: path.into(), mask: options.mask.clone(), reference: None };
    let mut made = None;
    let mut told = |event: Event<'_>| {
        if let Event::Sample(event) = event {
            report(event);
        }
    };
    opened(&options, stop, &mut told, &mut |run, backend, report| {
        let mut steps = |done, all| report(Event::Sample(sample::Event::Steps(done, all)));
        made = Some(run.again(&job, backend, stop, &mut steps)?);
        Ok(())
    })?;
    let (picture, now) = made.ok_or_else(|| Error::failure("nothing was made"))?;
    if now.restore != recipe.restore {
        return Err(Error::failure(
            "the picture that it was made from, or its mask, is another than that of the recipe",
        ));
    }
    if now.weights_sha256 != recipe.weights_sha256 {
        return Err(Error::failure(format!(
            "the weights of {} are others than those of the recipe: their sha256 is {} and was {}",
            now.model, now.weights_sha256, recipe.weights_sha256
        ))
        .hint("say with --model where the model is now"));
    }
    Ok((picture, now))
}
