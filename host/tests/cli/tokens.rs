//! `unfog tokens`

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::Place;

/// A tokenizer of five letters in `folder`.
fn write(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut tokens: Vec<String> =
        ["c", "a", "t", "h", ","].into_iter().flat_map(|c| [c.into(), format!("{c}</w>")]).collect();
    tokens.extend(["at</w>", "cat</w>", "<|startoftext|>", "<|endoftext|>"].map(String::from));
    let vocabulary: serde_json::Map<String, Value> = tokens.into_iter().zip((0..).map(Value::from)).collect();
    fs::write(folder.join("vocab.json"), json!(vocabulary).to_string()).unwrap();
    fs::write(folder.join("merges.txt"), "#version: 0.2\na t</w>\nc at</w>\n").unwrap();
}

/// Of the letters above, merges by hand: `cat` is one token, `hat` h and at, `tac` three, a letter outside the end token.
#[test]
fn ids_and_pieces() {
    let place = Place::new();
    write(&place.path("model/tokenizer"));
    write(&place.path("model/tokenizer_2"));
    fs::write(place.path("model/tokenizer_2/tokenizer_config.json"), r#"{"model_max_length": 4}"#).unwrap();
    let ids = |args: &[&str]| -> Value {
        let printed = place.succeed(&[&["tokens", "--json"], args].concat());
        serde_json::from_str(&printed).unwrap()
    };
    assert_eq!(ids(&["model", "Cat  hat,\n"]), json!({ "ids": [12, 11, 6, 10, 9, 13] }));
    assert_eq!(ids(&["model", "tac"]), json!({ "ids": [12, 4, 2, 1, 13] }));
    assert_eq!(ids(&["model", ""]), json!({ "ids": [12, 13] }));
    assert_eq!(ids(&["model", "x"]), json!({ "ids": [12, 13, 13] }));
    // The tokenizer's own folder, and another one of the model's.
    assert_eq!(ids(&["model/tokenizer", "cat"]), json!({ "ids": [12, 11, 13] }));
    assert_eq!(ids(&["model", "cat cat cat", "--tokenizer", "tokenizer_2"]), json!({ "ids": [12, 11, 11, 13] }));
    // 77 with start and end.
    let long = ids(&["model", &"cat ".repeat(200)]);
    assert_eq!((long["ids"].as_array().unwrap().len(), &long["ids"][76]), (77, &json!(13)));
    // A text may look like an option.
    assert_eq!(ids(&["model", "--", "--cat"])["ids"].as_array().unwrap().len(), 5);
    let text = place.succeed(&["tokens", "model", "cat hat"]);
    assert_eq!(text, "    12 <|startoftext|>\n    11 cat</w>\n     6 h\n    10 at</w>\n    13 <|endoftext|>\n");
    let text = place.succeed(&["tokens", "model", "cat cat cat", "--tokenizer", "tokenizer_2"]);
    assert!(text.ends_with("1 more is cut off: the text encoder takes 4\n"), "{text}");
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let place = Place::new();
    write(&place.path("model/tokenizer"));
    let fails = |model: &str, code: i32, says: &str| place.fail(&["tokens", model, "cat"], code, says);
    fails("nothing", 1, "there is no model nothing");
    fs::create_dir(place.path("empty")).unwrap();
    fails("empty", 1, "has no tokenizer");
    place.fail(&["tokens", "model", "cat", "--tokenizer", "tokenizer_2"], 1, "has no tokenizer_2");
    place.fail(&["tokens", "model", "cat", "--tokenizer", "../model/tokenizer"], 2, "no name of a folder");
    place.fail(&["tokens", "model"], 2, "<TEXT>");
    let folder = place.path("model/tokenizer");
    let broken = |file: &str, content: &str, says: &str| {
        write(&folder);
        fs::write(folder.join(file), content).unwrap();
        fails("model", 1, says);
        fs::remove_file(folder.join(file)).unwrap();
        write(&folder);
    };
    broken("vocab.json", "[]", "holds no vocabulary");
    broken("vocab.json", r#"{"a": -1}"#, "holds no vocabulary");
    broken("vocab.json", r#"{"a": 0}"#, "lacks \"t</w>\"");
    broken("merges.txt", "#version: 0.2\na t</w>\nc\n", "line 3 is no pair");
    broken("merges.txt", "a t</w> c\n", "line 1 is no pair");
    // Longer than any token there is.
    broken("merges.txt", "<|startoftext|> <|endoftext|>\n", "lacks \"<|startoftext|><|endoftext|>\"");
    broken("tokenizer_config.json", "{", "is no JSON");
    broken("tokenizer_config.json", r#"{"bos_token": 7}"#, "bos_token is 7");
    broken("tokenizer_config.json", r#"{"bos_token": null}"#, "bos_token is null");
    broken("tokenizer_config.json", r#"{"model_max_length": 1}"#, "model_max_length is 1");
    broken("tokenizer_config.json", r#"{"unk_token": "<unk>"}"#, "lacks <unk>");
    broken("tokenizer_config.json", r#"{"pad_token": {"content": "c", "lstrip": true}}"#, "without lstrip");
    broken("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": "c"}}"#, "by their ids");
    broken("added_tokens.json", r#"{"<toy>": "14"}"#, "expected an id");
    broken("tokenizer.json", r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}"#, "no byte-pair encoding");
    broken("tokenizer.json", r#"{"model": {"vocab": {"a": 0, "b": 1}, "merges": ["ab"]}}"#, "is no pair of tokens");
    broken("tokenizer.json", r#"{"model": {"vocab": {"a": 0}, "merges": []}}"#, "none of CLIP's kind");
    fs::remove_file(folder.join("merges.txt")).unwrap();
    fails("model", 1, "merges.txt");
}
