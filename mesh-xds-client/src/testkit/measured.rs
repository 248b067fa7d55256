//! What this crate's benchmarks measure apart from all else. No part of the test kit, and no promise.

use bytes::Bytes;

use crate::resource::{self, Assignment};

/// The endpoints of a cluster, decoded.
#[derive(Debug)]
pub struct DecodedEndpoints(Assignment);

// === impl DecodedEndpoints ===

impl DecodedEndpoints {
    /// Decodes a `ClusterLoadAssignment` as the client does that holds `former`, or nothing if it is refused.
    pub fn new(bytes: Bytes, former: Option<&Self>) -> Option<Self> {
        let former = former.map(|former| &former.0);
        resource::decode_endpoints(bytes, former).ok().map(|decoded| Self(decoded.value))
    }
}
