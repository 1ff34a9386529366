//! Sigma tables against diffusers and k-diffusion, and against what every table must be.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::config::{Config, ConfigError, Parity};
use crate::predict::PredictionType;
use crate::sampler::{DPMPP_2M, EULER, Sampler};

const TABLES: [SigmaTable; 13] = [
    SigmaTable::Timesteps,
    SigmaTable::Karras { rho: 7.0 },
    SigmaTable::Exponential,
    SigmaTable::Polyexponential { rho: 1.5 },
    SigmaTable::Beta { alpha: 0.6, beta: 0.6 },
    SigmaTable::LuLambda,
    SigmaTable::Vp { beta_d: 19.9, beta_min: 0.1, eps: 1e-3 },
    SigmaTable::AlignYourSteps(AlignYourSteps::Sd15),
    SigmaTable::AlignYourSteps(AlignYourSteps::Sdxl),
    SigmaTable::AlignYourSteps(AlignYourSteps::Svd),
    SigmaTable::Uniform,
    SigmaTable::Simple,
    SigmaTable::KlOptimal,
];

/// Stable Diffusion 1.5's chain.
fn config(table: SigmaTable, steps: usize) -> Config {
    Config {
        betas: BetaSchedule::ScaledLinear,
        beta_start: 0.00085,
        beta_end: 0.012,
        spacing: Spacing::Trailing,
        parity: Parity::Table,
        sigmas: Sigmas { table, ..Sigmas::default() },
        steps,
        ..Config::default()
    }
}

fn levels(config: &Config, sampler: &Sampler) -> Result<Vec<Level>, ConfigError> {
    let mut levels = vec![Level::default(); config.steps + 1];
    let (mut alpha_bar, mut timesteps) = (vec![0.0; config.train_steps], vec![0; config.steps]);
    Schedule::for_sampler(config, sampler, &mut alpha_bar, &mut timesteps, &mut levels)?;
    Ok(levels)
}

fn sigmas(config: &Config, sampler: &Sampler) -> Vec<f64> {
    levels(config, sampler).unwrap().iter().map(|l| l.sigma()).collect()
}

fn close(got: &[f64], expected: &[f64], relative: f64) {
    assert_eq!(got.len(), expected.len());
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= relative * e.abs(), "{got:?} {expected:?}");
    }
}

#[test]
fn every_table_falls_from_noise_to_the_image() {
    for sampler in [&EULER, &DPMPP_2M] {
        for table in TABLES {
            for steps in (1..=60).chain([97, 250, 999]) {
                for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
                    let levels = levels(&Config { spacing, ..config(table, steps) }, sampler).unwrap();
                    assert!(levels.windows(2).all(|l| l[0].sigma() > l[1].sigma()), "{table:?} {steps}");
                    assert!(levels.windows(2).all(|l| l[0].time >= l[1].time), "{table:?} {steps}");
                    assert_eq!(levels[steps], Level::IMAGE);
                    for l in &levels[..steps] {
                        // Signal and noise of a network over alpha-bar.
                        assert!((l.signal * l.signal + l.noise * l.noise - 1.0).abs() < 1e-12);
                        assert!((0.0..=999.0).contains(&l.time), "{table:?} {steps} {l:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn computed_tables_have_their_ends() {
    for sampler in [&EULER, &DPMPP_2M] {
        for table in TABLES {
            if let SigmaTable::Karras { .. }
            | SigmaTable::Exponential
            | SigmaTable::Polyexponential { .. }
            | SigmaTable::Beta { .. }
            | SigmaTable::LuLambda
            | SigmaTable::KlOptimal = table
            {
                let mut config = config(table, 9);
                config.sigmas = Sigmas { min: Some(0.1), max: Some(10.0), ..config.sigmas };
                let sigmas = sigmas(&config, sampler);
                // Sigmas are rounded to f32.
                close(&[sigmas[0], sigmas[8]], &[10.0, 0.1], 1e-7);
            }
        }
    }
}

#[test]
fn tables_are_those_of_diffusers() {
    // EulerDiscreteScheduler and DPMSolverMultistepScheduler(scaled_linear, 0.00085, 0.012, trailing).sigmas, n = 3.
    let euler = config(SigmaTable::Timesteps, 3);
    close(&sigmas(&euler, &EULER), &[14.614646911621094, 2.9183084964752197, 0.9292148947715759, 0.0], 1e-7);
    let karras = config(SigmaTable::Karras { rho: 7.0 }, 3);
    close(&sigmas(&karras, &EULER), &[14.614646911621094, 4.216551303863525, 0.9292148947715759, 0.0], 2e-7);
    close(&sigmas(&karras, &DPMPP_2M), &[14.614646911621094, 1.2741053104400635, 0.02916753478348255, 0.0], 2e-7);
    let times = |config: &Config| levels(config, &DPMPP_2M).unwrap().iter().map(|l| l.time).collect::<Vec<_>>();
    assert_eq!(times(&Config { parity: Parity::Diffusers, ..karras })[..3], [999.0, 427.0, 0.0]);
    // Without diffusers' rounding the times are those of the sigmas.
    let exact = times(&karras)[1];
    assert!((exact - 427.0).abs() < 0.5 && exact != 427.0, "{exact}");
}

#[test]
fn flow_levels_are_those_of_diffusers() {
    // FlowMatchEulerDiscreteScheduler(shift=3.0), n = 4: the least level is shifted twice.
    let shift = |shift, parity, table, shift_terminal| Config {
        prediction: PredictionType::Flow,
        sigmas: Sigmas { shift, table, shift_terminal, ..Sigmas::default() },
        parity,
        ..config(table, 4)
    };
    let noises = |config: &Config| levels(config, &EULER).unwrap().iter().map(|l| l.noise).collect::<Vec<_>>();
    let fixed = shift(Shift::Static(3.0), Parity::Diffusers, SigmaTable::Timesteps, None);
    let expected = [1.0, 0.857692301273346, 0.602150559425354, 0.008928571827709675, 0.0];
    close(&noises(&fixed), &expected, 2e-7);
    // Shifted once, 3 / 1002 is the last.
    let once = noises(&Config { parity: Parity::Table, ..fixed });
    close(&once[3..4], &[3.0 / 1002.0], 1e-7);
    let times: Vec<f32> = levels(&fixed, &EULER).unwrap().iter().map(|l| l.time).collect();
    assert_eq!(times[..2], [1000.0, 857.6923]);
    // (use_dynamic_shifting, shift_terminal=0.1), sigmas = linspace(1, 1/4, 4), mu = 0.8.
    let dynamic = shift(Shift::Exponential(0.8), Parity::Diffusers, SigmaTable::Uniform, Some(0.1));
    close(&noises(&dynamic), &[1.0, 0.7957875728607178, 0.5139846801757812, 0.10000000298023224, 0.0], 2e-7);
    let same = shift(Shift::Linear(0.8_f64.exp()), Parity::Diffusers, SigmaTable::Uniform, Some(0.1));
    assert_eq!(noises(&same), noises(&dynamic));
}

#[test]
fn edm_levels_are_those_of_diffusers() {
    // EDMEulerScheduler(), n = 4: 0.25 ln sigma is the time.
    let edm = Config { prediction: PredictionType::Edm { sigma_data: 0.5 }, ..config(SigmaTable::Timesteps, 4) };
    let expected = [80.0, 9.723201751708984, 0.46997904777526855, 0.002, 0.0];
    close(&sigmas(&edm, &EULER), &expected, 2e-7);
    let times: Vec<f64> = levels(&edm, &EULER).unwrap()[..4].iter().map(|l| f64::from(l.time)).collect();
    close(&times, &[1.095506, 0.568627, -0.188767, -1.553652], 1e-5);
}

#[test]
fn given_levels_are_kept() {
    for sampler in [&EULER, &DPMPP_2M] {
        let config = config(SigmaTable::Given, 3);
        let fill = |given: [f64; 4]| {
            let mut levels = given.map(Level::given);
            let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; 3]);
            Schedule::for_sampler(&config, sampler, &mut alpha_bar, &mut timesteps, &mut levels)?;
            Ok(levels.map(Level::sigma))
        };
        close(&fill([8.0, 2.0, 1.0, 0.5]).unwrap(), &[8.0, 2.0, 1.0, 0.5], 1e-7);
        assert_eq!(fill([8.0, 2.0, 1.0, 0.0]).unwrap()[3], 0.0);
        assert_eq!(fill([8.0, 8.0, 1.0, 0.0]), Err(ConfigError::Level { step: 0 }));
        assert_eq!(fill([8.0, 2.0, f64::NAN, 0.0]), Err(ConfigError::Level { step: 1 }));
        assert_eq!(fill([8.0, 2.0, 0.0, 0.0]), Err(ConfigError::Level { step: 2 }));
        assert!(fill([f64::INFINITY, 2.0, 1.0, 0.0]).is_err());
    }
}

#[test]
fn given_times_are_kept() {
    let edm = PredictionType::Edm { sigma_data: 0.5 };
    for prediction in [PredictionType::Epsilon, PredictionType::Flow, edm] {
        let config = Config { prediction, ..config(SigmaTable::Given, 2) };
        let mut levels = [Level::given_at(-1.5, 0.75), Level::given(0.5), Level::given(0.0)];
        let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; 2]);
        let schedule = Schedule::for_sampler(&config, &EULER, &mut alpha_bar, &mut timesteps, &mut levels).unwrap();
        assert_eq!(schedule.levels()[0].time, -1.5);
        let own = match prediction {
            PredictionType::Flow => 500.0,
            PredictionType::Edm { .. } => 0.25 * 0.5_f32.ln(),
            _ => schedule.time_of_sigma(0.5) as f32,
        };
        assert_eq!(schedule.levels()[1].time, own, "{prediction:?}");
    }
}

#[test]
fn sigma_and_time_invert() {
    let config = config(SigmaTable::Timesteps, 1);
    let (mut alpha_bar, mut timesteps, mut levels) = (vec![0.0; 1000], [0], [Level::default(); 2]);
    let schedule = Schedule::for_sampler(&config, &EULER, &mut alpha_bar, &mut timesteps, &mut levels).unwrap();
    for t in 0..999 {
        let sigma = super::sigma::table_sigma(schedule.alpha_bar(), t);
        // Logarithms are f32, as diffusers': 1e-7 of up to 3.5, over steps of 0.003 at least.
        assert!((schedule.time_of_sigma(sigma) - t as f64).abs() < 2e-4, "{t}");
        let between = super::sigma::sigma_of_time(schedule.alpha_bar(), t as f64 + 0.3, Interpolation::Log);
        assert!((schedule.time_of_sigma(between) - t as f64 - 0.3).abs() < 2e-4, "{t}");
    }
    assert_eq!([schedule.time_of_sigma(0.0), schedule.time_of_sigma(1e9)], [0.0, 999.0]);
}

#[test]
fn what_a_network_does_not_have_is_refused() {
    let refused = |config: Config, sampler: &Sampler| levels(&config, sampler).unwrap_err();
    let edm = Config { prediction: PredictionType::Edm { sigma_data: 0.5 }, ..config(SigmaTable::Simple, 4) };
    assert_eq!(refused(edm, &EULER), ConfigError::Table);
    assert_eq!(refused(edm, &crate::sampler::DDIM), ConfigError::Prediction);
    let flow = Config { prediction: PredictionType::Flow, ..config(SigmaTable::Timesteps, 4) };
    for m in [0.0, -1.0, f64::NAN] {
        let sigmas = Sigmas { shift: Shift::Linear(m), ..flow.sigmas };
        assert!(matches!(refused(Config { sigmas, ..flow }, &EULER), ConfigError::Shift(_)));
    }
    // DPM-Solver's n + 1 points don't fit T timesteps.
    let all = Config { spacing: Spacing::Linspace, ..config(SigmaTable::Timesteps, 1000) };
    assert_eq!(refused(all, &DPMPP_2M), ConfigError::TooManySteps { steps: 1000, train_steps: 999 });
    assert!(levels(&all, &EULER).is_ok());
    for table in [SigmaTable::Karras { rho: 0.0 }, SigmaTable::Karras { rho: f64::NAN }] {
        assert_eq!(refused(config(table, 4), &EULER), ConfigError::Sigmas);
    }
    let range = Sigmas { min: Some(9.0), max: Some(1.0), ..config(SigmaTable::Exponential, 4).sigmas };
    assert_eq!(refused(Config { sigmas: range, ..config(SigmaTable::Timesteps, 4) }, &EULER), ConfigError::Sigmas);
}

#[test]
fn ends_are_reached_whatever_rounding_does() {
    // 1 shifted by m is m / (1 + (m - 1)), which f64 takes above 1 for some m.
    let mut above = 0;
    for m in (1..2000).map(|i| f64::from(i) / 177.0) {
        above += u32::from(m / (1.0 + (m - 1.0)) > 1.0);
        for end in [End::Zero, End::Min] {
            let sigmas = Sigmas { shift: Shift::Linear(m), end, ..Sigmas::default() };
            let flow = Config { prediction: PredictionType::Flow, sigmas, ..config(SigmaTable::Timesteps, 3) };
            let levels = levels(&flow, &EULER).unwrap();
            assert_eq!(levels[0].noise, 1.0, "{m}");
            // Below 1 a shift takes the last level below 1 / T; the run ends there.
            assert!(levels[3].noise <= levels[2].noise, "{m}");
        }
    }
    assert!(above > 10, "{above}");
    // A range of the caller's own that ends below the network's least sigma.
    let sigmas = Sigmas { min: Some(0.01), end: End::Min, ..config(SigmaTable::Exponential, 4).sigmas };
    let levels = levels(&Config { sigmas, ..config(SigmaTable::Timesteps, 4) }, &EULER).unwrap();
    assert_eq!(levels[3].sigma(), levels[4].sigma());
}

#[test]
fn the_last_alpha_bar_falls_where_little_is_left_before() {
    // These betas leave e^-12, and zero terminal SNR less: 2^-24 would rise.
    let exponential = Config {
        betas: BetaSchedule::Exponential,
        train_steps: 65,
        zero_terminal_snr: true,
        ..config(SigmaTable::Timesteps, 65)
    };
    let (mut alpha_bar, mut timesteps, mut levels) = (vec![0.0; 65], vec![0; 65], vec![Level::default(); 66]);
    let schedule = Schedule::for_sampler(&exponential, &EULER, &mut alpha_bar, &mut timesteps, &mut levels).unwrap();
    let [.., before, last] = schedule.alpha_bar() else { panic!("65 values") };
    assert!(0.0 < *last && last < before && *before < 1.0 / (1 << 24) as f32, "{before:e} {last:e}");
}
