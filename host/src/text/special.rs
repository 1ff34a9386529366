//! Tokens with a role, and tokens that were added to a vocabulary, by the rules of transformers' `from_pretrained`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::files;
use crate::error::{Error, Result};
use crate::model::fields::Fields;

/// A token that is found in a text before the text is cut into words.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Added {
    pub(super) content: String,
    /// Whether it is looked for in the text as it is cut into words (lower case), or in the text as it was written.
    pub(super) normalized: bool,
}

impl Added {
    /// A token that a config names without saying more.
    fn plain(content: &str) -> Self {
        Self { content: content.into(), normalized: false }
    }

    /// A token as a file has it: a text, or an object with its properties. `None` for null.
    fn read(fields: &Fields, key: &str, value: &Value) -> Result<Option<Self>> {
        let flag = |name: &str, default| value.get(name).and_then(Value::as_bool).unwrap_or(default);
        let content = match value {
            Value::Null => return Ok(None),
            Value::String(content) => return Ok(Some(Self::plain(content))),
            value => value.get("content").and_then(Value::as_str).ok_or_else(|| fields.refuse(key, "a token"))?,
        };
        if ["lstrip", "rstrip", "single_word"].into_iter().any(|name| flag(name, false)) {
            return Err(
                fields.refuse(key, "a token without lstrip, rstrip and single_word, which no tokenizer of CLIP has")
            );
        }
        Ok(Some(Self { content: content.into(), normalized: flag("normalized", true) }))
    }
}

/// The tokens with a role, and all that are found in a text as a whole.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) unknown: String,
    /// What fills up to the full length, if anything does.
    pub(super) pad: Option<String>,
    /// In the order in which transformers adds them; of two with one content the second counts.
    pub(super) added: Vec<Added>,
    /// Tokens that the text encoder takes, start and end included.
    pub(super) max_len: usize,
}

/// Tokens that CLIP's text encoders have positions for.
const POSITIONS: usize = 77;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// The roles, in transformers' order, with the tokens that CLIPTokenizer has by default.
const ROLES: [(&str, &str); 4] = [("bos_token", START), ("eos_token", END), ("unk_token", END), ("pad_token", END)];

impl Special {
    /// Reads tokenizer_config.json, special_tokens_map.json and added_tokens.json in `folder`, those that are there.
    /// `in_vocabulary` are the added tokens of a tokenizer.json, with their ids.
    ///
    /// # Errors
    /// A damaged file, a value of the wrong kind, no start or end.
    pub(super) fn read(folder: &Path, in_vocabulary: &Value) -> Result<Self> {
        let config = files::fields(folder, "tokenizer_config.json")?;
        let config = config.map_or_else(|| Fields::parse("tokenizer_config.json", b"{}"), Ok)?;
        let decoder = config.value("added_tokens_decoder").and_then(Value::as_object);
        // Only where the config does not list the added tokens itself do other files count.
        let (map, old) = match decoder {
            Some(_) => (None, None),
            None => (files::fields(folder, "special_tokens_map.json")?, files::fields(folder, "added_tokens.json")?),
        };
        let mut by_id = BTreeMap::new();
        for (id, token) in decoder.into_iter().flatten() {
            let id: u32 = id.parse().map_err(|_| config.refuse("added_tokens_decoder", "tokens by their ids"))?;
            by_id.extend(Added::read(&config, "added_tokens_decoder", token)?.map(|token| (id, token)));
        }
        let mut roles = Vec::new();
        for (role, default) in ROLES {
            let token = match map.as_ref().filter(|map| map.has(role)) {
                Some(map) => map.value(role).map_or(Ok(None), |value| Added::read(map, role, value))?,
                None if config.has(role) => {
                    config.value(role).map_or(Ok(None), |value| Added::read(&config, role, value))?
                }
                None => Some(Added::plain(default)),
            };
            roles.push(token);
        }
        if let Some(old) = &old {
            for (content, id) in old.entries() {
                let id = id.as_u64().and_then(|id| id.try_into().ok());
                let id: u32 = id.ok_or_else(|| old.refuse(content, "an id"))?;
                let normalized = !roles.iter().flatten().any(|token| token.content == *content);
                by_id.insert(id, Added { content: content.clone(), normalized });
            }
        }
        if decoder.is_none() {
            for token in in_vocabulary.as_array().into_iter().flatten() {
                let id = token.get("id").and_then(Value::as_u64).and_then(|id| id.try_into().ok());
                let id: u32 = id.ok_or_else(|| Error::failure("an added token of tokenizer.json has no id"))?;
                by_id.extend(Added::read(&config, "added_tokens", token)?.map(|token| (id, token)));
            }
        }
        // Where a role's token is listed, it has the properties that are listed.
        for token in roles.iter_mut().flatten() {
            if let Some(listed) = by_id.values().find(|listed| listed.content == token.content) {
                *token = listed.clone();
            }
        }
        let content = |role: usize| roles.get(role).and_then(Option::as_ref).map(|token| token.content.clone());
        let needed = |role: usize| {
            content(role).filter(|content| !content.is_empty()).ok_or_else(|| config.refuse(ROLES[role].0, "a token"))
        };
        let [start, end, unknown] = [needed(0)?, needed(1)?, needed(2)?];
        let pad = content(3);
        let mut added: Vec<Added> = by_id.into_values().chain(roles.into_iter().flatten()).collect();
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            for token in config.value(key).and_then(Value::as_array).into_iter().flatten() {
                added.extend(Added::read(&config, key, token)?);
            }
        }
        Ok(Self { start, end, unknown, pad, added, max_len: max_len(&config)? })
    }
}

/// `model_max_length`, which transformers sets to 1e30 where nobody knows it, but no more than there are positions.
fn max_len(config: &Fields) -> Result<usize> {
    const KEY: &str = "model_max_length";
    match config.optional_f64(KEY)? {
        None => Ok(POSITIONS),
        Some(length) if length >= 2.0 => Ok(length.min(POSITIONS as f64) as usize),
        Some(_) => Err(config.refuse(KEY, "room for a start and an end")),
    }
}
