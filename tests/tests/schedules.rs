//! Tables, timesteps and variances against diffusers, to the bit.

use unfog_core::config::{Config, Parity};
use unfog_core::forward::Posterior;
use unfog_core::schedule::{BetaSchedule, Schedule, Spacing, alpha_bar_from_betas, fill_betas, fill_timesteps};
use unfog_tests::TestResult;
use unfog_tests::compare::same_bits;
use unfog_tests::golden::Golden;

/// A schedule by diffusers' name, with the range that the goldens have.
fn schedule(name: &str) -> TestResult<(BetaSchedule, f64, f64)> {
    match name {
        "linear" => Ok((BetaSchedule::Linear, 1e-4, 0.02)),
        "scaled_linear" => Ok((BetaSchedule::ScaledLinear, 0.00085, 0.012)),
        "squaredcos_cap_v2" => Ok((BetaSchedule::SquaredCosCapV2, 1e-4, 0.02)),
        _ => Err(format!("unknown schedule {name}").into()),
    }
}

#[test]
fn everything_in_the_golden_file() -> TestResult {
    let golden = Golden::read("schedules")?;
    let mut checked = 0;
    for key in golden.names() {
        let want = &golden.tensor(key)?.values;
        let parts: Vec<&str> = key.split('.').collect();
        match parts[..] {
            ["betas", name, _] => {
                let (kind, start, end) = schedule(name)?;
                let mut betas = vec![0.0; want.len()];
                fill_betas(kind, start, end, &mut betas)?;
                same_bits(key, &betas, want)?;
            }
            ["alphas_cumprod", name, _] => {
                let (kind, start, end) = schedule(name)?;
                let mut table = vec![0.0; want.len()];
                fill_betas(kind, start, end, &mut table)?;
                alpha_bar_from_betas(&mut table);
                same_bits(key, &table, want)?;
            }
            ["timesteps", spacing, offset, n] => timesteps(key, spacing, offset.parse()?, n.parse()?, want)?,
            ["variance", kind, name, n] => variance(key, kind, name, n.parse()?, want)?,
            _ => return Err(format!("unknown golden {key}").into()),
        }
        checked += 1;
    }
    assert!(checked > 100, "{checked} tables");
    Ok(())
}

fn timesteps(key: &str, spacing: &str, offset: u32, n: usize, want: &[f32]) -> TestResult {
    let spacing = match spacing {
        "leading" => Spacing::Leading,
        "linspace" => Spacing::Linspace,
        "trailing" => Spacing::Trailing,
        _ => return Err(format!("unknown spacing {spacing}").into()),
    };
    let mut timesteps = vec![0; n];
    fill_timesteps(spacing, 1000, offset, &mut timesteps)?;
    let got: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
    // For some n NumPy's trailing table has an entry too many, timestep -1: that is no timestep.
    let surplus = &want[n.min(want.len())..];
    assert!(surplus.is_empty() || spacing == Spacing::Trailing && surplus == [-1.0], "{key}: {surplus:?}");
    same_bits(key, &got, &want[..n])
}

fn variance(key: &str, kind: &str, name: &str, steps: usize, want: &[f32]) -> TestResult {
    let (betas, beta_start, beta_end) = schedule(name)?;
    let config = Config { betas, beta_start, beta_end, steps, ..Config::default() };
    let (mut alpha_bar, mut timesteps) = (vec![0.0; 1000], vec![0; steps]);
    let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps)?;
    let at = |t: u32| schedule.alpha_bar()[t as usize];
    let posterior = |step: usize| {
        let to = schedule.next_timestep(step, Parity::Diffusers).map_or(1.0, at);
        Posterior::new(at(schedule.timesteps()[step]), to)
    };
    let values = (0..steps).map(posterior).map(|p| match kind {
        "fixed_large" => p.beta,
        "fixed_small" => p.variance.max(1e-20),
        _ => p.variance,
    });
    same_bits(key, &values.collect::<Vec<_>>(), want)
}
