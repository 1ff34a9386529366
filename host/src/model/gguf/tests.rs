//! Against the package `gguf` (tests/golden/make_gguf.py), and against damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::index::Index;
use super::super::mapped::{self, Bytes};
use super::super::weights::WeightFile;
use super::*;
use crate::tensors::read_f32;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf").join(name)
}

fn words(words: &[u32], half: bool, count: usize) -> Vec<f32> {
    match half {
        true => bytemuck::cast_slice::<u32, u16>(words)[..count]
            .iter()
            .map(|&h| unfog_core::nn::weights::f16_to_f32(h))
            .collect(),
        false => words.iter().map(|&bits| f32::from_bits(bits)).collect(),
    }
}

#[test]
fn values_are_those_of_the_package() {
    let file = WeightFile { name: "kinds".into(), bytes: mapped::map(&golden("kinds.gguf")).unwrap() };
    let index = Index::read(&file).unwrap();
    let mut seen = 0;
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "conv"] {
        let name = if name == "conv" { name.into() } else { format!("w.{name}") };
        let entry = index.get(&name).unwrap();
        let [want] = read_f32(&golden("kinds.safetensors"), [name.as_str()]).unwrap();
        let want = want.unwrap();
        assert_eq!(entry.shape.iter().product::<usize>(), want.len(), "{name}");
        let TensorKind::Blocks(blocks) = entry.kind else { panic!("{name}: {:?}", entry.kind) };
        let (got, half) = blocks.read(&file.bytes[entry.range.clone()], want.len()).unwrap();
        assert!(half, "{name}");
        for (got, want) in words(&got, half, want.len()).iter().zip(&want) {
            // Half of the last bit of a half float, of normal and of small ones.
            let off = f64::from(*got) - f64::from(*want);
            assert!(off.abs() <= f64::from(want.abs()) / 2048.0 + 3e-8, "{name}: {got}, {want}");
        }
        seen += 1;
    }
    assert_eq!(seen, 9);
    let shape = |name: &str| index.get(name).map(|entry| (entry.kind.clone(), entry.shape.clone()));
    assert_eq!(shape("w.F32"), Some((TensorKind::F32, vec![3, 64])));
    assert_eq!(shape("w.F16"), Some((TensorKind::F16, vec![3, 64])));
    assert_eq!(shape("w.BF16"), Some((TensorKind::Bf16, vec![3, 64])));
    assert_eq!(index.get("conv").unwrap().shape, [8, 32, 3, 3]);
}

/// A scale that no half float holds the values of: they come back as floats.
#[test]
fn what_is_too_large_for_half_floats_is_not_cut() {
    let mut block = vec![0xff, 0x7b];
    block.extend([127_u8; 32]);
    let (values, half) = Blocks::Q8_0.read(&block, 32).unwrap();
    assert!(!half && words(&values, half, 32) == [65504.0 * 127.0; 32]);
}

fn name(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A file of these metadata and tensors, their counts said.
fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let counts = [tensors.len() as u64, pairs.len() as u64].map(u64::to_le_bytes).concat();
    let mut bytes = [MAGIC, &3_u32.to_le_bytes()[..], &counts, &pairs.concat(), &tensors.concat()].concat();
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn tensor(text: &str, sides: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let sides_of: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
    [
        name(text),
        (sides.len() as u32).to_le_bytes().into(),
        sides_of,
        kind.to_le_bytes().into(),
        offset.to_le_bytes().into(),
    ]
    .concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&name(key)[..], &kind.to_le_bytes(), value].concat()
}

#[test]
fn damage_is_said() {
    let says = |bytes: &[u8], what: &str| {
        let said = entries(bytes).err().unwrap_or_default();
        assert!(said.contains(what), "{what}: {said:?}");
    };
    let good = file(&[], &[tensor("w", &[4], 0, 0)], 16);
    assert_eq!(entries(&good).unwrap()["w"].shape, [4]);
    says(b"GGUF", "cut off");
    says(&[&good[..4], &9_u32.to_le_bytes(), &good[8..]].concat(), "version 9");
    says(&good[..good.len() - 1], "beyond its end");
    says(&file(&[], &[tensor("w", &[4], 0, 1 << 63)], 16), "w");
    says(&file(&[], &[tensor("w", &[1 << 40, 1 << 40], 0, 0)], 16), "too large");
    says(&file(&[], &[tensor("w", &[1; 9], 0, 0)], 16), "9 sides");
    says(&file(&[], &[tensor("w", &[33], 2, 0)], 64), "blocks of 32");
    says(&file(&[], &[tensor("w", &[4], 0, 0), tensor("w", &[4], 0, 0)], 16), "twice");
    says(&file(&[pair("general.alignment", 4, &3_u32.to_le_bytes())], &[], 0), "aligned to 3");
    says(&file(&[pair("k", 77, &[])], &[], 0), "unknown type 77");
    says(&file(&[pair("k", 8, &u64::MAX.to_le_bytes())], &[], 0), "cut off");
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    says(&file(&[pair("k", 9, &list(12, u64::MAX))], &[], 0), "too long");
    says(&file(&[pair("k", 9, &list(8, u64::MAX))], &[], 0), "cut off");
    says(
        &file(&[pair("k", 9, &[list(9, 1), list(9, 1), list(9, 1), list(9, 1), list(9, 1)].concat())], &[], 0),
        "type 9",
    );
    let shaped = |side: u32| pair("comfy.gguf.orig_shape.w", 9, &[&list(4, 1)[..], &side.to_le_bytes()].concat());
    assert_eq!(entries(&file(&[shaped(4)], &[tensor("w", &[2, 2], 0, 0)], 16)).unwrap()["w"].shape, [4]);
    says(&file(&[shaped(5)], &[tensor("w", &[2, 2], 0, 0)], 16), "other shapes");
    // More tensors than the file could hold are no reason to take memory for them.
    let many = [&good[..8], &u64::MAX.to_le_bytes(), &good[16..]].concat();
    says(&many, "");
    assert!(entries(&many).is_err());
    let unknown = entries(&file(&[], &[tensor("w", &[32], 10, 0)], 0)).unwrap();
    assert_eq!(unknown["w"].kind, TensorKind::Other("number 10".into()));
}

/// Whatever is cut off or changed: an error, or tensors that lie in the file.
#[test]
fn no_damage_is_a_panic() {
    let good = std::fs::read(golden("kinds.gguf")).unwrap();
    let check = |bytes: Vec<u8>| {
        let end = bytes.len();
        let bytes: &'static [u8] = bytes.leak();
        let file = Arc::new(WeightFile { name: "damaged".into(), bytes: Bytes::Static(bytes) });
        if let Ok(index) = Index::read(&file) {
            for name in index.shapes().keys() {
                let entry = index.get(name).unwrap();
                assert!(entry.range.start <= entry.range.end && entry.range.end <= end, "{name}");
                if let TensorKind::Blocks(blocks) = entry.kind {
                    blocks.read(&bytes[entry.range.clone()], entry.shape.iter().product()).unwrap();
                }
            }
        }
    };
    for end in (0..good.len().min(2200)).step_by(7) {
        check(good[..end].to_vec());
    }
    for at in 0..1800 {
        let mut bytes = good.clone();
        bytes[at] ^= 0x91;
        check(bytes);
    }
}
