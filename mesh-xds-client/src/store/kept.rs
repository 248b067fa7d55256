//! Resources as they came: what an earlier run has left, and what tools and the cache file are given.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use mesh_core::source::ResourceState;

use crate::ResourceKind;

/// A resource as an earlier run held it.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    pub(crate) version: Arc<str>,
    pub(crate) updated: SystemTime,
    pub(crate) contents: Bytes,
}

/// A resource as it came, with all that is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Dump {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Arc<str>,
    pub(crate) state: ResourceState,
    /// Whether a server has answered, be it that there is none, or be it by silence that means so.
    pub(crate) is_answered: bool,
    /// The version that serves.
    pub(crate) good: Option<DumpedGood>,
    pub(crate) failure: Option<Failure>,
}

/// The version of a resource that serves.
#[derive(Debug, Clone)]
pub(crate) struct DumpedGood {
    pub(crate) version: Arc<str>,
    pub(crate) updated: SystemTime,
    /// The bytes of its message, where they are kept and may be shown.
    pub(crate) contents: Option<Bytes>,
    /// Whether it has a time to live.
    pub(crate) is_mortal: bool,
}

/// Why the latest news of a resource does not serve.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) details: String,
    pub(crate) at: SystemTime,
    /// The version that was refused, where one was.
    pub(crate) version: Option<Arc<str>>,
    /// Whether it is the server that says why (xRFC TP3).
    pub(crate) is_denial: bool,
}
