//! Which HTTP a connection speaks.

/// A version of HTTP, as far as connections differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    H1,
    H2,
}

impl Version {
    /// The HTTP that a name of ALPN says. The sidecars of Istio have names of their own for it, by which they tell peers of
    /// the mesh from others.
    pub(super) fn of_alpn(name: &[u8]) -> Option<Self> {
        match name {
            b"h2" | b"istio-h2" => Some(Self::H2),
            b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0" => Some(Self::H1),
            _ => None,
        }
    }
}
