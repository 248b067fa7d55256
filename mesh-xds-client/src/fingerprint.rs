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
    pub(crate) fn of<'a>(resources: impl IntoIterator<Item = &'a Any>) -> Self {
        let mut all = Fingerprinting::default();
        resources.into_iter().for_each(|resource| all.add(&resource.type_url, &resource.value));
        all.finish()
    }

    /// As [`of`](Self::of) the one resource of this type and these bytes.
    pub(crate) fn of_parts(type_url: &str, bytes: &[u8]) -> Self {
        let mut one = Fingerprinting::default();
        one.add(type_url, bytes);
        one.finish()
    }
}

// === impl Fingerprinting ===

impl Fingerprinting {
    /// The next resource is of this type and these bytes.
    pub(crate) fn add(&mut self, type_url: &str, bytes: &[u8]) {
        type_url.hash(&mut self.hasher);
        bytes.hash(&mut self.hasher);
        self.length += bytes.len();
    }

    pub(crate) fn finish(self) -> Fingerprint {
        Fingerprint { hash: self.hasher.finish(), length: self.length }
    }
}
