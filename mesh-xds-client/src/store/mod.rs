//! What the control plane has said of each resource that is asked for: the last good value, and what became of the
//! latest.
//!
//! Good configuration survives bad news. A refused version leaves the value before it in place, and so does a stream
//! that ends; only a removal by the server, or nobody asking any longer, takes a value away.
//!
//! Compare before decoding: a resource whose bytes are those of the last version costs a hash, keeps its `Arc` and is
//! nobody's change. A full state of a thousand clusters in which one has changed decodes one.
//!
//! Of a kind of which everything is asked for, all that comes is kept, until the server takes it away and nobody needs it.
//!
//! The bytes themselves are let go of when they are decoded, unless somebody shows them or writes them down
//! ([`keep_contents`](Store::keep_contents)), who then find out whether there may be a secret in them ([`Contents`](kept::Contents)).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use mesh_core::{
    config::{Cluster, Endpoints, RouteConfig},
    source::{ResourceState, ResourceStatus},
};
use tonic::Code;

use crate::{
    ResourceKind,
    name::{canonical, canonical_arc, name_of},
    resource::{self, Context, InboundListener, ListenerResource, Resource},
    session::{AbsenceReason, RawResource, ResourceError, TWICE},
};

mod entry;
mod kept;
mod tally;
mod underway;

pub(crate) use self::{
    entry::Entry,
    kept::{Dump, DumpedGood, Failure, Saved},
    tally::Tally,
    underway::{Begun, COMPARING, Underway},
};

#[cfg(test)]
pub(crate) use self::kept::Contents;

use self::entry::{Good, News};

/// The resources that are asked for, by kind and name.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// By [`ResourceKind::index`]. Boxed, since a node of the map has room for eleven, and half of it stands empty where names
    /// come in order.
    shelves: [BTreeMap<Arc<str>, Box<Entry>>; ResourceKind::ALL.len()],
    /// By [`ResourceKind::index`].
    everything: [Everything; ResourceKind::ALL.len()],
    tally: Tally,
    changes: Changes,
    keeps_contents: bool,
}

/// Who is asked for a resource: the place of an authority in the client's list (gRFC A47).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AuthorityId(pub(crate) usize);

/// Whether everything of a kind is asked for, rather than names. It is the authority of the older names that is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Everything {
    #[default]
    Unasked,
    Asked,
    /// A response has come.
    Answered,
}

/// Where a resource comes from.
pub(crate) struct Origin<'a> {
    pub(crate) context: &'a Context,
    /// Whether this server is asked for the resources of an authority at present.
    pub(crate) is_heeded: &'a dyn Fn(AuthorityId) -> bool,
    pub(crate) terms: Terms,
}

/// What bad news of a server means for the good version before (gRFC A88).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Why what the server removes goes on serving, where it does.
    pub(crate) kept: Option<&'static str>,
    /// Whether what is of an earlier run alone goes on serving, though this server says that there is none.
    pub(crate) keeps_cached: bool,
    /// Whether errors in data end what was good before (`fail_on_data_errors`).
    pub(crate) is_strict: bool,
    /// Whether silence is trouble rather than an answer (`resource_timer_is_transient_error`).
    pub(crate) is_patient: bool,
}

/// What a server says of a resource that it does not give.
pub(crate) struct Denial {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// What has changed since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Whether anything may have changed which resources are needed, or whether they are there.
    pub(crate) structure: bool,
    /// The endpoints that have another value, where there was one before.
    pub(crate) endpoints: BTreeSet<Arc<str>>,
}

/// A resource that was offered and is accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) name: Arc<str>,
    /// Whether it had to be decoded, rather than compared.
    pub(crate) is_decoded: bool,
    /// Whether it has warnings that the version before it did not have.
    pub(crate) has_new_warnings: bool,
}

/// A resource that was offered and is refused. The value before it, if there is one, stays.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error: ResourceError,
    /// Whether these bytes were refused before.
    pub(crate) is_repeated: bool,
}

/// What came of a look for names that need not be held.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    pub(crate) dispensable: Vec<Arc<str>>,
    /// The last name that was looked at, where there may be more.
    pub(crate) last: Option<Arc<str>>,
}

/// The value of a resource, as far as it is known.
pub(crate) enum Known<T> {
    /// The last good one.
    Good(T),
    /// There is none, and an answer may still come.
    Awaited,
    /// There is none, because it is absent, refused, or the server has kept silent about it.
    Missing,
}

// === impl Taken ===

impl Taken {
    /// Of what nobody looks at.
    fn unread(name: Arc<str>) -> Self {
        Self { name, is_decoded: false, has_new_warnings: false }
    }
}

// === impl Origin ===

#[cfg(all(test, feature = "testkit"))]
impl<'a> Origin<'a> {
    /// The only server of all.
    pub(crate) fn anybody(context: &'a Context) -> Self {
        Self { context, is_heeded: &|_| true, terms: Terms::default() }
    }
}

// === impl Store ===

impl Store {
    /// Keeps the bytes of what is accepted from now on, at the cost of their length.
    pub(crate) fn keep_contents(&mut self) {
        self.keeps_contents = true;
    }

    /// Makes room for a resource that is asked for from now on.
    pub(crate) fn want(&mut self, kind: ResourceKind, name: &Arc<str>, authority: AuthorityId) {
        let is_named = !self.is_everything(kind);
        self.insert(kind, name, Entry { is_named, ..Entry::new(Some(authority), ResourceState::Requested) });
    }

    /// Makes room for a resource whose name nobody can be asked for, for this reason.
    pub(crate) fn refuse_name(&mut self, kind: ResourceKind, name: &Arc<str>, reason: String) {
        let mut entry = Entry::new(None, ResourceState::Requested);
        entry.fail(ResourceState::Rejected, reason);
        self.insert(kind, name, entry);
        self.changes.structure = true;
    }

    fn insert(&mut self, kind: ResourceKind, name: &Arc<str>, entry: Entry) {
        let counted = entry.counted();
        if self.shelves[kind.index()].insert(name.clone(), Box::new(entry)).is_none() {
            self.tally.add(kind, counted);
        }
    }

    /// Forgets a resource that nobody asks for any longer. Returns who was asked for it.
    pub(crate) fn forget(&mut self, kind: ResourceKind, name: &str) -> Option<AuthorityId> {
        let entry = self.shelves[kind.index()].remove(name)?;
        self.tally.remove(kind, entry.counted());
        entry.authority
    }

    /// Asks for everything of a kind. Returns whether that is news.
    pub(crate) fn want_everything(&mut self, kind: ResourceKind) -> bool {
        let everything = &mut self.everything[kind.index()];
        let is_news = *everything == Everything::Unasked;
        if is_news {
            *everything = Everything::Asked;
        }
        is_news
    }

    /// Whether everything of a kind is asked for. Its names are then asked for by nobody.
    pub(crate) fn is_everything(&self, kind: ResourceKind) -> bool {
        self.everything[kind.index()] != Everything::Unasked
    }

    /// A response of this kind has come, and what it brought is stored.
    pub(crate) fn answered(&mut self, kind: ResourceKind) {
        let everything = &mut self.everything[kind.index()];
        if *everything == Everything::Asked {
            *everything = Everything::Answered;
            self.changes.structure = true;
        }
    }

    /// Looks through `most` names of a kind, those that come after `after`, for what need not be held when only these are wanted:
    /// all others, or where everything is asked for those of them that the server does not have.
    pub(crate) fn sweep(
        &self,
        kind: ResourceKind,
        wanted: &BTreeSet<Arc<str>>,
        after: Option<&Arc<str>>,
        most: usize,
    ) -> Swept {
        let keeps_all = self.is_everything(kind);
        let rest = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut wanted = wanted.range::<Arc<str>, _>(rest).peekable();
        let (mut looked_at, mut swept) = (0, Swept::default());
        for (name, entry) in self.shelves[kind.index()].range::<Arc<str>, _>(rest).take(most) {
            while wanted.next_if(|wanted| *wanted < name).is_some() {}
            if wanted.peek() != Some(&name) && !(keeps_all && entry.is_there()) {
                swept.dispensable.push(name.clone());
            }
            looked_at += 1;
            if looked_at == most {
                swept.last = Some(name.clone());
            }
        }
        swept
    }

    /// All that an authority is asked for by name.
    pub(crate) fn asked_of(&self, authority: AuthorityId) -> impl Iterator<Item = (ResourceKind, &Arc<str>)> {
        let is_asked =
            move |kind: &ResourceKind, entry: &Entry| entry.authority == Some(authority) && !self.is_everything(*kind);
        self.entries().filter(move |(kind, _, entry)| is_asked(kind, entry)).map(|(kind, name, _)| (kind, name))
    }

    /// Whether anything that an authority is asked for has neither a value of this run nor an answer.
    pub(crate) fn lacks(&self, authority: AuthorityId) -> bool {
        let is_unanswered = authority == AuthorityId::default() && self.everything.contains(&Everything::Asked);
        let is_lacking = |entry: &Entry| !entry.is_answered && (entry.good.is_none() || entry.is_cached());
        is_unanswered || self.entries().any(|(.., entry)| entry.authority == Some(authority) && is_lacking(entry))
    }

    /// The names of a kind that serve by what an earlier run has kept, and that nobody has spoken of in all the time that a
    /// server has.
    pub(crate) fn unspoken_of(&self, kind: ResourceKind) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        let is_unspoken_of = |entry: &Entry| entry.is_cached() && entry.state == ResourceState::TimedOut;
        let entries = self.shelves[kind.index()].iter().map(|(name, entry)| (name, &**entry));
        entries.filter(move |(_, entry)| is_unspoken_of(entry))
    }

    fn entries(&self) -> impl Iterator<Item = (ResourceKind, &Arc<str>, &Entry)> {
        let shelves = ResourceKind::ALL.into_iter().zip(&self.shelves);
        shelves.flat_map(|(kind, shelf)| shelf.iter().map(move |(name, entry)| (kind, name, &**entry)))
    }

    /// The names of a kind, in order.
    #[cfg(all(test, feature = "testkit"))]
    pub(crate) fn names(&self, kind: ResourceKind) -> impl Iterator<Item = &Arc<str>> {
        self.shelves[kind.index()].keys()
    }

    /// What is known of a resource, if it is asked for.
    pub(crate) fn get(&self, kind: ResourceKind, name: &str) -> Option<&Entry> {
        self.shelves[kind.index()].get(&*canonical(name)).map(|entry| &**entry)
    }

    /// The listener of this name.
    pub(crate) fn listener(&self, name: &str) -> Known<&Arc<ListenerResource>> {
        self.known(ResourceKind::Listener, name, |resource| match resource {
            Resource::Listener(listener) => Some(listener),
            _ => None,
        })
    }

    /// The listener of this name through which requests come in.
    pub(crate) fn inbound(&self, name: &str) -> Option<&Arc<InboundListener>> {
        match &self.get(ResourceKind::Listener, name)?.good.as_ref()?.resource {
            Resource::Inbound(listener) => Some(listener),
            _ => None,
        }
    }

    /// The routes of this name.
    pub(crate) fn routes(&self, name: &str) -> Known<&Arc<RouteConfig>> {
        self.known(ResourceKind::RouteConfiguration, name, |resource| match resource {
            Resource::RouteConfiguration(routes) => Some(&routes.config),
            _ => None,
        })
    }

    /// The cluster of this name.
    pub(crate) fn cluster(&self, name: &str) -> Known<&Arc<Cluster>> {
        self.known(ResourceKind::Cluster, name, |resource| match resource {
            Resource::Cluster { cluster, .. } => Some(cluster),
            _ => None,
        })
    }

    /// Whether the endpoints of this cluster are to be waited for however long they take.
    pub(crate) fn is_patient(&self, cluster: &str) -> bool {
        let is_patient = |resource| matches!(resource, &Resource::Cluster { is_patient: true, .. }).then_some(&());
        matches!(self.known(ResourceKind::Cluster, cluster, is_patient), Known::Good(()))
    }

    /// The endpoints of this name.
    pub(crate) fn endpoints(&self, name: &str) -> Known<&Arc<Endpoints>> {
        self.known(ResourceKind::ClusterLoadAssignment, name, |resource| match resource {
            Resource::Endpoints(assignment) => Some(&assignment.endpoints),
            _ => None,
        })
    }

    fn known<'a, T>(
        &'a self,
        kind: ResourceKind,
        name: &str,
        project: impl FnOnce(&'a Resource) -> Option<&'a T>,
    ) -> Known<&'a T> {
        let Some(entry) = self.get(kind, name) else { return Known::Awaited };
        match entry.good.as_ref().and_then(|good| project(&good.resource)) {
            Some(value) => Known::Good(value),
            None if entry.state == ResourceState::Requested => Known::Awaited,
            None => Known::Missing,
        }
    }

    /// Takes a resource out of a response.
    ///
    /// What nobody asked this server for is accepted without a look: it will not be used, and a server may send more
    /// than it was asked for. What is large is left to whoever [advances](Underway::advance) it. `seen` has the names that the
    /// response has brought so far: of a name listed twice the first is used, as in gRPC's C-core and Envoy.
    pub(crate) fn begin(
        &mut self,
        kind: ResourceKind,
        raw: RawResource,
        version: &Arc<str>,
        seen: &mut HashSet<Arc<str>>,
        origin: &Origin<'_>,
    ) -> Begun {
        let (name, bytes) = match self.identify(kind, raw, seen, origin) {
            Ok(identified) => identified,
            Err(error) => return Begun::Settled(Err(Refused { error, is_repeated: false })),
        };
        if Underway::is_for(kind, &bytes) {
            return Begun::Underway(Box::new(Underway::new(kind, name, version.clone(), bytes, origin.context)));
        }
        let outcome = self.with(kind, &name, version, origin, |entry, news| {
            let fingerprint = news.origin.context.fingerprint(kind.type_url(), &bytes);
            entry.recognise(fingerprint, &bytes, &name, news).unwrap_or_else(|| {
                let decoded = entry.decode(kind, &bytes, news.origin.context);
                entry.conclude(decoded, fingerprint, bytes, name.clone(), news)
            })
        });
        Begun::Settled(outcome.unwrap_or_else(|| Ok(Taken::unread(name))))
    }

    /// As [`begin`](Self::begin), to its end.
    #[cfg(all(test, feature = "testkit"))]
    pub(crate) fn offer(
        &mut self,
        kind: ResourceKind,
        raw: RawResource,
        version: &Arc<str>,
        origin: &Origin<'_>,
    ) -> Result<Taken, Refused> {
        match self.begin(kind, raw, version, &mut HashSet::new(), origin) {
            Begun::Settled(outcome) => outcome,
            Begun::Underway(mut underway) => loop {
                let mut left = usize::MAX;
                if let Some(outcome) = underway.advance(&mut left, self, origin) {
                    return outcome;
                }
            },
        }
    }

    /// The name of a resource that is taken out of a response, and its bytes.
    fn identify(
        &mut self,
        kind: ResourceKind,
        raw: RawResource,
        seen: &mut HashSet<Arc<str>>,
        origin: &Origin<'_>,
    ) -> Result<(Arc<str>, Bytes), ResourceError> {
        if ResourceKind::from_type_url(&raw.body.type_url) != Some(kind) {
            return Err(foreign(kind, &raw));
        }
        let inner = name_of(&raw.body.value).map(|name| canonical_arc(&name));
        if let (Some(outer), Some(inner)) = (&raw.name, &inner)
            && **outer != **inner
        {
            return Err(misnamed(outer, inner));
        }
        let Some(name) = inner.or_else(|| raw.name.as_deref().map(Arc::from)) else {
            return Err(nameless(&raw, origin.context));
        };
        if !seen.insert(name.clone()) {
            return Err(repeated(&name));
        }
        if self.is_everything(kind) && self.get(kind, &name).is_none() && (origin.is_heeded)(AuthorityId::default()) {
            self.want(kind, &name, AuthorityId::default());
        }
        Ok((name, raw.body.value))
    }

    /// Has something become of a resource, unless nobody has asked this server for it.
    fn with<T>(
        &mut self,
        kind: ResourceKind,
        name: &str,
        version: &Arc<str>,
        origin: &Origin<'_>,
        act: impl FnOnce(&mut Entry, &mut News<'_>) -> T,
    ) -> Option<T> {
        let entry = self.shelves[kind.index()].get_mut(name)?;
        if !entry.authority.is_some_and(origin.is_heeded) {
            return None;
        }
        let before = entry.counted();
        let mut news = News {
            version,
            origin,
            identities: origin.context.registered(),
            keeps_contents: self.keeps_contents,
            changes: &mut self.changes,
        };
        let outcome = act(entry, &mut news);
        let after = entry.counted();
        // What was gone, or new, and is there now may be what somebody waits for; so may a refusal.
        self.changes.structure |= before.0 != after.0;
        self.tally.move_one(kind, before, after);
        Some(outcome)
    }

    /// Notes whether what serves of a resource has a time to live, by word of a server. Returns whether it had another.
    pub(crate) fn note_mortal(&mut self, kind: ResourceKind, name: &str, is_mortal: bool, origin: &Origin<'_>) -> bool {
        let entry = self.shelves[kind.index()].get_mut(name);
        let entry = entry.filter(|entry| entry.authority.is_some_and(origin.is_heeded));
        let Some(good) = entry.and_then(|entry| entry.good.as_mut()) else { return false };
        std::mem::replace(&mut good.is_mortal, is_mortal) != is_mortal
    }

    /// Has a resource of an earlier run serve until a server sends it. Its state stays what it is: asked for, and not
    /// answered. Nothing happens where the resource is not asked for any longer, or there is news of it.
    ///
    /// # Errors
    ///
    /// When this run cannot use it.
    pub(crate) fn restore(
        &mut self,
        kind: ResourceKind,
        name: &str,
        saved: Saved,
        context: &Context,
    ) -> Result<(), ResourceError> {
        let Some(entry) = self.shelves[kind.index()].get_mut(name) else { return Ok(()) };
        if entry.good.is_some() || entry.state != ResourceState::Requested {
            return Ok(());
        }
        let before = entry.counted();
        let good = Good::restored(kind, saved, self.keeps_contents, context)?;
        if let Some(error) = good.resource.useless().filter(|_| entry.is_named) {
            return Err(error);
        }
        entry.good = Some(good);
        self.changes.structure = true;
        self.tally.move_one(kind, before, entry.counted());
        Ok(())
    }

    /// The server has no such resource, as far as can be told. Whether the value before stays is for the terms to say.
    pub(crate) fn absent(&mut self, kind: ResourceKind, name: &str, reason: AbsenceReason, terms: Terms) {
        let Some(entry) = self.shelves[kind.index()].get_mut(name) else { return };
        let before = entry.counted();
        let (state, error, drops) = match reason {
            AbsenceReason::NotFoundTimer if terms.is_patient => {
                (ResourceState::TimedOut, "the control plane has not answered in time, and may yet", false)
            }
            AbsenceReason::NotFoundTimer => {
                (ResourceState::TimedOut, "the control plane did not answer in time", terms.is_strict)
            }
            AbsenceReason::Expired => (ResourceState::Absent, "its time to live is over", true),
            AbsenceReason::Unknown => {
                // For what is of an earlier run alone this is the first word of a server, and there is no order in which
                // others of its words would have to come.
                let drops = terms.is_strict || entry.is_cached() && !terms.keeps_cached;
                (ResourceState::Absent, "the control plane has no such resource", drops)
            }
            AbsenceReason::Removed => (ResourceState::Absent, "the control plane has removed it", terms.kept.is_none()),
        };
        let mut error = error.to_owned();
        if drops {
            entry.good = None;
        } else if let (AbsenceReason::Removed, Some(why), Some(_)) = (reason, terms.kept, &entry.good) {
            error = format!("{error}; it is kept {why}");
        } else if entry.is_cached() {
            error += "; what an earlier run has kept of it serves";
        }
        entry.is_answered |= !(reason == AbsenceReason::NotFoundTimer && terms.is_patient);
        entry.fail(state, error);
        self.changes.structure = true;
        self.tally.move_one(kind, before, entry.counted());
    }

    /// The server says why it does not give a resource (xRFC TP3). What was good before ends only where the server is
    /// to be taken by its word, and the word is that there is none for this client (gRFC A88).
    pub(crate) fn deny(&mut self, kind: ResourceKind, name: &str, denial: Denial, terms: Terms) {
        let Some(entry) = self.shelves[kind.index()].get_mut(name) else { return };
        let Denial { code, message } = denial;
        let before = entry.counted();
        if terms.is_strict && matches!(code, Code::NotFound | Code::PermissionDenied) {
            entry.good = None;
        }
        let state = if code == Code::NotFound { ResourceState::Absent } else { ResourceState::Failed };
        let mut error = format!("the control plane answers {code:?}");
        if !message.is_empty() {
            error = format!("{error}: {message}");
        }
        if entry.good.is_some() {
            error += "; the version before is kept";
        }
        entry.is_answered = true;
        entry.fail(state, error);
        entry.is_denied = true;
        self.changes.structure = true;
        self.tally.move_one(kind, before, entry.counted());
    }

    /// The targets that are watched have changed, and with them what is needed.
    pub(crate) fn touch(&mut self) {
        self.changes.structure = true;
    }

    /// What has changed since this was last called.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// How many resources are in which state.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// How every resource stands, by kind and name.
    pub(crate) fn status(&self) -> Vec<ResourceStatus> {
        self.entries().map(|(kind, name, entry)| entry.status(kind, name)).collect()
    }

    /// Every resource with what is kept of its bytes, by kind and name.
    pub(crate) fn dump(&self) -> Vec<Dump> {
        self.entries().map(|(kind, name, entry)| entry.dump(kind, name)).collect()
    }
}

/// A resource whose name cannot be read.
fn nameless(raw: &RawResource, context: &Context) -> ResourceError {
    match resource::decode_parts(&raw.body.type_url, &raw.body.value, context) {
        Err(error) => error,
        Ok(_) => ResourceError { name: None, field: None, message: "it has no name".to_owned() },
    }
}

/// A resource whose wrapper has another name, so that nobody can say whose version and time to live it has.
fn misnamed(outer: &str, inner: &str) -> ResourceError {
    let message = format!("it calls itself `{inner}`");
    ResourceError { name: Some(outer.to_owned()), field: None, message }
}

/// A resource of which the same response has brought another.
fn repeated(name: &str) -> ResourceError {
    ResourceError { name: Some(name.to_owned()), field: None, message: TWICE.to_owned() }
}

/// A resource of another type than the response says of all of its resources.
fn foreign(kind: ResourceKind, raw: &RawResource) -> ResourceError {
    let message = format!("it is of type `{}` in a response of type `{}`", raw.body.type_url, kind.type_url());
    ResourceError { name: raw.name.clone(), field: Some("type_url".to_owned()), message }
}

// === impl Changes ===

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        !self.structure && self.endpoints.is_empty()
    }
}

#[cfg(all(test, feature = "testkit"))]
mod tests;
