//! What a picture lost, and how it comes back: the choices of a run.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unfog_core::solve::update::Solver;

use crate::backend::by_name;
use crate::error::{Error, Result};

/// What is to be made good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Noise.
    #[default]
    Denoise,
    /// Pixels that are missing, where a mask is white.
    Inpaint,
    /// Size: the picture is a smaller one of what is made.
    Upscale,
    /// Sharpness: the picture was blurred.
    Deblur,
    /// Colour: the picture is the grey of what is made.
    Colorize,
}

impl Task {
    /// Names on the command line.
    const NAMES: [(&str, Self); 5] = [
        ("denoise", Self::Denoise),
        ("inpaint", Self::Inpaint),
        ("upscale", Self::Upscale),
        ("deblur", Self::Deblur),
        ("colorize", Self::Colorize),
    ];

    /// Whether a picture keeps its size and its channels.
    pub fn keeps_shape(self) -> bool {
        !matches!(self, Self::Upscale | Self::Colorize)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::NAMES, "task", text)
    }
}

/// What brings a picture back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Wang et al. 2023, with noise their DDNM+.
    #[default]
    Ddnm,
    /// Kawar et al. 2022.
    Ddrm,
    /// Zhu et al. 2023.
    DiffPir,
    /// Lugmayr et al. 2022; of a smaller picture, Choi et al. 2021 (ILVR).
    Repaint,
    /// One evaluation at the picture's noise level: what the network takes for the mean of all that it may have been. For noise alone.
    Mean,
}

impl Method {
    /// Names on the command line.
    const NAMES: [(&str, Self); 5] = [
        ("ddnm", Self::Ddnm),
        ("ddrm", Self::Ddrm),
        ("diffpir", Self::DiffPir),
        ("repaint", Self::Repaint),
        ("mean", Self::Mean),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }

    /// The share of fresh noise that the method's authors take, where there is one.
    pub(super) fn eta(self) -> Option<f32> {
        match self {
            Self::Ddnm | Self::Ddrm => Some(0.85),
            Self::DiffPir => Some(0.3),
            Self::Repaint | Self::Mean => None,
        }
    }

    /// Its rule with this share of fresh noise.
    pub(super) fn solver(self, eta: f32) -> Solver {
        match self {
            Self::Ddrm => Solver::Ddrm { eta, eta_b: 1.0 },
            Self::DiffPir => Solver::DiffPir { lambda: 8.0, zeta: eta },
            Self::Repaint => Solver::Replace,
            // Of a single step that ends at the picture, and of nothing measured, the network's picture is all that is left.
            Self::Ddnm | Self::Mean => Solver::Ddnm { eta },
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::NAMES, "method", text)
    }
}

/// How a picture was made smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// The mean of the pixels.
    #[default]
    Average,
    /// Bicubic with antialiasing, as Pillow.
    Bicubic,
}

impl Kernel {
    /// Names on the command line.
    const NAMES: [(&str, Self); 2] = [("average", Self::Average), ("bicubic", Self::Bicubic)];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kernel)| *kernel == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Kernel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::NAMES, "kernel", text)
    }
}

/// How often a run goes back, to make what was measured and what is made up fit better: after every `length` steps it goes back over them, until
/// they were made `times` times. Lugmayr et al. 2022 (RePaint, section 4.2) have 10 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Travel {
    /// Steps.
    pub length: usize,
    /// How often they are made.
    pub times: usize,
}

impl Travel {
    /// Not at all.
    pub const NONE: Self = Self { length: 1, times: 1 };
}

impl FromStr for Travel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((length, times)) if length > 0 && times > 0 => Ok(Self { length, times }),
            _ => Err(Error::usage(format!("--travel {text}: expected steps and how often they are made, as in 10x5"))),
        }
    }
}
