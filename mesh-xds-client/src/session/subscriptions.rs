//! What is asked for and held of one kind of resource, and where the current stream stands with it.
//!
//! It is the same in both variants, but for the two ways to say it in [requests].

mod requests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use self::requests::Listing;
use super::batch::Label;
use super::refusals::Refusals;
use super::{AbsenceReason, TWICE};

/// The names of one kind that are wanted, and how the conversation about them stands.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// By hash, since a full state looks up every name of some thousands; whatever depends on an order is sorted.
    names: HashMap<Arc<str>, Wanted>,
    /// Whether everything is wanted that the server has.
    everything: bool,
    /// Those of the names that were not asked for on this stream, or will be asked for once more.
    unsent: BTreeSet<Arc<str>>,
    /// Those that are asked for by name, in the order in which a request lists them.
    named: BTreeSet<Arc<str>>,
    /// When resources expire.
    expiries: BTreeSet<(Instant, Arc<str>)>,
    /// Counts the responses that were answered, to tell whom the last one mentioned.
    answers: u64,
    /// The last version accepted whole, in state of the world. Outlives streams, so that a server need not repeat what is held.
    pub(super) version: String,
    /// Whether something of that version has expired, which is to come again on the next stream, whatever a server remembers.
    has_lapsed: bool,
    pub(super) refusals: Refusals,
    /// The nonce last answered on this stream.
    nonce: String,
    /// Whether a request of this kind was sent on this stream.
    asked: bool,
    /// What the server believes about everything, on this stream.
    wildcard: Wildcard,
    /// Whether the names differ from those last sent. Set by a change, taken by the next request.
    changed: bool,
    /// Batches delivered on this stream whose answers have not been sent.
    owed: usize,
    /// Batches delivered on this stream or an earlier one that there is no verdict on.
    undecided: usize,
    /// Names that the server believes to be wanted and that have left.
    withdrawn: BTreeSet<Arc<str>>,
    /// Whether a name may be presumed that has no clock. Set where one becomes so, taken when the clocks start: hardly ever is there
    /// one, and thousands of names need not be looked through with each answer.
    is_doubtful: bool,
    /// The request that is being made.
    listing: Option<Listing>,
}

/// One name that is wanted, or that came because everything is.
#[derive(Debug)]
struct Wanted {
    presence: Presence,
    /// Whether it is asked for by its name.
    is_named: bool,
    /// The last response that mentioned it, by [`Subscriptions::answers`].
    mentioned: u64,
    /// The version that is in use, in delta.
    version: Option<String>,
    /// When it is to be forgotten, unless it comes again.
    expires: Option<Instant>,
}

/// What is known of one wanted name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Not asked for on this stream, and never answered.
    Unsent,
    /// Wanted again before the server heard that it was not, so that in state of the world the server would see no change and
    /// not send it again. Left out of the next request there, and in the one after.
    Returning,
    /// Asked for on this stream. Where the server says that there is none (`is_denied`) the clock runs on: in delta it says so
    /// at once, of what is on its way as well.
    Awaited { deadline: Instant, is_denied: bool },
    /// Delivered and in use.
    Held,
    /// In use, and not of this server as far as is known, or not with its knowledge: it came because everything is wanted, and
    /// what the server sends first, whole or in delta for a while, tells whether it has it.
    Presumed { until: Option<Instant> },
    /// Delivered, and not known to be in use: it was never usable, or it is denied.
    Refused,
    /// Reported absent.
    Absent,
    /// Reported absent since its time to live was over. A server may believe that it is held.
    Expired,
    /// Reported absent since nothing was heard of it in time. The server may still say that there is none.
    Silent,
}

/// Whether the server believes that everything is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wildcard {
    /// It does not.
    Unsaid,
    /// It does, since the first request had no names. A name would end that.
    Implied,
    /// It does, since `*` was asked for.
    Named,
}

/// Whether the server has said that there is none.
pub(super) type IsDenied = bool;

/// What is wrong with a resource without a body that stands for nothing.
const NOT_IN_USE: &str = "it has no body, and its version is not the one in use";

// === impl Subscriptions ===

impl Subscriptions {
    pub(super) fn new(refusals: Refusals) -> Self {
        Self {
            names: HashMap::new(),
            everything: false,
            unsent: BTreeSet::new(),
            named: BTreeSet::new(),
            expiries: BTreeSet::new(),
            answers: 0,
            version: String::new(),
            has_lapsed: false,
            refusals,
            nonce: String::new(),
            asked: false,
            wildcard: Wildcard::Unsaid,
            changed: false,
            owed: 0,
            undecided: 0,
            withdrawn: BTreeSet::new(),
            is_doubtful: false,
            listing: None,
        }
    }

    // --- what is wanted ---

    /// Makes room for so many names.
    pub(super) fn make_room(&mut self, names: usize) {
        self.names.reserve(names.saturating_sub(self.names.len()));
    }

    /// Wants `name`. Returns whether that is news.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let name: Arc<str> = match self.names.get_key_value(name) {
            Some((_, known)) if known.is_named => return false,
            Some((name, _)) => name.clone(),
            None => name.into(),
        };
        let presence = if self.withdrawn.contains(&name) { Presence::Returning } else { Presence::Unsent };
        let wanted = self.names.entry(name.clone()).or_insert_with(|| Wanted::new(presence, true));
        wanted.is_named = true;
        self.unsent.insert(name.clone());
        self.named.insert(name);
        true
    }

    /// No longer wants `name`. Returns whether that is news.
    ///
    /// Where everything is wanted, what is held of it stays until the server says what becomes of it.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        if !self.names.get(name).is_some_and(|wanted| wanted.is_named) {
            return false;
        }
        let Some((name, wanted)) = self.names.remove_entry(name) else { return false };
        let is_unheard = self.unsent.remove(&name);
        self.named.remove(&name);
        if self.asked && !is_unheard {
            self.withdrawn.insert(name.clone());
        }
        if self.everything && wanted.was_delivered() {
            // On the next stream the server would not be told of it.
            let is_untold = match wanted.presence {
                Presence::Held => wanted.version.is_none(),
                _ => !self.asked,
            };
            let presence = if is_untold { Presence::Presumed { until: None } } else { wanted.presence };
            self.is_doubtful |= is_untold;
            self.names.insert(name, Wanted { is_named: false, presence, ..wanted });
        } else if let Some(expires) = wanted.expires {
            self.expiries.remove(&(expires, name));
        }
        true
    }

    /// Wants everything. Returns whether that is news.
    pub(super) fn want_everything(&mut self) -> bool {
        !std::mem::replace(&mut self.everything, true)
    }

    /// No longer wants everything. Returns what came of it and is forgotten now, if it was wanted.
    pub(super) fn leave_everything(&mut self) -> Option<Vec<Arc<str>>> {
        if !std::mem::take(&mut self.everything) {
            return None;
        }
        let mut left = Vec::new();
        let expiries = &mut self.expiries;
        self.names.retain(|name, wanted| {
            if wanted.is_named {
                return true;
            }
            if let Some(expires) = wanted.expires {
                expiries.remove(&(expires, name.clone()));
            }
            left.push(name.clone());
            false
        });
        left.sort_unstable();
        Some(left)
    }

    /// Somebody else has given `name` because everything is wanted, and is asked no longer.
    pub(super) fn presume(&mut self, name: &Arc<str>) {
        if self.everything {
            self.is_doubtful = true;
            self.names.entry(name.clone()).or_insert_with(|| Wanted::new(Presence::Presumed { until: None }, false));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.everything
    }

    /// How many names are wanted, or came because everything is.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn asked(&self) -> bool {
        self.asked
    }

    // --- what is owed ---

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
        self.undecided += 1;
    }

    /// There is a verdict on a batch.
    pub(super) fn decided(&mut self) {
        self.undecided -= 1;
    }

    pub(super) fn answered(&mut self, nonce: &str) {
        self.owed -= 1;
        nonce.clone_into(&mut self.nonce);
    }

    /// A batch will not be answered by itself: the answer to a later one stands for it.
    pub(super) fn settled(&mut self) {
        self.owed -= 1;
    }

    // --- what the server has said ---

    /// Another response is about to be gone through, name by name.
    pub(super) fn begin_answer(&mut self) {
        self.answers += 1;
    }

    /// `name` was delivered and is in use.
    pub(super) fn hold(&mut self, name: &str, label: Label) {
        let expires = label.expires;
        let before = self.mention(name, |wanted| {
            wanted.presence = Presence::Held;
            wanted.version = label.version;
            wanted.expires
        });
        if before.is_some_and(|before| before != expires) {
            self.expire_at(name, expires);
        }
    }

    /// `name` was delivered and cannot be used: it exists, and what is held of it stays.
    pub(super) fn refuse(&mut self, name: &str) {
        self.mention(name, |wanted| {
            if wanted.presence != Presence::Held {
                wanted.presence = Presence::Refused;
            }
        });
    }

    /// `name` stands as it did, says a response of `version`.
    ///
    /// # Errors
    ///
    /// When that cannot be, in words: it was told of another version than the one in use, or of what is not held. In delta the
    /// version is the resource's own, in state of the world that of the response, as in Envoy.
    pub(super) fn keep(&mut self, name: &str, label: Label, version: &str) -> Result<(), &'static str> {
        let Some(wanted) = self.names.get_mut(name) else {
            return if self.everything { Err(NOT_IN_USE) } else { Ok(()) };
        };
        if wanted.mentioned == self.answers {
            return Err(TWICE);
        }
        let is_in_use = match &label.version {
            Some(own) => wanted.version.as_ref() == Some(own),
            None => wanted.was_delivered() && wanted.presence != Presence::Refused && self.version == version,
        };
        wanted.mentioned = self.answers;
        if !is_in_use {
            // What was not delivered, or has expired, is still to come.
            if wanted.was_delivered() {
                self.refuse(name);
            }
            return Err(NOT_IN_USE);
        }
        if let Presence::Presumed { .. } = wanted.presence {
            wanted.presence = Presence::Held;
        }
        if wanted.presence == Presence::Held {
            self.expire_at(name, label.expires);
        }
        Ok(())
    }

    /// The server says why it does not give `name`, which is an answer, and no removal. Returns whether anybody asked for it, and
    /// the same response did not bring it.
    ///
    /// The next stream is not told that it is held: the owner may have let go of it, and should it be given again, then perhaps
    /// in the same version.
    pub(super) fn deny(&mut self, name: &str) -> bool {
        let answers = self.answers;
        let Some(wanted) = self.names.get_mut(name).filter(|wanted| wanted.mentioned != answers) else { return false };
        wanted.mentioned = answers;
        wanted.version = None;
        wanted.presence = if wanted.was_delivered() { Presence::Refused } else { Presence::Absent };
        true
    }

    fn mention<T>(&mut self, name: &str, change: impl FnOnce(&mut Wanted) -> T) -> Option<T> {
        if self.everything && !self.names.contains_key(name) {
            self.names.insert(name.into(), Wanted::new(Presence::Absent, false));
        }
        let wanted = self.names.get_mut(name)?;
        if wanted.presence == Presence::Returning {
            // The server has not heard that it left, and need not.
            self.unsent.remove(name);
        }
        wanted.mentioned = self.answers;
        Some(change(wanted))
    }

    fn expire_at(&mut self, name: &str, expires: Option<Instant>) {
        let Some(wanted) = self.names.get_mut(name) else { return };
        let before = std::mem::replace(&mut wanted.expires, expires);
        if before == expires {
            return;
        }
        let name: Arc<str> = name.into();
        if let Some(before) = before {
            self.expiries.remove(&(before, name.clone()));
        }
        if let Some(expires) = expires {
            self.expiries.insert((expires, name));
        }
    }

    /// Marks as absent, and returns in order, the names that were delivered before and that the present response does not
    /// mention.
    ///
    /// A name never delivered is left to its timer: the server may not have heard of it yet.
    pub(super) fn remove_missing(&mut self) -> Vec<(Arc<str>, AbsenceReason)> {
        let answers = self.answers;
        let is_missing = |wanted: &Wanted| wanted.was_delivered() && wanted.mentioned != answers;
        let missing = self.names.iter().filter(|(_, wanted)| is_missing(wanted));
        let mut missing: Vec<_> = missing.map(|(name, _)| name.clone()).collect();
        missing.sort_unstable();
        missing.iter().for_each(|name| self.give_up(name));
        missing.into_iter().map(|name| (name, AbsenceReason::Removed)).collect()
    }

    /// Marks as absent, and returns, those of the names that were delivered before, and those whose clock is over. Others wait for
    /// its end.
    pub(super) fn remove_named(&mut self, names: &[String]) -> Vec<(Arc<str>, AbsenceReason)> {
        let mut gone = Vec::new();
        for name in names {
            let Some((name, wanted)) = self.names.get_key_value(name.as_str()) else { continue };
            let name = name.clone();
            if wanted.mentioned == self.answers {
                // It was denied, with a reason, by the same response.
                continue;
            }
            let reason = match wanted.presence {
                _ if !wanted.is_named => AbsenceReason::Removed,
                Presence::Held | Presence::Refused | Presence::Presumed { .. } => AbsenceReason::Removed,
                Presence::Silent => AbsenceReason::Unknown,
                Presence::Awaited { deadline, .. } => {
                    self.names.entry(name).and_modify(|wanted| {
                        wanted.presence = Presence::Awaited { deadline, is_denied: true };
                    });
                    continue;
                }
                Presence::Unsent | Presence::Returning | Presence::Absent | Presence::Expired => continue,
            };
            self.give_up(&name);
            gone.push((name, reason));
        }
        gone
    }

    /// Starts the clocks of what is presumed, in delta, where nothing tells that the server has sent all that it has. Returns
    /// whose.
    pub(super) fn doubt(&mut self, deadline: Instant) -> Vec<Arc<str>> {
        let mut armed = Vec::new();
        if !std::mem::take(&mut self.is_doubtful) {
            return armed;
        }
        for (name, wanted) in &mut self.names {
            if wanted.presence == (Presence::Presumed { until: None }) {
                wanted.presence = Presence::Presumed { until: Some(deadline) };
                armed.push(name.clone());
            }
        }
        armed.sort_unstable();
        armed
    }

    // --- what time brings ---

    /// There was nothing of `name` in the time that there was for it. Returns how that is known.
    pub(super) fn run_out(&mut self, name: &str, is_denied: IsDenied) -> AbsenceReason {
        self.give_up(name);
        if is_denied {
            return AbsenceReason::Unknown;
        }
        if let Some(wanted) = self.names.get_mut(name) {
            wanted.presence = Presence::Silent;
        }
        AbsenceReason::NotFoundTimer
    }

    /// Whether `name` is awaited until then, and if so, whether the server has said that there is none.
    pub(super) fn awaited(&self, name: &str, until: Instant) -> Option<IsDenied> {
        match self.names.get(name)?.presence {
            Presence::Awaited { deadline, is_denied } if deadline == until => Some(is_denied),
            Presence::Presumed { until: Some(deadline) } if deadline == until => Some(true),
            _ => None,
        }
    }

    /// When the next resource expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// Marks as absent, and returns, the next resource that has expired.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.next_expiry()? > now {
            return None;
        }
        let (_, name) = self.expiries.pop_first()?;
        self.give_up(&name);
        self.names.entry(name.clone()).and_modify(|wanted| wanted.presence = Presence::Expired);
        self.has_lapsed = true;
        Some(name)
    }

    /// A response of `version` was accepted whole. What had expired has come again, or is not in a full state any more; of other
    /// kinds it may not have been in the response.
    pub(super) fn move_on(&mut self, version: String, is_full_state: bool) {
        let is_expired = |wanted: &Wanted| wanted.presence == Presence::Expired;
        self.has_lapsed = self.has_lapsed && !is_full_state && self.names.values().any(is_expired);
        self.version = version;
    }

    /// There is no `name`, as far as can be told. What nobody asked for by name is forgotten.
    pub(super) fn give_up(&mut self, name: &str) {
        self.expire_at(name, None);
        let Some(wanted) = self.names.get_mut(name) else { return };
        wanted.presence = Presence::Absent;
        wanted.version = None;
        if !wanted.is_named {
            self.names.remove(name);
        }
    }

    /// The stream is gone, and with it nonces, debts and clocks. Versions and what is held stay.
    pub(super) fn leave_stream(&mut self) {
        self.nonce.clear();
        self.asked = false;
        self.wildcard = Wildcard::Unsaid;
        self.changed = false;
        self.owed = 0;
        self.withdrawn.clear();
        self.listing = None;
        self.refusals.end();
        self.presume_refused();
        for (name, wanted) in &mut self.names {
            if let Presence::Presumed { until } = &mut wanted.presence {
                *until = None;
                self.is_doubtful = true;
            } else if matches!(wanted.presence, Presence::Unsent | Presence::Awaited { .. } | Presence::Returning) {
                // One that is unsent may be in the request that is not finished any more.
                wanted.presence = Presence::Unsent;
                self.unsent.insert(name.clone());
            }
        }
    }

    /// The present stream has not brought what was refused or denied on another. It has no version, so what nobody named would
    /// not be said to be gone.
    pub(super) fn presume_refused(&mut self) {
        for wanted in self.names.values_mut() {
            if wanted.presence == Presence::Refused && !wanted.is_named {
                wanted.presence = Presence::Presumed { until: None };
                self.is_doubtful = true;
            }
        }
    }

    /// What is held came from another server. This one will not be told of what nobody named, and cannot say that it is gone.
    pub(super) fn forget_versions(&mut self) {
        self.version.clear();
        for wanted in self.names.values_mut() {
            wanted.version = None;
            if !wanted.is_named && wanted.was_delivered() {
                wanted.presence = Presence::Presumed { until: None };
                self.is_doubtful = true;
            }
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn new(presence: Presence, is_named: bool) -> Self {
        Self { presence, is_named, mentioned: 0, version: None, expires: None }
    }

    fn was_delivered(&self) -> bool {
        matches!(self.presence, Presence::Held | Presence::Refused | Presence::Presumed { .. })
    }
}
