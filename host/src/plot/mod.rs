//! A schedule as a drawing: signal and noise over time, and the noise level of each step.

mod draw;
mod font;

use std::path::Path;

use unfog_core::predict::PredictionType;
use unfog_core::schedule::{Level, Schedule};

use crate::error::Result;
use crate::files;
use crate::image::{Format, encode};
use crate::recipe::KEYWORD;
use crate::schedule::{end_sigma, rows, shares};
use crate::settings::Settings;
use draw::{Anchor, Colour, Drawing, Point};

const SIZE: (u32, u32) = (960, 760);
/// Colours of the curves: signal, noise and sigma. Distinct also for colour-blind readers and in grey.
const SIGNAL: Colour = [0, 90, 180];
const NOISE: Colour = [220, 120, 0];
const SIGMA: Colour = [0, 120, 90];
const INK: Colour = [40; 3];
const GRID: Colour = [225; 3];

/// Draws the shares of signal and noise over the time of the network, with a dot for each time that the run visits, and below the
/// noise levels (sigma) of the steps, on a scale of powers of ten. An SVG or a picture, as the file's extension says.
///
/// # Errors
/// An unknown extension; every error of the file.
pub fn plot(path: &Path, settings: &Settings, schedule: &Schedule<'_>, title: &str) -> Result<()> {
    let drawing = drawing(settings, schedule, title);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg")) {
        files::check_target(path)?;
        let text = drawing.svg();
        return files::write(path, |out| out.write_all(text.as_bytes()).map_err(|e| files::cannot_write(path, e)));
    }
    let format = Format::of(path, 3)?;
    files::check_target(path)?;
    let picture = drawing.picture()?;
    files::write(path, |out| encode(&picture, format, &[(KEYWORD, title)], path, out))
}

/// A frame with its ranges: left, top, right, bottom of the drawing; least and largest x and y.
struct Frame {
    sides: (f64, f64, f64, f64),
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn at(&self, x: f64, y: f64) -> Point {
        let (left, top, right, bottom) = self.sides;
        let share = |value: f64, (low, high): (f64, f64)| if high > low { (value - low) / (high - low) } else { 0.5 };
        (left + (right - left) * share(x, self.x), bottom - (bottom - top) * share(y, self.y))
    }

    /// Draws the frame, lines of a grid with their numbers, and the name of the x axis.
    fn draw(&self, drawing: &mut Drawing, x: &[f64], y: &[(f64, String)], x_name: &str) {
        let (left, top, right, bottom) = self.sides;
        for &tick in x {
            let (x, _) = self.at(tick, self.y.0);
            drawing.line(vec![(x, top), (x, bottom)], GRID, 1.0);
            drawing.word((x, bottom + 20.0), Anchor::Middle, INK, format!("{tick}"));
        }
        for (tick, name) in y {
            let (_, y) = self.at(self.x.0, *tick);
            drawing.line(vec![(left, y), (right, y)], GRID, 1.0);
            drawing.word((left - 10.0, y + 6.0), Anchor::End, INK, name);
        }
        drawing.line(vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], INK, 1.0);
        drawing.word(((left + right) / 2.0, bottom + 44.0), Anchor::Middle, INK, x_name);
    }
}

/// Round numbers from `low` to `high`, at most about ten.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 8.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    let stride = factor * power;
    let count = |value: f64| (value / stride).clamp(-1e6, 1e6);
    // Rounded, so that a number prints as short as it is.
    let round = |value: f64| (value * 1e6).round() / 1e6;
    (count(low).ceil() as i64..=count(high).floor() as i64).map(|i| round(i as f64 * stride)).collect()
}

fn drawing(settings: &Settings, schedule: &Schedule<'_>, title: &str) -> Drawing {
    let mut drawing = Drawing::new(SIZE.0, SIZE.1);
    drawing.word((90.0, 32.0), Anchor::Start, INK, title);
    times(settings, schedule, &mut drawing);
    sigmas(settings, schedule, &mut drawing);
    drawing
}

/// The upper frame: signal and noise over time.
fn times(settings: &Settings, schedule: &Schedule<'_>, drawing: &mut Drawing) {
    let prediction = settings.config.prediction;
    let visited: Vec<Level> = match schedule.levels() {
        [] => schedule.timesteps().iter().map(|&t| of_table(schedule, t as usize)).collect(),
        levels => levels[..levels.len() - 1].to_vec(),
    };
    let (curve, name): (Vec<Level>, _) = match prediction {
        PredictionType::Flow => {
            let count = settings.config.train_steps;
            let level = |i: usize| {
                let s = i as f64 / 100.0;
                Level { time: (s * count as f64) as f32, signal: 1.0 - s, noise: s }
            };
            ((0..=100).map(level).collect(), "time: signal 1 - s and noise s of the network's input")
        }
        PredictionType::Edm { sigma_data } => (over_logarithms(&visited, sigma_data.into()), LOGARITHM),
        // A network may have such times beside a table of alpha-bars too.
        _ if visited.iter().any(|level| level.time < 0.0) => (over_logarithms(&visited, 1.0), LOGARITHM),
        _ => {
            let table = (0..schedule.alpha_bar().len()).map(|t| of_table(schedule, t)).collect();
            (table, "timestep: signal sqrt(alpha_bar) and noise sqrt(1 - alpha_bar)")
        }
    };
    let x = |level: &Level| f64::from(level.time);
    let (low, high) = (curve.first().map_or(0.0, x), curve.last().map_or(1.0, x));
    let frame = Frame { sides: (90.0, 60.0, 930.0, 340.0), x: (low, high), y: (0.0, 1.0) };
    let quarters = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| (share, format!("{share}")));
    frame.draw(drawing, &ticks(low, high), &quarters, name);
    for (which, colour) in [SIGNAL, NOISE].into_iter().enumerate() {
        let point = |level: &Level| frame.at(x(level), shares(prediction, *level)[which]);
        drawing.line(curve.iter().map(point).collect(), colour, 2.0);
        visited.iter().for_each(|level| drawing.dot(point(level), 4.0, colour));
    }
    // Where the noise has taken over, between both curves.
    drawing.word((918.0, 190.0), Anchor::End, NOISE, "noise");
    drawing.word((918.0, 215.0), Anchor::End, SIGNAL, "signal");
}

/// The name of the x axis of a network that is told of ln(sigma) / 4.
const LOGARITHM: &str = "time, ln(sigma) / 4: signal and noise of the network's input";

/// Levels evenly over the times that a run visits, for a network that is told of ln(sigma) / 4.
fn over_logarithms(visited: &[Level], sigma_data: f64) -> Vec<Level> {
    let time = |level: Option<&Level>| level.map_or(0.0, |level| f64::from(level.time));
    let (low, high) = (time(visited.last()), time(visited.first()));
    let level = |i: u32| {
        let time = low + (high - low) * f64::from(i) / 200.0;
        let sigma = (4.0 * time).exp();
        let signal = 1.0 / sigma.hypot(sigma_data);
        Level { time: time as f32, signal, noise: sigma * signal }
    };
    (0..=200).map(level).collect()
}

fn of_table(schedule: &Schedule<'_>, t: usize) -> Level {
    let a = schedule.alpha_bar().get(t).copied().map_or(f64::NAN, f64::from);
    Level { time: t as f32, signal: a.sqrt(), noise: (1.0 - a).sqrt() }
}

/// The lower frame: sigma over the steps.
fn sigmas(settings: &Settings, schedule: &Schedule<'_>, drawing: &mut Drawing) {
    let mut points: Vec<(f64, f64)> =
        rows(settings, schedule).iter().map(|row| (row.step as f64, row.sigma.log10())).collect();
    let steps = points.len();
    points.push((steps as f64, end_sigma(schedule).log10()));
    // Without noise or without signal there is no logarithm.
    points.retain(|(_, log)| log.is_finite());
    let least = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let largest = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) =
        if least <= largest { (least.floor(), largest.ceil().max(least.floor() + 1.0)) } else { (0.0, 1.0) };
    let frame = Frame { sides: (90.0, 430.0, 930.0, 700.0), x: (0.0, steps as f64), y: (low, high) };
    let power = |exponent: i64| match exponent {
        -4..=5 => format!("{}", 10_f64.powi(exponent as i32)),
        _ => format!("1e{exponent}"),
    };
    let powers: Vec<_> = (low as i64..=high as i64).map(|exponent| (exponent as f64, power(exponent))).collect();
    let whole: Vec<f64> = ticks(0.0, steps as f64).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    frame.draw(drawing, &whole, &powers, "step: its sigma, noise over signal");
    drawing.line(points.iter().map(|&(x, y)| frame.at(x, y)).collect(), SIGMA, 2.0);
    points.iter().for_each(|&(x, y)| drawing.dot(frame.at(x, y), 4.0, SIGMA));
}
