//! A drawing of lines, dots and words, as an SVG or as a picture.

use std::fmt::Write;

use super::font;
use crate::error::Result;
use crate::image::Picture;

/// A place: from the left and from the top.
pub(super) type Point = (f64, f64);
pub(super) type Colour = [u8; 3];

/// Which part of a word lies at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

enum Shape {
    Line(Vec<Point>, Colour, f64),
    Dot(Point, f64, Colour),
    Word(Point, Anchor, Colour, String),
}

/// A drawing.
pub(super) struct Drawing {
    size: (u32, u32),
    shapes: Vec<Shape>,
}

/// Height of letters in an SVG, and pixels of a letter's dot in a picture.
const LETTER: f64 = 15.0;
const DOT: usize = 2;
/// Pictures are drawn larger by this and then made smaller, which smooths lines.
const FINER: usize = 2;

impl Drawing {
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { size: (width, height), shapes: Vec::new() }
    }

    pub(super) fn line(&mut self, points: Vec<Point>, colour: Colour, width: f64) {
        self.shapes.push(Shape::Line(points, colour, width));
    }

    pub(super) fn dot(&mut self, at: Point, radius: f64, colour: Colour) {
        self.shapes.push(Shape::Dot(at, radius, colour));
    }

    pub(super) fn word(&mut self, at: Point, anchor: Anchor, colour: Colour, text: impl Into<String>) {
        self.shapes.push(Shape::Word(at, anchor, colour, text.into()));
    }

    /// As an SVG. Texts hold no character that XML marks up with.
    pub(super) fn svg(&self) -> String {
        let (width, height) = self.size;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             font-size=\"{LETTER}\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        );
        let colour = |[r, g, b]: Colour| format!("rgb({r},{g},{b})");
        for shape in &self.shapes {
            // Writing to a string can't fail.
            let _ = match shape {
                Shape::Line(points, of, width) => {
                    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                    writeln!(
                        text,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"/>",
                        points.join(" "),
                        colour(*of)
                    )
                }
                Shape::Dot((x, y), radius, of) => {
                    writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{}\"/>", colour(*of))
                }
                Shape::Word((x, y), anchor, of, word) => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    let word = word.replace('&', "&amp;").replace('<', "&lt;");
                    let of = colour(*of);
                    writeln!(
                        text,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{of}\">{word}</text>"
                    )
                }
            };
        }
        text + "</svg>\n"
    }

    /// As a picture.
    pub(super) fn picture(&self) -> Result<Picture> {
        let (width, height) = self.size;
        let finer = FINER as u32;
        let mut large = Picture::filled(width * finer, height * finer, [255; 3])?;
        let scale = FINER as f64;
        for shape in &self.shapes {
            match shape {
                Shape::Line(points, colour, width) => {
                    for pair in points.windows(2) {
                        stroke(
                            &mut large,
                            scaled(pair[0], scale),
                            scaled(pair[1], scale),
                            width * scale / 2.0,
                            *colour,
                        );
                    }
                }
                Shape::Dot(at, radius, colour) => disc(&mut large, scaled(*at, scale), radius * scale, *colour),
                Shape::Word(at, anchor, colour, word) => write(&mut large, *at, *anchor, *colour, word),
            }
        }
        let mut picture = Picture::filled(width, height, [255; 3])?;
        let row = (width * finer) as usize;
        for y in 0..height as usize {
            for x in 0..width as usize {
                let at = |i: usize| ((y * FINER + i / FINER) * row + x * FINER + i % FINER) * 3;
                let mean = |channel: usize| {
                    let sum: usize = (0..FINER * FINER).map(|i| usize::from(large.pixels()[at(i) + channel])).sum();
                    (sum / (FINER * FINER)) as u8
                };
                picture.set(x as u32, y as u32, [mean(0), mean(1), mean(2)]);
            }
        }
        Ok(picture)
    }
}

fn scaled((x, y): Point, scale: f64) -> Point {
    (x * scale, y * scale)
}

/// A line as thick as the discs that it is made of.
fn stroke(picture: &mut Picture, from: Point, to: Point, radius: f64, colour: Colour) {
    let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
    for i in 0..=steps as u32 {
        let share = f64::from(i) / steps;
        disc(picture, (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share), radius, colour);
    }
}

fn disc(picture: &mut Picture, (x, y): Point, radius: f64, colour: Colour) {
    let reach = radius.ceil() as i64;
    let (column, row) = (x.round() as i64, y.round() as i64);
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let within = (dx * dx + dy * dy) as f64 <= radius * radius;
            if let (true, Ok(x), Ok(y)) = (within, u32::try_from(column + dx), u32::try_from(row + dy)) {
                picture.set(x, y, colour);
            }
        }
    }
}

fn write(picture: &mut Picture, (x, y): Point, anchor: Anchor, colour: Colour, word: &str) {
    let dot = DOT * FINER;
    let advance = (font::SIZE.0 + 1) * dot;
    let length = word.chars().count() * advance;
    let back = match anchor {
        Anchor::Start => 0,
        Anchor::Middle => length / 2,
        Anchor::End => length,
    };
    let left = (x * FINER as f64) as i64 - back as i64;
    let top = (y * FINER as f64) as i64 - (font::RISE * dot) as i64;
    for (i, letter) in word.chars().enumerate() {
        for (row, bits) in font::rows(letter).into_iter().enumerate() {
            for column in (0..font::SIZE.0).filter(|column| bits >> (font::SIZE.0 - 1 - column) & 1 == 1) {
                for pixel in 0..dot * dot {
                    let x = left + (i * advance + column * dot + pixel % dot) as i64;
                    let y = top + (row * dot + pixel / dot) as i64;
                    if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) {
                        picture.set(x, y, colour);
                    }
                }
            }
        }
    }
}
