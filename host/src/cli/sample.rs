//! `unfog sample`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use unfog::Result;
use unfog::backend::Request;
use unfog::model::{EmbeddingChoice, LoraChoice};
use unfog::recipe::Recipe;
use unfog::sample::{Event, Generator, Options, Share, sample};
use unfog::settings::{parity, prediction};
use unfog::stop::Stop;
use unfog::tiles::Tile;

use super::args::{BackendArgs, Shares, Size};
use super::output;
use super::progress::Progress;

/// Make pictures: from noise, with a trained model
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the model as diffusers saves it, or one file of all of it [default: glyph-tiny, which is built in]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// What the pictures are to show, of a model of texts; (word:1.2) and [word] give words weight, BREAK begins a new chunk
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// LoRA to add to the model's weights: a safetensors file with kohya's or diffusers' names, and a factor; may be given several times
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    lora: Vec<LoraChoice>,
    /// Word for the prompt: a safetensors file of textual inversion, and the word [default: the one in the file, or the file's name]; may
    /// be given several times
    #[arg(long, value_name = "FILE[:TOKEN]")]
    embedding: Vec<EmbeddingChoice>,
    /// Folder of a ControlNet that steers the network, as diffusers saves it [default: the model's own, if it has one]; may be given
    /// several times
    #[arg(long, value_name = "DIR")]
    control: Vec<PathBuf>,
    /// Picture that the control sees, brought to the size of what is made; one for each --control
    #[arg(long, value_name = "IMAGE")]
    control_image: Vec<PathBuf>,
    /// How much the control counts: once, or for each --control [default: 1]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    control_scale: Vec<f32>,
    /// Part of the steps in which the control counts, as in 0:0.5: once, or for each --control [default: 0:1]
    #[arg(long, value_name = "START:END")]
    control_steps: Vec<Share>,
    /// Layers at the end of the text encoders to leave out [default: 0]
    #[arg(long, value_name = "N")]
    clip_skip: Option<u32>,
    /// Folder with CLIP's vocab.json and merges.txt, for a model in one file [default: beside the file]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// What the network predicts: epsilon, v or sample [default: as the model's scheduler says]
    #[arg(long, value_name = "NAME")]
    prediction: Option<String>,
    /// Class by number or name [default: image i has class i modulo the number of classes; of edit no class]
    #[arg(long, value_name = "N|NAME")]
    class: Option<String>,
    /// What to lead away from: a class by number or name, or a text [default: no class, no text]
    #[arg(long, value_name = "N|NAME|TEXT")]
    negative: Option<String>,
    /// Guidance scale towards the class or prompt; 1 is off [default: 1, with --prompt 7.5, unless the model names another]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// How guidance works: cfg, cfg-pp (scales from 0 to 1), apg, zero-star or perp-neg (with --negative) [default: cfg]
    #[arg(long, value_name = "NAME")]
    guidance_rule: Option<String>,
    /// How far guided images get back the contrast of unguided ones, from 0 to 1 [default: 0]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    guidance_rescale: Option<f32>,
    /// Guide only from this share of the steps to that one, as in 0.1,0.8 [default: 0,1]
    #[arg(long, value_name = "A,B", allow_hyphen_values = true)]
    guidance_interval: Option<Shares>,
    /// Sampler, such as ddim, euler or dpmpp-2m [default: the model's]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Beta schedule: linear, scaled_linear, cosine, sigmoid, laplace or exp [default: the model's]
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// Noise levels of samplers such as euler: timesteps, karras, exponential, polyexponential, beta, lu-lambda, vp, ays-sd15,
    /// ays-sdxl, ays-svd, uniform, simple or kl-optimal; karras:RHO and polyexponential:RHO [default: the model's]
    #[arg(long, value_name = "NAME")]
    sigmas: Option<String>,
    /// Steps [default: 50, for ddpm all timesteps of the model]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Steps of unCLIP's prior, whose decoder --steps is for [default: 25 for both]
    #[arg(long, value_name = "N")]
    prior_steps: Option<usize>,
    /// Steps in which unCLIP makes its pictures larger [default: 7]
    #[arg(long, value_name = "N")]
    super_res_steps: Option<usize>,
    /// Guidance scale of unCLIP's prior, whose decoder --guidance is for [default: 4, of the decoder 8]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    prior_guidance: Option<f32>,
    /// Share of fresh noise, from 0 to 1, of ddim [default: 0], tcd [default: 0.3] and sa-solver [default: 1]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    eta: Option<f32>,
    /// Seed of the noise
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Number of images
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u32,
    /// Index of the first image: image i of a seed is always the same picture
    #[arg(long, value_name = "I", default_value_t = 0)]
    first: u64,
    /// Width and height of an image [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Whether to keep diffusers' quirks: diffusers, or table [default: diffusers for a model with a scheduler's config]
    #[arg(long, value_name = "NAME")]
    parity: Option<String>,
    #[command(flatten)]
    backend: BackendArgs,
    /// Measure a GPU's kernels for this model, for 20 s at most, instead of taking the table's; the recipe has the choice
    #[arg(long)]
    tune: bool,
    /// How the seed becomes noise: philox, torch-cpu or torch-cuda (torch's for this seed), lattice (a batch more even than
    /// chance) or brownian (stochastic samplers: the same picture from more steps)
    #[arg(long, value_name = "NAME", default_value = "philox")]
    noise: Generator,
    /// Noise [draws, n, c, h, w] to use instead of random numbers: tensor `noise` of a safetensors file; of unCLIP `prior_noise`,
    /// `decoder_noise` and `super_res_noise`
    #[arg(long, value_name = "FILE")]
    noise_in: Option<PathBuf>,
    /// Also write what the sampler leaves, f32: tensor `x0` [n, c, h, w] of a safetensors file; of unCLIP beside it `image_embedding` and
    /// `decoded`
    #[arg(long, value_name = "FILE")]
    latents_out: Option<PathBuf>,
    /// Decode latents in overlapping tiles of this side, which takes less memory: N pixels, off, or auto (where the whole picture does not
    /// fit) [default: auto]
    #[arg(long, value_name = "N|off|auto")]
    vae_tile: Option<Tile>,
    /// Show every N steps what the run takes its images for, beside the picture file: NAME.preview.png, removed in the end
    #[arg(long, value_name = "N")]
    preview: Option<u32>,
    /// Picture file (png, jpg, tif, bmp, pgm, ppm, pnm): one picture, or a sheet; with {i} in its name a file an image
    #[arg(long, value_name = "PATH", default_value = "unfog.png")]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long)]
    quiet: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    files: &'a [PathBuf],
    recipe: &'a Recipe,
    classes: &'a [u32],
    start_up_seconds: f64,
    sampling_seconds: f64,
    stage_seconds: BTreeMap<&'static str, f64>,
}

/// Makes pictures.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<()> {
    make(args, &options(args)?, stop)
}

/// The options of a run.
pub(crate) fn options(args: &Args) -> Result<Options> {
    Ok(Options {
        model: args.model.clone(),
        prompt: args.prompt.clone(),
        loras: args.lora.clone(),
        embeddings: args.embedding.clone(),
        controls: args.control.clone(),
        control_images: args.control_image.clone(),
        control_scales: args.control_scale.clone(),
        control_steps: args.control_steps.clone(),
        clip_skip: args.clip_skip,
        tokenizer: args.tokenizer.clone(),
        prediction: args.prediction.as_deref().map(prediction).transpose()?,
        class: args.class.clone(),
        negative: args.negative.clone(),
        guidance: args.guidance,
        guidance_rule: args.guidance_rule.clone(),
        guidance_rescale: args.guidance_rescale,
        guidance_interval: args.guidance_interval.map(|Shares(shares)| shares),
        sampler: args.sampler.clone(),
        schedule: args.schedule.clone(),
        sigmas: args.sigmas.clone(),
        steps: args.steps,
        prior_steps: args.prior_steps,
        super_res_steps: args.super_res_steps,
        prior_guidance: args.prior_guidance,
        eta: args.eta,
        seed: args.seed,
        count: args.count,
        first: args.first,
        size: args.size.map(|Size(w, h)| (w, h)),
        parity: args.parity.as_deref().map(parity).transpose()?,
        backend: Request { tune: args.tune, ..args.backend.request() },
        noise: args.noise,
        noise_in: args.noise_in.clone(),
        latents_out: args.latents_out.clone(),
        vae_tile: args.vae_tile.unwrap_or_default(),
        preview: args.preview,
        out: args.out.clone(),
        ..Options::default()
    })
}

/// Makes the pictures of `options`, which came from `args`.
pub(crate) fn make(args: &Args, options: &Options, stop: &Stop) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let outcome = sample(options, stop, &mut |event| match event {
        Event::Chosen(kind, why) if !args.quiet => progress.note(&format!("backend {}: {why}", kind.name())),
        Event::Compiled(time) if !args.quiet => {
            progress.note(&format!("kernels compiled in {:.1} s, and kept for the next start", time.as_secs_f64()));
        }
        Event::Tuned(found) if !args.quiet => progress.note(&format!("tuned: {found}")),
        Event::Compiling(time) => progress.compiling(time),
        Event::Tuning(done, total) => progress.tuning(done, total),
        Event::Chosen(..) | Event::Compiled(_) | Event::Tuned(_) | Event::Took(..) => {}
        Event::Steps(done, total) => progress.set(done, total),
        Event::Decoded(done, total) => progress.decoded(done, total),
    })?;
    drop(progress);
    if args.json {
        return output::json(&Report {
            files: &outcome.files,
            recipe: &outcome.recipe,
            classes: &outcome.classes,
            start_up_seconds: outcome.start_up.as_secs_f64(),
            sampling_seconds: outcome.sampling.as_secs_f64(),
            stage_seconds: outcome.stages.iter().map(|(stage, time)| (stage.name(), time.as_secs_f64())).collect(),
        });
    }
    if !args.quiet {
        let recipe = &outcome.recipe;
        let files = match &outcome.files[..] {
            [one] => one.display().to_string(),
            [first, .., last] => format!("{} to {}", first.display(), last.display()),
            [] => String::new(),
        };
        let stages = outcome.stages.iter().map(|(stage, time)| format!("{} {:.2}", stage.name(), time.as_secs_f64()));
        let stages: Vec<String> = stages.collect();
        output::note(&format!(
            "{files}: {} of {}x{}, {} {} steps, seed {}, {} ({}), {:.2} s ({})",
            if recipe.count == 1 { "1 image".into() } else { format!("{} images", recipe.count) },
            recipe.width,
            recipe.height,
            recipe.sampler,
            recipe.steps,
            recipe.seed,
            recipe.ran_on.backend.name(),
            recipe.ran_on.device,
            outcome.sampling.as_secs_f64(),
            stages.join(", "),
        ));
    }
    Ok(())
}
