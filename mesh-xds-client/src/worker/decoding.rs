//! One response on its way through the decoders, a slice at a time.

use std::{sync::Arc, vec};

use crate::{
    ResourceKind,
    report::Findings,
    session::{Batch, RawResource, Ticket, Verdict},
    store::{Begun, COMPARING, Origin, Refused, Store, Taken, Underway},
};

/// A response whose resources are being decoded.
pub(super) struct Decoding {
    /// The place of the control plane that sent it.
    pub(super) place: usize,
    pub(super) kind: ResourceKind,
    pub(super) version: Arc<str>,
    resources: vec::IntoIter<RawResource>,
    /// The one of them that is taken in pieces at present.
    underway: Option<Box<Underway>>,
    pub(super) ticket: Ticket,
    pub(super) verdict: Verdict,
    pub(super) findings: Findings,
    /// Whether any resource is another one than before.
    pub(super) has_changes: bool,
}

/// How much is decoded before others have their turn: some 60 us of it.
///
/// In bytes rather than in time, so that a run under a paused clock takes the same steps twice. A large route configuration
/// is divided, no other resource is.
pub(super) const SLICE: usize = 4 * 1024;

/// What a resource of no bytes at all costs.
pub(super) const LEAST: usize = 64;

// === impl Decoding ===

impl Decoding {
    pub(super) fn new(place: usize, batch: Batch) -> Self {
        let Batch { kind, version, resources, ticket } = batch;
        Self {
            place,
            kind,
            version: version.into(),
            resources: resources.into_iter(),
            underway: None,
            ticket,
            verdict: Verdict::default(),
            findings: Findings::default(),
            has_changes: false,
        }
    }

    /// Decodes a slice. Returns whether that was the last.
    pub(super) fn advance(&mut self, store: &mut Store, origin: &Origin<'_>) -> bool {
        let mut left = SLICE;
        while left > 0 {
            if let Some(underway) = &mut self.underway {
                if let Some(outcome) = underway.advance(&mut left, store, origin) {
                    self.underway = None;
                    self.note(store, outcome);
                }
                continue;
            }
            let Some(raw) = self.resources.next() else { return true };
            let size = raw.body.value.len();
            let own = raw.version.as_deref().filter(|own| !own.is_empty()).map(Arc::from);
            match store.begin(self.kind, raw, own.as_ref().unwrap_or(&self.version), origin) {
                Begun::Settled(outcome) => {
                    let is_decoded = self.note(store, outcome);
                    left = left.saturating_sub(LEAST + if is_decoded { size } else { size / COMPARING });
                }
                Begun::Underway(underway) => {
                    left = left.saturating_sub(LEAST);
                    self.underway = Some(underway);
                }
            }
        }
        false
    }

    /// Returns whether the resource had to be decoded.
    fn note(&mut self, store: &Store, outcome: Result<Taken, Refused>) -> bool {
        match outcome {
            Ok(Taken { name, is_decoded, has_new_warnings }) => {
                if has_new_warnings && let Some(entry) = store.get(self.kind, &name) {
                    self.findings.warned.push((name.clone(), entry.warnings().to_vec()));
                }
                self.verdict.accepted.push(name);
                self.has_changes |= is_decoded;
                is_decoded
            }
            Err(Refused { error, is_repeated }) => {
                if !is_repeated {
                    self.findings.refused.push(error.clone());
                }
                self.verdict.rejected.push(error);
                !is_repeated
            }
        }
    }
}
