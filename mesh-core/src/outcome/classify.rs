//! What a response means, as its protocol says: the trait, and HTTP's own answer by status.

use http::{HeaderMap, StatusCode};

use super::Class;

/// Says what a response means, at its head and at its end.
pub trait Classify: Clone + Send + Sync + 'static {
    /// What is remembered of the head until the end.
    type End: ClassifyEnd;

    /// Looks at the head of a response.
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Head<Self::End>;
}

/// Says what the end of a response means.
pub trait ClassifyEnd: Send + 'static {
    /// The response is whole; `trailers` are its trailers, if it had any.
    fn end(&self, status: StatusCode, trailers: Option<&HeaderMap>) -> Judgement;
}

/// What the head of a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<E> {
    /// Everything: only a broken body can change it.
    Final(Judgement),
    /// Not enough; the end decides.
    AtEnd(E),
}

/// A classifier's verdict on a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// How good it was.
    pub class: Class,
    /// The gRPC status, where there is one.
    pub grpc_status: Option<u32>,
}

/// Classifies HTTP responses by their status.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassifier;

/// Never waits for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

// === impl HttpClassifier ===

impl Classify for HttpClassifier {
    type End = Never;

    fn head(&self, status: StatusCode, _: &HeaderMap) -> Head<Never> {
        Head::Final(Judgement { class: Class::of_status(status), grpc_status: None })
    }
}

impl ClassifyEnd for Never {
    fn end(&self, _: StatusCode, _: Option<&HeaderMap>) -> Judgement {
        match *self {}
    }
}
