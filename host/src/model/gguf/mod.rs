//! GGUF: the file format of ggml's programs, as stable-diffusion.cpp and ComfyUI-GGUF write it.
//!
//! The layout is that of ggml's `docs/gguf.md`: a magic, a version (2 or 3), counts, metadata by keys, a table of tensors, and their values
//! at aligned places. Nothing is taken on trust: every length is compared with what is left of the file before it is used, and no memory is
//! taken by a count that a file names.

mod blocks;

use std::collections::BTreeMap;

pub(super) use blocks::Blocks;

use super::index::{Entry, TensorKind};

const MAGIC: &[u8; 4] = b"GGUF";
/// Where ComfyUI-GGUF keeps the shape of a tensor that it cut into rows of 256.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";
/// Lists in lists, at most.
const MOST_DEPTH: usize = 4;

/// Whether these bytes begin as GGUF does.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The tensors of the file `bytes`, with torch's order of sides.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let mut reader = Reader { bytes, at: 4 };
    let version = reader.u32()?;
    if version != 2 && version != 3 {
        return Err(format!("version {version} is not known, only 2 and 3 are"));
    }
    let (tensors, pairs) = (reader.u64()?, reader.u64()?);
    let (mut shapes, mut alignment) = (BTreeMap::new(), 32);
    for _ in 0..pairs {
        let key = reader.text()?;
        let kind = reader.u32()?;
        match (key.as_str(), key.strip_prefix(ORIGINAL_SHAPE), kind) {
            ("general.alignment", _, 4) => alignment = reader.u32()? as usize,
            (_, Some(name), 9) => {
                shapes.insert(name.to_owned(), reader.sides()?);
            }
            _ => reader.skip(kind, 0)?,
        }
    }
    if !alignment.is_power_of_two() || alignment > 1 << 16 {
        return Err(format!("values can't be aligned to {alignment} bytes"));
    }
    let mut table = Vec::new();
    for _ in 0..tensors {
        let name = reader.text()?;
        let count = reader.u32()?;
        if count > 8 {
            return Err(format!("{name} has {count} sides"));
        }
        let mut shape = Vec::new();
        for _ in 0..count {
            shape.push(usize::try_from(reader.u64()?).map_err(|_| format!("{name} is too large"))?);
        }
        // There the innermost side comes first.
        shape.reverse();
        table.push((name, shape, reader.u32()?, reader.u64()?));
    }
    let start = reader.at.next_multiple_of(alignment);
    let mut entries = BTreeMap::new();
    for (name, shape, kind, offset) in table {
        let entry = place(&name, shape, kind, offset, start, bytes.len())?;
        let entry = match shapes.remove(&name) {
            Some(shape) if product(&shape) == product(&entry.shape) => Entry { shape, ..entry },
            Some(_) => return Err(format!("{name} has other shapes in two places")),
            None => entry,
        };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("it holds {name} twice"));
        }
    }
    Ok(entries)
}

fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |all, &side| all.checked_mul(side))
}

/// A tensor of the table, its range checked.
fn place(name: &str, shape: Vec<usize>, kind: u32, offset: u64, start: usize, end: usize) -> Result<Entry, String> {
    let (kind, block, size) = match kind {
        0 => (TensorKind::F32, 1, 4),
        1 => (TensorKind::F16, 1, 2),
        30 => (TensorKind::Bf16, 1, 2),
        _ => match Blocks::of(kind) {
            Some(blocks) => (TensorKind::Blocks(blocks), blocks.values(), blocks.bytes()),
            // Its size is not known, so no byte of it is looked at.
            None => {
                return Ok(Entry { kind: TensorKind::Other(format!("number {kind}")), shape, range: 0..0 });
            }
        },
    };
    let too_large = || format!("{name} is too large");
    let row = shape.last().copied().unwrap_or(1);
    if row % block != 0 {
        return Err(format!("the rows of {name} are not made of blocks of {block}"));
    }
    let values = product(&shape).ok_or_else(too_large)?;
    let length = (values / block).checked_mul(size).ok_or_else(too_large)?;
    let from = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset)).ok_or_else(too_large)?;
    match from.checked_add(length).filter(|&last| last <= end) {
        Some(last) => Ok(Entry { kind, shape, range: from..last }),
        None => Err(format!("{name} lies beyond its end")),
    }
}

/// Reads a file from front to back.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: u64) -> Result<&'b [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("it was cut off")?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N as u64)?.try_into().map_err(|_| "it was cut off".into())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a name in it is no text".into())
    }

    /// A list of whole numbers: the sides of a shape.
    fn sides(&mut self) -> Result<Vec<usize>, String> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if count > 8 {
            return Err("a shape has too many sides".into());
        }
        let mut side = || match kind {
            4 | 5 => self.u32().map(|side| side as usize),
            10 | 11 => self.u64().and_then(|side| usize::try_from(side).map_err(|_| "a shape is too large".into())),
            _ => Err("a shape is no list of numbers".to_owned()),
        };
        (0..count).map(|_| side()).collect()
    }

    /// Passes over a value of this type.
    fn skip(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => self.u64()?,
            9 if depth < MOST_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                return self.skip_list(kind, count, depth + 1);
            }
            _ => return Err(format!("it has a value of the unknown type {kind}")),
        };
        self.take(size).map(drop)
    }

    fn skip_list(&mut self, kind: u32, count: u64, depth: usize) -> Result<(), String> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            // Each takes eight bytes at least, so that the end of the file ends this too.
            _ => return (0..count).try_for_each(|_| self.skip(kind, depth)),
        };
        self.take(count.checked_mul(size).ok_or("a list is too long")?).map(drop)
    }
}

#[cfg(test)]
mod tests;
