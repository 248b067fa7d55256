//! What is asked for and held of one kind of resource, and where the current stream stands with it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::Reply;

/// The names of one kind that are wanted, and how the conversation about them stands.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    names: BTreeMap<String, Presence>,
    /// The last version accepted whole. Outlives streams, so that a server need not repeat what is held.
    pub(super) version: String,
    /// The nonce last answered on this stream.
    nonce: String,
    /// Whether a request of this kind was sent on this stream.
    asked: bool,
    /// Whether the names differ from those last sent. Set by a change, taken by the next request.
    changed: bool,
    /// Batches delivered on this stream whose answers have not been sent.
    owed: usize,
    /// Names that were in the last request and have left since.
    withdrawn: BTreeSet<String>,
}

/// What is known of one wanted name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Not asked for on this stream, and never answered.
    Unsent,
    /// Wanted again before the server heard that it was not, so the server would see no change and not send it again. Left
    /// out of the next request, and in the one after.
    Returning,
    /// Asked for on this stream.
    Awaited { deadline: Instant },
    /// Delivered and in use.
    Held,
    /// Delivered and never usable.
    Refused,
    /// Reported absent.
    Absent,
}

/// What went into a request.
pub(super) struct Sent {
    pub(super) names: Vec<String>,
    /// The names whose clock starts with this request.
    pub(super) armed: Vec<String>,
    /// Whether some names were left for the next request.
    pub(super) is_partial: bool,
}

// === impl Subscriptions ===

impl Subscriptions {
    /// Wants `name`. Returns whether that is news.
    pub(super) fn add(&mut self, name: &str) -> bool {
        if self.names.contains_key(name) {
            return false;
        }
        let presence = if self.withdrawn.contains(name) { Presence::Returning } else { Presence::Unsent };
        self.names.insert(name.to_owned(), presence);
        true
    }

    /// No longer wants `name`. Returns whether that is news.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(presence) = self.names.remove(name) else { return false };
        if self.asked && presence != Presence::Unsent {
            self.withdrawn.insert(name.to_owned());
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn asked(&self) -> bool {
        self.asked
    }

    /// Notes that the names differ from those last sent. Returns whether that was not noted before.
    pub(super) fn mark_changed(&mut self) -> bool {
        !std::mem::replace(&mut self.changed, true)
    }

    pub(super) fn delivered(&mut self) {
        self.owed += 1;
    }

    pub(super) fn answered(&mut self, nonce: &str) {
        self.owed -= 1;
        nonce.clone_into(&mut self.nonce);
    }

    /// What a request must repeat that only announces changed names, or `None` when none is due.
    ///
    /// None is due while an answer is owed, since the answer will carry the names: sent now, the names would come with a
    /// nonce that the server has left behind, and be passed over. None is due when there is nothing to take back either:
    /// without names, the first request of a kind on a stream asks for everything.
    pub(super) fn announce(&mut self) -> Option<Reply> {
        if !self.asked && self.names.is_empty() {
            self.changed = false;
        }
        if !self.changed || self.owed > 0 {
            return None;
        }
        // A version vouches for the whole set of names. Where one of them was never answered, a server that compares
        // versions only would have nothing to send on a new stream, and the name would look absent.
        let is_vouched_for = self.asked || !self.names.values().any(|presence| *presence == Presence::Unsent);
        if !is_vouched_for {
            self.version.clear();
        }
        Some(Reply { version: self.version.clone(), nonce: self.nonce.clone(), error: None })
    }

    /// Takes the names for a request that leaves now.
    pub(super) fn send(&mut self, deadline: Instant) -> Sent {
        self.asked = true;
        self.changed = false;
        self.withdrawn.clear();
        let mut sent = Sent { names: Vec::with_capacity(self.names.len()), armed: Vec::new(), is_partial: false };
        for (name, presence) in &mut self.names {
            match presence {
                Presence::Returning => {
                    *presence = Presence::Unsent;
                    sent.is_partial = true;
                    continue;
                }
                Presence::Unsent => {
                    *presence = Presence::Awaited { deadline };
                    sent.armed.push(name.clone());
                }
                Presence::Awaited { .. } | Presence::Held | Presence::Refused | Presence::Absent => {}
            }
            sent.names.push(name.clone());
        }
        sent
    }

    /// `name` was delivered and is in use.
    pub(super) fn hold(&mut self, name: &str) {
        if let Some(presence) = self.names.get_mut(name) {
            *presence = Presence::Held;
        }
    }

    /// `name` was delivered and cannot be used: it exists, and what is held of it stays.
    pub(super) fn refuse(&mut self, name: &str) {
        if let Some(presence) = self.names.get_mut(name).filter(|presence| **presence != Presence::Held) {
            *presence = Presence::Refused;
        }
    }

    /// Marks as absent, and returns, the names that were delivered before and are not in `present`.
    ///
    /// A name never delivered is left to its timer: the server may not have heard of it yet.
    pub(super) fn remove_missing(&mut self, present: &BTreeSet<&str>) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, presence) in &mut self.names {
            if matches!(presence, Presence::Held | Presence::Refused) && !present.contains(name.as_str()) {
                *presence = Presence::Absent;
                missing.push(name.clone());
            }
        }
        missing
    }

    pub(super) fn is_awaited(&self, name: &str, until: Instant) -> bool {
        self.names.get(name) == Some(&Presence::Awaited { deadline: until })
    }

    /// `name` was awaited long enough.
    pub(super) fn give_up(&mut self, name: &str) {
        if let Some(presence) = self.names.get_mut(name) {
            *presence = Presence::Absent;
        }
    }

    /// The stream is gone, and with it nonces, debts and clocks. Versions and what is held stay.
    pub(super) fn leave_stream(&mut self) {
        self.nonce.clear();
        self.asked = false;
        self.changed = false;
        self.owed = 0;
        self.withdrawn.clear();
        for presence in self.names.values_mut() {
            if matches!(presence, Presence::Awaited { .. } | Presence::Returning) {
                *presence = Presence::Unsent;
            }
        }
    }
}
