//! Compressed pixels: run-length code (PS3.5, annex G) and JPEG. The `dicom` crates' own readers of these end the program where a
//! file is damaged.

use dicom_core::value::{PrimitiveValue, Value};
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::DefaultDicomObject;
use jpeg_decoder::{Decoder, PixelFormat};

use crate::memory;

/// Bytes of the run-length header: the number of segments and where each begins, 15 at most.
const HEADER: usize = 64;
/// JPEG, with and without loss.
const JPEG: [&str; 4] =
    [uids::JPEG_BASELINE8_BIT, uids::JPEG_EXTENDED12_BIT, uids::JPEG_LOSSLESS, uids::JPEG_LOSSLESS_SV1];

/// Unpacks the grey picture of `width` times `height` pixels of `object` where it is coded so. `None` for what is damaged.
pub(super) fn unpack(object: &mut DefaultDicomObject, [width, height]: [u32; 2]) -> Option<()> {
    let syntax = object.meta().transfer_syntax.trim_end_matches('\0');
    let jpeg = JPEG.contains(&syntax);
    if !jpeg && syntax != uids::RLE_LOSSLESS {
        return Some(());
    }
    let bytes = match object.element(tags::BITS_ALLOCATED).ok()?.to_int::<usize>().ok()? {
        8 => 1,
        16 => 2,
        _ => return None,
    };
    let Value::PixelSequence(sequence) = object.get(tags::PIXEL_DATA)?.value() else { return None };
    // Of one picture; JPEG may be in pieces.
    let pixels = match (jpeg, sequence.fragments()) {
        (true, fragments) => read_jpeg(&fragments.concat(), [width, height], bytes)?,
        (false, [fragment]) => run_lengths(fragment, width as usize * height as usize, bytes)?,
        _ => return None,
    };
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U8(pixels.into())));
    object.update_meta(|meta| meta.transfer_syntax = uids::EXPLICIT_VR_LITTLE_ENDIAN.into());
    Some(())
}

/// The values that a JPEG file of this size holds, of so many bytes each, the low one first.
fn read_jpeg(file: &[u8], [width, height]: [u32; 2], bytes: usize) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(file);
    decoder.read_info().ok()?;
    let info = decoder.info()?;
    if [u32::from(info.width), u32::from(info.height)] != [width, height] {
        return None;
    }
    let count = width as usize * height as usize;
    let values = decoder.decode().ok()?;
    match (info.pixel_format, bytes) {
        (PixelFormat::L8, 1) if values.len() == count => Some(values),
        (PixelFormat::L8, 2) if values.len() == count => {
            let mut wide = memory::room(2 * count).ok()?;
            wide.extend(values.into_iter().flat_map(|value| [value, 0]));
            Some(wide)
        }
        (PixelFormat::L16, 2) if values.len() == 2 * count => {
            let mut ordered = memory::room(2 * count).ok()?;
            ordered.extend(values.as_chunks::<2>().0.iter().flat_map(|pair| u16::from_ne_bytes(*pair).to_le_bytes()));
            Some(ordered)
        }
        _ => None,
    }
}

/// The `count` values of so many bytes each that a fragment holds, the low one first.
fn run_lengths(fragment: &[u8], count: usize, bytes: usize) -> Option<Vec<u8>> {
    let number = |i: usize| -> Option<usize> {
        let word = fragment.get(4 * i..4 * i + 4)?;
        usize::try_from(u32::from_le_bytes(word.try_into().ok()?)).ok()
    };
    if number(0)? != bytes {
        return None;
    }
    let mut pixels = memory::vec(count * bytes, 0).ok()?;
    // The segment of the high bytes comes first.
    for segment in 0..bytes {
        let begin = number(1 + segment)?;
        let end = if segment + 1 < bytes { number(2 + segment)? } else { fragment.len() };
        let packed = fragment.get(begin..end).filter(|_| begin >= HEADER)?;
        let places = pixels.iter_mut().skip(bytes - 1 - segment).step_by(bytes);
        unpack_segment(packed, places)?;
    }
    Some(pixels)
}

/// Fills `places` with what `packed` says (PackBits); `None` where it says too little.
fn unpack_segment<'a>(packed: &[u8], mut places: impl Iterator<Item = &'a mut u8>) -> Option<()> {
    let mut packed = packed.iter().copied();
    let mut place = places.next();
    while let Some(first) = place {
        match packed.next()? as i8 {
            // The next n + 1 bytes as they are.
            n @ 0.. => {
                *first = packed.next()?;
                for _ in 0..n {
                    let value = packed.next()?;
                    let Some(place) = places.next() else { return Some(()) };
                    *place = value;
                }
            }
            i8::MIN => {
                place = Some(first);
                continue;
            }
            // The next byte 1 - n times.
            n => {
                let value = packed.next()?;
                *first = value;
                places.by_ref().take(usize::from(n.unsigned_abs())).for_each(|place| *place = value);
            }
        }
        place = places.next();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Apple's technical note 1023, in which PackBits was published.
    #[test]
    fn runs_are_unpacked() {
        let packed = [0xfe, 0xaa, 0x02, 0x80, 0x00, 0x2a, 0xfd, 0xaa, 0x03, 0x80, 0x00, 0x2a, 0x22, 0xf7, 0xaa];
        let whole = [
            0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0xaa, 0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0x22, 0xaa, 0xaa, 0xaa, 0xaa,
            0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa,
        ];
        for n in 0..=whole.len() {
            let mut out = vec![0; n];
            unpack_segment(&packed, out.iter_mut()).unwrap();
            assert_eq!(out, whole[..n]);
        }
        assert!(unpack_segment(&packed, [0; 25].iter_mut()).is_none());
        assert!(unpack_segment(&[0x80, 0x80], [0; 1].iter_mut()).is_none());
    }
}
