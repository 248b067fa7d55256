//! Where configuration comes from, as clients see it: a control plane, or anything else that publishes snapshots.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    config::{Semantics, Snapshot, Warning},
    identity::Identities,
};

pub use crate::Work;

/// A source of configuration.
///
/// One source serves a whole process: many clients watch many targets, and every [`Snapshot`] is consistent over all of
/// them. A source does no work of its own accord: the mesh spawns [`work`](Self::work) once and drops it when the last
/// handle is gone.
pub trait ConfigSource: Send + Sync + 'static {
    /// Keeps `target` in the snapshots until the interest is dropped.
    ///
    /// What a target is called is the source's affair; for xDS it is `host:port`, or `xds:` names.
    fn watch(&self, target: &str) -> Interest;

    /// Keeps this cluster in the snapshots, as soon as it and its endpoints are known, until the interest is dropped,
    /// whether the routes of a target name it or not: a request has (`cluster_header`).
    ///
    /// The name may come from a stranger, so whoever asks bounds how many there are. None, the default, is a source that has no
    /// clusters but those of its targets, or none that a stranger may ask for by this name.
    fn demand(&self, cluster: &str) -> Option<Interest> {
        let _ = cluster;
        None
    }

    /// The snapshots, the latest first; one that is missed was out of date.
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>>;

    /// The work that keeps the snapshots current; it ends when dropped.
    fn work(&self) -> Work;

    /// What it holds, and how each resource stands.
    fn status(&self) -> SourceStatus;

    /// Whose rules what it says follows, whoever reads it. None, the default, is those of the client that does: a control
    /// plane tells gRPC's clients one thing and proxies another, and does not know of clients that take themselves for
    /// proxies.
    fn semantics(&self) -> Option<Semantics> {
        None
    }

    /// The identities that come with the source, under the names by which its resources refer to them; the mesh takes this
    /// registry for its own. None by default.
    fn identities(&self) -> Option<Identities> {
        None
    }
}

/// Somebody's interest in a target; it ends when this is dropped.
#[must_use = "the interest ends when this is dropped"]
pub struct Interest {
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// How a source stands.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SourceStatus {
    /// The server that is spoken to: of several, the one whose word counts most at present.
    pub server: String,
    /// Whether there is a stream to it.
    pub connected: bool,
    /// The last trouble with any server.
    pub last_error: Option<String>,
    /// How long ago servers were last known to agree with what serves: zero while they answer, and while nothing is held.
    pub age: Duration,
    /// Every server that is known, the preferred ones first. None where a source has only the one above.
    pub servers: Vec<ServerStatus>,
    /// Everything that is asked for.
    pub resources: Vec<ResourceStatus>,
}

/// How one of a source's servers stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Its address, as it was given.
    pub server: String,
    /// Whether it is asked for anything, or tried at least. A server that stands in for others is not while they are there.
    pub in_use: bool,
    /// Whether there is a stream to it.
    pub connected: bool,
    /// The last trouble with it.
    pub last_error: Option<String>,
}

/// How a resource stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// Its type, such as `Cluster`.
    pub kind: &'static str,
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is there.
    pub state: ResourceState,
    /// The version that serves.
    pub version: Option<Arc<str>>,
    /// When that version came.
    pub updated: Option<SystemTime>,
    /// Why the latest version does not serve, where it does not.
    pub error: Option<String>,
    /// What of the serving version is not honoured.
    pub warnings: Vec<Warning>,
    /// The update that was refused last, until a later one is accepted.
    pub refused: Option<RefusedUpdate>,
    /// Whether the version that serves was kept from an earlier run of the program. No server has sent it in this one.
    pub is_cached: bool,
}

/// A version that was refused. The reason is the [`error`](ResourceStatus::error) of its resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedUpdate {
    /// The version, as the server calls it.
    pub version: Arc<str>,
    /// When it came, for the last time.
    pub at: SystemTime,
}

/// Whether a resource is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResourceState {
    /// Asked for, not answered yet. One that is [cached](ResourceStatus::is_cached) serves nevertheless.
    Requested,
    /// Here, and serving.
    Synced,
    /// The latest version was refused; an earlier one serves, if there was one.
    Rejected,
    /// The server has none of that name.
    Absent,
    /// The server did not answer in time.
    TimedOut,
    /// The server says that it cannot give it, and why; an earlier version serves, if there was one.
    Failed,
}

// === impl Interest ===

impl Interest {
    /// An interest that calls `release` when it ends.
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { release: Some(Box::new(release)) }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interest").finish_non_exhaustive()
    }
}

// === impl SourceStatus ===

impl SourceStatus {
    /// The status of a source that speaks to `server`.
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), ..Self::default() }
    }
}

// === impl ServerStatus ===

impl ServerStatus {
    /// A server that nothing was asked of so far.
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), ..Self::default() }
    }
}

// === impl ResourceStatus ===

impl ResourceStatus {
    /// A resource that was asked for and not answered yet.
    pub fn requested(kind: &'static str, name: Arc<str>) -> Self {
        Self {
            kind,
            name,
            state: ResourceState::Requested,
            version: None,
            updated: None,
            error: None,
            warnings: Vec::new(),
            refused: None,
            is_cached: false,
        }
    }
}

// === impl RefusedUpdate ===

impl RefusedUpdate {
    /// A version that was refused at this time.
    pub fn new(version: Arc<str>, at: SystemTime) -> Self {
        Self { version, at }
    }
}
