//! Requests, which say what is asked for and held, in either variant: [`begin_all`](Subscriptions::begin_all) lists what is wanted,
//! [`begin_changes`](Subscriptions::begin_changes) what the server has not heard of.
//!
//! There may be thousands of names, so a request is made [name by name](Subscriptions::list). It says how things stood when it was
//! begun; what changes meanwhile is left to the next.

use std::collections::{BTreeSet, HashMap, btree_set};
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Presence, Subscriptions, Wildcard};
use crate::session::{Reply, Variant};

/// A request on its way.
#[derive(Debug)]
pub(super) struct Listing {
    variant: Variant,
    /// Whether it is the first of its kind on the stream.
    is_first: bool,
    /// What it lists so far.
    names: Vec<String>,
    /// Whether all are in it that are asked for by name, where it is to list them.
    is_listed: bool,
    /// The names whose clock starts with it, as far as they have not been seen to.
    unsent: btree_set::IntoIter<Arc<str>>,
    /// Those that are left for the next request.
    left: BTreeSet<Arc<str>>,
    /// In delta, what is not wanted any longer.
    unsubscribe: Vec<String>,
}

/// What went into a request in state of the world.
pub(in crate::session) struct Sent {
    pub(in crate::session) names: Vec<String>,
    /// Whether some names were left for the next request.
    pub(in crate::session) is_partial: bool,
}

/// What went into a request in delta.
pub(in crate::session) struct Changes {
    pub(in crate::session) subscribe: Vec<String>,
    pub(in crate::session) unsubscribe: Vec<String>,
    /// What is held, in the first request of a stream.
    pub(in crate::session) versions: HashMap<String, String>,
}

/// What lists everything, as a name.
const EVERYTHING: &str = "*";

// === impl Subscriptions ===

impl Subscriptions {
    /// Whether the first request on a stream can be made, and is needed. It tells what is held, and what the last stream
    /// brought may still be about to be: the server would never hear that it is, nor say that it is gone.
    pub(in crate::session) fn may_begin(&self) -> bool {
        self.undecided == 0 && !self.is_empty()
    }

    // --- requests in state of the world ---

    /// What a request must repeat that only announces changed names, or `None` when none is due.
    ///
    /// None is due while an answer is owed, since the answer will carry the names: sent now, the names would come with a
    /// nonce that the server has left behind, and be passed over. None is due when there is nothing to take back either:
    /// without names, the first request of a kind on a stream asks for everything.
    pub(in crate::session) fn announce(&mut self) -> Option<Reply> {
        if !self.asked && !self.may_begin() {
            self.changed = false;
        }
        if !self.changed || self.owed > 0 {
            return None;
        }
        if !self.asked && self.lacks_some() {
            self.version.clear();
        }
        Some(Reply { version: self.version.clone(), nonce: self.nonce.clone(), error: None })
    }

    /// Whether the next stream, in state of the world, asks a server for something that it was not told to be held.
    pub(in crate::session) fn asks_for_news(&self) -> bool {
        self.may_begin() && (self.version.is_empty() || self.lacks_some())
    }

    /// A version vouches for the whole set of names. Where one of them was never answered, or has expired, a server that
    /// compares versions only would have nothing to send on a new stream, and the name would look absent.
    fn lacks_some(&self) -> bool {
        let is_unanswered = |name| self.names.get(name).is_some_and(|wanted| wanted.presence == Presence::Unsent);
        self.has_lapsed || self.unsent.iter().any(is_unanswered)
    }

    /// Begins a request in state of the world.
    pub(in crate::session) fn begin_all(&mut self) {
        self.withdrawn.clear();
        self.begin(Variant::StateOfTheWorld, Vec::new());
    }

    /// The names for a request in state of the world that is [listed](Self::list).
    pub(in crate::session) fn finish_all(&mut self) -> Option<Sent> {
        let Listing { mut names, left, is_first, .. } = self.listing.take()?;
        if !left.is_empty() {
            names.retain(|name| !left.contains(name.as_str()));
        }
        self.unsent.extend(left);
        let is_ending = self.list_everything(&mut names, is_first);
        Some(Sent { names, is_partial: is_ending || !self.unsent.is_empty() })
    }

    /// Adds `*` to the names where it is needed. Returns whether it has to be taken back by the next request: an empty list
    /// goes on meaning everything until something was named.
    fn list_everything(&mut self, names: &mut Vec<String>, is_first: bool) -> bool {
        let is_implied = names.is_empty() && (is_first || self.wildcard == Wildcard::Implied);
        let is_ending = !self.everything && is_implied && self.wildcard == Wildcard::Implied;
        self.wildcard = match (self.everything, is_implied) {
            (true, true) => Wildcard::Implied,
            (true, false) => Wildcard::Named,
            (false, _) => Wildcard::Unsaid,
        };
        if is_ending || self.wildcard == Wildcard::Named {
            names.insert(0, EVERYTHING.to_owned());
        }
        is_ending
    }

    // --- requests in delta ---

    /// Begins a request in delta. Returns whether there may be one.
    ///
    /// What left and is wanted again before the server heard of it is subscribed to once more, which the protocol takes for a
    /// wish to have it sent again.
    pub(in crate::session) fn begin_changes(&mut self) -> bool {
        if !self.asked && !self.may_begin() {
            self.changed = false;
            return false;
        }
        let withdrawn = mem::take(&mut self.withdrawn).into_iter();
        let left = withdrawn.filter(|name| !self.names.get(name).is_some_and(|wanted| wanted.is_named));
        let unsubscribe = left.map(|name| name.to_string()).collect();
        self.begin(Variant::Delta, unsubscribe);
        true
    }

    /// What the server is to hear of in a request in delta that is [listed](Self::list); none where there is nothing.
    pub(in crate::session) fn finish_changes(&mut self) -> Option<Changes> {
        let Listing { names, is_first, unsubscribe, .. } = self.listing.take()?;
        let mut changes = Changes { subscribe: names, unsubscribe, versions: HashMap::new() };
        if is_first {
            let held = self.names.iter().filter_map(|(name, wanted)| Some((name.to_string(), wanted.version.clone()?)));
            changes.versions = held.collect();
        }
        self.change_everything(&mut changes, is_first);
        let is_worth_sending = is_first || !changes.subscribe.is_empty() || !changes.unsubscribe.is_empty();
        is_worth_sending.then_some(changes)
    }

    /// Adds `*` to what is subscribed to, or to what is not any longer.
    fn change_everything(&mut self, changes: &mut Changes, is_first: bool) {
        let has_names = !changes.subscribe.is_empty() || !changes.unsubscribe.is_empty();
        let (is_wanted, believed) = (self.everything, self.wildcard);
        self.wildcard = match (is_wanted, believed) {
            (false, _) => Wildcard::Unsaid,
            (true, Wildcard::Unsaid) if is_first && !has_names => Wildcard::Implied,
            (true, Wildcard::Implied) if !has_names => Wildcard::Implied,
            (true, _) => Wildcard::Named,
        };
        if self.wildcard == Wildcard::Named && believed != Wildcard::Named {
            changes.subscribe.insert(0, EVERYTHING.to_owned());
        }
        if !is_wanted && believed != Wildcard::Unsaid {
            changes.unsubscribe.insert(0, EVERYTHING.to_owned());
        }
    }

    // --- requests in both ---

    fn begin(&mut self, variant: Variant, unsubscribe: Vec<String>) {
        self.changed = false;
        let is_first = !mem::replace(&mut self.asked, true);
        let unsent = mem::take(&mut self.unsent);
        let mut listing = Listing {
            variant,
            is_first,
            names: Vec::new(),
            is_listed: false,
            unsent: unsent.into_iter(),
            left: BTreeSet::new(),
            unsubscribe,
        };
        listing.is_listed = !listing.lists_all();
        let names = if listing.lists_all() { self.named.len() } else { listing.unsent.len() };
        listing.names.reserve(names);
        self.listing = Some(listing);
    }

    /// Goes on with the request that was begun, by `most` names. Those that wait for an answer from now until `deadline` are
    /// `armed`. Returns whether it can be finished.
    pub(in crate::session) fn list(&mut self, most: usize, deadline: Instant, mut armed: impl FnMut(Arc<str>)) -> bool {
        let Some(listing) = &mut self.listing else { return true };
        let mut left = most;
        if !listing.is_listed {
            left -= listing.list(&self.named, left);
            listing.is_listed = left > 0;
        }
        let lists_all = listing.lists_all();
        for name in listing.unsent.by_ref().take(left) {
            left -= 1;
            if !lists_all {
                listing.names.push(name.to_string());
            }
            let Some(wanted) = self.names.get_mut(&name) else { continue };
            match (wanted.presence, listing.variant) {
                (Presence::Returning, Variant::StateOfTheWorld) => {
                    wanted.presence = Presence::Unsent;
                    listing.left.insert(name);
                }
                (Presence::Unsent | Presence::Returning, _) => {
                    wanted.presence = Presence::Awaited { deadline, is_denied: false };
                    armed(name);
                }
                _ => {}
            }
        }
        left > 0
    }
}

// === impl Listing ===

impl Listing {
    /// Whether it lists all that are asked for by name, rather than those whose clock starts with it.
    fn lists_all(&self) -> bool {
        self.variant == Variant::StateOfTheWorld || self.is_first
    }

    /// Lists `most` more of these. Returns how many more there were, up to that.
    fn list(&mut self, named: &BTreeSet<Arc<str>>, most: usize) -> usize {
        let before = self.names.len();
        let after = self.names.last().map_or(Bound::Unbounded, |last| Bound::Excluded(last.as_str()));
        let next: Vec<_> =
            named.range::<str, _>((after, Bound::Unbounded)).take(most).map(ToString::to_string).collect();
        self.names.extend(next);
        self.names.len() - before
    }
}

// === impl Changes ===

impl Changes {
    /// Keeps silent about one thing that is held, so that a server which has no news has something to say: without a response
    /// nobody could tell that it is there. It is one that is asked for by name, since of others it would not say that they are
    /// gone. Returns whether something is asked for now that is not said to be held.
    pub(in crate::session) fn leave_out_one_version(&mut self) -> bool {
        if let Some(first) = self.subscribe.iter().find(|name| self.versions.contains_key(*name)) {
            self.versions.remove(first);
        }
        self.subscribe.iter().any(|name| name != EVERYTHING && !self.versions.contains_key(name))
    }
}
