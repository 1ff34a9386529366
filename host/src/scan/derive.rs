//! DICOM files out: an image that was derived from another (PS3.3, C.7.6.1.1).

use std::io::Write;
use std::path::Path;

use dicom_core::value::{DataSetSequence, PrimitiveValue};
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::meta::FileMetaTableBuilder;
use dicom_object::{InMemDicomObject, OpenFileOptions, Tag};
use sha2::{Digest, Sha256};

use super::Scan;
use super::read::open;
use crate::error::{Error, Result};

/// The group of private elements in which the recipe lies, the name under which, and its number.
const RECIPE: (u16, &str, u8) = (0x0009, "UNFOG", 0x01);
/// The most characters of an element of short text.
const SHORT_TEXT: usize = 1024;

/// What a scan is derived by.
pub(crate) struct Derivation<'a> {
    /// What was done, for a reader.
    pub(crate) description: &'a str,
    /// The recipe, as JSON.
    pub(crate) recipe: &'a str,
    /// What is the same for all scans of a run: those of one series become one series.
    pub(crate) run: &'a str,
}

impl Scan {
    /// Writes the file once a network has made `seen` of the picture: with everything that it said, new pixels, uncompressed, and new
    /// numbers for the image and its series, which are the same whenever the same is done to the same file.
    ///
    /// # Errors
    /// What can't be written as DICOM; every error of `out`.
    pub(crate) fn derive(&self, seen: &[f32], by: &Derivation<'_>, path: &Path, out: &mut dyn Write) -> Result<()> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::failure(format!("can't write {}", path.display())).because(e)
        };
        let mut object: InMemDicomObject = (*self.object).clone();
        let text =
            |tag: Tag| self.object.get(tag).and_then(|e| e.to_str().ok()).map(|v| trimmed(&v)).unwrap_or_default();
        let (class, instance) = (text(tags::SOP_CLASS_UID), text(tags::SOP_INSTANCE_UID));

        let raw = self.restored(seen).into_iter().map(|value| self.stored.raw(value));
        let pixels = match self.stored.allocated {
            8 => DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(raw.map(|v| v as u8).collect())),
            _ => DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(raw.map(|v| v as u16).collect())),
        };
        object.put(pixels);
        for tag in [tags::SMALLEST_IMAGE_PIXEL_VALUE, tags::LARGEST_IMAGE_PIXEL_VALUE, tags::ICON_IMAGE_SEQUENCE] {
            object.remove_element(tag);
        }

        let mut kind: Vec<String> = text(tags::IMAGE_TYPE).split('\\').map(Into::into).collect();
        kind[0] = "DERIVED".into();
        if kind.len() < 2 {
            kind.push("PRIMARY".into());
        }
        object.put(DataElement::new(tags::IMAGE_TYPE, VR::CS, PrimitiveValue::Strs(kind.into_iter().collect())));
        let before = text(tags::DERIVATION_DESCRIPTION);
        let all = if before.is_empty() { by.description.into() } else { format!("{before}; {}", by.description) };
        // Plain characters are in every character set.
        let plain = |c: char| if c.is_ascii() && !c.is_ascii_control() && c != '\\' { c } else { '?' };
        let said: String = all.chars().map(plain).take(SHORT_TEXT).collect();
        object.put_str(tags::DERIVATION_DESCRIPTION, VR::ST, said);
        if !instance.is_empty() {
            let source = InMemDicomObject::from_element_iter([
                DataElement::new(tags::REFERENCED_SOP_CLASS_UID, VR::UI, class),
                DataElement::new(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, instance.clone()),
            ]);
            object.put(DataElement::new(tags::SOURCE_IMAGE_SEQUENCE, VR::SQ, DataSetSequence::from(vec![source])));
        }
        object.put_str(tags::SOP_INSTANCE_UID, VR::UI, uid(&["image", &instance, by.recipe]));
        let series = text(tags::SERIES_INSTANCE_UID);
        if !series.is_empty() {
            object.put_str(tags::SERIES_INSTANCE_UID, VR::UI, uid(&["series", &series, by.run]));
        }
        let (group, creator, element) = RECIPE;
        object
            .put_private_element(group, creator, element, VR::UT, PrimitiveValue::from(escaped(by.recipe)))
            .map_err(|e| failed(e.into()))?;

        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let file = object.with_meta(meta).map_err(|e| failed(e.into()))?;
        // Its own buffer would drop the last error.
        let mut bytes = Vec::new();
        file.write_all(&mut bytes).map_err(|e| failed(e.into()))?;
        out.write_all(&bytes).map_err(|e| failed(e.into()))
    }
}

/// The recipe that the DICOM file at `path` carries, if any.
///
/// # Errors
/// A file that is missing or damaged.
pub(crate) fn read_recipe(path: &Path) -> Result<Option<String>> {
    let object = open(path, OpenFileOptions::new().read_until(tags::PIXEL_DATA))?;
    let (group, creator, element) = RECIPE;
    let found = object.private_element(group, creator, element).ok();
    Ok(found.and_then(|element| element.to_str().ok()).map(|text| trimmed(&text)))
}

/// JSON in plain characters, which are in every character set.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

/// Text without what fills it up.
fn trimmed(text: &str) -> String {
    text.trim_matches(['\0', ' ']).into()
}

/// A unique identifier of `parts` (PS3.5, B.2): a UUID of their hash (RFC 9562, version 8) as a decimal number.
fn uid(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    (bytes[6], bytes[8]) = (bytes[6] & 0x0f | 0x80, bytes[8] & 0x3f | 0x80);
    format!("2.25.{}", u128::from_be_bytes(bytes))
}
