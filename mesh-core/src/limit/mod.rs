//! How much may be under way at a time: circuit-breaker limits and the layer that enforces them.

use std::{error::Error as StdError, fmt};

use crate::outcome::{Failure, FailureKind, Sent};

/// A limit was reached, and the request was refused at once.
#[derive(Debug)]
pub struct Overloaded;

impl Overloaded {
    /// What it stands for: flag UO, nothing sent.
    pub fn failure(&self) -> Failure {
        Failure::new(FailureKind::Overflow, Sent::No)
    }
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("overflow")
    }
}

impl StdError for Overloaded {}
