//! The keys of a JSON object, read one by one, with errors that name the key, what it holds and what it should hold.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object from a model's folder.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    file: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses `text`; `file` is named in errors. Numbers that JSON does not have but Python writes (`-Infinity`) become texts.
    pub(crate) fn parse(file: &str, text: &[u8]) -> Result<Self> {
        match serde_json::from_slice(&quote_infinities(text)) {
            Ok(Value::Object(map)) => Ok(Self { file: file.into(), map }),
            Ok(_) => Err(Error::failure(format!("{file} holds no JSON object"))),
            Err(e) => Err(Error::failure(format!("{file} is no JSON")).because(e)),
        }
    }

    /// The keys of `defaults`: those that are here as they are, the others with their defaults. Other keys are left out.
    pub(crate) fn complete(&self, defaults: &Map<String, Value>) -> Self {
        let value = |(key, default): (&String, &Value)| (key.clone(), self.map.get(key).unwrap_or(default).clone());
        Self { file: self.file.clone(), map: defaults.iter().map(value).collect() }
    }

    /// The same keys, some of them with other values.
    pub(crate) fn with(&self, values: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut fields = self.clone();
        fields.map.extend(values.into_iter().map(|(key, value)| (key.into(), value)));
        fields
    }

    /// A text, number or truth as plain text: whole numbers without a fraction.
    pub(crate) fn plain(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        Some(match (value.as_str(), whole(value)) {
            (Some(text), _) => text.into(),
            (None, Some(n)) => n.to_string(),
            _ => value.to_string(),
        })
    }

    /// The value of `key`, if it is there and not null.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// True when `key` is there and null, which for some keys means something else than its absence.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// True when `key` is there, null or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// All keys and their values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.map.iter()
    }

    /// The error of a key that doesn't hold what it should.
    pub(crate) fn refuse(&self, key: &str, expected: &str) -> Error {
        let found = self.map.get(key).map_or("nothing".into(), Value::to_string);
        Error::failure(format!("{}: {key} is {found}, expected {expected}", self.file))
    }

    fn get<'a, T>(&'a self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.refuse(key, expected)),
        }
    }

    /// Some keys must not be null: diffusers itself fails on them.
    fn get_or<'a, T>(
        &'a self,
        key: &str,
        default: T,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T> {
        if self.is_null(key) {
            return Err(self.refuse(key, expected));
        }
        Ok(self.get(key, expected, read)?.unwrap_or(default))
    }

    pub(crate) fn bool(&self, key: &str, default: bool) -> Result<bool> {
        self.get_or(key, default, "true or false", Value::as_bool)
    }

    pub(crate) fn u32(&self, key: &str, default: u32) -> Result<u32> {
        self.get_or(key, default, "a whole number", whole)
    }

    pub(crate) fn optional_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "a whole number or null", whole)
    }

    pub(crate) fn i32(&self, key: &str, default: i32) -> Result<i32> {
        self.get_or(key, default, "a whole number", |v| v.as_i64().and_then(|n| n.try_into().ok()))
    }

    pub(crate) fn f64(&self, key: &str, default: f64) -> Result<f64> {
        self.get_or(key, default, "a number", Value::as_f64)
    }

    pub(crate) fn optional_f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number or null", Value::as_f64)
    }

    pub(crate) fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        self.get_or(key, default, "a text", Value::as_str)
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a text or null", Value::as_str)
    }

    pub(crate) fn texts<'a>(&'a self, key: &str, default: &[&'a str]) -> Result<Vec<&'a str>> {
        self.get_or(key, default.to_vec(), "a list of texts", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    pub(crate) fn u32s(&self, key: &str, default: &[u32]) -> Result<Vec<u32>> {
        self.get_or(key, default.to_vec(), "a list of whole numbers", |v| v.as_array()?.iter().map(whole).collect())
    }

    pub(crate) fn optional_f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key, "a list of numbers or null", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// One of `choices`, by name. `null` is the choice `None` where that is one.
    pub(crate) fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(Option<&str>, T)]) -> Result<T> {
        let Some(value) = self.map.get(key) else { return Ok(default) };
        let found = choices.iter().find(|(name, _)| match name {
            Some(name) => value.as_str() == Some(name),
            None => value.is_null(),
        });
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> =
                choices.iter().map(|(name, _)| name.map_or("null".into(), |n| format!("{n:?}"))).collect();
            self.refuse(key, &names.join(" or "))
        })
    }
}

/// Puts `Infinity`, `-Infinity` and `NaN`, where they stand for numbers, between quotation marks.
fn quote_infinities(text: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut quoted, mut rest, mut in_text) = (Vec::with_capacity(text.len()), text, false);
    while let Some((&byte, after)) = rest.split_first() {
        let word = WORDS.into_iter().find(|word| !in_text && rest.starts_with(word));
        if let Some(word) = word {
            quoted.extend([b"\"", word, b"\""].concat());
            rest = &rest[word.len()..];
            continue;
        }
        quoted.push(byte);
        rest = after;
        match byte {
            b'"' => in_text = !in_text,
            b'\\' if in_text => {
                quoted.extend(rest.first());
                rest = rest.get(1..).unwrap_or_default();
            }
            _ => {}
        }
    }
    quoted
}

/// A whole number, also where Python wrote it as a float.
fn whole(value: &Value) -> Option<u32> {
    let float = || value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(f));
    value.as_u64().and_then(|n| n.try_into().ok()).or_else(|| float().map(|f| f as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_key_found_and_expected() {
        let fields = Fields::parse("config.json", br#"{"a": "b", "n": null, "x": 2.0}"#).unwrap();
        let message = |e: Error| e.to_string();
        assert_eq!(message(fields.u32("a", 1).unwrap_err()), "config.json: a is \"b\", expected a whole number");
        assert_eq!(message(fields.u32("n", 1).unwrap_err()), "config.json: n is null, expected a whole number");
        assert_eq!(fields.optional_u32("n").unwrap(), None);
        assert_eq!(fields.u32("x", 1).unwrap(), 2);
        let python = br#"{"a": -Infinity, "b": [NaN, 1], "c": "a \"NaN\\", "Infinity": Infinity}"#;
        let fields_of_python = Fields::parse("config.json", python).unwrap();
        let texts = [("a", "-Infinity"), ("c", "a \"NaN\\"), ("Infinity", "Infinity")];
        assert!(texts.iter().all(|(key, text)| fields_of_python.text(key, "").unwrap() == *text));
        assert_eq!(fields_of_python.value("b").unwrap()[0], "NaN");
        let choice = fields.choice("a", 0, &[(Some("c"), 1), (None, 2)]).unwrap_err();
        assert_eq!(message(choice), "config.json: a is \"b\", expected \"c\" or null");
    }
}
