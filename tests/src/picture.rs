//! Pictures of differences, for a person who looks into a failure.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use crate::TestResult;
use crate::compare::close;
use crate::tolerance::Tolerance;

/// [`close`] for pictures, planar `[n, c, h, w]`. On failure a PNG shows each plane as it is, as it should be, and their
/// difference, scaled to the largest; the error names the file.
///
/// # Errors
/// Those of [`close`].
pub fn close_pictures(
    what: &str,
    got: &[f32],
    want: &[f32],
    size: [usize; 2],
    tolerance: Tolerance,
) -> TestResult<f64> {
    close(what, got, want, tolerance).map_err(|error| match write(what, got, want, size) {
        Ok(path) => format!("{error}; see {}", path.display()).into(),
        Err(other) => format!("{error} (no picture: {other})").into(),
    })
}

fn write(what: &str, got: &[f32], want: &[f32], [h, w]: [usize; 2]) -> TestResult<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/differences"));
    std::fs::create_dir_all(&folder)?;
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let path = folder.join(what.chars().map(plain).collect::<String>() + ".png");
    let difference: Vec<f32> = got.iter().zip(want).map(|(g, w)| (g - w).abs()).collect();
    let most = difference.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let byte = |v: f32| (v.clamp(0.0, 1.0) * 255.0) as u8;
    let mut pixels = Vec::new();
    let planes = got.chunks_exact(h * w).zip(want.chunks_exact(h * w)).zip(difference.chunks_exact(h * w));
    let mut rows = 0;
    for ((got, want), difference) in planes {
        for y in (0..h).map(|y| y * w..(y + 1) * w) {
            pixels.extend(got[y.clone()].iter().map(|v| byte(v / 2.0 + 0.5)));
            pixels.extend(want[y.clone()].iter().map(|v| byte(v / 2.0 + 0.5)));
            pixels.extend(difference[y].iter().map(|v| byte(v / most)));
            rows += 1;
        }
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&path)?), 3 * w as u32, rows);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(path)
}
