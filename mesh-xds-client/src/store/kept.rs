//! Resources as they came: what an earlier run has left, and what tools and the cache file are given.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use bytes::Bytes;
use mesh_core::source::ResourceState;

use crate::{ResourceKind, secrets};

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
    /// The bytes of its message, where they are kept.
    pub(crate) contents: Option<Contents>,
    /// Whether it has a time to live.
    pub(crate) is_mortal: bool,
}

/// The bytes of a message, which are given away only where there can be no secret in them.
///
/// Whether there can be one is found out once, by who asks first. All the bytes are read for it: it is nothing for the worker,
/// nor for anybody who holds the store.
#[derive(Clone)]
pub(crate) struct Contents(Arc<Sealed>);

struct Sealed {
    bytes: Bytes,
    may_be_shown: OnceLock<bool>,
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

// === impl Contents ===

impl Contents {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(Arc::new(Sealed { bytes, may_be_shown: OnceLock::new() }))
    }

    /// The bytes, unless a secret may be in them.
    pub(crate) fn shown(&self) -> Option<Bytes> {
        let Sealed { bytes, may_be_shown } = &*self.0;
        may_be_shown.get_or_init(|| !secrets::may_be_in(bytes)).then(|| bytes.clone())
    }

    #[cfg(all(test, feature = "testkit"))]
    pub(crate) fn is_searched(&self) -> bool {
        self.0.may_be_shown.get().is_some()
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("length", &self.0.bytes.len()).finish_non_exhaustive()
    }
}
