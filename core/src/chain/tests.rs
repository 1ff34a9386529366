use std::vec;
use std::vec::Vec;

use super::*;
use crate::config::{Parity, Variance};
use crate::guidance::Guidance;
use crate::noise::{Given, Philox};
use crate::predict::{Clip, PredictionType};
use crate::sampler::{self, At, DDIM, DDPM};
use crate::schedule::Grid;
use crate::solve::operator::{Kind, Operator, Shape};
use crate::solve::update::Solver;

const LEN: usize = 5;

/// Says `class * x` to a class and `x / 2` to none.
#[derive(Default)]
struct Network {
    evaluations: usize,
    /// The evaluation that fails, counted from 1.
    fails: Option<usize>,
    /// The image of the batch of which a value is not finite.
    bad_image: Option<usize>,
    /// Whether a second half comes along.
    variance: bool,
    conds: Vec<Cond>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken;

impl Denoise for Network {
    type Error = Broken;

    fn out_len(&self) -> usize {
        if self.variance { 2 * LEN } else { LEN }
    }

    fn predict(&mut self, x: &[f32], _t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Broken> {
        self.evaluations += 1;
        if self.fails == Some(self.evaluations) {
            return Err(Broken);
        }
        self.conds = conds.to_vec();
        let images = x.len() / LEN;
        for (j, out) in out.chunks_exact_mut(self.out_len()).enumerate() {
            let scale = match conds[j] {
                Cond::Class(class) => class as f32,
                _ => 0.5,
            };
            let x = &x[j % images * LEN..][..LEN];
            out.iter_mut().zip(x).for_each(|(o, x)| *o = scale * x);
            out[LEN..].fill(-1.0);
        }
        if let Some(image) = self.bad_image {
            out[image * self.out_len() + 2] = f32::NAN;
        }
        Ok(())
    }
}

/// Tables and memory of a run.
struct Memory {
    alpha_bar: Vec<f32>,
    timesteps: Vec<u32>,
    values: Vec<f32>,
}

impl Memory {
    fn new(config: &Config) -> Self {
        let (alpha_bar, timesteps) = (vec![0.0; config.train_steps], vec![0; config.steps]);
        Self { alpha_bar, timesteps, values: vec![9.9; 1000] }
    }

    fn chain<'a>(
        &'a mut self,
        config: &Config,
        sampler: &'a Sampler,
        batch: Batch<'a>,
    ) -> Result<Chain<'a>, ChainError> {
        let schedule = Schedule::new(config, &mut self.alpha_bar, &mut self.timesteps).unwrap();
        Chain::new(config, sampler, schedule, batch, &mut self.values)
    }
}

fn batch(first_image: u64, conds: &[Cond]) -> Batch<'_> {
    Batch { first_image, len: LEN, out_len: LEN, conds }
}

fn config() -> Config {
    Config { steps: 4, ..Config::default() }
}

#[test]
fn yields_after_every_step_and_can_stop_there() {
    let mut memory = Memory::new(&config());
    let conds = [Cond::None; 2];
    let mut chain = memory.chain(&config(), &DDPM, batch(0, &conds)).unwrap();
    let (mut network, mut noise) = (Network::default(), Philox::new(1));
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::NotReady));
    chain.init(&mut noise).unwrap();
    let mut seen = vec![];
    while let Some(progress) = chain.step(&mut network, &mut noise).unwrap() {
        assert_eq!(network.evaluations, progress.step);
        assert!(chain.x().iter().chain(chain.x0()).all(|v| v.is_finite()));
        seen.push((progress.step, progress.steps, progress.timestep));
    }
    assert_eq!(seen, [(1, 4, 750), (2, 4, 500), (3, 4, 250), (4, 4, 0)]);
    assert_eq!(chain.step(&mut network, &mut noise), Ok(None));
    // The last step leads to the predicted image.
    assert_eq!(chain.x(), chain.x0());
    let end = chain.x().to_vec();

    // From the start again, left after two steps for another chain's sake, and on.
    chain.init(&mut noise).unwrap();
    chain.step(&mut network, &mut noise).unwrap();
    chain.step(&mut network, &mut noise).unwrap();
    noise.fill(77, 3, &mut [0.0; 9]).unwrap();
    while chain.step(&mut network, &mut noise).unwrap().is_some() {}
    assert_eq!(chain.x(), end);
}

#[test]
fn a_run_can_begin_in_the_middle() {
    for (sampler, eta) in [(&DDPM, 0.0), (&DDIM, 1.0)] {
        let config = Config { eta, ..config() };
        let (mut memory, conds) = (Memory::new(&config), [Cond::None; 2]);
        let mut chain = memory.chain(&config, sampler, batch(4, &conds)).unwrap();
        let (mut network, mut noise) = (Network::default(), Philox::new(5));
        chain.init(&mut noise).unwrap();
        (0..2).for_each(|_| _ = chain.step(&mut network, &mut noise).unwrap());
        let (x, draws) = (chain.x().to_vec(), chain.draws());
        while chain.step(&mut network, &mut noise).unwrap().is_some() {}
        let end = chain.x().to_vec();

        assert!(!chain.begin(2, draws, &x[1..]), "another length");
        assert!(chain.begin(2, draws, &x));
        let first = chain.step(&mut network, &mut noise).unwrap().unwrap();
        assert_eq!((first.step, first.steps, first.timestep), (3, 4, 250));
        while chain.step(&mut network, &mut noise).unwrap().is_some() {}
        assert_eq!(chain.x(), end);
        // Past the last step nothing is left to do.
        assert!(chain.begin(4, draws, &x));
        assert_eq!(chain.step(&mut network, &mut noise), Ok(None));
    }
}

#[test]
fn what_is_known_is_put_back_after_every_step() {
    let (mut memory, conds) = (Memory::new(&config()), [Cond::None]);
    let levels = std::cell::RefCell::new(vec![]);
    let known = |level: Level, x: &mut [f32]| {
        levels.borrow_mut().push(level.time);
        x[0] = 0.75;
    };
    let mut chain = memory.chain(&config(), &DDIM, batch(0, &conds)).unwrap();
    let (mut network, mut noise) = (Network::default(), Philox::new(1));
    chain.init(&mut noise).unwrap();
    chain.keep(&known);
    while chain.step(&mut network, &mut noise).unwrap().is_some() {
        assert!(chain.x()[0] == 0.75 && chain.x()[1] != 0.75);
    }
    // The levels that steps lead to; the last is the image.
    assert_eq!(*levels.borrow(), [500.0, 250.0, 0.0, 0.0]);
}

/// A measurement of the first value of two pictures, noise-free, and the chain that is told of it.
fn restored(solver: Solver, back: usize) -> Vec<f32> {
    let operator = Operator::new(
        Kind::Mask { known: &[true, false, false, false, false] },
        Shape { channels: 1, height: 1, width: LEN },
    )
    .unwrap();
    let spectra = [0.75, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0];
    let (mut memory, conds) = (Memory::new(&config()), [Cond::None; 2]);
    let mut chain = memory.chain(&config(), &sampler::RESTORE, batch(3, &conds)).unwrap();
    let (mut network, mut noise) = (Network::default(), Philox::new(1));
    let measured = Measured { operator, solver, sigma_y: 0.0, spectra: &spectra };
    assert!(!chain.restore(Measured { spectra: &spectra[..LEN], ..measured }), "another number of images");
    assert!(!chain.restore(Measured { solver: Solver::Ddnm { eta: 2.0 }, ..measured }), "a share above 1");
    assert!(chain.restore(measured));
    chain.init(&mut noise).unwrap();
    assert!(chain.step(&mut network, &mut noise).unwrap().is_some());
    if back > 0 {
        chain.go_back(back, &mut noise).unwrap();
    }
    let mut left = 0;
    while chain.step(&mut network, &mut noise).unwrap().is_some() {
        left += 1;
    }
    assert_eq!(left, if back > 0 { 4 } else { 3 });
    chain.x().to_vec()
}

#[test]
fn what_was_measured_without_noise_is_kept() {
    let solvers = [
        Solver::Ddrm { eta: 0.85, eta_b: 1.0 },
        Solver::Ddnm { eta: 0.85 },
        Solver::DiffPir { lambda: 8.0, zeta: 0.3 },
        Solver::Replace,
    ];
    for solver in solvers {
        for back in [0, 1, 9] {
            let x = restored(solver, back);
            assert_eq!((x[0], x[LEN]), (0.75, -0.5), "{solver:?}");
            assert!(x.iter().all(|x| x.is_finite()) && x[1] != x[LEN + 1], "{solver:?}: {x:?}");
        }
        assert_ne!(restored(solver, 0)[1], restored(solver, 1)[1], "{solver:?} draws again");
    }
}

#[test]
fn without_a_measurement_a_restoration_is_ddim() {
    let run = |sampler| {
        let (mut memory, conds) = (Memory::new(&config()), [Cond::None; 2]);
        let mut chain = memory.chain(&config(), sampler, batch(0, &conds)).unwrap();
        let (mut network, mut noise) = (Network::default(), Philox::new(1));
        chain.init(&mut noise).unwrap();
        while chain.step(&mut network, &mut noise).unwrap().is_some() {}
        chain.x().to_vec()
    };
    assert_eq!(run(&sampler::RESTORE), run(&DDIM));
}

#[test]
fn going_back_adds_the_noise_of_the_forward_chain() {
    // x = signal * x0 + noise * z at one level becomes that at another: its variance is 1 with that of the data.
    let (mut memory, conds) = (Memory::new(&config()), [Cond::None]);
    let mut chain = memory.chain(&config(), &DDIM, batch(0, &conds)).unwrap();
    let (to, from) = (chain.level_to_begin(1), chain.level_to_begin(3));
    let mut noise = Philox::new(5);
    let mut z = [0.0; LEN];
    assert!(chain.begin(3, 7, &[0.5; LEN]));
    chain.go_back(2, &mut noise).unwrap();
    noise.fill(0, 7, &mut z).unwrap();
    for (x, z) in chain.x().iter().zip(z) {
        let keep = to.signal / from.signal;
        let add = (1.0 - to.signal * to.signal - keep * keep * (1.0 - from.signal * from.signal)).sqrt();
        assert!((f64::from(*x) - (keep * 0.5 + add * f64::from(z))).abs() < 1e-6);
    }
    assert_eq!(chain.draws(), 8);
}

#[test]
fn every_sampler_begins_in_the_middle_as_at_the_start() {
    // Of a network that predicts the same image everywhere, every solver makes it, however its steps before were.
    for sampler in sampler::REGISTRY {
        // PNDM's stages lie half strides apart, rounded, which is coarse near the end.
        if [sampler::DDIM_INVERSE.name, sampler::CONSISTENCY.name, sampler::PNDM.name].contains(&sampler.name) {
            continue;
        }
        // With diffusers' parity PLMS ends a step noisier.
        let (prediction, clip, parity) = (PredictionType::Sample, Clip::None, Parity::Table);
        let config = Config { steps: 9, prediction, clip, parity, ..Config::default() };
        let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; 9]);
        let mut levels = vec![Level::default(); sampler.levels(9)];
        let schedule = Schedule::for_sampler(&config, sampler, &mut alpha_bar, &mut timesteps, &mut levels).unwrap();
        let mut values = vec![0.0; 1000];
        let conds = [Cond::None];
        let mut chain = Chain::new(&config, sampler, schedule, batch(0, &conds), &mut values).unwrap();
        let (mut network, mut noise) = (Constant, Philox::new(6));
        for begin in [1, 4, 5, 8] {
            let Level { signal, noise: deviation, .. } = chain.level_to_begin(begin);
            let mut x = [0.0; LEN];
            noise.fill(0, 0, &mut x).unwrap();
            x.iter_mut().for_each(|x| *x = signal as f32 * 0.25 + deviation as f32 * *x);
            assert!(chain.begin(begin, 1, &x));
            while chain.step(&mut network, &mut noise).unwrap().is_some() {}
            for x in chain.x() {
                // Chains end at timestep 0, with a hundredth of the noise.
                assert!((x - 0.25).abs() < 0.05, "{} from step {begin}: {x}", sampler.name);
            }
        }
    }
}

/// Sees the same image everywhere.
struct Constant;

impl Denoise for Constant {
    type Error = Broken;

    fn out_len(&self) -> usize {
        LEN
    }

    fn predict(&mut self, _: &[f32], _: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Broken> {
        out.fill(0.25);
        Ok(())
    }
}

#[test]
fn an_image_is_the_same_in_any_batch() {
    for (sampler, eta) in [(&DDPM, 0.0), (&DDIM, 0.0), (&DDIM, 1.0)] {
        let config = Config { eta, ..config() };
        let run = |first_image: u64, images: usize| {
            let (mut memory, conds) = (Memory::new(&config), vec![Cond::None; images]);
            let mut chain = memory.chain(&config, sampler, batch(first_image, &conds)).unwrap();
            let (mut network, mut noise) = (Network::default(), Philox::new(3));
            chain.init(&mut noise).unwrap();
            while chain.step(&mut network, &mut noise).unwrap().is_some() {}
            chain.x().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let together = run(10, 8);
        assert_eq!(together[..3 * LEN], run(10, 3));
        assert_eq!(together[6 * LEN..7 * LEN], run(16, 1));
        assert_ne!(together[..LEN], together[LEN..2 * LEN]);
    }
}

#[test]
fn what_is_not_finite_names_image_and_timestep() {
    let mut memory = Memory::new(&config());
    let conds = [Cond::None; 3];
    let mut chain = memory.chain(&config(), &DDIM, batch(7, &conds)).unwrap();
    let (mut network, mut noise) = (Network { bad_image: Some(1), ..Network::default() }, Philox::new(1));
    chain.init(&mut noise).unwrap();
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::NonFinite { image: 8, timestep: 750 }));
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::NotReady));
    network.bad_image = None;
    chain.init(&mut noise).unwrap();
    assert!(chain.step(&mut network, &mut noise).is_ok());
}

#[test]
fn a_failing_network_ends_the_run() {
    let mut memory = Memory::new(&config());
    let mut chain = memory.chain(&config(), &DDIM, batch(0, &[Cond::None])).unwrap();
    let (mut network, mut noise) = (Network { fails: Some(2), ..Network::default() }, Philox::new(1));
    chain.init(&mut noise).unwrap();
    assert!(chain.step(&mut network, &mut noise).is_ok());
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::Model(Broken)));
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::NotReady));
}

#[test]
fn a_sampler_that_ignores_a_failure_does_not_hide_it() {
    fn careless(s: &mut sampler::Step<'_>) -> Result<(), Halt> {
        let _ = s.model.predict(s.x, At::new(0, 0.5));
        Ok(())
    }
    let sampler =
        Sampler { name: "", source: "", order: 0, evaluations: 1, history: 0, grid: Grid::Chain, step: careless };
    let mut memory = Memory::new(&config());
    let mut chain = memory.chain(&config(), &sampler, batch(0, &[Cond::None])).unwrap();
    let (mut network, mut noise) = (Network { fails: Some(1), ..Network::default() }, Philox::new(1));
    chain.init(&mut noise).unwrap();
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::Model(Broken)));
}

#[test]
fn a_sampler_of_ones_own_evaluates_twice_and_remembers() {
    fn heun(s: &mut sampler::Step<'_>) -> Result<(), Halt> {
        let t = s.timestep();
        let a = s.alpha_bar(t);
        let first = s.model.predict(s.x, At::new(t, a))?;
        let (kept, before) = s.history.split_at_mut(s.x.len());
        kept.copy_from_slice(first.eps);
        // What the step before left: zeros at the first one.
        assert!(before.iter().all(|&v| v == s.index as f32));
        before.fill(s.index as f32 + 1.0);
        let second = s.model.predict(s.x, At::new(t, a))?;
        assert_eq!(second.eps, kept);
        Ok(())
    }
    let sampler = Sampler { name: "", source: "", order: 0, evaluations: 2, history: 2, grid: Grid::Chain, step: heun };
    let mut memory = Memory::new(&config());
    let conds = [Cond::None; 2];
    let mut chain = memory.chain(&config(), &sampler, batch(0, &conds)).unwrap();
    let (mut network, mut noise) = (Network::default(), Philox::new(1));
    chain.init(&mut noise).unwrap();
    while chain.step(&mut network, &mut noise).unwrap().is_some() {}
    assert_eq!(network.evaluations, 8);
}

#[test]
fn guidance_asks_once_and_goes_beyond_the_condition() {
    // Clipping is off, so that eps can be read from x0.
    let guided = Config { guidance: Guidance::from_scale(3.0), clip: Clip::None, steps: 1, ..config() };
    let conds = [Cond::Class(1), Cond::Class(0), Cond::None, Cond::None];
    let mut memory = Memory::new(&guided);
    let mut chain = memory.chain(&guided, &DDIM, batch(0, &conds)).unwrap();
    let (mut network, mut noise) = (Network::default(), Philox::new(1));
    chain.init(&mut noise).unwrap();
    let x = chain.x().to_vec();
    chain.step(&mut network, &mut noise).unwrap();
    assert_eq!((network.evaluations, network.conds.as_slice()), (1, &conds[..]));
    for (i, (x, x0)) in x.iter().zip(chain.x0()).enumerate() {
        // u + 3 (c - u) with u = x / 2 and c = x or 0, at alpha-bar of timestep 0, 0.9999.
        let eps = if i < LEN { 2.0 * x } else { -x };
        let expected = (x - 0.01 * eps) / 0.9999_f32.sqrt();
        assert!((x0 - expected).abs() < 1e-5, "{i}: {x0} {expected}");
    }
}

#[test]
fn a_fixed_variance_ignores_the_predicted_one() {
    let run = |variance: bool, kind: Variance| {
        let config = Config { variance: kind, ..config() };
        let mut memory = Memory::new(&config);
        let conds = [Cond::None; 3];
        let mut network = Network { variance, ..Network::default() };
        let shape = Batch { out_len: network.out_len(), ..batch(0, &conds) };
        let mut chain = memory.chain(&config, &DDPM, shape).unwrap();
        let mut noise = Philox::new(1);
        chain.init(&mut noise).unwrap();
        while chain.step(&mut network, &mut noise).unwrap().is_some() {}
        chain.x().to_vec()
    };
    let fixed = run(false, Variance::FixedSmall);
    assert_eq!(fixed, run(true, Variance::FixedSmall));
    // -1 says "the small one", up to the rounding of a logarithm.
    let learned = run(true, Variance::LearnedRange);
    assert!(fixed.iter().zip(&learned).all(|(a, b)| (a - b).abs() < 1e-5), "{fixed:?} {learned:?}");
}

#[test]
fn given_noise_is_taken_in_order_and_its_end_is_an_error() {
    let (mut memory, conds) = (Memory::new(&config()), [Cond::None; 2]);
    let mut chain = memory.chain(&config(), &DDPM, batch(4, &conds)).unwrap();
    let mut network = Network::default();
    // Three draws of the images 3 to 5; a run of 4 steps needs four.
    let values: Vec<f32> = (0..3 * 3 * LEN).map(|v| v as f32 * 0.01).collect();
    let mut given = Given::new(&values, 3, 3, LEN);
    chain.init(&mut given).unwrap();
    assert_eq!(chain.x(), &values[LEN..3 * LEN]);
    assert!(chain.step(&mut network, &mut given).is_ok());
    assert!(chain.step(&mut network, &mut given).is_ok());
    let missing = NoiseError::Missing { image: 4, draw: 3 };
    assert_eq!(chain.step(&mut network, &mut given), Err(RunError::Noise(missing)));
    assert_eq!(chain.init(&mut Given::new(&[], 0, 0, LEN)), Err(NoiseError::Missing { image: 4, draw: 0 }));
    assert_eq!(chain.step(&mut network, &mut given), Err(RunError::NotReady));
}

#[test]
fn what_does_not_fit_is_refused() {
    let none = [Cond::None; 3];
    let refused = |config: &Config, batch: Batch<'_>, values: usize| {
        let mut memory = Memory::new(config);
        memory.values.resize(values, 0.0);
        memory.chain(config, &DDIM, batch).err()
    };
    let guided = Config { guidance: Guidance::from_scale(2.0), ..config() };
    let learned = Config { variance: Variance::LearnedRange, ..config() };
    assert_eq!(refused(&config(), batch(0, &none), 45), None);
    assert_eq!(refused(&config(), batch(0, &none), 44), Some(ChainError::Memory { needed: 45, given: 44 }));
    assert_eq!(refused(&config(), batch(0, &[]), 99), Some(ChainError::Empty));
    assert_eq!(refused(&config(), Batch { len: 0, ..batch(0, &none) }, 99), Some(ChainError::Empty));
    assert_eq!(refused(&guided, batch(0, &none), 99), Some(ChainError::Conditions { given: 3, per_image: 2 }));
    assert_eq!(refused(&config(), Batch { out_len: 6, ..batch(0, &none) }, 99), Some(ChainError::OutLen(6)));
    assert_eq!(refused(&learned, batch(0, &none), 99), Some(ChainError::OutLen(LEN)));
    let huge = Batch { len: usize::MAX / 2, out_len: usize::MAX / 2, ..batch(0, &none) };
    assert_eq!(refused(&config(), huge, 99), Some(ChainError::TooLarge));

    let mut memory = Memory::new(&config());
    let mut chain = memory.chain(&config(), &DDIM, batch(0, &none)).unwrap();
    let mut noise = Philox::new(1);
    chain.init(&mut noise).unwrap();
    let mut network = Network { variance: true, ..Network::default() };
    assert_eq!(chain.step(&mut network, &mut noise), Err(RunError::OutLen { needed: 5, given: 10 }));
}
