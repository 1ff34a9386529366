//! The coefficients that `unfog schedule` prints are what the samplers do.

use std::convert::Infallible;

use unfog::schedule::rows;
use unfog::settings::{Settings, Wishes};
use unfog_core::chain::{Batch, Chain};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::Given;
use unfog_core::predict::Clip;
use unfog_tests::TestResult;

const LEN: usize = 5;
const STEPS: usize = 4;

/// Remembers what it was shown and what it said.
#[derive(Default)]
struct Network {
    said: Vec<f32>,
}

impl Denoise for Network {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        LEN
    }

    fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = 0.8 * x.tanh() + 0.1 * (t * 0.01 + i as f32).sin();
        }
        self.said = out.to_vec();
        Ok(())
    }
}

fn check(name: &str, eta: Option<f32>, parity: unfog_core::config::Parity) -> TestResult {
    let wishes =
        Wishes { sampler: Some(name.into()), steps: Some(STEPS), eta, parity: Some(parity), ..Wishes::default() };
    let mut settings = Settings::new(None, &wishes)?;
    settings.config.clip = Clip::None;
    let mut tables = settings.tables()?;
    let schedule = tables.schedule()?;
    let rows = rows(&settings, &schedule);
    let values: Vec<f32> = (0..(STEPS + 1) * LEN).map(|i| ((i * 7919) as f32 * 0.37).sin() * 1.5).collect();
    let mut noise = Given::new(&values, 0, 1, LEN);
    let batch = Batch { first_image: 0, len: LEN, out_len: LEN, conds: &[Cond::None] };
    let mut memory = vec![0.0; Chain::memory(&settings.config, settings.sampler, &batch)?];
    let mut chain = Chain::new(&settings.config, settings.sampler, schedule, batch, &mut memory)?;
    chain.init(&mut noise)?;
    let mut network = Network::default();
    for row in &rows {
        let (before, draws) = (chain.x().to_vec(), chain.draws() as usize);
        chain.step(&mut network, &mut noise)?;
        let c = row.coefficients.ok_or("no coefficients")?;
        let factor = |f: Option<f64>| f.unwrap_or(0.0);
        let drawn = chain.draws() as usize > draws;
        assert!(drawn || factor(c.noise) < 1e-9, "{name} step {}: a factor for noise that is not drawn", row.step);
        for i in 0..LEN {
            let (x, eps) = (f64::from(before[i]), f64::from(network.said[i]));
            let z = if drawn { f64::from(values[draws * LEN + i]) } else { 0.0 };
            let x0 = (x - row.noise * eps) / row.signal;
            let want = factor(c.x) * x + factor(c.x0) * x0 + factor(c.eps) * eps + factor(c.noise) * z;
            let got = f64::from(chain.x()[i]);
            // Terms of x0, up to 1 / signal = 160 of them, come as f32 from the sampler.
            let scale = 1.0 + (factor(c.x0) * x0).abs() + x0.abs() * 1e-2;
            assert!(
                (got - want).abs() < 1e-5 * scale,
                "{name} step {} value {i}: {got}, by the table {want}",
                row.step
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_printed_is_what_is_done() -> TestResult {
    use unfog_core::config::Parity::{Diffusers, Table};
    for parity in [Diffusers, Table] {
        for name in ["ddpm", "ddim", "ddim-inverse", "euler", "euler-a", "lcm", "tcd"] {
            check(name, None, parity)?;
        }
        for (name, eta) in [("ddim", 0.6), ("ddim", 1.0), ("tcd", 0.0), ("tcd", 1.0)] {
            check(name, Some(eta), parity)?;
        }
    }
    Ok(())
}
