//! CLIP's tokenizer against transformers', text by text.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use unfog::text::Tokenizer;
use unfog_tests::TestResult;
use unfog_tests::golden::root;

/// The merges in the repository, and the vocabulary that follows from them: the bytes as printable characters, the same at a word's
/// end, what each merge makes, start and end.
fn clip() -> TestResult<(String, HashMap<String, usize>)> {
    let merges = fs::read_to_string(root().join("tests/golden/clip/merges.txt"))?;
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..);
    let bytes: Vec<char> = (0..=255).filter(printable).map(char::from).collect();
    let others = (0x100..).filter_map(char::from_u32).take(256 - bytes.len());
    let bytes: Vec<String> = bytes.iter().copied().chain(others).map(String::from).collect();
    let words = bytes.iter().map(|byte| format!("{byte}</w>"));
    let merged = merges.lines().skip(1).map(|line| line.replace(' ', ""));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let tokens = bytes.iter().cloned().chain(words).chain(merged).chain(special);
    let vocabulary: HashMap<_, _> = tokens.zip(0..).collect();
    Ok((merges, vocabulary))
}

/// A new folder with the configs of `name` in tests/golden/clip, `bare` having none.
fn folder(of: &str, name: &str) -> TestResult<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tokens-{of}-{name}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let configs = root().join("tests/golden/clip").join(name);
    if configs.exists() {
        for file in fs::read_dir(configs)? {
            let file = file?;
            fs::copy(file.path(), folder.join(file.file_name()))?;
        }
    }
    Ok(folder)
}

/// The ids of every text, by configuration.
type Ids = HashMap<&'static str, Vec<Vec<u32>>>;

/// The texts and, by name of a config, the ids that transformers gives each of them.
fn golden() -> TestResult<(Vec<String>, Ids)> {
    let bytes = fs::read(root().join("tests/golden/tokens.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let numbers = |name: &str| -> TestResult<Vec<usize>> {
        let view = file.tensor(name)?;
        Ok(view.data().chunks_exact(2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).collect())
    };
    let mut text = file.tensor("text")?.data();
    let mut texts = Vec::new();
    for length in numbers("text.lengths")? {
        let (line, rest) = text.split_at(length);
        texts.push(String::from_utf8(line.to_vec())?);
        text = rest;
    }
    let lists = |name: &str| -> TestResult<Vec<Vec<u32>>> {
        let mut ids = numbers(&format!("{name}.ids"))?.into_iter().map(|id| id as u32);
        let lengths = numbers(&format!("{name}.lengths"))?;
        Ok(lengths.into_iter().map(|length| ids.by_ref().take(length).collect()).collect())
    };
    let first = lists("sd1")?;
    let mut all = HashMap::from([("sd1", first.clone())]);
    for name in ["sd2", "listed", "bare"] {
        let mut ids = first.clone();
        for (which, other) in numbers(&format!("{name}.which"))?.into_iter().zip(lists(name)?) {
            ids[which] = other;
        }
        all.insert(name, ids);
    }
    Ok((texts, all))
}

fn compare(tokenizer: &Tokenizer, texts: &[String], expected: &[Vec<u32>], what: &str) -> TestResult {
    assert_eq!((texts.len(), expected.len()), (2000, 2000));
    for (text, expected) in texts.iter().zip(expected) {
        assert_eq!(&tokenizer.encode(text)?, expected, "{what}: {text:?}");
    }
    Ok(())
}

#[test]
fn ids_are_those_of_transformers() -> TestResult {
    let ((merges, vocabulary), (texts, all)) = (clip()?, golden()?);
    for (name, expected) in &all {
        let folder = folder("two", name)?;
        fs::write(folder.join("vocab.json"), serde_json::to_vec(&vocabulary)?)?;
        fs::write(folder.join("merges.txt"), &merges)?;
        let tokenizer = Tokenizer::open(&folder, None)?;
        compare(&tokenizer, &texts, expected, name)?;
        let pads = if ["sd1", "bare"].contains(name) { 49407 } else { 0 };
        assert_eq!((tokenizer.pad(), tokenizer.max_len()), (pads, 77), "{name}");
    }
    Ok(())
}

/// As transformers 5 saves it (pairs are lists, added tokens are here alone) and as 4 did (pairs are texts).
#[test]
fn one_file_gives_the_same_ids_as_two() -> TestResult {
    let ((merges, vocabulary), (texts, all)) = (clip()?, golden()?);
    let lines = || merges.lines().skip(1);
    let lists: Vec<Vec<&str>> = lines().map(|line| line.split(' ').collect()).collect();
    let merges = [("lists", json!(lists)), ("texts", json!(lines().collect::<Vec<_>>()))];
    for (form, merges) in merges {
        let folder = folder(form, "bare")?;
        let token = |id: u32, content: &str, normalized: bool| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": normalized, "special": true })
        };
        let added = [token(0, "!", false), token(49406, "<|startoftext|>", true), token(49407, "<|endoftext|>", true)];
        let model = json!({ "type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": merges });
        let whole = json!({ "version": "1.0", "added_tokens": added, "model": model });
        fs::write(folder.join("tokenizer.json"), serde_json::to_vec(&whole)?)?;
        let config = json!({ "pad_token": "!", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer" });
        fs::write(folder.join("tokenizer_config.json"), serde_json::to_vec(&config)?)?;
        compare(&Tokenizer::open(&folder, None)?, &texts, &all["sd2"], form)?;
    }
    Ok(())
}

/// Chunks hold the tokens of the parts between brackets, which a text as a whole may not have.
#[test]
fn chunks_hold_every_token_once() -> TestResult {
    let (merges, vocabulary) = clip()?;
    let folder = folder("chunks", "sd2")?;
    fs::write(folder.join("vocab.json"), serde_json::to_vec(&vocabulary)?)?;
    fs::write(folder.join("merges.txt"), &merges)?;
    let tokenizer = Tokenizer::open(&folder, None)?;
    let [chunk] = &tokenizer.chunks("a (cat:1.5) [hat]")?[..] else { return Err("one chunk".into()) };
    assert_eq!(chunk.ids[..6], [49406, 320, 2368, 3801, 49407, 0]);
    assert_eq!(chunk.weights[..5], [1.0, 1.0, 1.5, (1.0_f64 / 1.1) as f32, 1.0]);
    let (texts, all) = golden()?;
    for (text, expected) in texts.iter().zip(&all["sd2"]) {
        // Escaped, a text is one part, whose tokens are those of the text.
        if text.contains("BREAK") || expected.len() == 77 {
            continue;
        }
        let mut escaped = text.replace('\\', r"\\");
        for bracket in ["(", ")", "[", "]"] {
            escaped = escaped.replace(bracket, &format!("\\{bracket}"));
        }
        let chunks = tokenizer.chunks(&escaped)?;
        assert_eq!(chunks.len(), 1, "{text:?}");
        assert_eq!(chunks[0].ids[..expected.len()], expected[..], "{text:?}");
        assert!(chunks[0].weights.iter().all(|&weight| weight == 1.0), "{text:?}");
    }
    Ok(())
}

#[test]
fn lengths_come_from_the_config() -> TestResult {
    let (merges, vocabulary) = clip()?;
    let folder = folder("lengths", "bare")?;
    fs::write(folder.join("vocab.json"), serde_json::to_vec(&vocabulary)?)?;
    fs::write(folder.join("merges.txt"), &merges)?;
    let words = "a ".repeat(100);
    // 1e30 is what transformers writes where it does not know.
    for (written, length) in
        [("8", 8), ("77.0", 77), ("100", 77), ("1000000000000000019884624838656", 77), ("2", 2), ("null", 77)]
    {
        fs::write(folder.join("tokenizer_config.json"), format!("{{\"model_max_length\": {written}}}"))?;
        let ids = Tokenizer::open(&folder, None)?.encode(&words)?;
        assert_eq!((ids.len(), ids[0], ids[length - 1]), (length, 49406, 49407), "{written}");
    }
    for written in ["1", "-1", "\"77\"", "NaN"] {
        fs::write(folder.join("tokenizer_config.json"), format!("{{\"model_max_length\": {written}}}"))?;
        assert!(Tokenizer::open(&folder, None).is_err(), "{written}");
    }
    let unused: Value = json!({ "pad_token": null });
    fs::write(folder.join("tokenizer_config.json"), unused.to_string())?;
    assert_eq!(Tokenizer::open(&folder, None)?.pad(), 49407);
    Ok(())
}
