//! A large resource on its way into the store, a piece at a time.
//!
//! Only route configurations can be divided, of which one may hold all virtual hosts of a mesh, and listeners that hold one.
//! Not divided are the rest of a listener, one virtual host, the list of those of the version before by their prints, and the
//! putting together of all when each is decoded. Whether there may be a secret in the bytes is not asked here at all
//! ([`Contents`](super::kept::Contents)). What else happens to the store in between is not noticed before the end: then it is
//! as if the resource had come at that moment.

use std::sync::Arc;

use bytes::Bytes;

use super::{Origin, Refused, Store, Taken};
use crate::{
    ResourceKind,
    fingerprint::{Fingerprint, Printing},
    resource::{Context, Decoding},
};

/// A resource that is compared with what is held, and decoded if it is another.
#[derive(Debug)]
pub(crate) struct Underway {
    kind: ResourceKind,
    name: Arc<str>,
    version: Arc<str>,
    bytes: Bytes,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Comparing(Printing),
    Decoding(Fingerprint, Box<Decoding>),
}

/// What becomes of a resource that is taken out of a response, or the rest of the work.
pub(crate) enum Begun {
    Settled(Result<Taken, Refused>),
    Underway(Box<Underway>),
}

/// The least that is worth dividing, in bytes.
const LARGE: usize = 4 * 1024;

/// How much less comparing costs than decoding.
pub(crate) const COMPARING: usize = 16;

// === impl Underway ===

impl Underway {
    /// Whether a resource of this kind and length is to be taken in pieces.
    pub(super) fn is_for(kind: ResourceKind, bytes: &[u8]) -> bool {
        matches!(kind, ResourceKind::RouteConfiguration | ResourceKind::Listener) && bytes.len() > LARGE
    }

    pub(super) fn new(kind: ResourceKind, name: Arc<str>, version: Arc<str>, bytes: Bytes, context: &Context) -> Self {
        Self { kind, name, version, bytes, step: Step::Comparing(context.printing(kind.type_url())) }
    }

    /// Goes on until `left` is used up, which is told in bytes to decode. Returns what has become of it, once, when that is
    /// known.
    pub(crate) fn advance(
        &mut self,
        left: &mut usize,
        store: &mut Store,
        origin: &Origin<'_>,
    ) -> Option<Result<Taken, Refused>> {
        while *left > 0 {
            let outcome = match &mut self.step {
                Step::Comparing(printing) => {
                    let most = left.saturating_mul(COMPARING).min(self.bytes.len());
                    *left = left.saturating_sub(most.div_ceil(COMPARING));
                    if printing.advance(&self.bytes, most) { self.recognise(store, origin) } else { None }
                }
                Step::Decoding(fingerprint, decoding) => {
                    let outcome = decoding.advance(left, origin.context)?;
                    let (bytes, name) = (self.bytes.clone(), self.name.clone());
                    let concluded = store.with(self.kind, &self.name, &self.version, origin, |entry, news| {
                        entry.conclude(outcome, *fingerprint, bytes, name, news)
                    });
                    Some(concluded.unwrap_or_else(|| Ok(Taken::unread(self.name.clone()))))
                }
            };
            if outcome.is_some() {
                return outcome;
            }
        }
        None
    }

    /// Says what has become of it where that can be told by its fingerprint, and otherwise goes on to decode it.
    fn recognise(&mut self, store: &mut Store, origin: &Origin<'_>) -> Option<Result<Taken, Refused>> {
        let Self { kind, name, version, bytes, step } = self;
        let Step::Comparing(printing) = step else { return None };
        let fingerprint = printing.finish();
        let known = store.with(*kind, name, version, origin, |entry, news| {
            if let Some(outcome) = entry.recognise(fingerprint, bytes, name, news) {
                return Some(outcome);
            }
            match Decoding::new(*kind, bytes, entry.former(), news.origin.context) {
                Some(decoding) => {
                    *step = Step::Decoding(fingerprint, Box::new(decoding));
                    None
                }
                None => {
                    let decoded = entry.decode(*kind, bytes, news.origin.context);
                    Some(entry.conclude(decoded, fingerprint, bytes.clone(), name.clone(), news))
                }
            }
        });
        known.unwrap_or_else(|| Some(Ok(Taken::unread(name.clone()))))
    }
}
