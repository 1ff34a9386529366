//! What a step costs apart from the network, against copying as many bytes: `cargo bench -p unfog-core --bench steps`.
//!
//! One image of 2^20 values, a network that leaves its output as it is, noise that leaves its memory as it is: what is left is
//! the sampler's arithmetic. A step must at least move, in f32 values for each value of the image:
//!
//! - for each evaluation, since the network needs all of x: read x and the network's output, write x0 and x: 4;
//! - 1 for each slot of the history that it reads, and for each that it writes;
//! - 1 where it draws noise (to add it; making it counts as the noise's).
//!
//! The table at the end holds the bytes that this makes over the time of a step, as a share of what copying
//! (`copy_from_slice`, one thread) moves when source and destination have as many bytes together. Copies are made after each
//! run of the sampler, and the shortest step is compared with the shortest copy: what other programs take meanwhile lengthens
//! both, and seldom all.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Noise, NoiseError, Philox};
use unfog_core::predict::{Clip, PredictionType};
use unfog_core::sampler::{REGISTRY, Sampler};
use unfog_core::schedule::{Level, Schedule};

const LEN: usize = 1 << 20;
const STEPS: usize = 24;
/// The steps that are timed: past every start-up, before the last ones, whose orders may be lower.
const TIMED: std::ops::Range<usize> = 4..20;

/// Leaves its output as it is, but for the first time.
struct Still(bool);

impl Denoise for Still {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        LEN
    }

    fn predict(&mut self, x: &[f32], _: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        if !std::mem::replace(&mut self.0, true) {
            out.copy_from_slice(x);
        }
        Ok(())
    }
}

/// Leaves its memory as it is, but for the first draw.
struct Silent;

impl Noise for Silent {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        if draw == 0 { Philox::new(1).fill(image, draw, out) } else { Ok(()) }
    }
}

/// What a step must move, in values for each value of the image; see above.
fn values_moved(sampler: &Sampler) -> usize {
    // Slots read and written, and draws of noise.
    let (read, written, drawn) = match sampler.name {
        "ddim" | "euler" | "ddim-inverse" | "tcd" => (0, 0, 0),
        "ddpm" | "euler-a" | "lcm" => (0, 0, 1),
        "heun" => (2, 2, 0),
        "dpm2" => (1, 1, 0),
        "dpm2-a" | "dpmpp-2s-a" => (1, 1, 1),
        "dpmpp-2m-sde" | "dpmpp-2m-sde-heun" => (1, 1, 1),
        "dpmpp-3m-sde" => (2, 1, 1),
        // Its own x and predictions back to the corrector's order.
        "unipc" | "unipc-bh1" => (3, 2, 0),
        "unipc-3" => (4, 2, 0),
        // Four predictions with this step's.
        "plms" | "lms" => (3, 1, 0),
        "consistency" | "er-sde" => (0, 0, 1),
        // Noise that comes before the network: x is read and written once more.
        "euler-churn" => (1, 1, 1),
        "dpm2-churn" => (2, 2, 1),
        "heun-churn" => (3, 3, 1),
        // These draw noise, too.
        "er-sde-2" | "er-sde-3" | "res-multistep-a" | "dpmpp-2s-sde" | "dpmpp-3s-sde" | "sa-solver" | "sa-solver-3" => {
            (sampler.history, 1, 1)
        }
        // Multistep: the predictions before, and this one.
        _ => (sampler.history, usize::from(sampler.history > 0), 0),
    };
    4 * usize::from(sampler.evaluations) + read + written + drawn
}

/// The sum of times and the shortest of them.
struct Times(Duration, Duration);

impl Times {
    const NONE: Times = Times(Duration::ZERO, Duration::MAX);

    fn time<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = what();
        let time = start.elapsed();
        *self = Times(self.0 + time, self.1.min(time));
        result
    }
}

/// Times the steps of a run.
fn run(config: &Config, sampler: &Sampler, times: &mut Times) {
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; STEPS]);
    let mut levels = vec![Level::default(); sampler.levels(STEPS)];
    let schedule = Schedule::for_sampler(config, sampler, &mut alpha_bar, &mut timesteps, &mut levels);
    let batch = Batch { first_image: 0, len: LEN, out_len: LEN, conds: &[Cond::None] };
    let schedule = schedule.expect("the configuration is valid");
    let mut memory = vec![0.0; Chain::memory(config, sampler, &batch).expect("the batch is valid")];
    let mut chain = Chain::new(config, sampler, schedule, batch, &mut memory).expect("the batch is valid");
    let mut network = Still(false);
    chain.init(&mut Silent).expect("there is noise");
    let mut step = || assert!(chain.step(&mut network, &mut Silent).expect("all is finite").is_some());
    (0..TIMED.start).for_each(|_| step());
    TIMED.for_each(|_| times.time(&mut step));
}

/// Times copies that read and write `values` values together for each value of an image.
fn copy(values: usize, times: &mut Times) {
    let (from, mut to) = (vec![1.0_f32; values * LEN / 2], vec![0.0_f32; values * LEN / 2]);
    for _ in TIMED {
        times.time(|| black_box(&mut to[..]).copy_from_slice(black_box(&from)));
    }
}

/// Has criterion measure the steps of a run; returns the shortest copy and the shortest step.
fn measure(criterion: &mut Criterion, config: &Config, sampler: &Sampler) -> [Duration; 2] {
    let values = values_moved(sampler);
    let (mut copies, mut steps) = (Times::NONE, Times::NONE);
    let mut group = criterion.benchmark_group("steps");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes((4 * values * LEN) as u64));
    let name = if config.clip == Clip::None { sampler.name.into() } else { format!("{}/clipped", sampler.name) };
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let before = steps.0;
            for _ in 0..count {
                run(config, sampler, &mut steps);
                copy(values, &mut copies);
            }
            (steps.0 - before) / TIMED.len() as u32
        });
    });
    group.finish();
    [copies.1, steps.1]
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let config = Config { steps: STEPS, prediction: PredictionType::Epsilon, ..Config::default() };
    let mut table = vec![];
    for sampler in REGISTRY {
        for clip in [Clip::None, Clip::Range(1.0)] {
            table.push((sampler, clip, measure(&mut criterion, &Config { clip, ..config }, sampler)));
        }
    }
    println!("| sampler | clips | values moved | copy, ms | step, ms | share of copy bandwidth |");
    println!("|---|---|---|---|---|---|");
    for (sampler, clip, times) in table {
        let [copy, step] = times.map(|time| 1e3 * time.as_secs_f64());
        let (name, clips) = (sampler.name, if clip == Clip::None { "no" } else { "yes" });
        let values = values_moved(sampler);
        println!("| {name} | {clips} | {values} | {copy:.2} | {step:.2} | {:.0} % |", 100.0 * copy / step);
    }
}
