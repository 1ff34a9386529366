//! Arguments that several commands share.

use std::str::FromStr;

use unfog::backend::{Kind, Precision, Request};

/// Where to compute.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct BackendArgs {
    /// Where to compute: auto, vulkan, cpu or reference; auto measures once and remembers
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) backend: Kind,
    #[command(flatten)]
    engine: EngineArgs,
}

impl BackendArgs {
    pub(crate) fn request(&self) -> Request {
        self.engine.request(self.backend)
    }
}

/// How backends are set up.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Vulkan device: its number or a part of its name (see `unfog devices`)
    #[arg(long, value_name = "N|NAME")]
    pub(crate) device: Option<String>,
    /// How the weights of convolutions and linear layers are held: f32 (as the model has them), f16, int8 or q4
    #[arg(long, value_name = "NAME", default_value = "f32")]
    pub(crate) precision: Precision,
    /// Threads of the cpu backend [default: one a core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The most memory of a GPU, as in 512M or 2G; weights beyond it are sent anew for each evaluation [default: all there is]
    #[arg(long, value_name = "SIZE")]
    pub(crate) vram: Option<Bytes>,
    /// The most memory for weights that the cpu backend prepares once, as in 64M or 8G; 0 reads all where they lie [default: all where
    /// 128M are enough, else none]
    #[arg(long, value_name = "SIZE", value_parser = bytes_or_none)]
    pub(crate) ram: Option<Bytes>,
}

/// Bytes, or 0.
fn bytes_or_none(text: &str) -> Result<Bytes, String> {
    if text == "0" { Ok(Bytes(0)) } else { text.parse() }
}

impl EngineArgs {
    pub(crate) fn request(&self, kind: Kind) -> Request {
        let [vram, ram] = [self.vram, self.ram].map(|size| size.map(|Bytes(bytes)| bytes));
        let device = self.device.clone();
        Request { kind, device, precision: self.precision, threads: self.threads, vram, ram, ..Request::default() }
    }
}

/// A size, `WxH`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u32, pub(crate) u32);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        match sides {
            Some((w, h)) if w > 0 && h > 0 => Ok(Self(w, h)),
            _ => Err("expected width and height above 0, as in 64x64".into()),
        }
    }
}

/// A number of bytes: `N`, or with K, M or G that many times 1024, 1024^2 or 1024^3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match text[number.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => Some(1.0),
            "K" | "KB" | "KIB" => Some(1024.0),
            "M" | "MB" | "MIB" => Some(1024.0 * 1024.0),
            "G" | "GB" | "GIB" => Some(1024.0 * 1024.0 * 1024.0),
            _ => None,
        };
        let bytes = factor.and_then(|factor| Some(number.parse::<f64>().ok()? * factor));
        // Beyond 2^53 not every number is an f64; no device has as much.
        match bytes {
            Some(bytes) if (1.0..=9e15).contains(&bytes) => Ok(Self(bytes as u64)),
            _ => Err("expected bytes, as in 512M or 1.5G".into()),
        }
    }
}

/// Two numbers, `A,B`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares(pub(crate) [f64; 2]);

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(',').and_then(|(a, b)| Some([a.trim().parse().ok()?, b.trim().parse().ok()?]));
        numbers.map(Self).ok_or_else(|| "expected two numbers, as in 0.1,0.8".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, want) in [("1", 1), ("512M", 512 << 20), ("2g", 2 << 30), ("1.5K", 1536), ("3MiB", 3 << 20)] {
            assert_eq!(text.parse(), Ok(Bytes(want)), "{text}");
        }
        for text in ["", "M", "0", "-1", "1T", "1e", "nan", "inf", "0.5", "12 M", "1e300"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
