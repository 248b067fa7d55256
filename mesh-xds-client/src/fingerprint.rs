//! Stands for the bytes of resources, which are not kept: they would cost as much again as what was made of them.

use std::hash::{DefaultHasher, Hash, Hasher};

use envoy_types::pb::google::protobuf::Any;

/// Tells versions of a resource, or of all resources of a response, apart.
///
/// Sixty-four bits of SipHash and the length. The control plane is trusted to steer every request, so there is nobody who
/// would gain by a collision, and by chance none is met in the life of a mesh. Envoy tells versions apart in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    hash: u64,
    length: usize,
}

/// A fingerprint of all resources of a response, which come one by one.
#[derive(Debug, Default)]
pub(crate) struct Fingerprinting {
    hasher: DefaultHasher,
    length: usize,
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Of one resource of this type and these bytes, which are read in one way or the other.
    pub(crate) fn of_parts(type_url: &str, bytes: &[u8], reading: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        (type_url, bytes, reading).hash(&mut hasher);
        Self { hash: hasher.finish(), length: bytes.len() }
    }
}

// === impl Fingerprinting ===

impl Fingerprinting {
    pub(crate) fn add(&mut self, resource: &Any) {
        (&resource.type_url, &resource.value).hash(&mut self.hasher);
        self.length += resource.value.len();
    }

    pub(crate) fn finish(self) -> Fingerprint {
        Fingerprint { hash: self.hasher.finish(), length: self.length }
    }
}
