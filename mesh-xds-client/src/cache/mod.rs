//! The last good resources on disk, for a start with no control plane in reach.
//!
//! A process that restarts while its control planes are gone has nothing to serve by, though its neighbours, which did
//! not restart, go on. With [`cache_file`](crate::XdsClientBuilder::cache_file) it keeps what it holds in a file, and
//! begins with that:
//!
//! ```text
//! worker -- something has changed --> keeper -- at most once in five seconds, and at the end --> file
//! file -- read and verified when the client is built --> worker, as it comes to want each resource
//! ```
//!
//! # What a cached resource counts for
//!
//! It serves, and that is all: it is asked for as if there were none, in full and without a version (versions belong to
//! a server, and what answered then may not be what answers now), and a server further down the list is asked where the
//! first cannot be reached (gRFC A71). What comes replaces it. While nothing is heard it serves, for days if need be, and
//! whoever asks for it again finds it again, until a control plane of its authority has answered: what that one knows
//! counts from then on, and what else is in the file is forgotten. The status marks what is
//! [cached](mesh_core::source::ResourceStatus::is_cached), and the metrics count it.
//!
//! A listener or a cluster that the control plane does not have goes as if there had been none, though routes may name the
//! cluster: that it is missing from a full state, or called removed in delta, says that it does not exist, as soon as the
//! absence timeout is over in which it might have followed. A full state that comes later than that says so at once. Where the
//! server has the feature `ignore_resource_deletion` (gRFC A53) such resources stay, and the status says that there are
//! none. With `resource_timer_is_transient_error` (A88) a gap in a full state is no word, and `resource_errors` are; those take
//! nothing away unless the server has `fail_on_data_errors`. Of routes and endpoints absence says nothing, as in the protocol:
//! they go when nothing names them.
//!
//! # The file
//!
//! It holds resources as they came, with the version and the time that they came with, a format number and a checksum,
//! and who it is for: the node's id and cluster, and the control planes of the bootstrap. It is written beside its
//! place, synchronised to disk, and renamed into place, with mode 0600. What is not as it should be is
//! [refused](Unusable) whole, the log says why, and the start goes on without it.
//!
//! Whoever writes the file steers the next run. On Unix it is read only where it belongs to the process's own
//! (effective) user or to root, and nobody else may write it. The directory is not checked: a Kubernetes `emptyDir`
//! is everybody's to write. Who may write there and is neither can take the file away or put back one that this user has
//! written before, which is then as old as the [status](Found::Resources) says, and cannot put a text of his own in its
//! place.
//!
//! No private key is in it: secrets are never written, and a resource in which a key may stand is left out whole. So is one
//! with an extension that is not known to hold none, such as a filter of one's own. What refers to it is then missing at the
//! start.
//!
//! Nor is a resource with a time to live in it: one serves for as long as its control plane goes on to say so, and whoever
//! begins with the file does so because none is there. What refers to it is missing at the start in the same way.
//!
//! It holds what the process holds, but for this: a target that is let go of leaves the file at the next change of
//! another, and not at the end of the program, when all are let go of. Where fewer targets are watched than in the run
//! before, the file has fewer as soon as a control plane has sent what is not in it.

mod checksum;
mod disk;
mod file;
mod keeper;

use std::{error::Error as StdError, fmt, io, path::PathBuf, sync::Arc, time::SystemTime};

pub(crate) use self::{
    file::{Loaded, Scope},
    keeper::Keeper,
};

/// How a client's cache file stands. See [`XdsClient::cache_status`](crate::XdsClient::cache_status).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CacheStatus {
    /// The file.
    pub path: PathBuf,
    /// What was found in it when the client was built.
    pub found: Found,
    /// When this client last wrote it.
    pub written: Option<SystemTime>,
    /// Why the last attempt to write it failed, if it did. It is tried again after the same time as a change.
    pub last_error: Option<Arc<io::Error>>,
}

/// What was found where a cache file may be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Found {
    /// There is no such file, as at the first start.
    Nothing,
    /// A good one.
    Resources {
        /// How many resources are in it.
        count: usize,
        /// When a control plane was last known to agree with them.
        agreed: SystemTime,
    },
    /// One that is not used.
    Refused(Arc<Unusable>),
}

/// Why a cache file is not used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unusable {
    /// It cannot be read, or is no regular file, or larger than 1 GiB.
    Read(io::Error),
    /// Others may write it, and would steer this process.
    WritableByOthers {
        /// Its mode.
        mode: u32,
    },
    /// It belongs to another user than this process's and root, who would steer this process.
    OwnedByAnother {
        /// The user's number.
        owner: u32,
    },
    /// It is no cache file.
    Foreign,
    /// It is of another version of the format.
    Format {
        /// Which.
        found: u32,
    },
    /// It has another length than it says.
    Torn {
        /// What it says, in bytes.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// Its checksum does not match.
    Checksum,
    /// It was written for another node.
    Node {
        /// The node's id, and its cluster in parentheses.
        found: String,
    },
    /// It was written by word of other control planes.
    Servers {
        /// Which.
        found: Vec<String>,
    },
}

// === impl Unusable ===

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => f.write_str("it cannot be read"),
            Self::WritableByOthers { mode } => write!(f, "others may write it (mode {mode:o}): take that right away"),
            Self::OwnedByAnother { owner } => {
                write!(f, "it belongs to another user ({owner}): remove it, or give each user a file of its own")
            }
            Self::Foreign => f.write_str("it is not a cache file"),
            Self::Format { found } => write!(f, "its format is {found}, where {} is read", file::FORMAT),
            Self::Torn { expected, found } => write!(f, "it is torn: {found} bytes of {expected}"),
            Self::Checksum => f.write_str("its checksum does not match"),
            Self::Node { found } => write!(f, "it is for another node, `{found}`"),
            Self::Servers { found } => write!(f, "it is of other control planes, {}", found.join(", ")),
        }
    }
}

impl StdError for Unusable {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Read(source) => Some(source),
            _ => None,
        }
    }
}
