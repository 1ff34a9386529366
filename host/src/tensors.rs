//! Tensor files in and out: noise that a run is given, and what its sampler leaves.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value, json};
use unfog_core::nn::weights::f16_to_f32;

use crate::error::{Error, Result};
use crate::files;
use crate::memory;

/// Noise of unit variance, `[draws, n, c, h, w]`: the initial noise, then every later draw in the order of drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenNoise {
    shape: [usize; 5],
    values: Vec<f32>,
}

impl GivenNoise {
    /// Reads the tensor `noise` of the safetensors file at `path`: f32, f16 or bf16.
    ///
    /// # Errors
    /// A missing or damaged file, another type or shape, a value that is not finite.
    pub fn read(path: &Path) -> Result<Self> {
        Self::named(path, "noise")
    }

    /// The same of the tensor `name`.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn named(path: &Path, name: &str) -> Result<Self> {
        let (values, shape) = read_shaped(path, name, "[draws, n, c, h, w]")?;
        Ok(Self { shape: shape.map(|side| side as usize), values })
    }

    /// Fails unless the noise is for `n` images of `c * h * w`.
    ///
    /// # Errors
    /// A usage error that names both shapes.
    pub fn check(&self, n: u32, c: u32, h: u32, w: u32) -> Result<()> {
        let expected = [n, c, h, w].map(|v| v as usize);
        match self.shape[1..] == expected {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "the given noise has the shape {:?}, expected [draws, {n}, {c}, {h}, {w}]",
                self.shape
            ))),
        }
    }

    /// How many draws there are.
    pub fn draws(&self) -> usize {
        self.shape[0]
    }

    /// All values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// Whether a file is one of tensors, by its name.
pub(crate) fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

/// The tensor `name` of the safetensors file at `path`, and its shape, which errors call `expected`: f32, f16 or bf16.
///
/// # Errors
/// A missing or damaged file, another type or number of sides, a value that is not finite.
pub(crate) fn read_shaped<const N: usize>(path: &Path, name: &str, expected: &str) -> Result<(Vec<f32>, [u32; N])> {
    let bytes = files::read(path)?;
    let complain = |what: String| Error::failure(format!("{}: {what}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|e| complain("no whole safetensors file".into()).because(e))?;
    let tensor = file.tensor(name).map_err(|e| complain(format!("holds no tensor `{name}`")).because(e))?;
    let expected = format!("expected {name} {expected} of F32, F16 or BF16");
    let sides: Option<Vec<u32>> = tensor.shape().iter().map(|&side| u32::try_from(side).ok()).collect();
    let shape = sides.and_then(|sides| <[u32; N]>::try_from(sides).ok());
    let shape = shape.ok_or_else(|| complain(format!("{name} has the shape {:?}", tensor.shape())).hint(&expected))?;
    let values =
        widen(&tensor)?.ok_or_else(|| complain(format!("{name} has the type {:?}", tensor.dtype())).hint(&expected))?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(complain(format!("{name} is {} at index {i}", values[i]))),
        None => Ok((values, shape)),
    }
}

/// The tensor `image` of the safetensors file at `path`, and its shape `[1 or 3, height, width]`: f32, f16 or bf16.
///
/// # Errors
/// Those of [`read_shaped`].
pub(crate) fn read_image(path: &Path) -> Result<(Vec<f32>, [u32; 3])> {
    let expected = "[1 or 3, h, w]";
    let (values, shape) = read_shaped(path, "image", expected)?;
    match shape {
        [1 | 3, h, w] if h > 0 && w > 0 => Ok((values, shape)),
        _ => Err(Error::failure(format!("{}: image has the shape {shape:?}", path.display()))
            .hint(format!("expected image {expected}"))),
    }
}

/// The tensors of these names in the safetensors file at `path`, those that are there: f32, f16 or bf16.
///
/// # Errors
/// A missing or damaged file, another type, too little memory.
pub(crate) fn read_f32<const N: usize>(path: &Path, names: [&str; N]) -> Result<[Option<Vec<f32>>; N]> {
    let bytes = files::read(path)?;
    let complain = |what: String| Error::failure(format!("{}: {what}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|e| complain("no whole safetensors file".into()).because(e))?;
    let mut tensors = [const { None }; N];
    for (tensor, name) in tensors.iter_mut().zip(names) {
        *tensor = match file.tensor(name) {
            Ok(view) => Some(
                widen(&view)?
                    .ok_or_else(|| complain(format!("{name} has the type {:?}, not a float's", view.dtype())))?,
            ),
            Err(_) => None,
        };
    }
    Ok(tensors)
}

/// A tensor's values; `None` for types other than f32, f16 and bf16.
pub(crate) fn widen(tensor: &TensorView<'_>) -> Result<Option<Vec<f32>>> {
    let halves = || tensor.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let mut values = memory::room(tensor.shape().iter().product())?;
    match tensor.dtype() {
        Dtype::F32 => {
            values.extend(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        }
        Dtype::F16 => values.extend(halves().map(f16_to_f32)),
        Dtype::BF16 => values.extend(halves().map(|h| f32::from_bits(u32::from(h) << 16))),
        _ => return Ok(None),
    }
    Ok(Some(values))
}

/// Writes `values` as the tensor `name` of a safetensors file, f32.
///
/// # Errors
/// A length that doesn't fit the shape; every error of the file.
pub(crate) fn write_f32(path: &Path, name: &str, values: &[f32], shape: &[usize]) -> Result<()> {
    write_f32s(path, &[(name, values, shape)])
}

/// Writes values as tensors of these names and shapes of a safetensors file, f32.
///
/// # Errors
/// Those of [`write_f32`].
pub(crate) fn write_f32s(path: &Path, tensors: &[(&str, &[f32], &[usize])]) -> Result<()> {
    let (mut header, mut offset) = (Map::new(), 0);
    for (name, values, shape) in tensors {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::failure(format!("{} values don't have the shape {shape:?}", values.len())));
        }
        let end = offset + size_of_val(*values);
        header.insert((*name).into(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // The values begin where f32 values may lie.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    files::write(path, |out| {
        let failed = |e| files::cannot_write(path, e);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(header.as_bytes()).map_err(failed)?;
        // Piece by piece: no second copy of all values is made.
        tensors.iter().flat_map(|(_, values, _)| values.chunks(1 << 10)).try_for_each(|piece| {
            let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
            out.write_all(&bytes).map_err(failed)
        })
    })
}

/// Writes `values`, `[n, c, h, w]`, as the tensor `x0` of a safetensors file, f32.
///
/// # Errors
/// A length that doesn't fit the shape; every error of the file.
pub fn write_latents(path: &Path, values: &[f32], shape: [u32; 4]) -> Result<()> {
    write_f32(path, "x0", values, &shape.map(|n| n as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        std::fs::write(path, safetensors::serialize([("noise", view)], None).unwrap()).unwrap();
    }

    #[test]
    fn noise_is_read_in_every_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let f32s: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let bf16s: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        let f16s: Vec<u8> = [0x3e00_u16, 0xc000].iter().flat_map(|v| v.to_le_bytes()).collect();
        for (dtype, bytes) in [(Dtype::F32, &f32s), (Dtype::F16, &f16s), (Dtype::BF16, &bf16s)] {
            write(&path, dtype, &[2, 1, 1, 1, 1], bytes);
            let noise = GivenNoise::read(&path).unwrap();
            assert_eq!((noise.draws(), noise.values()), (2, &[1.5, -2.0][..]));
            assert!(noise.check(1, 1, 1, 1).is_ok());
            assert_eq!(noise.check(2, 1, 1, 1).unwrap_err().exit_code(), 2);
        }
        write(&path, Dtype::F32, &[2, 1], &f32s);
        assert!(GivenNoise::read(&path).is_err());
        write(&path, Dtype::F32, &[1, 1, 1, 1, 1], &f32::NAN.to_le_bytes());
        assert!(GivenNoise::read(&path).is_err());
        std::fs::write(&path, [0; 5]).unwrap();
        assert!(GivenNoise::read(&path).is_err());
    }

    #[test]
    fn latents_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_latents(&path, &[1.0, 2.0], [1, 2, 1, 1]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let x0 = file.tensor("x0").unwrap();
        assert_eq!((x0.dtype(), x0.shape()), (Dtype::F32, &[1, 2, 1, 1][..]));
        assert!(write_latents(&path, &[1.0], [1, 2, 1, 1]).is_err());
    }
}
