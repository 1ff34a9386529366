//! Which sampler a scheduler's class stands for, and which keys it has.

use serde_json::{Map, Value};
use unfog_core::sampler::{self, Sampler};

use crate::error::{Error, Result};
use crate::model::fields::Fields;

/// The keys of each class with their defaults in diffusers 0.42.1, written by tests/golden/make_configs.py.
const DEFAULTS: &str = include_str!("../schedulers.json");

/// A class, values of its keys (each one of those that are listed), and the sampler that they stand for.
struct Row {
    class: &'static str,
    when: &'static [(&'static str, &'static [&'static str])],
    sampler: &'static str,
}

const fn row(
    class: &'static str,
    when: &'static [(&'static str, &'static [&'static str])],
    sampler: &'static str,
) -> Row {
    Row { class, when, sampler }
}

/// Values of `solver_type` that classes take for their own one.
const MIDPOINT: (&str, &[&str]) = ("solver_type", &["midpoint", "logrho", "bh1", "bh2"]);
const HEUN: (&str, &[&str]) = ("solver_type", &["heun"]);
const BH1: (&str, &[&str]) = ("solver_type", &["bh1"]);
const BH2: (&str, &[&str]) = ("solver_type", &["bh2", "midpoint", "heun", "logrho"]);
const LOGRHO: (&str, &[&str]) = ("solver_type", &["logrho", "midpoint", "heun", "bh1", "bh2"]);
const DEIS: (&str, &[&str]) = ("algorithm_type", &["deis", "dpmsolver", "dpmsolver++"]);
const IMAGE: (&str, &[&str]) = ("algorithm_type", &["dpmsolver++"]);
const SDE: (&str, &[&str]) = ("algorithm_type", &["sde-dpmsolver++"]);
const NOISE: (&str, &[&str]) = ("algorithm_type", &["dpmsolver"]);
const DATA: (&str, &[&str]) = ("algorithm_type", &["data_prediction"]);
const ORDER_2: (&str, &[&str]) = ("solver_order", &["2"]);
/// What unCLIP's scheduler is: DDPM over evenly spaced timesteps, the last of them 0.
const COSINE: (&str, &[&str]) = ("beta_schedule", &["squaredcos_cap_v2"]);
const UNCLIP_VARIANCE: (&str, &[&str]) = ("variance_type", &["fixed_small_log", "learned_range"]);
const UNCLIP_PREDICTION: (&str, &[&str]) = ("prediction_type", &["epsilon", "sample"]);
const ORDER_3: (&str, &[&str]) = ("solver_order", &["3"]);

/// Every class that can be read. A sampler that the registry does not have is refused by its name.
const ROWS: [Row; 46] = [
    row("DDPMScheduler", &[], "ddpm"),
    row("DDPMParallelScheduler", &[], "ddpm"),
    row("UnCLIPScheduler", &[COSINE, UNCLIP_VARIANCE, UNCLIP_PREDICTION], "ddpm"),
    row("DDIMScheduler", &[], "ddim"),
    row("DDIMParallelScheduler", &[], "ddim"),
    row("DDIMInverseScheduler", &[], "ddim-inverse"),
    row("PNDMScheduler", &[("skip_prk_steps", &["true"])], "plms"),
    row("PNDMScheduler", &[("skip_prk_steps", &["false"])], "pndm"),
    row("EulerDiscreteScheduler", &[], "euler"),
    row("EulerAncestralDiscreteScheduler", &[], "euler-a"),
    row("HeunDiscreteScheduler", &[], "heun"),
    row("KDPM2DiscreteScheduler", &[], "dpm2"),
    row("KDPM2AncestralDiscreteScheduler", &[], "dpm2-a"),
    row("LMSDiscreteScheduler", &[], "lms"),
    row("DPMSolverMultistepScheduler", &[IMAGE, ORDER_2, MIDPOINT], "dpmpp-2m"),
    row("DPMSolverMultistepScheduler", &[IMAGE, ORDER_2, HEUN], "dpmpp-2m-heun"),
    row("DPMSolverMultistepScheduler", &[IMAGE, ORDER_3, MIDPOINT], "dpmpp-3m"),
    row("DPMSolverMultistepScheduler", &[SDE, ORDER_2, MIDPOINT], "dpmpp-2m-sde"),
    row("DPMSolverMultistepScheduler", &[SDE, ORDER_2, HEUN], "dpmpp-2m-sde-heun"),
    row("DPMSolverMultistepScheduler", &[NOISE, ORDER_2, MIDPOINT], "dpm-2m"),
    row("DPMSolverMultistepScheduler", &[NOISE, ORDER_3, MIDPOINT], "dpm-3m"),
    row("DPMSolverSinglestepScheduler", &[IMAGE, ORDER_2, MIDPOINT], "dpmpp-2s"),
    row("DPMSolverSinglestepScheduler", &[IMAGE, ORDER_3, MIDPOINT], "dpmpp-3s"),
    row("DPMSolverSinglestepScheduler", &[SDE, ORDER_2, MIDPOINT], "dpmpp-2s-sde"),
    row("DPMSolverSinglestepScheduler", &[SDE, ORDER_3, MIDPOINT], "dpmpp-3s-sde"),
    row("DPMSolverSinglestepScheduler", &[NOISE, ORDER_2, MIDPOINT], "dpm-2s"),
    row("DPMSolverSinglestepScheduler", &[NOISE, ORDER_3, MIDPOINT], "dpm-3s"),
    row("DEISMultistepScheduler", &[DEIS, ORDER_2, LOGRHO], "deis"),
    row("DEISMultistepScheduler", &[DEIS, ORDER_3, LOGRHO], "deis-3"),
    row("UniPCMultistepScheduler", &[ORDER_2, BH2], "unipc"),
    row("UniPCMultistepScheduler", &[ORDER_2, BH1], "unipc-bh1"),
    row("UniPCMultistepScheduler", &[ORDER_3, BH2], "unipc-3"),
    row("SASolverScheduler", &[DATA, ("predictor_order", &["2"]), ("corrector_order", &["2"])], "sa-solver"),
    row("SASolverScheduler", &[DATA, ("predictor_order", &["3"]), ("corrector_order", &["4"])], "sa-solver-3"),
    row("LCMScheduler", &[], "lcm"),
    row("TCDScheduler", &[], "tcd"),
    row("EDMEulerScheduler", &[], "euler"),
    row("EDMDPMSolverMultistepScheduler", &[IMAGE, ORDER_2, MIDPOINT], "dpmpp-2m"),
    row("EDMDPMSolverMultistepScheduler", &[IMAGE, ORDER_2, HEUN], "dpmpp-2m-heun"),
    row("EDMDPMSolverMultistepScheduler", &[IMAGE, ORDER_3, MIDPOINT], "dpmpp-3m"),
    row("EDMDPMSolverMultistepScheduler", &[SDE, ORDER_2, MIDPOINT], "dpmpp-2m-sde"),
    row("EDMDPMSolverMultistepScheduler", &[SDE, ORDER_2, HEUN], "dpmpp-2m-sde-heun"),
    row("CMStochasticIterativeScheduler", &[], "consistency"),
    row("FlowMatchEulerDiscreteScheduler", &[("stochastic_sampling", &["false"])], "euler"),
    row("FlowMatchEulerDiscreteScheduler", &[("stochastic_sampling", &["true"])], "consistency"),
    row("FlowMatchHeunDiscreteScheduler", &[], "heun"),
];

/// The keys of the config's class, those that the file lacks with their defaults; keys of other classes are left out.
///
/// # Errors
/// No class, or an unknown one.
pub(super) fn complete(fields: &Fields) -> Result<(&str, Fields)> {
    let names = || {
        let mut names: Vec<&str> = ROWS.iter().map(|row| row.class).collect();
        names.dedup();
        names.join(", ")
    };
    let class = fields.text("_class_name", "")?;
    if class.is_empty() {
        return Err(fields.refuse("_class_name", "a scheduler's name").hint(format!("known: {}", names())));
    }
    let known = ROWS.iter().any(|row| row.class == class);
    let defaults: Map<String, Value> = serde_json::from_str(DEFAULTS)
        .map_err(|e| Error::failure("the table of schedulers' defaults is damaged").because(e))?;
    match defaults.get(class) {
        Some(Value::Object(defaults)) if known => Ok((class, fields.complete(defaults))),
        _ => Err(Error::failure(format!("the scheduler is a {class}, which unfog does not know"))
            .hint(format!("known: {}", names()))),
    }
}

/// The sampler of a class whose keys are complete.
///
/// # Errors
/// A value, or several together, for which there is no sampler.
pub(super) fn sampler(class: &str, fields: &Fields) -> Result<&'static Sampler> {
    let rows = || ROWS.iter().filter(|row| row.class == class);
    let agrees = |(key, values): &(&str, &[&str])| fields.plain(key).is_some_and(|v| values.contains(&v.as_str()));
    if let Some(row) = rows().find(|row| row.when.iter().all(agrees)) {
        return sampler::find(row.sampler).ok_or_else(|| {
            Error::failure(format!(
                "a {class} with these options is the sampler {}, which unfog does not have",
                row.sampler
            ))
        });
    }
    // The first key that has no row at all, otherwise the first that has none beside the keys before it.
    let keys = rows().next().map_or(&[][..], |row| row.when);
    let mut beside: Vec<&Row> = rows().collect();
    for (place, (key, _)) in keys.iter().enumerate() {
        let allowed = |rows: &[&Row]| {
            let mut values: Vec<&str> = rows.iter().flat_map(|row| row.when[place].1.iter().copied()).collect();
            values.sort_unstable();
            values.dedup();
            values.join(" or ")
        };
        let left: Vec<&Row> = beside.iter().copied().filter(|row| agrees(&row.when[place])).collect();
        if left.is_empty() {
            let before: Vec<String> = keys[..place]
                .iter()
                .map(|(key, _)| format!("{key} {}", fields.plain(key).unwrap_or_default()))
                .collect();
            let beside_what = if before.is_empty() { String::new() } else { format!(" beside {}", before.join(", ")) };
            return Err(fields.refuse(key, &format!("{}{beside_what}", allowed(&beside))));
        }
        beside = left;
    }
    Err(Error::failure(format!("a {class} with these options has no sampler here")))
}

/// The classes of networks that are not over alpha-bar: how their names begin.
const OTHERS: [&str; 3] = ["EDM", "FlowMatch", "CMStochastic"];

/// The config of a network over alpha-bar with a class that has `sampler` in place of its own, and with the keys that name it. The config's
/// own class comes first. None where diffusers has no such class.
pub(super) fn with_sampler(file: &Fields, sampler: &str) -> Option<Fields> {
    let own = file.plain("_class_name");
    let rows = || {
        let known = |row: &&Row| !OTHERS.iter().any(|start| row.class.starts_with(start));
        ROWS.iter().filter(known).filter(|row| row.sampler == sampler)
    };
    let row = rows().find(|row| Some(row.class) == own.as_deref()).or_else(|| rows().next())?;
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let named = row.when.iter().filter_map(|(key, values)| Some((*key, value(values.first()?))));
    Some(file.with(named.chain([("_class_name", Value::from(row.class))])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_defaults_and_every_key_is_its_own() {
        let defaults: Map<String, Value> = serde_json::from_str(DEFAULTS).unwrap();
        for row in &ROWS {
            let keys = defaults[row.class].as_object().unwrap();
            assert!(row.when.iter().all(|(key, _)| keys.contains_key(*key)), "{}", row.class);
        }
    }
}
