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

// === impl Fingerprint ===

impl Fingerprint {
    pub(crate) fn of<'a>(resources: impl IntoIterator<Item = &'a Any>) -> Self {
        Self::of_all(resources.into_iter().map(|resource| (resource.type_url.as_str(), resource.value.as_slice())))
    }

    /// As [`of`](Self::of) the one resource of this type and these bytes.
    pub(crate) fn of_parts(type_url: &str, bytes: &[u8]) -> Self {
        Self::of_all([(type_url, bytes)])
    }

    fn of_all<'a>(resources: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let (mut hasher, mut length) = (DefaultHasher::new(), 0);
        for (type_url, bytes) in resources {
            type_url.hash(&mut hasher);
            bytes.hash(&mut hasher);
            length += bytes.len();
        }
        Self { hash: hasher.finish(), length }
    }
}
