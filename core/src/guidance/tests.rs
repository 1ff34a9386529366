use super::*;
use crate::chain::{Batch, Chain};
use crate::config::Config;
use crate::denoise::{Cond, Denoise};
use crate::noise::Philox;
use crate::predict::{Clip, PredictionType};
use crate::sampler::DDIM;
use crate::schedule::Schedule;

const fn moment(step: usize, steps: usize, sigma: f32) -> Moment {
    Moment { step, steps, sigma }
}

#[test]
fn the_interval_of_sigma_takes_its_upper_end_alone() {
    let interval = Interval::Sigma { low: 0.5, high: 2.0 };
    let inside = |sigma| interval.contains(moment(0, 1, sigma));
    assert_eq!([0.0, 0.5, 0.500_001, 1.0, 2.0, 2.000_001].map(inside), [false, false, true, true, true, false]);
    assert!(Interval::Sigma { low: 0.0, high: f32::INFINITY }.contains(moment(0, 1, 1e30)));
    assert!(!Interval::Sigma { low: 1.0, high: 1.0 }.contains(moment(0, 1, 1.0)), "an empty interval");
    assert!(!inside(f32::NAN));
}

#[test]
fn scale_1_asks_for_nothing_unless_it_changes_something() {
    let at = |guidance: Classifier| guidance.scale_at(moment(1, 3, 1.0));
    let one = Classifier::new(1.0);
    let projected = Rule::Projected { parallel: 0.0, threshold: 1.0, momentum: 0.5, space: Space::Image };
    for rule in [Rule::Plain, projected, Rule::ZeroStar { zero_steps: 1 }] {
        assert_eq!(at(Classifier { rule, ..one }), None);
    }
    assert_eq!(at(Classifier { rule: Rule::ZeroStar { zero_steps: 2 }, ..one }), Some(1.0));
    assert_eq!(at(Classifier { rule: Rule::Perpendicular { weight: 1.0 }, ..one }), Some(1.0));
    assert_eq!(at(Classifier { unconditional_noise: true, ..one }), Some(1.0));
    // A curve that passes 1 on its way.
    let curve = Curve::Linear { last: 0.0 };
    assert_eq!(at(Classifier { curve, ..Classifier::new(2.0) }), None);
    assert_eq!(Classifier { curve, ..Classifier::new(2.0) }.scale_at(moment(2, 3, 1.0)), Some(0.0));
}

#[test]
fn zero_steps_come_before_the_interval() {
    let rule = Rule::ZeroStar { zero_steps: 1 };
    let late = Classifier { rule, interval: Interval::Steps { start: 0.5, stop: 1.0 }, ..Classifier::new(4.0) };
    assert_eq!([0, 1, 2, 3].map(|step| late.scale_at(moment(step, 4, 1.0)).is_some()), [true, false, true, true]);
}

#[test]
fn at_scale_1_rules_give_back_the_wanted_prediction() {
    let projected = Rule::Projected { parallel: 0.3, threshold: 0.1, momentum: 0.0, space: Space::Image };
    for rule in [Rule::Plain, projected, Rule::ZeroStar { zero_steps: 0 }] {
        let mut wanted = [0.5, -1.25, 3.0];
        Classifier { rule, ..Classifier::new(1.0) }.combine(1.0, 0, Evaluation::new(&mut wanted, &[1.0, 0.5, -0.25]));
        for (got, want) in wanted.into_iter().zip([0.5, -1.25, 3.0_f32]) {
            // One difference and one sum.
            assert!((got - want).abs() < 1e-6, "{rule:?}: {got} {want}");
        }
    }
}

#[test]
fn a_negative_that_is_parallel_or_none_changes_nothing() {
    let rule = Rule::Perpendicular { weight: 0.8 };
    // n - u is twice c - u, and then nothing.
    for negative in [[3.0, 1.0, 0.5], [1.0, 0.0, 0.5]] {
        let (mut wanted, mut plain, none) = ([2.0, 0.5, 0.5], [2.0, 0.5, 0.5], [1.0, 0.0, 0.5]);
        let evaluation = Evaluation { negative: &negative, ..Evaluation::new(&mut wanted, &none) };
        Classifier { rule, ..Classifier::new(5.0) }.combine(5.0, 0, evaluation);
        Classifier::new(5.0).combine(5.0, 0, Evaluation::new(&mut plain, &none));
        for (got, want) in wanted.into_iter().zip(plain) {
            assert!((got - want).abs() < 1e-5, "{negative:?}: {got} {want}");
        }
    }
}

#[test]
fn a_text_and_a_picture_add_up() {
    let guided = |scale: f32, image: f32| {
        let mut wanted = [3.0];
        let evaluation = Evaluation { negative: &[2.0], ..Evaluation::new(&mut wanted, &[0.5]) };
        Classifier { rule: Rule::Picture { image }, ..Classifier::new(scale) }.combine(scale, 0, evaluation);
        wanted[0]
    };
    // Equation 3: u + image * (n - u) + scale * (c - n).
    assert_eq!([guided(1.0, 1.0), guided(0.0, 1.0), guided(0.0, 0.0), guided(4.0, 2.0)], [3.0, 2.0, 0.5, 7.5]);
}

#[test]
fn what_has_no_direction_or_deviation_stays_finite() {
    let rules = [
        Rule::Plain,
        Rule::Projected { parallel: 0.0, threshold: 1.0, momentum: 0.0, space: Space::Image },
        Rule::ZeroStar { zero_steps: 0 },
        Rule::ZeroStar { zero_steps: 1 },
        Rule::Perpendicular { weight: 1.0 },
        Rule::Picture { image: 1.5 },
    ];
    for rule in rules {
        let guidance = Classifier { rule, rescale: 0.7, ..Classifier::new(7.0) };
        for (mut wanted, none) in [([0.0; 4], [0.0; 4]), ([1.0; 4], [1.0; 4]), ([0.0; 4], [2.0; 4])] {
            guidance.combine(7.0, 0, Evaluation { negative: &none, ..Evaluation::new(&mut wanted, &none) });
            assert!(wanted.iter().all(|v| v.is_finite()), "{rule:?}: {wanted:?}");
        }
        // One value has no deviation, none at all has nothing.
        let mut one = [2.0];
        guidance.combine(7.0, 1, Evaluation { negative: &[1.0], ..Evaluation::new(&mut one, &[1.0]) });
        assert!(one[0].is_finite(), "{rule:?}");
        guidance.combine(7.0, 0, Evaluation::new(&mut [], &[]));
    }
}

#[test]
fn numbers_that_can_not_be_used_are_refused() {
    let valid = |guidance| Guidance::Classifier(guidance).is_valid();
    let plain = Classifier::new(3.0);
    assert!(valid(plain) && Guidance::None.is_valid());
    let projected =
        |parallel, threshold, momentum| Rule::Projected { parallel, threshold, momentum, space: Space::Output };
    for rule in [
        projected(f32::NAN, 0.0, 0.0),
        projected(0.0, -1.0, 0.0),
        projected(0.0, f32::INFINITY, 0.0),
        projected(0.0, 0.0, 1.0),
        projected(0.0, 0.0, f32::NAN),
        Rule::Perpendicular { weight: f32::INFINITY },
        Rule::Picture { image: f32::NAN },
    ] {
        assert!(!valid(Classifier { rule, ..plain }), "{rule:?}");
    }
    for interval in [
        Interval::Steps { start: 0.6, stop: 0.5 },
        Interval::Steps { start: -0.1, stop: 0.5 },
        Interval::Steps { start: 0.0, stop: 1.1 },
        Interval::Steps { start: f64::NAN, stop: 1.0 },
        Interval::Sigma { low: 2.0, high: 1.0 },
        Interval::Sigma { low: -1.0, high: 1.0 },
        Interval::Sigma { low: 0.0, high: f32::NAN },
    ] {
        assert!(!valid(Classifier { interval, ..plain }), "{interval:?}");
    }
    for rescale in [-0.1, 1.1, f32::NAN] {
        assert!(!valid(Classifier { rescale, ..plain }), "{rescale}");
    }
    assert!(!valid(Classifier { curve: Curve::Cosine { last: f32::NAN }, ..plain }));
    assert!(!valid(Classifier::new(f32::INFINITY)));
}

#[test]
fn conditions_and_memory_follow_the_rule() {
    let of = |rule| {
        let guidance = Guidance::Classifier(Classifier { rule, ..Classifier::new(2.0) });
        (guidance.conditions(), guidance.memory())
    };
    let projected = |momentum| Rule::Projected { parallel: 0.0, threshold: 0.0, momentum, space: Space::Image };
    assert_eq!((Guidance::None.conditions(), Guidance::None.memory()), (1, 0));
    assert_eq!([of(Rule::Plain), of(projected(0.0)), of(projected(-0.5))], [(2, 0), (2, 0), (2, 1)]);
    assert_eq!([of(Rule::Perpendicular { weight: 1.0 }), of(Rule::Picture { image: 1.5 })], [(3, 0); 2]);
    assert_eq!([Guidance::from_scale(1.0).conditions(), Guidance::from_scale(0.0).conditions()], [1, 2]);
}

const LEN: usize = 3;

/// Predicts half of x to the wanted condition, a quarter to none, nothing to the negative one; and a variance behind it.
struct Network {
    /// Conditions of each evaluation.
    asked: std::vec::Vec<usize>,
}

impl Denoise for Network {
    type Error = core::convert::Infallible;

    fn out_len(&self) -> usize {
        2 * LEN
    }

    fn predict(&mut self, x: &[f32], _: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
        assert_eq!(out.len(), conds.len() * 2 * LEN);
        self.asked.push(conds.len());
        for (j, (out, cond)) in out.chunks_exact_mut(2 * LEN).zip(conds).enumerate() {
            let factor = match cond {
                Cond::Class(class) => *class as f32 / 4.0,
                _ => 0.0,
            };
            let x = &x[j * LEN % x.len()..][..LEN];
            out.iter_mut().zip(x).for_each(|(out, x)| *out = factor * x);
            out[LEN..].fill(7.0);
        }
        Ok(())
    }
}

/// Four steps with two images: the images after each, and how many conditions each evaluation had. `change` comes before a
/// step.
fn run(
    guidance: Guidance,
    mut change: impl FnMut(usize, &mut Chain<'_>),
) -> (std::vec::Vec<std::vec::Vec<f32>>, std::vec::Vec<usize>) {
    let config = Config { steps: 4, clip: Clip::None, guidance, ..Config::default() };
    let (mut alpha_bar, mut timesteps) = ([0.0; 1000], [0; 4]);
    let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps).unwrap();
    let conds = [2, 2, 1, 1, 0, 0].map(Cond::Class);
    let batch = Batch { first_image: 0, len: LEN, out_len: 2 * LEN, conds: &conds[..2 * guidance.conditions()] };
    let mut memory = std::vec![0.0; Chain::memory(&config, &DDIM, &batch).unwrap()];
    let mut chain = Chain::new(&config, &DDIM, schedule, batch, &mut memory).unwrap();
    let (mut network, mut noise) = (Network { asked: std::vec::Vec::new() }, Philox::new(1));
    chain.init(&mut noise).unwrap();
    let mut images = std::vec![chain.x().to_vec()];
    loop {
        change(images.len() - 1, &mut chain);
        if chain.step(&mut network, &mut noise).unwrap().is_none() {
            return (images, network.asked);
        }
        images.push(chain.x().to_vec());
    }
}

#[test]
fn outside_the_interval_only_the_wanted_condition_is_asked_for() {
    let interval = Interval::Steps { start: 0.25, stop: 0.75 };
    let limited = Classifier { interval, ..Classifier::new(3.0) };
    let (images, asked) = run(Guidance::Classifier(limited), |_, _| {});
    assert_eq!(asked, [2, 4, 4, 2]);
    let (plain, asked) = run(Guidance::None, |_, _| {});
    assert_eq!((&images[..2], asked.as_slice()), (&plain[..2], &[2; 4][..]));
    let (full, asked) = run(Guidance::from_scale(3.0), |_, _| {});
    assert_eq!(asked, [4; 4]);
    assert!(images[2] != plain[2] && full[1] != plain[1]);
    // The same with guidance that a program turns on and off itself.
    let (by_hand, _) = run(Guidance::from_scale(3.0), |step, chain| {
        let scale = if (1..3).contains(&step) { 3.0 } else { 1.0 };
        assert!(chain.set_guidance(Guidance::Classifier(Classifier::new(scale))));
    });
    assert_eq!(by_hand, images);
}

#[test]
fn a_negative_condition_comes_third() {
    // All three point the same way, so nothing is perpendicular, and guidance is plain.
    let rule = Rule::Perpendicular { weight: 1.0 };
    let (images, asked) = run(Guidance::Classifier(Classifier { rule, ..Classifier::new(3.0) }), |_, _| {});
    let (plain, _) = run(Guidance::from_scale(3.0), |_, _| {});
    assert_eq!(asked, [6; 4]);
    for (got, want) in images.iter().flatten().zip(plain.iter().flatten()) {
        assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{got} {want}");
    }
}

#[test]
fn momentum_lasts_from_step_to_step_and_no_longer_than_a_run() {
    let of = |momentum| {
        let rule = Rule::Projected { parallel: 1.0, threshold: 0.0, momentum, space: Space::Image };
        Guidance::Classifier(Classifier { rule, ..Classifier::new(3.0) })
    };
    let (with, _) = run(of(-0.5), |_, _| {});
    let (without, _) = run(of(0.0), |_, _| {});
    assert_eq!(with[..2], without[..2], "nothing is remembered at the first step");
    assert_ne!(with[2], without[2]);
    let (again, _) = run(of(-0.5), |step, chain| {
        // Guidance that needs another memory, or other conditions, or that is invalid, is refused.
        let others = [of(0.0), Guidance::None, Guidance::from_scale(f32::NAN)];
        assert!(others.into_iter().all(|other| !chain.set_guidance(other)), "{step}");
        if step == 4 {
            chain.init(&mut Philox::new(1)).unwrap();
            chain.step(&mut Network { asked: std::vec::Vec::new() }, &mut Philox::new(1)).unwrap();
            assert_eq!(chain.x(), with[1]);
            let mut network = Network { asked: std::vec::Vec::new() };
            while chain.step(&mut network, &mut Philox::new(1)).unwrap().is_some() {}
        }
    });
    assert_eq!(again, with);
}

#[test]
fn where_no_noise_is_there_is_nothing_to_project() {
    // Of image and prediction at alpha-bar 1, where an inversion starts: the image is x, whatever was predicted.
    let image = PredictionType::Epsilon.image_factors([1.0, 0.0]);
    let rule = Rule::Projected { parallel: 0.0, threshold: 1.0, momentum: 0.0, space: Space::Image };
    let (mut wanted, none, x) = ([0.5, -1.0], [0.25, 2.0], [0.3, 0.1]);
    let evaluation = Evaluation { x: &x, image, ..Evaluation::new(&mut wanted, &none) };
    Classifier { rule, ..Classifier::new(7.5) }.combine(7.5, 0, evaluation);
    assert_eq!(wanted, [0.5, -1.0]);
}
