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

/// A number of bytes, as [`unfog::memory::parse`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        unfog::memory::parse(text).map(Self).ok_or_else(|| "expected bytes, as in 512M or 1.5G".into())
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
