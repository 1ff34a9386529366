//! Text that a PNG file carries.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::error::{Error, Result};

/// The text that the PNG file at `path` carries under `keyword`, if any.
///
/// # Errors
/// A file that is missing, no PNG, or damaged.
pub fn read_text(path: &Path, keyword: &str) -> Result<Option<String>> {
    let open = File::open(path);
    let file = open.map_err(|e| Error::failure(format!("can't read {}", path.display())).because(e))?;
    let damaged = |e: png::DecodingError| Error::failure(format!("{} is no whole PNG", path.display())).because(e);
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(damaged)?;
    // Text may also follow the picture's data.
    reader.finish().map_err(damaged)?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
    let international = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword);
    match (international, plain) {
        (Some(chunk), _) => chunk.get_text().map(Some).map_err(damaged),
        (None, plain) => Ok(plain.map(|chunk| chunk.text.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Picture, encode, load};
    use super::*;

    #[test]
    fn text_and_pixels_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for channels in [1, 3] {
            let values: Vec<f32> = (0..6 * channels).map(|i| i as f32 / 9.0 - 1.0).collect();
            let picture = Picture::from_values(&values, 3, 2, channels).unwrap();
            let mut file = File::create(&path).unwrap();
            encode(&picture, Format::Png, &[("unfog", "a\u{1F32B} \u{e9}")], &path, &mut file).unwrap();
            assert_eq!(load(&path).unwrap(), picture);
            assert_eq!(read_text(&path, "unfog").unwrap().as_deref(), Some("a\u{1F32B} \u{e9}"));
            assert_eq!(read_text(&path, "other").unwrap(), None);
        }
    }

    /// What other programs read is Latin-1 where that is enough, as they expect it.
    #[test]
    fn parameters_are_plain_text_where_they_can_be() {
        let picture = Picture::from_values(&[0.0], 1, 1, 1).unwrap();
        for (text, chunk) in [("caf\u{e9}\nSteps: 1", "tEXtparameters\0"), ("\u{c0ac}\u{acfc}", "iTXtparameters\0")] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.png");
            let mut file = File::create(&path).unwrap();
            encode(&picture, Format::Png, &[("unfog", "{}"), ("parameters", text)], &path, &mut file).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.windows(chunk.len()).any(|window| window == chunk.as_bytes()), "{chunk}");
            assert_eq!(read_text(&path, "parameters").unwrap().as_deref(), Some(text));
            assert_eq!(read_text(&path, "unfog").unwrap().as_deref(), Some("{}"));
        }
    }

    #[test]
    fn every_format_is_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, channels, exact) in [
            ("a.png", 3, true),
            ("a.bmp", 3, true),
            ("a.bmp", 1, true),
            ("a.pgm", 1, true),
            ("a.PPM", 3, true),
            ("a.jpg", 3, false),
        ] {
            let path = folder.path().join(name);
            let picture = Picture::from_values(&vec![0.25; 64 * channels as usize], 8, 8, channels).unwrap();
            let format = Format::of(&path, channels).unwrap();
            encode(&picture, format, &[("unfog", "")], &path, &mut File::create(&path).unwrap()).unwrap();
            let back = load(&path).unwrap();
            assert_eq!((back.width(), back.height()), (8, 8), "{name}");
            if exact {
                assert_eq!(back.to_values(channels).unwrap(), picture.to_values(channels).unwrap(), "{name}");
            }
        }
        assert_eq!(Format::of(Path::new("a.xyz"), 1).unwrap_err().exit_code(), 2);
        assert_eq!(Format::of(Path::new("a"), 1).unwrap_err().exit_code(), 2);
    }
}
