//! `unfog tokens`

use std::path::PathBuf;

use serde::Serialize;
use unfog::Result;
use unfog::text::Tokenizer;

use super::output;

/// Show what a text becomes before a text encoder reads it: the ids of its tokens
///
/// Start and end are included, padding is not, and what the encoder has no room for is cut off. Weights and brackets are no part of
/// this: the text is taken as it is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the model, or of a tokenizer: vocab.json and merges.txt, or tokenizer.json
    model: PathBuf,
    /// The text
    #[arg(allow_hyphen_values = true)]
    text: String,
    /// The tokenizer's folder in the model, such as tokenizer_2 [default: tokenizer]
    #[arg(long, value_name = "NAME")]
    tokenizer: Option<String>,
    /// Print the ids as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    ids: Vec<u32>,
}

/// Shows the tokens.
pub(crate) fn run(args: &Args) -> Result<()> {
    let tokenizer = Tokenizer::open(&args.model, args.tokenizer.as_deref())?;
    let ids = tokenizer.encode(&args.text)?;
    if args.json {
        return output::json(&Report { ids });
    }
    let line = |id: &u32| format!("{id:6} {}\n", tokenizer.token(*id).unwrap_or_default());
    let mut text: String = ids.iter().map(line).collect();
    let left_out = (tokenizer.ids(&args.text)?.len() + 2).saturating_sub(ids.len());
    if left_out > 0 {
        let are = if left_out == 1 { "is" } else { "are" };
        text += &format!("{left_out} more {are} cut off: the text encoder takes {}\n", tokenizer.max_len());
    }
    output::print(&text)
}
