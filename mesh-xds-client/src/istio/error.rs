//! Why an environment describes no workload.

use std::{error::Error as StdError, fmt, io, path::PathBuf};

use mesh_core::config::ConfigError;

/// The environment does not describe a workload of an Istio mesh.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A variable or a line of a file is missing or refused; its field is the name of the variable, or file and line.
    Invalid(ConfigError),
    /// A file is there and cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

// === impl WorkloadError ===

impl fmt::Display for WorkloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(_) => f.write_str("the environment does not describe a workload of an Istio mesh"),
            Self::Read { path, .. } => write!(f, "{} cannot be read", path.display()),
        }
    }
}

impl StdError for WorkloadError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Invalid(source) => Some(source),
            Self::Read { source, .. } => Some(source),
        }
    }
}

impl From<ConfigError> for WorkloadError {
    fn from(error: ConfigError) -> Self {
        Self::Invalid(error)
    }
}
