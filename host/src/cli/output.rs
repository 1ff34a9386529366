//! What the commands print.

use std::io::{self, Write};

use serde::Serialize;
use unfog::{Error, Result};

/// Prints to standard output. A reader that went away (`unfog ... | head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failure("can't write to standard output").because(e))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object to standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    print(&(text.map_err(|e| Error::failure("the result can't be written as JSON").because(e))? + "\n"))
}

/// A line for people, on standard error. There is nowhere to report that this failed.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A number of bytes in the unit that suits it.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}
