//! Guidance against diffusers' guiders and the papers' formulas.

use std::convert::Infallible;

use serde_json::Value;
use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::guidance::{Classifier, Curve, Evaluation, Guidance, Interval, Moment, Rule, Space};
use unfog_core::noise::Given;
use unfog_core::predict::Clip;
use unfog_core::sampler::DDIM;
use unfog_core::schedule::Schedule;
use unfog_tests::compare::close;
use unfog_tests::golden::Golden;
use unfog_tests::tolerance::Tolerance;
use unfog_tests::{TestResult, said};

const RULE: Tolerance = Tolerance { relative: 1e-6, reason: "a few roundings, magnified by scales up to 12" };

fn number(case: &Value, key: &str) -> TestResult<f64> {
    case[key].as_f64().ok_or_else(|| format!("{key} is no number in {case}").into())
}

fn rule(case: &Value) -> TestResult<Rule> {
    let value = |key| number(case, key).map(|v| v as f32);
    Ok(match case["rule"].as_str() {
        Some("plain") => Rule::Plain,
        Some("projected") => Rule::Projected {
            parallel: value("parallel")?,
            threshold: value("threshold")?,
            momentum: value("momentum")?,
            space: Space::Image,
        },
        Some("zero-star") => Rule::ZeroStar { zero_steps: number(case, "zero_steps")? as u32 },
        Some("perpendicular") => Rule::Perpendicular { weight: value("weight")? },
        _ => return Err(format!("unknown rule: {case}").into()),
    })
}

/// The cases of a kind, with their numbers.
fn of_kind<'a>(golden: &'a Golden, kind: &'a str) -> impl Iterator<Item = (usize, &'a Value)> {
    golden.cases().iter().enumerate().filter(move |(_, case)| case["kind"] == kind)
}

#[test]
fn rules_are_those_of_the_papers() -> TestResult {
    let golden = Golden::read("guidance")?;
    let mut worst = 0.0_f64;
    let mut rules = std::collections::BTreeSet::new();
    for (i, case) in of_kind(&golden, "rule") {
        let rule = rule(case)?;
        let scale = number(case, "scale")? as f32;
        let guidance = Classifier { rule, rescale: number(case, "rescale")? as f32, ..Classifier::new(scale) };
        assert!(Guidance::Classifier(guidance).is_valid(), "{case}");
        let image = [0, 1].map(|j| case["image"][j].as_f64().unwrap_or(f64::NAN) as f32);
        let mut got = golden.part(i, "wanted")?.clone();
        let (evaluations, images) = (got.shape[0], got.shape[1]);
        let len = got.values.len() / evaluations / images;
        let mut momentum = vec![0.0; Guidance::Classifier(guidance).memory() * images * len];
        let parts = ["none", "negative", "x"].map(|part| golden.part(i, part));
        let [none, negative, x] = parts;
        let [none, negative, x] = [none?, negative?, x?].map(|tensor| tensor.values.chunks_exact(len));
        let rest = none.zip(negative).zip(x);
        for (j, (wanted, ((none, negative), x))) in got.values.chunks_exact_mut(len).zip(rest).enumerate() {
            let momentum = momentum.chunks_exact_mut(len).nth(j % images).unwrap_or_default();
            guidance.combine(scale, j / images, Evaluation { wanted, none, negative, momentum, x, image });
        }
        worst = worst.max(close(&case.to_string(), &got.values, &golden.part(i, "out")?.values, RULE)?);
        rules.insert(case["rule"].to_string());
    }
    println!("largest relative error {worst:.1e}");
    assert_eq!(rules.len(), 4, "{rules:?}");
    Ok(())
}

#[test]
fn of_the_output_is_of_an_image_that_is_the_output() -> TestResult {
    let (c, u, x) = ([1.0, -0.5, 2.0], [0.5, 0.25, 1.0], [3.0, -2.0, 9.0]);
    let run = |space, image| {
        let rule = Rule::Projected { parallel: 0.2, threshold: 1.0, momentum: 0.0, space };
        let mut wanted = c;
        let evaluation = Evaluation { x: &x, image, ..Evaluation::new(&mut wanted, &u) };
        Classifier { rule, ..Classifier::new(5.0) }.combine(5.0, 0, evaluation);
        wanted
    };
    assert_eq!(run(Space::Output, [2.0, -3.0]), run(Space::Image, [0.0, 1.0]));
    assert_ne!(run(Space::Output, [2.0, -3.0]), run(Space::Image, [2.0, -3.0]));
    Ok(())
}

#[test]
fn intervals_are_those_of_diffusers() -> TestResult {
    let golden = Golden::read("guidance")?;
    let mut cases = 0;
    for (_, case) in of_kind(&golden, "interval") {
        let interval = Interval::Steps { start: number(case, "start")?, stop: number(case, "stop")? };
        let guidance = Classifier { interval, ..Classifier::new(7.5) };
        assert!(Guidance::Classifier(guidance).is_valid(), "{case}");
        let steps = number(case, "steps")? as usize;
        let enabled = case["enabled"].as_array().ok_or("no list")?;
        assert_eq!(enabled.len(), steps);
        for (step, enabled) in enabled.iter().enumerate() {
            let moment = Moment { step, steps, sigma: 1.0 };
            assert_eq!(Some(guidance.scale_at(moment).is_some()), enabled.as_bool(), "step {step} of {case}");
        }
        cases += 1;
    }
    assert_eq!(cases, 48);
    Ok(())
}

#[test]
fn curves_go_from_the_first_scale_to_the_last() -> TestResult {
    let golden = Golden::read("guidance")?;
    let mut cases = 0;
    for (_, case) in of_kind(&golden, "curve") {
        let last = number(case, "last")? as f32;
        let curve = match case["curve"].as_str() {
            Some("linear") => Curve::Linear { last },
            _ => Curve::Cosine { last },
        };
        let want: Vec<f32> =
            case["scales"].as_array().ok_or("no list")?.iter().filter_map(Value::as_f64).map(|v| v as f32).collect();
        let first = number(case, "first")? as f32;
        let steps = want.len();
        let got: Vec<f32> = (0..steps).map(|step| curve.scale(first, Moment { step, steps, sigma: 1.0 })).collect();
        close(&case.to_string(), &got, &want, Tolerance { relative: 1e-7, reason: "computed in f64, rounded once" })?;
        cases += 1;
    }
    assert_eq!(cases, 16);
    Ok(())
}

/// A network that predicts what it was given, evaluation by evaluation, under the wanted and no condition.
struct Table<'a> {
    wanted: std::slice::ChunksExact<'a, f32>,
    none: std::slice::ChunksExact<'a, f32>,
    len: usize,
}

impl Denoise for Table<'_> {
    type Error = Infallible;

    fn out_len(&self) -> usize {
        self.len
    }

    fn predict(&mut self, x: &[f32], _: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Infallible> {
        let (wanted, none) = out.split_at_mut(x.len());
        assert_eq!(conds.len() * self.len, 2 * x.len());
        wanted.copy_from_slice(self.wanted.next().unwrap_or_default());
        none.copy_from_slice(self.none.next().unwrap_or_default());
        Ok(())
    }
}

#[test]
fn plus_plus_renoises_without_the_condition() -> TestResult {
    let golden = Golden::read("guidance")?;
    let mut cases = 0;
    for (i, case) in of_kind(&golden, "plus-plus") {
        let x = golden.part(i, "x")?;
        let (images, values) = (x.shape[1], x.values.len());
        let len = values / images;
        let scale = number(case, "scale")? as f32;
        let guidance = Guidance::Classifier(Classifier { unconditional_noise: true, ..Classifier::new(scale) });
        let config = Config { steps: number(case, "steps")? as usize, clip: Clip::None, guidance, ..Config::default() };
        let mut alpha_bar = vec![0.0; config.train_steps];
        let mut timesteps = vec![0; config.steps];
        let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps).map_err(said)?;
        let conds = vec![Cond::None; 2 * images];
        let batch = Batch { first_image: 0, len, out_len: len, conds: &conds };
        let mut memory = vec![0.0; Chain::memory(&config, &DDIM, &batch).map_err(said)?];
        let mut chain = Chain::new(&config, &DDIM, schedule, batch, &mut memory).map_err(said)?;
        let (wanted, none) = (golden.part(i, "wanted")?, golden.part(i, "none")?);
        let mut network =
            Table { wanted: wanted.values.chunks_exact(values), none: none.values.chunks_exact(values), len };
        let mut noise = Given::new(&x.values, 0, images, len);
        chain.init(&mut noise).map_err(said)?;
        while chain.step(&mut network, &mut noise).map_err(said)?.is_some() {}
        let tolerance =
            Tolerance { relative: 1e-5, reason: "four steps from values that 1 / sqrt(alpha-bar) makes large" };
        let error = close(&case.to_string(), chain.x(), &golden.part(i, "out")?.values, tolerance)?;
        println!("relative error {error:.1e}");
        cases += 1;
    }
    assert_eq!(cases, 1);
    Ok(())
}
