//! An error in words, with all that caused it.

use std::{error::Error, fmt::Write as _};

/// The error and its causes, in the order in which they are to be read.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}
