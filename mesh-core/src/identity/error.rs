//! Why there is no usable identity.

use std::{error::Error as StdError, fmt, sync::Arc};

/// There is no usable identity: which file or field, what is wrong with it, and what to do.
#[derive(Clone, Debug)]
pub struct IdentityError {
    kind: IdentityErrorKind,
    subject: String,
    problem: String,
    remedy: &'static str,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What an [`IdentityError`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityErrorKind {
    /// Nothing has been delivered or registered, or what was asked for is not in it.
    Absent,
    /// It could not be read: a missing file, a permission.
    Unreadable,
    /// It was read and is not what it should be.
    Invalid,
    /// The private key is not that of the certificate.
    Mismatched,
}

// === impl IdentityError ===

impl IdentityError {
    /// An error about `subject`, a file or a field.
    pub fn new(
        kind: IdentityErrorKind,
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self { kind, subject: subject.into(), problem: problem.into(), remedy, source: None }
    }

    /// `subject` is not there.
    pub fn absent(subject: impl Into<String>, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self::new(IdentityErrorKind::Absent, subject, problem, remedy)
    }

    /// `subject` is not what it should be.
    pub fn invalid(subject: impl Into<String>, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self::new(IdentityErrorKind::Invalid, subject, problem, remedy)
    }

    /// The same error with what brought it about.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What it is about.
    pub fn kind(&self) -> IdentityErrorKind {
        self.kind
    }

    /// The file or field.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        self.remedy
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.problem, self.remedy)
    }
}

impl StdError for IdentityError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
