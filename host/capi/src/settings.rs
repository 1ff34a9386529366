//! Options by name, as on the command line.

use std::ffi::{CStr, OsStr};
use std::path::PathBuf;
use std::str::FromStr;

use unfog::sample::Options;
use unfog::settings::parity;
use unfog::{Error, Result};

/// The options that can be set.
const NAMES: [&str; 35] = [
    "prompt",
    "lora",
    "embedding",
    "control",
    "control-image",
    "control-scale",
    "control-steps",
    "clip-skip",
    "class",
    "negative",
    "guidance",
    "guidance-rule",
    "guidance-rescale",
    "guidance-interval",
    "sampler",
    "schedule",
    "sigmas",
    "steps",
    "eta",
    "seed",
    "count",
    "first",
    "size",
    "parity",
    "backend",
    "device",
    "precision",
    "threads",
    "vram",
    "ram",
    "tune",
    "noise",
    "noise-in",
    "latents-out",
    "out",
];

/// Sets the option `name` to what `value` says.
pub(crate) fn set(options: &mut Options, name: &CStr, value: &CStr) -> Result<()> {
    let name = name.to_str().unwrap_or_default();
    match name {
        "control" => options.controls.push(path(value)?),
        "control-image" => options.control_images.push(path(value)?),
        "noise-in" => options.noise_in = Some(path(value)?),
        "latents-out" => options.latents_out = Some(path(value)?),
        "out" => options.out = path(value)?,
        _ => {
            let value = value.to_str().map_err(|_| Error::usage(format!("--{name}: the value is no UTF-8")))?;
            set_text(options, name, value)?;
        }
    }
    Ok(())
}

fn set_text(options: &mut Options, name: &str, value: &str) -> Result<()> {
    match name {
        "prompt" => options.prompt = Some(value.into()),
        "lora" => options.loras.push(value.parse()?),
        "embedding" => options.embeddings.push(value.parse()?),
        "control-scale" => options.control_scales.push(number(name, value)?),
        "control-steps" => options.control_steps.push(value.parse()?),
        "clip-skip" => options.clip_skip = Some(number(name, value)?),
        "class" => options.class = Some(value.into()),
        "negative" => options.negative = Some(value.into()),
        "guidance-rule" => options.guidance_rule = Some(value.into()),
        "guidance-rescale" => options.guidance_rescale = Some(number(name, value)?),
        "guidance-interval" => options.guidance_interval = Some(interval(value)?),
        "guidance" => options.guidance = Some(number(name, value)?),
        "sampler" => options.sampler = Some(value.into()),
        "schedule" => options.schedule = Some(value.into()),
        "sigmas" => options.sigmas = Some(value.into()),
        "steps" => options.steps = Some(number(name, value)?),
        "eta" => options.eta = Some(number(name, value)?),
        "seed" => options.seed = number(name, value)?,
        "count" => options.count = number(name, value)?,
        "first" => options.first = number(name, value)?,
        "size" => options.size = Some(size(value)?),
        "parity" => options.parity = Some(parity(value)?),
        "backend" => options.backend.kind = value.parse()?,
        "device" => options.backend.device = Some(value.into()),
        "precision" => options.backend.precision = value.parse()?,
        "noise" => options.noise = value.parse()?,
        "threads" => options.backend.threads = Some(number(name, value)?),
        "vram" => options.backend.vram = Some(bytes(name, value)?),
        "ram" => options.backend.ram = Some(if value == "0" { 0 } else { bytes(name, value)? }),
        "tune" => options.backend.tune = switch(name, value)?,
        _ => {
            return Err(
                Error::usage(format!("there is no option {name:?}")).hint(format!("known: {}", NAMES.join(", ")))
            );
        }
    }
    Ok(())
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| Error::usage(format!("--{name}: {value:?} is no number that this option takes")))
}

fn bytes(name: &str, value: &str) -> Result<u64> {
    let unread = || Error::usage(format!("--{name}: {value:?} is no number of bytes")).hint("as in 512M or 1.5G");
    unfog::memory::parse(value).ok_or_else(unread)
}

/// What the command line says by naming an option at all: 1, or 0.
fn switch(name: &str, value: &str) -> Result<bool> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Error::usage(format!("--{name}: {value:?} is neither 0 nor 1"))),
    }
}

fn size(value: &str) -> Result<(u32, u32)> {
    let sides = value.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.filter(|&(w, h)| w > 0 && h > 0).ok_or_else(|| {
        Error::usage(format!("--size: {value:?} is no size")).hint("give width and height above 0, as in 64x64")
    })
}

/// Two shares of the steps, from 0 to 1.
fn interval(value: &str) -> Result<[f64; 2]> {
    let ends = value.split_once(',').and_then(|(from, to)| Some([from.trim().parse().ok()?, to.trim().parse().ok()?]));
    ends.ok_or_else(|| {
        Error::usage(format!("--guidance-interval: {value:?} is no interval"))
            .hint("give two shares of the steps, as in 0.25,0.75")
    })
}

/// A path in the system's own encoding.
pub(crate) fn path(value: &CStr) -> Result<PathBuf> {
    #[cfg(unix)]
    let text = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(value.to_bytes());
    #[cfg(not(unix))]
    let text = OsStr::new(value.to_str().map_err(|_| Error::usage("a path is no UTF-8"))?);
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_set() {
        for name in NAMES {
            let mut options = Options::default();
            let value = match name {
                "size" => c"24x16",
                "control-steps" => c"0:0.5",
                "parity" => c"table",
                "backend" => c"reference",
                "precision" => c"f16",
                "noise" => c"lattice",
                "guidance-interval" => c"0.25,0.75",
                "tune" => c"1",
                _ => c"7",
            };
            let name = std::ffi::CString::new(name).unwrap();
            set(&mut options, &name, value).unwrap();
            assert_ne!(format!("{options:?}"), format!("{:?}", Options::default()), "{name:?}");
        }
    }
}
