//! Which tensors a file of weights holds, and where: safetensors or GGUF.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::{Dtype, SafeTensors};

use super::gguf::{self, Blocks};
use super::weights::WeightFile;
use crate::error::{Error, Result};

/// How the values of a tensor are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TensorKind {
    F32,
    F16,
    Bf16,
    /// In GGUF's blocks of few bits with their scales.
    Blocks(Blocks),
    /// Otherwise: the type's name.
    Other(String),
}

impl TensorKind {
    /// The least bytes that can be read on their own.
    pub(super) fn block_bytes(&self) -> usize {
        match self {
            Self::Blocks(blocks) => blocks.bytes(),
            _ => 1,
        }
    }
}

/// A tensor of a file. Its range lies within the file and is as long as its type and shape say.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: TensorKind,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// The tensors of a file by name.
#[derive(Debug)]
pub(super) struct Index(BTreeMap<String, Entry>);

impl Index {
    /// Reads and checks what stands before a file's values.
    ///
    /// # Errors
    /// A damaged file.
    pub(super) fn read(file: &WeightFile) -> Result<Self> {
        if gguf::is_one(&file.bytes) {
            let damaged = |what| Error::failure(format!("{} is no whole GGUF file: {what}", file.name));
            return gguf::entries(&file.bytes).map(Self).map_err(damaged);
        }
        let (length, metadata) = SafeTensors::read_metadata(&file.bytes).map_err(|e| {
            Error::failure(format!("{} is no whole safetensors file", file.name))
                .hint("it was cut off or changed on its way; copy it again")
                .because(e)
        })?;
        // The parser has checked that every offset lies in the file; 8 bytes of length precede the header.
        let start = 8 + length;
        let entry = |info: &safetensors::tensor::TensorInfo| Entry {
            kind: match info.dtype {
                Dtype::F32 => TensorKind::F32,
                Dtype::F16 => TensorKind::F16,
                Dtype::BF16 => TensorKind::Bf16,
                other => TensorKind::Other(format!("{other:?}")),
            },
            shape: info.shape.clone(),
            range: start + info.data_offsets.0..start + info.data_offsets.1,
        };
        Ok(Self(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect()))
    }

    /// The tensor of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(name)
    }

    /// The shapes of all tensors.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.0.iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect()
    }
}
