//! One picture of a run, from its file to the files that are made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use unfog_core::denoise::Denoise;
use unfog_core::solve::operator::Shape;

use super::chain::{Restored, Work};
use super::lost::Lost;
use super::noise::{NoiseModel, Uneven};
use super::places::{self, Job};
use super::quality::{Quality, quality};
use super::report::{NOTICE, Report};
use super::source::{Content, Source};
use super::strip::Strip;
use super::task::Task;
use super::tiled::Tiled;
use super::{Entry, Options, estimate};
use crate::backend::{Description, Kind};
use crate::error::{Error, Result};
use crate::files;
use crate::image::{Deep, Format, encode, load};
use crate::memory;
use crate::model::Model;
use crate::recipe::{KEYWORD, Recipe, Restored as Recorded};
use crate::sample::Setup;
use crate::scan::{self, Derivation, Scan};
use crate::stop::Stop;

/// Standard deviation of what rounding to whole numbers does.
const ROUNDING: f32 = 0.288_675_13;
/// The most values of a picture that is made.
const MOST_VALUES: usize = 1 << 28;

/// What all pictures of a run share.
pub(super) struct Run<'a> {
    options: &'a Options,
    model: &'a Model,
    setup: &'a Setup,
    recipe: Recipe,
    /// What the last picture lost, for one of the same shape and mask.
    lost: Option<(Shape, Option<PathBuf>, Lost)>,
}

/// A picture as it is restored.
struct Given {
    source: Source,
    /// The measurement, with as many channels as the operator wants; weighted where noise is uneven.
    y: Vec<f32>,
    uneven: Option<Uneven>,
    shape: Shape,
    mask: Option<Vec<f32>>,
    noise: f32,
}

/// What was made of it.
struct Made<'a> {
    given: &'a Given,
    restored: &'a Restored,
    result: &'a Deep,
    reference: Option<&'a Deep>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        options: &'a Options,
        model: &'a Model,
        setup: &'a Setup,
        weights_sha256: String,
        ran_on: Description,
    ) -> Self {
        let config = &setup.settings.config;
        let recipe = Recipe {
            command: "restore".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            model: model.name().into(),
            weights_sha256,
            class: setup.class,
            guidance: 1.0,
            sampler: options.method.name().into(),
            schedule: setup.settings.schedule_name().into(),
            steps: config.steps,
            eta: options.eta(),
            seed: options.seed,
            count: options.samples,
            first: options.first,
            parity: setup.settings.parity_name().into(),
            noise: Some(setup.noise.name().into()),
            vram: options.backend.vram.filter(|_| ran_on.backend == Kind::Vulkan),
            ..Recipe::of(ran_on)
        };
        Self { options, model, setup, recipe, lost: None }
    }

    /// Restores one picture and writes what is made of it, unless that is there.
    ///
    /// # Errors
    /// Those of its files and of the network.
    pub(super) fn restore<D: Denoise<Error = Error>>(
        &mut self,
        job: &Job,
        network: &mut D,
        stop: &Stop,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<Entry> {
        let given = self.read(job)?;
        let recipe = self.recipe_of(job, &given)?;
        let (input, output, noise) = (job.input.clone(), job.output.clone(), given.noise);
        let entry = Entry { input, output, kept: true, noise, quality: None, time: Duration::ZERO };
        if job.output.is_file() && Recipe::read(&job.output).is_ok_and(|there| there == recipe) {
            return Ok(entry);
        }
        let format = self.format(job, &given)?;
        let reference = job.reference.as_deref().map(|path| given.source.like(path)).transpose()?;
        let (result, restored) = self.make(job, &given, network, stop, report)?;
        let quality = reference.as_ref().map(|reference| compare(&result, reference)).transpose()?;
        let made = Made { given: &given, restored: &restored, result: &result, reference: reference.as_ref() };
        let entry = Entry { kept: false, quality, ..entry };
        self.write(&entry, format, &made, &recipe)?;
        Ok(entry)
    }

    /// Restores one picture.
    ///
    /// # Errors
    /// Those of its files and of the network.
    pub(super) fn again<D: Denoise<Error = Error>>(
        &mut self,
        job: &Job,
        network: &mut D,
        stop: &Stop,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<(Content, Recipe)> {
        let given = self.read(job)?;
        let recipe = self.recipe_of(job, &given)?;
        let result = self.make(job, &given, network, stop, report)?.0;
        let content = match given.source.scan().filter(|_| scan::is(&job.output)) {
            Some(scan) => Content::of_scan(scan, &result.values),
            None => Content::of_picture(&result)?,
        };
        Ok((content, recipe))
    }

    /// The format of the picture file that is written; none for a DICOM file.
    ///
    /// # Errors
    /// A usage error for a name that does not fit.
    fn format(&self, job: &Job, given: &Given) -> Result<Option<Format>> {
        let path = &job.output;
        if !scan::is_named(path) {
            return Format::of(path, self.result_channels(given.source.picture())).map(Some);
        }
        match given.source.scan() {
            None => {
                Err(Error::usage(format!("{} can't be written: DICOM files are made of such alone", path.display())))
            }
            Some(_) if !self.options.task.keeps_shape() => Err(Error::usage(format!(
                "{} can't be written: in a DICOM file a scan keeps its size and stays grey",
                path.display()
            ))
            .hint("use .png or .tiff")),
            Some(_) => Ok(None),
        }
    }

    fn make<D: Denoise<Error = Error>>(
        &mut self,
        job: &Job,
        given: &Given,
        network: &mut D,
        stop: &Stop,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<(Deep, Restored)> {
        let shape = given.shape;
        let known = self.lost.as_ref().is_some_and(|(own, mask, _)| *own == shape && *mask == job.mask);
        if !known || given.uneven.is_some() {
            let lost = match &given.uneven {
                Some(uneven) => Lost::Weighted(uneven.weights()?),
                None => Lost::new(self.options, shape, given.mask.as_deref())?,
            };
            self.lost = Some((shape, job.mask.clone(), lost));
        }
        let Some((_, _, lost)) = &self.lost else { return Err(Error::failure("nothing was lost")) };
        let operator = lost.operator(shape)?;
        let Self { options, setup, model, .. } = *self;
        let own = Shape { channels: shape.channels, height: setup.height as usize, width: setup.width as usize };
        let mut network = Tiled::new(network, own, shape);
        let uneven = given.uneven.as_ref();
        let sigma_y = uneven.map_or(2.0 * given.noise / 255.0, Uneven::largest);
        let work = Work { options, setup, model, operator, y: &given.y, sigma_y, uneven };
        let restored = work.run(&mut network, stop, report)?;
        Ok((self.result(given, &restored)?, restored))
    }

    /// Channels of what a picture becomes: a grey one stays grey in a model of colours, unless colours are wanted.
    fn result_channels(&self, picture: &Deep) -> u32 {
        if self.options.task == Task::Colorize { self.setup.channels } else { picture.channels }
    }

    /// The restored picture, with the depth and the transparency of the given one.
    fn result(&self, given: &Given, restored: &Restored) -> Result<Deep> {
        let Shape { channels: wanted, height, width } = given.shape;
        let picture = given.source.picture();
        let channels = self.result_channels(picture);
        let plane = height * width;
        let values = match channels as usize == wanted {
            true => restored.mean.clone(),
            false => {
                let mean = |i: usize| (0..wanted).map(|c| restored.mean[c * plane + i]).sum::<f32>() / wanted as f32;
                memory::collect((0..plane).map(mean))?
            }
        };
        let (width, height) = (width as u32, height as u32);
        let (sixteen, alpha) = (picture.sixteen, picture.alpha_of(width, height));
        Ok(Deep { width, height, channels, sixteen, values, alpha })
    }

    /// Reads the picture and what belongs to it.
    fn read(&self, job: &Job) -> Result<Given> {
        let options = self.options;
        let named = |text: String| Error::failure(format!("{}: {text}", job.input.display()));
        let source = Source::load(&job.input, options.window)?;
        let picture = source.picture();
        let Deep { width, height, channels, .. } = *picture;
        let wanted = self.setup.channels;
        if channels == 3 && wanted == 1 {
            return Err(named(format!(
                "the model {} knows grey pictures, and this one has colours",
                self.model.name()
            )));
        }
        let y = match options.task {
            Task::Colorize if channels == 3 => return Err(named("it has colours already".into())),
            Task::Colorize => picture.values.clone(),
            _ if channels < wanted => picture.values.repeat(wanted as usize),
            _ => picture.values.clone(),
        };
        let times = if options.task == Task::Upscale { options.factor as usize } else { 1 };
        let side = |side: u32| (side as usize).checked_mul(times);
        let shape =
            side(height).zip(side(width)).map(|(height, width)| Shape { channels: wanted as usize, height, width });
        let fits =
            |shape: &Shape| shape.height.saturating_mul(shape.width).saturating_mul(shape.channels) <= MOST_VALUES;
        let shape = shape.filter(fits).ok_or_else(|| named("it would become too large".into()))?;
        let mask = job.mask.as_deref().map(|path| mask(path, [width, height])).transpose()?;
        let noise = match (options.noise, options.task) {
            (Some(noise), _) => noise,
            (None, Task::Denoise) => {
                let [h, w, c] = [height, width, channels].map(|n| n as usize);
                estimate::noise_level(&picture.values, c, h, w)? * 127.5
            }
            (None, Task::Deblur) if !picture.sixteen => ROUNDING,
            (None, Task::Deblur) => ROUNDING / 257.0,
            _ => 0.0,
        };
        let uneven = (options.noise_model != NoiseModel::Gaussian).then(|| {
            Uneven::new(&y, [shape.height, shape.width], options.noise_model, (noise, options.gain.unwrap_or(0.0)))
        });
        let uneven = uneven.transpose()?;
        let y = match &uneven {
            Some(uneven) => memory::collect(uneven.weights()?.iter().zip(&uneven.unbiased).map(|(w, y)| w * y))?,
            None => y,
        };
        Ok(Given { source, y, uneven, shape, mask, noise })
    }

    fn recipe_of(&self, job: &Job, given: &Given) -> Result<Recipe> {
        let options = self.options;
        let upscale = options.task == Task::Upscale;
        let travels = options.travel.times > 1 && options.task != Task::Denoise;
        let recorded = Recorded {
            image: job.input.display().to_string(),
            image_sha256: files::sha256(&job.input)?,
            task: options.task,
            noise: given.noise,
            noise_model: given.uneven.as_ref().map(|_| options.noise_model.name().into()),
            gain: options.gain,
            window: given.source.scan().map(Scan::window),
            mask: job.mask.as_ref().map(|mask| mask.display().to_string()),
            mask_sha256: job.mask.as_deref().map(files::sha256).transpose()?,
            factor: upscale.then_some(options.factor),
            kernel: upscale.then(|| options.kernel.name().into()),
            blur: (options.task == Task::Deblur).then_some(options.blur),
            travel: travels.then_some([options.travel.length, options.travel.times]),
        };
        Ok(Recipe {
            restore: Some(recorded),
            width: given.shape.width as u32,
            height: given.shape.height as u32,
            ..self.recipe.clone()
        })
    }

    /// Writes the files, the result last: it says that the others are there.
    fn write(&self, entry: &Entry, format: Option<Format>, made: &Made<'_>, recipe: &Recipe) -> Result<()> {
        let (options, output) = (self.options, &entry.output);
        let Made { given, restored, result, reference } = *made;
        if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            places::make(folder)?;
        }
        let uncertainty = if options.samples > 1 { Some(spread(restored, given.shape, options.spread)?) } else { None };
        if let Some(uncertainty) = uncertainty.as_ref().filter(|_| options.uncertainty) {
            let path = output.with_extension("uncertainty.png");
            files::write(&path, |out| uncertainty.encode(Format::Png, &[], &path, out))?;
        }
        if options.strip {
            let path = output.with_extension("strip.png");
            let before = (given.source.picture(), given.mask.as_deref());
            let picture = Strip { before, result, uncertainty: uncertainty.as_ref(), reference }.draw()?;
            files::write(&path, |out| encode(&picture, Format::Png, &[], &path, out))?;
        }
        if options.report {
            Report::new(entry, &restored.deviation, recipe).write(&output.with_extension("report.json"))?;
        }
        let text = recipe.to_json()?;
        match (format, given.source.scan()) {
            (None, Some(scan)) => {
                let (description, run) = (self.description(given.noise), self.run()?);
                let by = Derivation { description: &description, recipe: &text, run: &run };
                files::write(output, |out| scan.derive(&result.values, &by, output, out))
            }
            (format, _) => {
                let format = format.unwrap_or(Format::Png);
                files::write(output, |out| result.encode(format, &[(KEYWORD, &text)], output, out))
            }
        }
    }

    /// What was done, for a reader.
    fn description(&self, noise: f32) -> String {
        let Recipe { version, sampler, steps, count, seed, model, weights_sha256, .. } = &self.recipe;
        let task = self.options.task.name();
        format!(
            "unfog {version}: {task} ({sampler}, {steps} steps, samples {count}, seed {seed}, noise {noise:.2} of 255 of the window) by the \
             model {model}, weights {weights_sha256}. {NOTICE}"
        )
    }

    /// What is the same for all pictures of a run.
    fn run(&self) -> Result<String> {
        let Options { task, noise, noise_model, gain, window, factor, kernel, blur, travel, .. } = self.options;
        let chosen = format!("{:?}", (task, noise, noise_model, gain, window, factor, kernel, blur, travel));
        Ok(self.recipe.to_json()? + &chosen)
    }
}

/// The samples' standard deviation as a picture: black is none, and full is the whole range.
fn spread(restored: &Restored, shape: Shape, factor: f32) -> Result<Deep> {
    let plane = shape.height * shape.width;
    let mean = |i: usize| restored.deviation.iter().skip(i).step_by(plane).sum::<f32>() / shape.channels as f32;
    let values = memory::collect((0..plane).map(|i| mean(i) * factor - 1.0))?;
    let (width, height) = (shape.width as u32, shape.height as u32);
    Ok(Deep { width, height, channels: 1, sixteen: true, values, alpha: None })
}

fn compare(result: &Deep, reference: &Deep) -> Result<Quality> {
    let shape = |picture: &Deep| (picture.width, picture.height, picture.channels);
    if shape(result) != shape(reference) {
        let [a, b] = [result, reference].map(|p| format!("{}x{}x{}", p.width, p.height, p.channels));
        return Err(Error::failure(format!("the reference has {b} values, and the result {a}")));
    }
    quality(&result.values, &reference.values, result.height as usize, result.width as usize)
}

/// A mask `[h, w]`: 1 where pixels are missing.
fn mask(path: &Path, [width, height]: [u32; 2]) -> Result<Vec<f32>> {
    let mask = load(path)?;
    if (mask.width(), mask.height()) != (width, height) {
        return Err(Error::usage(format!(
            "the mask {} has {}x{} pixels and the picture {width}x{height}",
            path.display(),
            mask.width(),
            mask.height()
        )));
    }
    let missing: Vec<f32> = mask.to_values(1)?.iter().map(|&v| if v >= 0.0 { 1.0 } else { 0.0 }).collect();
    match missing.contains(&1.0) {
        true => Ok(missing),
        false => Err(Error::usage(format!("the mask {} has no white: nothing is missing", path.display()))),
    }
}
