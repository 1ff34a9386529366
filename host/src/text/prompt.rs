//! Prompts with weights, in the syntax of AUTOMATIC1111's web interface: `(word)`, `(word:1.3)`, `[word]`, `BREAK`.
//!
//! | written | weight |
//! | --- | --- |
//! | `(word)` | times 1.1 |
//! | `(word:1.3)` | times 1.3 |
//! | `[word]` | divided by 1.1 |
//! | `\(` `\)` `\[` `\]` `\\` | the character itself |
//! | `BREAK` | the next word begins a new chunk |
//!
//! Brackets nest, and their weights multiply. One that nobody closes holds until the end; one that closes nothing is text; so is a
//! `:1.3)` without an open round bracket. A backslash before anything else disappears. Round and square brackets don't know of each
//! other. In two points this is not what AUTOMATIC1111 does: a `BREAK` within brackets is one here (there it becomes a word of a
//! negative weight), and where a number is none (`(a:1.2.3)`) or is too large, the brackets count 1.1 and the number is text (there the
//! run fails). Prompts that change with the steps (`[a:b:10]`), `AND` and `<lora:...>` are no part of this.

/// What a prompt consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A text and its weight; 1 leaves it as it is.
    Text(String, f64),
    /// What follows begins a new chunk.
    Break,
}

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;

/// The parts of `prompt`, in its order. Neighbours of one weight are one part, and no text is empty but that of a prompt without any.
pub fn parse(prompt: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    // Where the brackets that are open began.
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '\\' => {
                let escaped = rest[1..].chars().next().filter(|c| r"()[]\".contains(*c));
                parts.push(Part::Text(escaped.map_or(String::new(), String::from), 1.0));
                length += escaped.map_or(0, char::len_utf8);
            }
            '(' => round.push(parts.len()),
            '[' => square.push(parts.len()),
            ':' | ')' | ']' => {
                let open = if first == ']' { &mut square } else { &mut round };
                let (factor, end) = match first {
                    ':' => weight(rest).unzip(),
                    ')' => (Some(ROUND), None),
                    _ => (Some(SQUARE), None),
                };
                match factor.and_then(|factor| Some((factor, open.pop()?))) {
                    Some((factor, start)) => {
                        multiply(&mut parts[start..], factor);
                        length = end.unwrap_or(length);
                    }
                    None => parts.push(Part::Text(first.into(), 1.0)),
                }
            }
            _ => {
                length = rest.find(|c| r"()[]\:".contains(c)).unwrap_or(rest.len());
                split(&rest[..length], &mut parts);
            }
        }
        rest = &rest[length..];
    }
    round.iter().for_each(|&start| multiply(&mut parts[start..], ROUND));
    square.iter().for_each(|&start| multiply(&mut parts[start..], SQUARE));
    merge(parts)
}

/// The number of a `:1.3)` that `text` begins with, and the length of all of it.
fn weight(text: &str) -> Option<(f64, usize)> {
    let (inside, _) = text.strip_prefix(':')?.split_once(')')?;
    let number = inside.trim_matches(is_space);
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let plain = !digits.is_empty() && digits.chars().all(|c| c == '.' || c.is_ascii_digit());
    let number = number.parse().ok().filter(|number: &f64| plain && number.is_finite())?;
    Some((number, inside.len() + 2))
}

fn multiply(parts: &mut [Part], factor: f64) {
    for part in parts {
        if let Part::Text(_, weight) = part {
            // What is multiplied often enough would be infinite, and then no number.
            *weight = (*weight * factor).clamp(f64::MIN, f64::MAX);
        }
    }
}

/// `text` without brackets, cut at the word `BREAK`, which takes the space around it along.
fn split(text: &str, parts: &mut Vec<Part>) {
    const WORD: &str = "BREAK";
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut start = 0;
    for (at, _) in text.match_indices(WORD) {
        let end = at + WORD.len();
        if text[..at].ends_with(in_word) || text[end..].starts_with(in_word) {
            continue;
        }
        // After another BREAK, whose space this one's text begins with, `at` is where that ended.
        let before = text.get(start..at).unwrap_or_default().trim_end_matches(is_space);
        parts.extend([Part::Text(before.into(), 1.0), Part::Break]);
        start = end + (text[end..].len() - text[end..].trim_start_matches(is_space).len());
    }
    parts.push(Part::Text(text[start..].into(), 1.0));
}

/// White space as Python's regular expressions know it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Joins neighbours of one weight, then leaves out empty texts.
fn merge(parts: Vec<Part>) -> Vec<Part> {
    let mut merged: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match (merged.last_mut(), part) {
            (Some(Part::Text(text, weight)), Part::Text(more, same)) if *weight == same => text.push_str(&more),
            (_, part) => merged.push(part),
        }
    }
    merged.retain(|part| !matches!(part, Part::Text(text, _) if text.is_empty()));
    if merged.is_empty() {
        merged.push(Part::Text(String::new(), 1.0));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, weight: f64) -> Part {
        Part::Text(text.into(), weight)
    }

    /// The examples of AUTOMATIC1111's documentation, with the weights it gives, to the last bit.
    #[test]
    fn documented_examples() {
        assert_eq!(parse("normal text"), [text("normal text", 1.0)]);
        assert_eq!(parse("an (important) word"), [text("an ", 1.0), text("important", 1.1), text(" word", 1.0)]);
        assert_eq!(parse("(unbalanced"), [text("unbalanced", 1.1)]);
        assert_eq!(parse(r"\(literal\]"), [text("(literal]", 1.0)]);
        assert_eq!(parse("(unnecessary)(parens)"), [text("unnecessaryparens", 1.1)]);
        let long = [
            text("a ", 1.0),
            text("house", 1.5730000000000004),
            text(" ", 1.1),
            text("on", 1.0),
            text(" a ", 1.1),
            text("hill", 0.55),
            text(", sun, ", 1.1),
            text("sky", 1.4641000000000006),
            text(".", 1.1),
        ];
        assert_eq!(parse("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky)))."), long);
    }

    /// What its rules say of the odd ones: (prompt, parts).
    #[test]
    fn odd_brackets() {
        let cases = [
            ("", vec![text("", 1.0)]),
            ("()", vec![text("", 1.0)]),
            ("a)b]c:1.2)", vec![text("a)b]c:1.2)", 1.0)]),
            ("[a]", vec![text("a", 1.0 / 1.1)]),
            ("[[a", vec![text("a", 1.0 / 1.1 * (1.0 / 1.1))]),
            ("[a:1.5]", vec![text("a:1.5", 1.0 / 1.1)]),
            // Each kind of bracket finds its own beginning.
            ("([a)b]", vec![text("a", 1.1 * (1.0 / 1.1)), text("b", 1.0 / 1.1)]),
            ("(a: 0.5 )", vec![text("a", 0.5)]),
            ("(a:-1)", vec![text("a", -1.0)]),
            ("(a:+.5)", vec![text("a", 0.5)]),
            ("(a:2.)", vec![text("a", 2.0)]),
            ("(a:b:2)", vec![text("a:b", 2.0)]),
            ("(a:1.2.3)", vec![text("a:1.2.3", 1.1)]),
            ("(a:)", vec![text("a:", 1.1)]),
            ("(a:1e3)", vec![text("a:1e3", 1.1)]),
            ("(a:.)", vec![text("a:.", 1.1)]),
            (r"(a\))", vec![text("a)", 1.1)]),
            (r"\\(a)", vec![text(r"\", 1.0), text("a", 1.1)]),
            (r"a\b\", vec![text("ab", 1.0)]),
            // The backslash is a part of its own, though an empty one.
            (r"(a)\(b)", vec![text("a", 1.1), text("(b)", 1.0)]),
            (r"(a)\ (b)", vec![text("a", 1.1), text(" ", 1.0), text("b", 1.1)]),
        ];
        for (prompt, parts) in cases {
            assert_eq!(parse(prompt), parts, "{prompt}");
        }
    }

    #[test]
    fn breaks() {
        let cases = [
            ("a BREAK b", vec![text("a", 1.0), Part::Break, text("b", 1.0)]),
            ("BREAK", vec![Part::Break]),
            ("a\nBREAK BREAK\tb", vec![text("a", 1.0), Part::Break, Part::Break, text("b", 1.0)]),
            ("aBREAK BREAKb BREAK_ break", vec![text("aBREAK BREAKb BREAK_ break", 1.0)]),
            ("a,BREAK,b", vec![text("a,", 1.0), Part::Break, text(",b", 1.0)]),
            ("가BREAK", vec![text("가BREAK", 1.0)]),
            ("a(BREAK)b", vec![text("a", 1.0), Part::Break, text("b", 1.0)]),
            ("(a BREAK b:2)", vec![text("a", 2.0), Part::Break, text("b", 2.0)]),
            ("(a:-1)BREAK", vec![text("a", -1.0), Part::Break]),
        ];
        for (prompt, parts) in cases {
            assert_eq!(parse(prompt), parts, "{prompt}");
        }
    }

    /// All prompts of up to six of the characters that mean something: nothing panics, every weight is finite, no two neighbours
    /// could be one, and the text is what was written less brackets and weights.
    #[test]
    fn every_short_prompt() {
        const LETTERS: [&str; 8] = ["(", ")", "[", "]", "\\", ":2", "é", " BREAK "];
        let mut prompts = vec![String::new()];
        for length in 0..6 {
            let longer = |p: &String| LETTERS.map(|letter| format!("{p}{letter}"));
            let longest: Vec<String> = prompts.iter().filter(|p| letters(p) == length).flat_map(longer).collect();
            prompts.extend(longest);
        }
        assert_eq!(prompts.len(), (8_usize.pow(7) - 1) / 7);
        for prompt in prompts {
            let parts = parse(&prompt);
            let count = |c: char| {
                let of = |part: &Part| match part {
                    Part::Text(text, _) => text.matches(c).count(),
                    Part::Break => 0,
                };
                (parts.iter().map(of).sum::<usize>(), prompt.matches(c).count())
            };
            assert_eq!(count('é').0, count('é').1, "{prompt}");
            for c in ['(', ')', '[', ']', '\\', ':', '2'] {
                assert!(count(c).0 <= count(c).1, "{prompt}");
            }
            let breaks = parts.iter().filter(|p| **p == Part::Break).count();
            assert_eq!(breaks, prompt.matches("BREAK").count(), "{prompt}");
            for pair in parts.windows(2) {
                let same =
                    matches!(pair, [Part::Text(_, a), Part::Text(_, b)] if a == b && prompt.matches('\\').count() == 0);
                assert!(!same, "{prompt}: {parts:?}");
            }
            // Escaped, any text comes back as it is.
            let mut escaped = prompt.replace(" BREAK ", "");
            let plain = escaped.clone();
            for c in ['\\', '(', ')', '[', ']'] {
                escaped = escaped.replace(c, &format!("\\{c}"));
            }
            assert_eq!(parse(&escaped), [text(&plain, 1.0)], "{escaped}");
        }
    }

    /// How many of the letters of the test above a prompt has.
    fn letters(prompt: &str) -> usize {
        prompt.replace(" BREAK ", "b").replace(":2", ":").chars().count()
    }

    #[test]
    fn weights_stay_finite() {
        let deep = format!("{}a{}", "(".repeat(400), format!(":{})", "9".repeat(300)).repeat(400));
        let endless = format!("(a:{})", "9".repeat(400));
        for prompt in [deep, endless] {
            let finite = |part: &Part| matches!(part, Part::Text(_, weight) if weight.is_finite() && *weight != 0.0);
            assert!(parse(&prompt).iter().all(finite));
        }
    }
}
