//! Time limits of a request and the layer that enforces them.

use std::{error::Error as StdError, fmt};

use crate::outcome::{Failure, FailureKind, Sent};

/// Time was up.
#[derive(Debug)]
pub struct Elapsed;

impl Elapsed {
    /// What it stands for: flag UT, nothing sent.
    pub fn failure(&self) -> Failure {
        Failure::new(FailureKind::Timeout, Sent::No)
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request timeout")
    }
}

impl StdError for Elapsed {}
