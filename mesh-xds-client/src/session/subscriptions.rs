//! What is asked for and held of one kind of resource, and where the current stream stands with it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::Reply;
use super::refusals::Refusals;

/// The names of one kind that are wanted, and how the conversation about them stands.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// By hash, since a full state looks up every name of some thousands; whatever depends on an order is sorted.
    names: HashMap<Arc<str>, Wanted>,
    /// Those of the names that the next request has to do something about: [`Presence::Unsent`] and
    /// [`Presence::Returning`].
    unsent: BTreeSet<Arc<str>>,
    /// The names in order, as a request lists them. None since a name has come or gone.
    list: Option<Vec<String>>,
    /// Counts the responses that were answered, to tell whom the last one mentioned.
    answers: u64,
    /// The last version accepted whole. Outlives streams, so that a server need not repeat what is held.
    pub(super) version: String,
    pub(super) refusals: Refusals,
    /// The nonce last answered on this stream.
    nonce: String,
    /// Whether a request of this kind was sent on this stream.
    asked: bool,
    /// Whether the names differ from those last sent. Set by a change, taken by the next request.
    changed: bool,
    /// Batches delivered on this stream whose answers have not been sent.
    owed: usize,
    /// Names that were in the last request and have left since.
    withdrawn: BTreeSet<Arc<str>>,
}

/// One wanted name.
#[derive(Debug)]
struct Wanted {
    presence: Presence,
    /// The last response that mentioned it, by [`Subscriptions::answers`].
    mentioned: u64,
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
    pub(super) armed: Vec<Arc<str>>,
    /// Whether some names were left for the next request.
    pub(super) is_partial: bool,
}

// === impl Subscriptions ===

impl Subscriptions {
    pub(super) fn new(refusals: Refusals) -> Self {
        Self {
            names: HashMap::new(),
            unsent: BTreeSet::new(),
            list: None,
            answers: 0,
            version: String::new(),
            refusals,
            nonce: String::new(),
            asked: false,
            changed: false,
            owed: 0,
            withdrawn: BTreeSet::new(),
        }
    }

    /// Wants `name`. Returns whether that is news.
    pub(super) fn add(&mut self, name: &str) -> bool {
        if self.names.contains_key(name) {
            return false;
        }
        let presence = if self.withdrawn.contains(name) { Presence::Returning } else { Presence::Unsent };
        let name: Arc<str> = name.into();
        self.unsent.insert(name.clone());
        self.names.insert(name, Wanted { presence, mentioned: 0 });
        self.list = None;
        true
    }

    /// No longer wants `name`. Returns whether that is news.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some((name, wanted)) = self.names.remove_entry(name) else { return false };
        self.unsent.remove(&name);
        self.list = None;
        if self.asked && wanted.presence != Presence::Unsent {
            self.withdrawn.insert(name);
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

    /// Whether the names differ from those last sent.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn delivered(&mut self) {
        self.owed += 1;
    }

    pub(super) fn answered(&mut self, nonce: &str) {
        self.owed -= 1;
        nonce.clone_into(&mut self.nonce);
    }

    /// A batch will not be answered by itself: the answer to a later one stands for it.
    pub(super) fn settled(&mut self) {
        self.owed -= 1;
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
        let is_vouched_for = self.asked || self.unsent.is_empty();
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
        let mut names = self.list().clone();
        let mut armed = Vec::new();
        let mut left = BTreeSet::new();
        for name in std::mem::take(&mut self.unsent) {
            let wanted = self.names.get_mut(&name).expect("what is to be sent is wanted");
            if wanted.presence == Presence::Returning {
                wanted.presence = Presence::Unsent;
                left.insert(name);
            } else {
                wanted.presence = Presence::Awaited { deadline };
                armed.push(name);
            }
        }
        if !left.is_empty() {
            names.retain(|name| !left.contains(name.as_str()));
        }
        self.unsent = left;
        Sent { names, armed, is_partial: !self.unsent.is_empty() }
    }

    fn list(&mut self) -> &Vec<String> {
        self.list.get_or_insert_with(|| {
            let mut list: Vec<String> = self.names.keys().map(ToString::to_string).collect();
            list.sort_unstable();
            list
        })
    }

    /// Another response is about to be gone through, name by name.
    pub(super) fn begin_answer(&mut self) {
        self.answers += 1;
    }

    /// `name` was delivered and is in use.
    pub(super) fn hold(&mut self, name: &str) {
        self.mention(name, |_| Presence::Held);
    }

    /// `name` was delivered and cannot be used: it exists, and what is held of it stays.
    pub(super) fn refuse(&mut self, name: &str) {
        self.mention(name, |before| if before == Presence::Held { before } else { Presence::Refused });
    }

    /// `name` stands as it did.
    pub(super) fn keep(&mut self, name: &str) {
        self.mention(name, |before| before);
    }

    fn mention(&mut self, name: &str, becomes: impl FnOnce(Presence) -> Presence) {
        let Some(wanted) = self.names.get_mut(name) else { return };
        let before = wanted.presence;
        wanted.presence = becomes(before);
        wanted.mentioned = self.answers;
        if before != wanted.presence && matches!(before, Presence::Unsent | Presence::Returning) {
            self.unsent.remove(name);
        }
    }

    /// Marks as absent, and returns in order, the names that were delivered before and that the present response does not
    /// mention.
    ///
    /// A name never delivered is left to its timer: the server may not have heard of it yet.
    pub(super) fn remove_missing(&mut self) -> Vec<Arc<str>> {
        let mut missing = Vec::new();
        for (name, wanted) in &mut self.names {
            let was_delivered = matches!(wanted.presence, Presence::Held | Presence::Refused);
            if was_delivered && wanted.mentioned != self.answers {
                wanted.presence = Presence::Absent;
                missing.push(name.clone());
            }
        }
        missing.sort_unstable();
        missing
    }

    pub(super) fn is_awaited(&self, name: &str, until: Instant) -> bool {
        self.names.get(name).is_some_and(|wanted| wanted.presence == Presence::Awaited { deadline: until })
    }

    /// `name` was awaited long enough.
    pub(super) fn give_up(&mut self, name: &str) {
        if let Some(wanted) = self.names.get_mut(name) {
            wanted.presence = Presence::Absent;
        }
    }

    /// The stream is gone, and with it nonces, debts and clocks. Versions and what is held stay.
    pub(super) fn leave_stream(&mut self) {
        self.nonce.clear();
        self.asked = false;
        self.changed = false;
        self.owed = 0;
        self.withdrawn.clear();
        self.refusals.end();
        for (name, wanted) in &mut self.names {
            if matches!(wanted.presence, Presence::Awaited { .. } | Presence::Returning) {
                wanted.presence = Presence::Unsent;
                self.unsent.insert(name.clone());
            }
        }
    }
}
