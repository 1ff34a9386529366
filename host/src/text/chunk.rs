//! Prompts of any length as chunks that a text encoder takes, each token with its weight.

use super::prompt::Part;

/// Ids for one run of the text encoder, and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Start, tokens, end, padding: as many as the encoder takes.
    pub ids: Vec<u32>,
    /// A weight for each id; 1 for those that come from no text.
    pub weights: Vec<f32>,
    /// How many of them are no padding.
    pub text_len: usize,
}

/// The ids that have a meaning, and the length of a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Marks {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) pad: u32,
    pub(super) comma: Option<u32>,
    /// Start and end included; at least 2.
    pub(super) max_len: usize,
}

/// How many tokens behind its last comma a full chunk may hand on to the next one, so that what stands between commas stays together:
/// AUTOMATIC1111's default.
const BACKTRACK: usize = 20;

/// The chunks of `parts`, at least one. `ids` gives those of a text, without start and end.
///
/// A chunk that is full ends; behind a comma that is near, it ends there. A [`Part::Break`] ends it too, full or not.
///
/// # Errors
/// Those of `ids`.
pub(super) fn chunks<E>(
    parts: &[Part],
    marks: &Marks,
    mut ids: impl FnMut(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<Chunk>, E> {
    // Where there is no room for a token, a chunk without any is all that can be made.
    let room = marks.max_len.saturating_sub(2);
    let mut chunks = Vec::new();
    let mut open: Vec<(u32, f32)> = Vec::new();
    // How many tokens of the open chunk stand before what is behind its last comma.
    let mut behind_comma = None;
    for part in parts {
        let (text, weight) = match part {
            Part::Text(text, weight) => (text, *weight as f32),
            Part::Break => {
                chunks.push(close(&open, marks));
                open.clear();
                behind_comma = None;
                continue;
            }
        };
        for id in ids(text)?.into_iter().filter(|_| room > 0) {
            let is_comma = Some(id) == marks.comma;
            if is_comma {
                behind_comma = Some(open.len() + 1);
            }
            if open.len() == room {
                // A comma stays with nothing that stands before it.
                let near = behind_comma.filter(|&start| !is_comma && room - start < BACKTRACK);
                let rest = open.split_off(near.unwrap_or(room));
                chunks.push(close(&open, marks));
                open = rest;
                behind_comma = None;
            }
            open.push((id, weight));
        }
    }
    if !open.is_empty() || chunks.is_empty() {
        chunks.push(close(&open, marks));
    }
    Ok(chunks)
}

fn close(tokens: &[(u32, f32)], marks: &Marks) -> Chunk {
    let (mut ids, mut weights) = (vec![marks.start], vec![1.0]);
    ids.extend(tokens.iter().map(|(id, _)| id));
    weights.extend(tokens.iter().map(|(_, weight)| weight));
    ids.push(marks.end);
    let text_len = ids.len();
    ids.resize(marks.max_len.max(2), marks.pad);
    weights.resize(ids.len(), 1.0);
    Chunk { ids, weights, text_len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::prompt::parse;

    const MARKS: Marks =
        Marks { start: 1000, end: 1001, pad: 1002, comma: Some(u32::from_be_bytes([0, 0, 0, b','])), max_len: 77 };

    /// A token a byte, spaces left out.
    fn of(prompt: &str, marks: &Marks) -> Vec<Chunk> {
        let ids = |text: &str| Ok::<_, ()>(text.bytes().filter(|&b| b != b' ').map(u32::from).collect());
        let chunks = chunks(&parse(prompt), marks, ids).unwrap();
        for chunk in &chunks {
            assert_eq!(
                (chunk.ids.len(), chunk.weights.len()),
                (marks.max_len.max(2), marks.max_len.max(2)),
                "{prompt}"
            );
            assert!(chunk.ids[0] == marks.start && chunk.weights[0] == 1.0, "{prompt}");
        }
        chunks
    }

    /// The texts of the chunks, less start, end and padding.
    fn texts(chunks: &[Chunk]) -> Vec<String> {
        let text = |chunk: &Chunk| chunk.ids.iter().filter_map(|&id| u8::try_from(id).ok().map(char::from)).collect();
        chunks.iter().map(text).collect()
    }

    #[test]
    fn a_chunk_is_start_tokens_end_and_padding() {
        let [chunk] = &of("a(b:2)", &MARKS)[..] else { panic!("one chunk") };
        assert_eq!(chunk.ids[..5], [1000, 97, 98, 1001, 1002]);
        assert_eq!(chunk.weights[..5], [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!((chunk.ids[76], chunk.text_len), (1002, 4));
        let full = of(&"a".repeat(75), &MARKS);
        assert_eq!((full.len(), full[0].ids[76]), (1, 1001));
        assert_eq!(texts(&of("", &MARKS)), [""]);
    }

    #[test]
    fn long_prompts_are_cut_at_a_comma_that_is_near() {
        let words = |n: usize| "a".repeat(n);
        let lengths = |prompt: &str| texts(&of(prompt, &MARKS)).iter().map(String::len).collect::<Vec<_>>();
        assert_eq!(lengths(&words(151)), [75, 75, 1]);
        // The comma is the 56th token: 19 stand behind it, and move.
        assert_eq!(lengths(&format!("{},{}", words(55), words(20))), [56, 20]);
        // With 20 behind it is too far away.
        assert_eq!(lengths(&format!("{},{}", words(54), words(21))), [75, 1]);
        // What would follow a full chunk is a comma: nothing moves, and the comma is none to come back to.
        assert_eq!(lengths(&format!("{},{},{}", words(60), words(14), words(75))), [75, 75, 1]);
        assert_eq!(lengths(&format!("{},{}", words(74), words(3))), [75, 3]);
        assert_eq!(lengths(&format!("a BREAK {} BREAK BREAK b BREAK", words(76))), [1, 75, 1, 0, 1]);
    }

    /// Whatever the prompt and the room, no token is lost, added or moved past another, and each keeps its weight.
    #[test]
    fn tokens_stay_in_order() {
        let prompt = "(a:2), b [c, d] BREAK e, (f, g) ".repeat(9);
        let expected: Vec<(char, f32)> = {
            let part = |part: Part| match part {
                Part::Text(text, weight) => text.chars().map(|c| (c, weight as f32)).collect(),
                Part::Break => Vec::new(),
            };
            parse(&prompt).into_iter().flat_map(part).filter(|(c, _)| *c != ' ').collect()
        };
        for max_len in 3..100 {
            let chunks = of(&prompt, &Marks { max_len, ..MARKS });
            let tokens = |chunk: &Chunk| -> Vec<(char, f32)> {
                let pairs = chunk.ids.iter().zip(&chunk.weights);
                pairs.filter_map(|(&id, &weight)| Some((u8::try_from(id).ok()?.into(), weight))).collect()
            };
            assert_eq!(chunks.iter().flat_map(tokens).collect::<Vec<_>>(), expected, "{max_len}");
        }
        for max_len in 0..3 {
            let marks = Marks { max_len, ..MARKS };
            assert!(texts(&of("a BREAK b", &marks)).iter().all(|text| max_len > 2 || text.is_empty()));
        }
    }
}
