//! Where a bootstrap comes from: the environment, a file, a file that is still to come, or a JSON document.

use std::{
    env,
    error::Error as StdError,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_core::config::ConfigError;
use mesh_http::files;
use tokio::{task, time};

use super::{Bootstrap, BootstrapBuilder, json};

/// A bootstrap cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Neither environment variable is set.
    NotSet,
    /// The inline variable is not text.
    NotUnicode,
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not JSON. The source has line and column.
    Syntax(serde_json::Error),
    /// A value is refused. Its field is the path in the JSON document.
    Invalid(ConfigError),
}

/// Names a file with the bootstrap, and wins over the other.
pub(super) const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
/// Holds the bootstrap itself.
pub(super) const INLINE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

/// A bootstrap is some kilobytes; what is larger is another file.
const MAX_SIZE: u64 = 1 << 20;

// === impl Bootstrap ===

impl Bootstrap {
    /// The bootstrap that the environment gives: the file that `GRPC_XDS_BOOTSTRAP` names, or else the JSON in
    /// `GRPC_XDS_BOOTSTRAP_CONFIG`. Reads the file with blocking I/O, which suits the start of a program.
    ///
    /// # Errors
    ///
    /// When neither is set, the file cannot be read, or what is there is not a valid bootstrap.
    pub fn from_env() -> Result<Self, BootstrapError> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// The bootstrap in a regular file of 1 MiB at most, read with blocking I/O.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is something else or larger, or is not a valid bootstrap.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, BootstrapError> {
        let path = path.as_ref();
        let bytes =
            files::read(path, MAX_SIZE).map_err(|source| BootstrapError::Read { path: path.to_owned(), source })?;
        Self::from_json(&bytes)
    }

    /// The bootstrap in a JSON document.
    ///
    /// # Errors
    ///
    /// When it is not JSON, or not a valid bootstrap.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, BootstrapError> {
        let document = serde_json::from_slice(json.as_ref()).map_err(BootstrapError::Syntax)?;
        let bootstrap = json::read(&document).and_then(BootstrapBuilder::build);
        bootstrap.map_err(BootstrapError::Invalid)
    }

    /// The bootstrap in a file that may not be there yet, such as one that an agent beside this process is still to
    /// write.
    ///
    /// Looks for it every `poll`, and waits while there is no such file or what is in it ends too soon, so that it is
    /// still being written. Anything else that is wrong with it is told at once. Cancel safe: nothing is kept from
    /// one look to the next.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mesh_xds_client::bootstrap::Bootstrap;
    ///
    /// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
    /// let path = "/etc/istio/proxy/grpc-bootstrap.json";
    /// let bootstrap = Bootstrap::wait_for_file(path, Duration::from_millis(200), Duration::from_secs(60)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When after `timeout` the file is still missing or not whole, or as soon as it cannot be read or is not a valid
    /// bootstrap: what [`from_file`](Self::from_file) says of it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn wait_for_file(
        path: impl AsRef<Path>,
        poll: Duration,
        timeout: Duration,
    ) -> Result<Self, BootstrapError> {
        let path = path.as_ref();
        let deadline = time::Instant::now().checked_add(timeout);
        loop {
            let now = time::Instant::now();
            let next = now.checked_add(poll).filter(|next| deadline.is_none_or(|deadline| *next <= deadline));
            let owned = path.to_owned();
            let read = task::spawn_blocking(move || Self::from_file(owned)).await;
            let cancelled = |error| BootstrapError::Read { path: path.to_owned(), source: io::Error::other(error) };
            match (read.map_err(cancelled)?, next) {
                (Err(error), Some(next)) if error.is_unfinished() => time::sleep_until(next).await,
                (outcome, _) => return outcome,
            }
        }
    }

    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, BootstrapError> {
        // gRPC takes an empty variable for one that is not set.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(path) = variable(FILE_VARIABLE) {
            return Self::from_file(PathBuf::from(path));
        }
        let json = variable(INLINE_VARIABLE).ok_or(BootstrapError::NotSet)?;
        let json = json.into_string().map_err(|_| BootstrapError::NotUnicode)?;
        Self::from_json(json)
    }
}

// === impl BootstrapError ===

impl BootstrapError {
    /// Whether the file may only not be written yet.
    fn is_unfinished(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Syntax(error) => error.is_eof(),
            Self::NotSet | Self::NotUnicode | Self::Invalid(_) => false,
        }
    }
}

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSet => write!(
                f,
                "no xDS bootstrap: set {FILE_VARIABLE} to a file, or {INLINE_VARIABLE} to the JSON itself, or build one in code"
            ),
            Self::NotUnicode => write!(f, "the xDS bootstrap in {INLINE_VARIABLE} is not UTF-8 text"),
            Self::Read { path, .. } => write!(f, "the xDS bootstrap {} cannot be read", path.display()),
            Self::Syntax(_) => f.write_str("the xDS bootstrap is not JSON"),
            Self::Invalid(_) => f.write_str("the xDS bootstrap is not valid"),
        }
    }
}

impl StdError for BootstrapError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotSet | Self::NotUnicode => None,
            Self::Read { source, .. } => Some(source),
            Self::Syntax(source) => Some(source),
            Self::Invalid(source) => Some(source),
        }
    }
}
