//! `unfog restore`

use std::path::PathBuf;

use serde::Serialize;
use unfog::Result;
use unfog::restore::{Entry, Event, Kernel, Method, NoiseModel, Options, Quality, Task, Travel, restore};
use unfog::sample;
use unfog::scan::Window;
use unfog::stop::Stop;

use super::args::BackendArgs;
use super::output;
use super::progress::Progress;

/// Make good what pictures lost: noise, missing pixels, small size, blur, colour
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pictures, and folders of them: PNG, JPEG, TIFF, BMP, PNM, DICOM; or safetensors with a tensor `image` [c, h, w] from 0 to 1
    #[arg(required = true, value_name = "IMAGE|DIR")]
    images: Vec<PathBuf>,
    /// What is to be made good: denoise, inpaint, upscale, deblur or colorize
    #[arg(long, value_name = "NAME")]
    task: Task,
    /// Folder of a model of pixels, as diffusers saves it [default: glyph-tiny, which is built in]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// How: ddnm, ddrm, diffpir, repaint, or for noise alone mean (one evaluation)
    #[arg(long, value_name = "NAME", default_value = "ddnm")]
    method: Method,
    /// Standard deviation of the noise, of 255 [default: to denoise, estimated; of a blurred picture, what rounding does; else 0]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    noise: Option<f32>,
    /// To denoise: what noise is like: gaussian, rician (magnetic resonance) or poisson-gaussian (few quanta); the last two count from black
    #[arg(long, value_name = "NAME", default_value = "gaussian")]
    noise_model: NoiseModel,
    /// For poisson-gaussian: variance, of 255, that a step of 255 of intensity adds
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    gain: Option<f32>,
    /// Of DICOM files: what the model sees, center and width in units of the modality; what lies beyond stays [default: the file's first
    /// window, else all]
    #[arg(long, value_name = "C,W", allow_hyphen_values = true)]
    window: Option<Window>,
    /// For inpaint: picture of the same size, or a folder with one for each; what is white is missing
    #[arg(long, value_name = "IMAGE|DIR")]
    mask: Option<PathBuf>,
    /// For upscale: how many times as large
    #[arg(long, value_name = "N", default_value_t = 4)]
    factor: u32,
    /// For upscale: how the picture was made smaller: average or bicubic
    #[arg(long, value_name = "NAME", default_value = "average")]
    kernel: Kernel,
    /// For deblur: standard deviation of the Gaussian blur in pixels
    #[arg(long, value_name = "S", default_value_t = 2.0, allow_negative_numbers = true)]
    blur: f32,
    /// Samples, of which the mean is the result: more are nearer to the truth, and softer
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: u32,
    /// Number of the first sample
    #[arg(long, value_name = "I", default_value_t = 0)]
    first: u64,
    /// After every L steps go back over them until they were made N times, as in 10x5: what is made up fits better
    #[arg(long, value_name = "LxN")]
    travel: Option<Travel>,
    /// Steps [default: 50]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Share of fresh noise, from 0 to 1 [default: ddnm and ddrm 0.85, diffpir 0.3]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    eta: Option<f32>,
    /// Class of the pictures, by number or name [default: no class]
    #[arg(long, value_name = "N|NAME")]
    class: Option<String>,
    /// Seed of the noise
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    backend: BackendArgs,
    /// What the picture should be, or a folder with one for each: says how near the result is
    #[arg(long, value_name = "IMAGE|DIR")]
    reference: Option<PathBuf>,
    /// Also write the samples' standard deviation: NAME.uncertainty.png, 16 bits, full is the picture's whole range
    #[arg(long)]
    uncertainty: bool,
    /// Factor on it
    #[arg(long, value_name = "F", default_value_t = 1.0, allow_negative_numbers = true)]
    spread: f32,
    /// Also write before, after, uncertainty and reference side by side: NAME.strip.png
    #[arg(long)]
    strip: bool,
    /// Also write what was done: NAME.report.json
    #[arg(long)]
    report: bool,
    /// Result: a picture file, or of several pictures a folder, in which those that are done stay; DICOM files become such [default: restored.png, restored.dcm,
    /// restored]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long)]
    quiet: bool,
}

/// What `--json` prints of a picture.
#[derive(Serialize)]
struct Report<'a> {
    input: &'a PathBuf,
    output: &'a PathBuf,
    kept: bool,
    noise: f32,
    #[serde(flatten)]
    quality: Option<Quality>,
    seconds: f64,
}

impl<'a> From<&'a Entry> for Report<'a> {
    fn from(entry: &'a Entry) -> Self {
        let Entry { input, output, kept, noise, quality, time } = entry;
        Self { input, output, kept: *kept, noise: *noise, quality: *quality, seconds: time.as_secs_f64() }
    }
}

/// Restores pictures.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<()> {
    let options = Options {
        model: args.model.clone(),
        inputs: args.images.clone(),
        out: args.out.clone(),
        task: args.task,
        method: args.method,
        noise: args.noise,
        noise_model: args.noise_model,
        gain: args.gain,
        window: args.window,
        mask: args.mask.clone(),
        factor: args.factor,
        kernel: args.kernel,
        blur: args.blur,
        samples: args.samples,
        first: args.first,
        travel: args.travel.unwrap_or(Travel::NONE),
        steps: args.steps,
        eta: args.eta,
        class: args.class.clone(),
        seed: args.seed,
        backend: args.backend.request(),
        reference: args.reference.clone(),
        uncertainty: args.uncertainty,
        spread: args.spread,
        strip: args.strip,
        report: args.report,
    };
    let progress = Progress::new(args.quiet);
    let tell = |text: &str| {
        if !args.quiet {
            progress.note(text);
        }
    };
    let entries = restore(&options, stop, &mut |event| match event {
        Event::Sample(sample::Event::Steps(done, total)) => progress.set(done, total),
        Event::Sample(sample::Event::Chosen(kind, why)) => tell(&format!("backend {}: {why}", kind.name())),
        Event::Sample(sample::Event::Compiling(time)) => progress.compiling(time),
        Event::Sample(sample::Event::Compiled(time)) => {
            tell(&format!("kernels compiled in {:.1} s, and kept for the next start", time.as_secs_f64()));
        }
        Event::Sample(_) => {}
        Event::Failed(error) => progress.note(&error.report()),
        Event::LeftOut(n) => tell(&format!("{n} files that are no pictures are left out")),
        Event::Done(entry) if !args.json => tell(&line(entry)),
        Event::Done(_) => {}
    })?;
    drop(progress);
    match args.json {
        true => output::json(&entries.iter().map(Report::from).collect::<Vec<_>>()),
        false => Ok(()),
    }
}

/// What a person wants to know of a picture.
fn line(entry: &Entry) -> String {
    let Entry { output, kept, noise, quality, time, .. } = entry;
    let out = output.display();
    if *kept {
        return format!("{out} is there already");
    }
    let near = |quality: &Quality| {
        let psnr = quality.psnr.map_or("the same".into(), |psnr| format!("{psnr:.2} dB"));
        let ssim = quality.ssim.map_or(String::new(), |ssim| format!(", SSIM {ssim:.4}"));
        format!("; to the reference {psnr}{ssim}")
    };
    let near = quality.as_ref().map(near).unwrap_or_default();
    format!("wrote {out}: noise {noise:.2} of 255, {:.1} s{near}", time.as_secs_f64())
}
