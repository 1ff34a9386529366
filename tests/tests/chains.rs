//! Whole runs from given noise against diffusers.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde_json::Value;
use unfog_core::config::{Config, Variance};
use unfog_core::denoise::Cond;
use unfog_core::guidance::Guidance;
use unfog_core::noise::Given;
use unfog_core::predict::Clip;
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::{BetaSchedule, Spacing};
use unfog_tests::TestResult;
use unfog_tests::backend::Backend;
use unfog_tests::golden::Golden;
use unfog_tests::net::Net;
use unfog_tests::picture::close_pictures;
use unfog_tests::run::Run;
use unfog_tests::tolerance;

/// One run of the goldens.
struct GoldenRun {
    name: String,
    number: usize,
    noise: String,
    sampler: &'static Sampler,
    config: Config,
    cond: Cond,
    none: Cond,
    draws: u32,
}

/// A key of a case: its own, or that of its scheduler's config.
fn get<'v>(case: &'v Value, key: &str) -> &'v Value {
    if case[key].is_null() { &case["config"][key] } else { &case[key] }
}

fn class(label: &Value) -> Cond {
    label.as_u64().map_or(Cond::None, |label| Cond::Class(label as u32))
}

impl GoldenRun {
    fn read(number: usize, case: &Value) -> TestResult<Self> {
        let model = case["model"].as_str().ok_or("no model")?;
        let sampler = sampler::find(case["sampler"].as_str().unwrap_or("")).ok_or("unknown sampler")?;
        let defaults = Config::default();
        let real = |key: &str, default: f32| get(case, key).as_f64().map_or(default, |v| v as f32);
        let clip_range = real("clip_sample_range", 1.0);
        let config = Config {
            betas: if model == "glyph-tiny" { BetaSchedule::SquaredCosCapV2 } else { BetaSchedule::Linear },
            steps: case["steps"].as_u64().ok_or("no steps")? as usize,
            eta: real("eta", 0.0),
            clip: if get(case, "clip_sample") == false { Clip::None } else { Clip::Range(clip_range) },
            spacing: match get(case, "timestep_spacing").as_str() {
                None => Spacing::Leading,
                Some("linspace") => Spacing::Linspace,
                Some("trailing") => Spacing::Trailing,
                Some(other) => return Err(format!("unknown spacing {other}").into()),
            },
            steps_offset: get(case, "steps_offset").as_u64().unwrap_or(0) as u32,
            variance: match get(case, "variance_type").as_str() {
                None | Some("fixed_small") => Variance::FixedSmall,
                Some("fixed_large") => Variance::FixedLarge,
                Some(other) => return Err(format!("unknown variance {other}").into()),
            },
            set_alpha_to_one: get(case, "set_alpha_to_one").as_bool().unwrap_or(true),
            guidance: Guidance::from_scale(real("guidance", 1.0)),
            ..defaults
        };
        Ok(Self {
            name: format!("chain {number:02}: {model} {} {} {}", sampler.name, config.steps, case["config"]),
            number,
            noise: case["noise"].as_str().ok_or("no noise")?.to_owned(),
            sampler,
            config,
            cond: class(&case["label"]),
            none: class(&case["null"]),
            draws: case["draws"].as_u64().ok_or("no draws")? as u32,
        })
    }

    /// The final sample, and the number of draws that were made.
    fn make(&self, net: &Net, backend: &Backend, noise: &[f32], images: usize) -> TestResult<(Vec<f32>, u32)> {
        let mut conds = vec![self.cond; images];
        if self.config.guidance != Guidance::None {
            conds.extend(vec![self.none; images]);
        }
        let run = Run { config: self.config, sampler: self.sampler, first_image: 0, conds: &conds };
        run.make(net, &mut backend.denoiser(net, &[])?, &mut Given::new(noise, 0, images, net.len()))
    }
}

/// Makes the runs of `model` with as many steps as `steps` allows, on every backend that `on` allows.
fn compare(model: &str, steps: RangeInclusive<usize>, on: impl Fn(&Backend) -> bool) -> TestResult {
    let golden = Golden::read("chains")?;
    let net = Net::open(&format!("models/{model}"))?;
    let [_, h, w] = net.shape;
    let mut noises = HashMap::<String, Golden>::new();
    let mut made = 0;
    for (number, case) in golden.cases().iter().enumerate().filter(|(_, case)| case["model"] == model) {
        let run = GoldenRun::read(number, case)?;
        if !steps.contains(&run.config.steps) {
            continue;
        }
        if !noises.contains_key(&run.noise) {
            noises.insert(run.noise.clone(), Golden::read(&format!("noise-{}", run.noise))?);
        }
        let noise = noises[&run.noise].tensor("noise")?;
        let want = golden.part(run.number, "x0")?;
        for backend in Backend::all()?.iter().filter(|backend| on(backend)) {
            let what = format!("{} on {}", run.name, backend.name());
            let start = std::time::Instant::now();
            let (x0, draws) =
                run.make(&net, backend, &noise.values, noise.shape[1]).map_err(|e| format!("{what}: {e}"))?;
            let far = close_pictures(&what, &x0, &want.values, [h, w], tolerance::chain(backend))?;
            println!("{what}: {far:.1e} in {:.1?} (diffusers: {})", start.elapsed(), case["floor"]);
            assert_eq!(draws, run.draws, "{what}: draws of noise");
            backend.check()?;
            made += 1;
        }
    }
    assert!(made > 0, "no run was made");
    Ok(())
}

#[test]
fn glyph_tiny_in_up_to_50_steps() -> TestResult {
    compare("glyph-tiny", 1..=50, |_| true)
}

#[test]
fn glyph_tiny_in_1000_steps() -> TestResult {
    compare("glyph-tiny", 1000..=1000, |_| true)
}

/// The reference would take a second an evaluation; one of them is among the networks' tests.
#[test]
fn mednist_ddpm() -> TestResult {
    compare("mednist-ddpm", 1..=50, |backend| !matches!(backend, Backend::Reference))
}
