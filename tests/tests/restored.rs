//! Whole restorations by a diffusion prior against a script of their own, on every backend; noise levels and likeness against scikit-image.

use unfog_core::chain::{Batch, Chain};
use unfog_core::config::{Config, Parity};
use unfog_core::denoise::Cond;
use unfog_core::noise::Given;
use unfog_core::sampler::RESTORE;
use unfog_core::schedule::{BetaSchedule, Schedule};
use unfog_core::solve::Measured;
use unfog_core::solve::matrix;
use unfog_core::solve::operator::{Kind, Operator, Shape};
use unfog_core::solve::svd::Svd;
use unfog_core::solve::update::Solver;
use unfog_tests::compare::close;
use unfog_tests::golden::Golden;
use unfog_tests::net::Net;
use unfog_tests::pipeline::kinds;
use unfog_tests::{TestResult, said, tolerance};

const STEPS: usize = 10;

#[test]
fn chains_agree_with_the_papers() -> TestResult {
    let golden = Golden::read("restored")?;
    let net = Net::open("host/models/glyph-tiny")?;
    let shape = Shape { channels: net.shape[0], height: net.shape[1], width: net.shape[2] };
    let noise = golden.tensor("noise")?;
    let known: Vec<bool> = (0..shape.len()).map(|i| i % 3 != 1).collect();
    let mut blur = vec![0.0; shape.height * shape.height];
    assert!(matrix::gaussian(shape.height, 0.8, &mut blur));
    let [kept, once] = Svd::memory(shape.height, shape.height);
    let (mut kept, mut once) = (vec![0.0; kept], vec![0.0; once]);
    Svd::new(&blur, [shape.height; 2], 1e-6, &mut kept, &mut once).ok_or("no decomposition")?;
    let blur = Svd::kept(&kept, [shape.height; 2]).ok_or("no decomposition")?;
    let config =
        Config { betas: BetaSchedule::SquaredCosCapV2, steps: STEPS, parity: Parity::Table, ..Config::default() };
    assert!(!golden.cases().is_empty());
    for (_, backend) in kinds()? {
        let mut worst = 0.0_f64;
        for (number, case) in golden.cases().iter().enumerate() {
            let kind = match case["operator"].as_str() {
                Some("identity") => Kind::Identity,
                Some("mask") => Kind::Mask { known: &known },
                Some("pool4") => Kind::AveragePool { factor: 4 },
                Some("gaussian") => Kind::Separable { rows: blur, columns: blur },
                other => return Err(format!("an unknown operator: {other:?}").into()),
            };
            let solver = match case["solver"].as_str() {
                Some("ddrm") => Solver::Ddrm { eta: 0.85, eta_b: 1.0 },
                Some("ddnm") => Solver::Ddnm { eta: 0.85 },
                other => return Err(format!("an unknown solver: {other:?}").into()),
            };
            let operator = Operator::new(kind, shape).map_err(|e| format!("{e:?}"))?;
            let mut spectra = vec![f32::NAN; shape.len()];
            operator.measured_spectrum(&golden.part(number, "y")?.values, &mut spectra);
            let sigma_y = case["sigma_y"].as_f64().ok_or("no sigma_y")? as f32;
            let mut denoiser = backend.denoiser(&net, &[])?;
            let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; STEPS]);
            let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps)?;
            let batch = Batch { first_image: 0, len: net.len(), out_len: denoiser.out_len(), conds: &[Cond::None] };
            let mut memory = vec![0.0; Chain::memory(&config, &RESTORE, &batch)?];
            let mut chain = Chain::new(&config, &RESTORE, schedule, batch, &mut memory)?;
            assert!(chain.restore(Measured { operator, solver, sigma_y, spectra: &spectra }));
            let mut noise = Given::new(&noise.values, 0, 1, net.len());
            chain.init(&mut noise)?;
            while chain.step(&mut *denoiser, &mut noise).map_err(said)?.is_some() {}
            assert_eq!(chain.draws() as usize, STEPS + 1);
            let what = format!("{case} on {}", backend.name());
            let want = &golden.part(number, "out")?.values;
            worst = worst.max(close(&what, chain.x(), want, tolerance::restored())?);
        }
        println!("{}: at most {worst:.1e}", backend.name());
    }
    Ok(())
}

#[test]
fn noise_levels_are_those_of_scikit_image() -> TestResult {
    let golden = Golden::read("restored")?;
    let want = golden.tensor("levels")?;
    let mut got = Vec::new();
    for number in 0..want.values.len() {
        let picture = golden.tensor(&format!("level.{number:02}"))?;
        let [channels, height, width] = picture.shape[..] else { return Err("no picture".into()) };
        got.push(unfog::restore::noise_level(&picture.values, channels, height, width).map_err(|e| e.report())?);
    }
    println!("{:.1e}", close("noise levels", &got, &want.values, tolerance::quality())?);
    assert!(unfog::restore::noise_level(&[0.5; 64], 1, 8, 8).map_err(|e| e.report())? < 1e-12);
    Ok(())
}

#[test]
fn likeness_is_that_of_scikit_image() -> TestResult {
    let golden = Golden::read("restored")?;
    let (a, b, want) = (golden.tensor("near.a")?, golden.tensor("near.b")?, golden.tensor("near")?);
    let [_, height, width] = a.shape[..] else { return Err("no picture".into()) };
    let near = unfog::restore::quality(&a.values, &b.values, height, width).map_err(|e| e.report())?;
    let got = [near.psnr, near.ssim].map(|v| v.map_or(f32::NAN, |v| v as f32));
    println!("{:.1e}", close("PSNR and SSIM", &got, &want.values, tolerance::quality())?);
    let same = unfog::restore::quality(&a.values, &a.values, height, width).map_err(|e| e.report())?;
    assert_eq!((same.psnr, same.ssim.map(|v| (v - 1.0).abs() < 1e-12)), (None, Some(true)));
    Ok(())
}
