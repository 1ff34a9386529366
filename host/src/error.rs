//! The one error type of the library: what went wrong, why, and what to do about it.

use std::fmt;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Who has to act, which decides the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Usage,
    Failure,
    Interrupted,
}

/// Why something failed: one sentence, its causes, and, where there is one, a hint of what to do.
///
/// `Display` prints the sentence and the hint on one line. The causes follow [`std::error::Error::source`].
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    cause: Option<Cause>,
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hint: None, cause: None }))
    }

    /// What was asked for can't be done, whatever the machine: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A file, a device or a model is not as it must be: exit code 1.
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(Kind::Failure, message)
    }

    /// The user stopped the run: exit code 130.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds what it was caused by.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The exit code of a process that ends because of this: 2 for usage, 130 for an interrupt, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Failure => 1,
            Kind::Interrupted => 130,
        }
    }

    /// The error as the command line prints it: one line, and a second one with the causes if there are any. Control
    /// characters (a line break in a file name) are escaped.
    pub fn report(&self) -> String {
        let mut lines = one_line(&format!("error: {self}"));
        let mut separator = "\ncaused by: ";
        let mut cause = std::error::Error::source(self);
        while let Some(c) = cause {
            lines.push_str(separator);
            lines.push_str(&one_line(&c.to_string()));
            separator = ": ";
            cause = c.source();
        }
        lines
    }
}

/// `text` without line breaks and other control characters.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_and_one_of_causes() {
        let inner = Error::failure("disk on fire").because(std::io::Error::other("smoke\nand flames"));
        let error = Error::usage("can't write a\nb").hint("use water").because(inner);
        assert_eq!(error.report(), "error: can't write a\\nb; use water\ncaused by: disk on fire: smoke\\nand flames");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn exit_codes_are_the_contract() {
        assert_eq!(Error::failure("x").exit_code(), 1);
        assert_eq!(Error::interrupted().exit_code(), 130);
    }
}
