//! Signal and noise of a schedule over time, as a drawing.

use std::fmt::Write;
use std::path::Path;

use unfog_core::schedule::Schedule;

use crate::error::Result;
use crate::files;
use crate::image::{Format, Picture, encode};
use crate::recipe::KEYWORD;

/// Size of the drawing, and of the frame inside it.
const SIZE: (f64, f64) = (640.0, 360.0);
const FRAME: (f64, f64, f64, f64) = (50.0, 30.0, 620.0, 320.0);
/// Colours of the curves: signal and noise. Distinct also for colour-blind readers and in grey.
const SIGNAL: [u8; 3] = [0, 90, 180];
const NOISE: [u8; 3] = [220, 120, 0];

/// Draws `sqrt(alpha_bar)`, the share of the signal, and `sqrt(1 - alpha_bar)`, that of the noise, over the timesteps of the
/// chain, with a dot for each timestep that the run visits. An SVG, with its axes named, or a plain picture.
///
/// # Errors
/// An unknown extension; every error of the file.
pub fn plot(path: &Path, schedule: &Schedule<'_>, title: &str) -> Result<()> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg")) {
        files::check_target(path)?;
        let text = svg(schedule, title);
        return files::write(path, |out| out.write_all(text.as_bytes()).map_err(|e| files::cannot_write(path, e)));
    }
    let format = Format::of(path, 3)?;
    files::check_target(path)?;
    let picture = raster(schedule)?;
    files::write(path, |out| encode(&picture, format, (KEYWORD, title), path, out))
}

/// A place in the drawing.
type Point = (f64, f64);

/// A curve's points.
fn curve(schedule: &Schedule<'_>, share: fn(f64) -> f64) -> Vec<Point> {
    let table = schedule.alpha_bar();
    table.iter().enumerate().map(|(t, &a)| at(t as f64, share(f64::from(a)), table.len())).collect()
}

/// Where time `t` and a share from 0 to 1 lie.
fn at(t: f64, share: f64, count: usize) -> Point {
    let (left, top, right, bottom) = FRAME;
    (left + (right - left) * t / (count.max(2) - 1) as f64, bottom - (bottom - top) * share)
}

fn curves(schedule: &Schedule<'_>) -> [(Vec<Point>, [u8; 3]); 2] {
    [(curve(schedule, f64::sqrt), SIGNAL), (curve(schedule, |a| (1.0 - a).sqrt()), NOISE)]
}

fn svg(schedule: &Schedule<'_>, title: &str) -> String {
    let (width, height) = SIZE;
    let (left, top, right, bottom) = FRAME;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut add = |args: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = text.write_fmt(args);
        text.push('\n');
    };
    let [r, g, b] = SIGNAL;
    add(format_args!(
        "<text x=\"{left}\" y=\"20\">{title}: <tspan fill=\"rgb({r},{g},{b})\">signal sqrt(alpha_bar)</tspan>,"
    ));
    let [r, g, b] = NOISE;
    add(format_args!("<tspan fill=\"rgb({r},{g},{b})\">noise sqrt(1 - alpha_bar)</tspan></text>"));
    add(format_args!(
        "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"black\"/>",
        right - left,
        bottom - top
    ));
    let count = schedule.alpha_bar().len();
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let t = (share * (count - 1) as f64).round();
        let ((x, _), (_, y)) = (at(t, 0.0, count), at(0.0, share, count));
        add(format_args!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{t}</text>", bottom + 16.0));
        add(format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{share}</text>", left - 6.0, y + 4.0));
    }
    add(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">timestep</text>",
        (left + right) / 2.0,
        bottom + 34.0
    ));
    for (points, [r, g, b]) in curves(schedule) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"rgb({r},{g},{b})\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        for &t in schedule.timesteps() {
            let (x, y) = points[t as usize];
            add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"rgb({r},{g},{b})\"/>"));
        }
    }
    add(format_args!("</svg>"));
    text
}

fn raster(schedule: &Schedule<'_>) -> Result<Picture> {
    let (left, top, right, bottom) = FRAME;
    let mut picture = Picture::filled(SIZE.0 as u32, SIZE.1 as u32, [255; 3])?;
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (x, y) = (left + (right - left) * share, bottom - (bottom - top) * share);
        let grey = if share == 0.0 || share == 1.0 { [0; 3] } else { [220; 3] };
        line(&mut picture, (x, top), (x, bottom), grey);
        line(&mut picture, (left, y), (right, y), grey);
    }
    for (points, colour) in curves(schedule) {
        for pair in points.windows(2) {
            line(&mut picture, pair[0], pair[1], colour);
        }
        for &t in schedule.timesteps() {
            let (x, y) = points[t as usize];
            for dy in -2..=2 {
                let y = y + f64::from(dy);
                line(&mut picture, (x - 2.0, y), (x + 2.0, y), colour);
            }
        }
    }
    Ok(picture)
}

/// A line of one pixel's width.
fn line(picture: &mut Picture, from: Point, to: Point, colour: [u8; 3]) {
    let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
    for i in 0..=steps as u32 {
        let share = f64::from(i) / steps;
        let (x, y) = (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share);
        picture.set(x.round() as u32, y.round() as u32, colour);
    }
}
