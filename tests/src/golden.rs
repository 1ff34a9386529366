//! The golden files: tensors and the cases that describe them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use unfog_core::nn::weights::f16_to_f32;

use crate::TestResult;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A tensor, widened to f32. Integers must be small enough for that to be exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// A golden file.
#[derive(Debug)]
pub struct Golden {
    name: String,
    tensors: HashMap<String, Tensor>,
    cases: Vec<Value>,
}

impl Golden {
    /// Reads `tests/golden/<name>.safetensors`.
    ///
    /// # Errors
    /// A missing or damaged file, a tensor of an unknown type.
    pub fn read(name: &str) -> TestResult<Self> {
        Self::read_file(&root().join(format!("tests/golden/{name}.safetensors")))
    }

    /// Reads a file in the same form.
    ///
    /// # Errors
    /// A missing or damaged file, a tensor of an unknown type.
    pub fn read_file(path: &Path) -> TestResult<Self> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| format!("{name}: {e}"))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let mut tensors = HashMap::new();
        for (key, view) in file.tensors() {
            let values = widen(view.dtype(), view.data()).ok_or_else(|| format!("{name}: {key}: unknown type"))?;
            tensors.insert(key, Tensor { shape: view.shape().to_vec(), values });
        }
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let cases = header.metadata().as_ref().and_then(|m| m.get("cases"));
        let cases = cases.map_or(Ok(Vec::new()), |text| serde_json::from_str(text))?;
        Ok(Self { name, tensors, cases })
    }

    /// The cases, in the order of their numbers.
    pub fn cases(&self) -> &[Value] {
        &self.cases
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn tensor(&self, key: &str) -> TestResult<&Tensor> {
        self.tensors.get(key).ok_or_else(|| format!("{}: no tensor {key}", self.name).into())
    }

    /// The tensor of a case: `<number>.<part>`.
    ///
    /// # Errors
    /// When there is none.
    pub fn part(&self, case: usize, part: &str) -> TestResult<&Tensor> {
        self.tensor(&format!("{case:02}.{part}"))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let fours = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
    let twos = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => Some(fours().map(f32::from_le_bytes).collect()),
        Dtype::I32 => Some(fours().map(|b| i32::from_le_bytes(b) as f32).collect()),
        Dtype::F16 => Some(twos().map(f16_to_f32).collect()),
        Dtype::BF16 => Some(twos().map(|b| f32::from_bits(u32::from(b) << 16)).collect()),
        _ => None,
    }
}
