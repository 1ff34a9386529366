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
//! (`copy_from_slice`, one thread) moves in the same run when source and destination have as many bytes together: the best
//! sample of both.

use std::collections::BTreeMap;
use std::convert::Infallible;
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
        // Multistep: the predictions before, and this one.
        _ => (sampler.history, usize::from(sampler.history > 0), 0),
    };
    4 * usize::from(sampler.evaluations) + read + written + drawn
}

/// The mean time of the timed steps of a run.
fn run(config: &Config, sampler: &Sampler) -> Duration {
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; STEPS]);
    let mut levels = vec![Level::default(); sampler.levels(STEPS)];
    let schedule = Schedule::for_sampler(config, sampler, &mut alpha_bar, &mut timesteps, &mut levels);
    let batch = Batch { first_image: 0, len: LEN, out_len: LEN, conds: &[Cond::None] };
    let schedule = schedule.expect("the configuration is valid");
    let mut memory = vec![0.0; Chain::memory(config, sampler, &batch).expect("the batch is valid")];
    let mut chain = Chain::new(config, sampler, schedule, batch, &mut memory).expect("the batch is valid");
    let mut network = Still(false);
    chain.init(&mut Silent).expect("there is noise");
    let mut step = || chain.step(&mut network, &mut Silent).expect("all is finite");
    (0..TIMED.start).for_each(|_| assert!(step().is_some()));
    let start = Instant::now();
    TIMED.for_each(|_| assert!(step().is_some()));
    start.elapsed() / TIMED.len() as u32
}

/// Runs `once` as criterion wants and keeps the shortest of its times.
fn measure(criterion: &mut Criterion, name: &str, values: usize, mut once: impl FnMut() -> Duration) -> Duration {
    let mut best = Duration::MAX;
    let mut group = criterion.benchmark_group("steps");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes((4 * values * LEN) as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let times = (0..count).map(|_| once());
            times.inspect(|&time| best = best.min(time)).sum()
        });
    });
    group.finish();
    best
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut copies = BTreeMap::new();
    let mut copy = |criterion: &mut Criterion, values: usize| {
        *copies.entry(values).or_insert_with(|| {
            let (from, mut to) = (vec![1.0_f32; values * LEN / 2], vec![0.0_f32; values * LEN / 2]);
            measure(criterion, &format!("copy/{values}"), values, || {
                let start = Instant::now();
                (0..4).for_each(|_| std::hint::black_box(&mut to[..]).copy_from_slice(std::hint::black_box(&from)));
                start.elapsed() / 4
            })
        })
    };
    let config = Config { steps: STEPS, prediction: PredictionType::Epsilon, ..Config::default() };
    let mut table = vec![];
    for sampler in REGISTRY {
        let values = values_moved(sampler);
        let times = [Clip::None, Clip::Range(1.0)].map(|clip| {
            let config = Config { clip, ..config };
            let name = if clip == Clip::None { "" } else { "/clipped" };
            measure(&mut criterion, &format!("{}{name}", sampler.name), values, || run(&config, sampler))
        });
        table.push((sampler.name, values, copy(&mut criterion, values), times));
    }
    println!(
        "{:18} {:>6} {:>9} {:>9} {:>6} {:>9} {:>6}",
        "sampler", "values", "copy", "step", "share", "clipped", "share"
    );
    for (name, values, copy, [plain, clipped]) in table {
        let share = |time: Duration| format!("{:.0} %", 100.0 * copy.as_secs_f64() / time.as_secs_f64());
        let ms = |time: Duration| format!("{:.2} ms", 1e3 * time.as_secs_f64());
        println!(
            "{name:18} {values:6} {:>9} {:>9} {:>6} {:>9} {:>6}",
            ms(copy),
            ms(plain),
            share(plain),
            ms(clipped),
            share(clipped)
        );
    }
}
