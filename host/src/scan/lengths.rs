//! Whether a DICOM file is as long as it says, before any memory is taken for what it says: a few bytes can claim gigabytes, and items
//! within items without end.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use dicom_dictionary_std::uids;
use dicom_object::FileMetaTable;
use dicom_parser::dataset::LazyDataToken;
use dicom_parser::dataset::lazy_read::LazyDataSetReader;
use dicom_parser::stateful::decode::StatefulDecode;
use dicom_transfer_syntax_registry::{TransferSyntax, TransferSyntaxIndex, TransferSyntaxRegistry, entries};

/// Bytes for anything, and those that say that it is DICOM.
const BEGIN: u64 = 128;
const MAGIC: u64 = 4;
/// The group of the elements before the data set.
const META: u16 = 0x0002;
/// Sequences within sequences.
const DEEPEST: usize = 32;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Checks the file at `path`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(path: &Path) -> Result<(), Cause> {
    let mut file = BufReader::new(File::open(path)?);
    let size = file.get_ref().metadata()?.len();
    let mut begin = [0; (BEGIN + MAGIC) as usize];
    file.read_exact(&mut begin).map_err(|_| "it is shorter than any DICOM file")?;
    if begin[BEGIN as usize..] != *b"DICM" {
        return Err("it is no DICOM file".into());
    }
    walk(&mut file, &entries::EXPLICIT_VR_LITTLE_ENDIAN.erased(), size, Some(META))?;
    file.seek(SeekFrom::Start(BEGIN))?;
    let meta = FileMetaTable::from_reader(&mut file)?;
    let syntax = meta.transfer_syntax();
    if syntax == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        return Err("deflated files are not read".into());
    }
    let known =
        TransferSyntaxRegistry.get(syntax).ok_or_else(|| format!("the transfer syntax {syntax} is not known"))?;
    walk(&mut file, known, size, None)
}

/// Goes over the elements of `group`, or all of them.
fn walk(file: &mut BufReader<File>, syntax: &TransferSyntax, size: u64, group: Option<u16>) -> Result<(), Cause> {
    let mut reader = LazyDataSetReader::new_with_ts(file, syntax)?;
    let mut depth = 0;
    while let Some(token) = reader.advance() {
        let (claimed, at) = match token? {
            LazyDataToken::ElementHeader(header) if group.is_some_and(|group| header.tag.group() != group) => {
                return Ok(());
            }
            LazyDataToken::SequenceStart { .. } if depth == DEEPEST => return Err("its sequences are too deep".into()),
            LazyDataToken::SequenceStart { .. } => {
                depth += 1;
                continue;
            }
            LazyDataToken::SequenceEnd => {
                depth = depth.saturating_sub(1);
                continue;
            }
            LazyDataToken::LazyValue { header, decoder } => {
                let length = header.len.get().ok_or("an element does not say where it ends")?;
                let at = decoder.position();
                if at + u64::from(length) <= size {
                    decoder.skip_bytes(length)?;
                }
                (length, at)
            }
            LazyDataToken::LazyItemValue { len, decoder } => {
                let at = decoder.position();
                if at + u64::from(len) <= size {
                    decoder.skip_bytes(len)?;
                }
                (len, at)
            }
            _ => continue,
        };
        if at + u64::from(claimed) > size {
            return Err(format!("it is cut off: {claimed} bytes are said to be at {at}, and it has {size}").into());
        }
    }
    Ok(())
}
