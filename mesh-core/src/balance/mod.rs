//! Picking an endpoint, and the layer that sends requests there.

use std::{error::Error as StdError, fmt};

use crate::outcome::{Failure, FailureKind, Sent};

/// No endpoint could be picked.
#[derive(Debug)]
pub struct NoEndpoint;

impl NoEndpoint {
    /// What it stands for: flag UH, nothing sent.
    pub fn failure(&self) -> Failure {
        Failure::new(FailureKind::NoEndpoint, Sent::No)
    }
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no healthy upstream")
    }
}

impl StdError for NoEndpoint {}
