//! Arguments that several commands share.

use std::str::FromStr;

use unfog::backend::{Kind, Precision, Request};

/// Where to compute.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct BackendArgs {
    /// Where to compute: auto, vulkan, cpu or reference; auto measures once and remembers
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) backend: Kind,
    /// Vulkan device: its number or a part of its name (see `unfog devices`)
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// How a GPU stores weights: f32 or f16
    #[arg(long, value_name = "NAME", default_value = "f32")]
    precision: Precision,
    /// Threads of the cpu backend [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl BackendArgs {
    pub(crate) fn request(&self) -> Request {
        Request { kind: self.backend, device: self.device.clone(), precision: self.precision, threads: self.threads }
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
