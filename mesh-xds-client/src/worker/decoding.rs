//! One response on its way through the decoders, a slice at a time.

use std::{
    collections::{HashSet, hash_set},
    mem,
    sync::Arc,
};

use crate::{
    ResourceKind,
    report::Findings,
    session::{Batch, Session, Verdict},
    store::{Begun, COMPARING, Origin, Refused, Store, Taken, Underway},
};

/// A response whose resources are being decoded.
pub(super) struct Decoding {
    /// The place of the control plane that sent it.
    pub(super) place: usize,
    pub(super) kind: ResourceKind,
    pub(super) version: Arc<str>,
    pub(super) batch: Batch,
    /// The names of the resources that were taken.
    seen: HashSet<Arc<str>>,
    /// What is left of them when all were: others hold them too, and to let go of thousands at once is long.
    leaving: hash_set::IntoIter<Arc<str>>,
    /// The one of its resources that is taken in pieces at present.
    underway: Option<Box<Underway>>,
    pub(super) verdict: Verdict,
    /// How many of its resources the session knows to be in use.
    pub(super) accepted: usize,
    pub(super) findings: Findings,
    /// Whether any resource is another one than before, has been taken away by a refusal, or has a time to live where it had
    /// none, or none where it had one.
    pub(super) has_changes: bool,
}

/// How much is decoded before others have their turn: some 60 us of it.
///
/// In bytes rather than in time, so that a run under a paused clock takes the same steps twice. A large route configuration
/// is divided, and so is a listener with routes in it, but for what the [store](Underway) has to do in one go; no other resource
/// is.
pub(super) const SLICE: usize = 4 * 1024;

/// What it costs to look whether a name is there twice.
const CHECKED: usize = 8;

/// What it costs to let go of a name.
pub(super) const DROPPED: usize = 8;

/// What a resource of no bytes at all costs.
pub(super) const LEAST: usize = 64;

// === impl Decoding ===

impl Decoding {
    pub(super) fn new(place: usize, batch: Batch) -> Self {
        Self {
            place,
            kind: batch.kind,
            version: batch.version.as_str().into(),
            seen: HashSet::with_capacity(batch.size_hint().1.unwrap_or_default()),
            leaving: HashSet::new().into_iter(),
            batch,
            underway: None,
            verdict: Verdict::default(),
            accepted: 0,
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
                    self.note(store, outcome, origin);
                }
                continue;
            }
            let checked = self.batch.check(left.div_ceil(CHECKED));
            if checked > 0 {
                left = left.saturating_sub(checked * CHECKED);
                continue;
            }
            let Some(raw) = self.batch.next() else {
                let dropped = self.let_go(left.div_ceil(DROPPED));
                if dropped > 0 {
                    left = left.saturating_sub(dropped * DROPPED);
                    continue;
                }
                self.note_prolonged(store, origin);
                return true;
            };
            let size = raw.body.value.len();
            let own = raw.version.as_deref().filter(|own| !own.is_empty()).map(Arc::from);
            let version = own.as_ref().unwrap_or(&self.version);
            match store.begin(self.kind, raw, version, &mut self.seen, origin) {
                Begun::Settled(outcome) => {
                    let is_decoded = self.note(store, outcome, origin);
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

    /// Tells the session what is in use of what was decoded since it was last told.
    pub(super) fn tell(&mut self, session: &mut Session) {
        self.accepted += self.verdict.accepted.len();
        self.verdict.accepted.drain(..).for_each(|name| session.accept(&mut self.batch, &name));
    }

    /// Drops so many names of what was taken; returns how many there were.
    fn let_go(&mut self, most: usize) -> usize {
        if !self.seen.is_empty() {
            self.leaving = mem::take(&mut self.seen).into_iter();
        }
        self.leaving.by_ref().take(most).count()
    }

    /// What stands as it did may have been given a time to live. One that is taken away in this way is left out of the cache
    /// file all the same, until it comes again: the session may yet refuse to believe it.
    fn note_prolonged(&mut self, store: &mut Store, origin: &Origin<'_>) {
        for name in self.batch.prolonged() {
            self.has_changes |= store.note_mortal(self.kind, name, true, origin);
        }
    }

    /// Returns whether the resource had to be decoded.
    fn note(&mut self, store: &mut Store, outcome: Result<Taken, Refused>, origin: &Origin<'_>) -> bool {
        match outcome {
            Ok(Taken { name, is_decoded, has_new_warnings }) => {
                if has_new_warnings && let Some(entry) = store.get(self.kind, &name) {
                    self.findings.warned.push((name.clone(), entry.warnings().to_vec()));
                }
                let is_other = store.note_mortal(self.kind, &name, self.batch.is_mortal(&name), origin);
                self.verdict.accepted.push(name);
                self.has_changes |= is_decoded || is_other;
                is_decoded
            }
            Err(Refused { error, is_repeated }) => {
                if !is_repeated {
                    self.findings.refused.push(error.clone());
                }
                self.verdict.rejected.push(error);
                self.has_changes |= origin.terms.is_strict && !is_repeated;
                !is_repeated
            }
        }
    }
}
