//! Stands for the bytes of resources, which are not kept: they would cost as much again as what was made of them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Tells versions of a resource, of one of its parts, or of all resources of a response, apart.
///
/// Sixty-four bits of SipHash and the length. The control plane is trusted to steer every request, so there is nobody who
/// would gain by a collision, and by chance none is met in the life of a mesh. Envoy tells versions apart in the same way.
///
/// That holds for parts as well, though there are more of them: where ten of five thousand virtual hosts change a hundred
/// times a second, and each is looked for among all those before it, ten years see one mistaken for another in one of ten
/// thousand such meshes.
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

/// A [`Fingerprint`] on its way, for bytes of which there are more than should be read in one go.
#[derive(Debug)]
pub(crate) struct Printing {
    hasher: DefaultHasher,
    /// How many bytes are read.
    read: usize,
}

/// What is read at once, however much is read in one go: nothing says that a hash of two parts is that of the whole.
const PIECE: usize = 4096;

// === impl Fingerprint ===

impl Fingerprint {
    /// Of one resource of this type and these bytes, which are read in one way or the other.
    pub(crate) fn of_parts(type_url: &str, bytes: &[u8], reading: bool) -> Self {
        let mut printing = Printing::new(type_url, reading);
        printing.advance(bytes, bytes.len());
        printing.finish()
    }

    /// Of a part of a resource.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        Self { hash: hasher.finish(), length: bytes.len() }
    }
}

// === impl Fingerprinting ===

impl Fingerprinting {
    pub(crate) fn add(&mut self, type_url: &str, value: &[u8]) {
        (type_url, value).hash(&mut self.hasher);
        self.length += value.len();
    }

    pub(crate) fn finish(self) -> Fingerprint {
        Fingerprint { hash: self.hasher.finish(), length: self.length }
    }
}

/// Where many are kept, they are found by the hash alone.
impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

// === impl Printing ===

impl Printing {
    /// Of a resource of this type that is read in one way or the other.
    pub(crate) fn new(type_url: &str, reading: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        (type_url, reading).hash(&mut hasher);
        Self { hasher, read: 0 }
    }

    /// Reads about so many bytes more of all `bytes`. Returns whether those were the last.
    pub(crate) fn advance(&mut self, bytes: &[u8], most: usize) -> bool {
        for piece in bytes[self.read..].chunks(PIECE).take(most.div_ceil(PIECE)) {
            self.hasher.write(piece);
            self.read += piece.len();
        }
        self.read == bytes.len()
    }

    /// The fingerprint of what is read.
    pub(crate) fn finish(&self) -> Fingerprint {
        Fingerprint { hash: self.hasher.finish(), length: self.read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_is_the_same_however_much_is_read_at_once() {
        let bytes: Vec<u8> = (0..5 * PIECE + 7).map(|number| number as u8).collect();
        for most in [1, PIECE, PIECE + 1, 3 * PIECE, 100 * PIECE] {
            let mut printing = Printing::new("t", true);
            while !printing.advance(&bytes, most) {}
            assert_eq!(printing.finish(), Fingerprint::of_parts("t", &bytes, true), "{most}");
        }
    }
}
