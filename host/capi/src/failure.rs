//! What goes wrong: a status for every call, and the latest error's text for each thread.

use std::cell::RefCell;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use unfog::{Error, Result};

/// What a call came to: 0, or an error. The errors are the exit codes of the command line.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Ok = 0,
    /// A file, a device or a model is not as it must be.
    Failure = 1,
    /// What was asked for can't be done.
    Usage = 2,
    /// A mistake in this library, please report it. What was being made is lost; everything else can be used.
    Panic = 3,
    /// The progress callback stopped the run.
    Interrupted = 130,
}

thread_local! {
    static LATEST: RefCell<CString> = RefCell::default();
}

/// The latest error of this thread.
pub(crate) fn latest() -> *const std::ffi::c_char {
    LATEST.with_borrow(|text| text.as_ptr())
}

fn remember(text: String) {
    // Reports escape control characters, so that no zero is left; without this, it would end the text.
    let text = CString::new(text.replace('\0', "\\0")).unwrap_or_default();
    LATEST.with_borrow_mut(|latest| *latest = text);
}

/// Does `work`. Its error, or its panic, becomes a status and the latest error.
pub(crate) fn guard(work: impl FnOnce() -> Result<()>) -> Status {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(error)) => {
            let status = status(&error);
            let report = error.report();
            remember(report.strip_prefix("error: ").unwrap_or(&report).to_string());
            status
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was given");
            remember(format!("unfog has made a mistake, please report it: {text}"));
            Status::Panic
        }
    }
}

fn status(error: &Error) -> Status {
    match error.exit_code() {
        2 => Status::Usage,
        130 => Status::Interrupted,
        _ => Status::Failure,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn text() -> String {
        // SAFETY: `latest` points to a text of this thread, which nothing changes meanwhile.
        unsafe { CStr::from_ptr(latest()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn errors_and_panics_become_statuses_with_texts() {
        assert_eq!(guard(|| Ok(())), Status::Ok);
        assert_eq!(guard(|| Err(Error::usage("no\0such").hint("look"))), Status::Usage);
        assert_eq!(text(), "no\\u{0}such; look");
        assert_eq!(guard(|| Err(Error::failure("broken").because("fire"))), Status::Failure);
        assert_eq!(text(), "broken\ncaused by: fire");
        assert_eq!(guard(|| Err(Error::interrupted())), Status::Interrupted);
        assert_eq!(guard(|| panic!("at {}", 7)), Status::Panic);
        assert_eq!(text(), "unfog has made a mistake, please report it: at 7");
    }
}
