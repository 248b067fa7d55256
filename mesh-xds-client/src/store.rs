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
//! ([`keep_contents`](Store::keep_contents)).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use mesh_core::{
    config::{Cluster, Decoded, Endpoints, RouteConfig, Warning},
    source::{RefusedUpdate, ResourceState, ResourceStatus},
};
use tonic::Code;

use crate::{
    ResourceKind,
    fingerprint::Fingerprint,
    name::{canonical, canonical_arc},
    resource::{self, Context, InboundListener, ListenerResource, Resource},
    secrets,
    session::{AbsenceReason, RawResource, ResourceError},
};

/// The resources that are asked for, by kind and name.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// By [`ResourceKind::index`].
    shelves: [BTreeMap<Arc<str>, Entry>; ResourceKind::ALL.len()],
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

/// What is known of one resource.
#[derive(Debug)]
pub(crate) struct Entry {
    /// None where its name is none that anybody could be asked for.
    authority: Option<AuthorityId>,
    state: ResourceState,
    /// Whether a server has answered, be it that there is none. Where none has, and it cannot be reached, another may
    /// be asked (gRFC A71).
    is_answered: bool,
    good: Option<Good>,
    /// Why the latest news does not serve. Set by bad news, cleared by good.
    error: Option<String>,
    /// When the latest bad news came, for as long as `error` is set.
    failed_at: Option<SystemTime>,
    /// Whether it is asked for by its name, rather than among all that there are.
    is_named: bool,
    refused: Option<RefusedVersion>,
}

/// The version that was refused last, so that it is not decoded, nor reported, again.
#[derive(Debug)]
struct RefusedVersion {
    fingerprint: Fingerprint,
    error: ResourceError,
    version: Arc<str>,
    at: SystemTime,
}

/// A version that serves.
#[derive(Debug)]
struct Good {
    resource: Resource,
    fingerprint: Fingerprint,
    version: Arc<str>,
    updated: SystemTime,
    warnings: Vec<Warning>,
    /// As they came, where they are kept and may be shown.
    contents: Option<Bytes>,
    /// Whether it is from an earlier run, and no server has sent it in this one.
    is_cached: bool,
}

/// A resource as an earlier run held it.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    pub(crate) version: Arc<str>,
    pub(crate) updated: SystemTime,
    pub(crate) contents: Bytes,
}

/// A resource as it came, with all that is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Dump {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Arc<str>,
    pub(crate) state: ResourceState,
    /// The version that serves.
    pub(crate) good: Option<DumpedGood>,
    pub(crate) failure: Option<Failure>,
}

/// The version of a resource that serves.
#[derive(Debug, Clone)]
pub(crate) struct DumpedGood {
    pub(crate) version: Arc<str>,
    pub(crate) updated: SystemTime,
    /// The bytes of its message, where they are kept and may be shown.
    pub(crate) contents: Option<Bytes>,
}

/// Why the latest news of a resource does not serve.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) details: String,
    pub(crate) at: SystemTime,
    /// The version that was refused, where one was.
    pub(crate) version: Option<Arc<str>>,
}

/// What is needed to take a resource out of a response.
struct News<'a> {
    version: &'a Arc<str>,
    origin: &'a Origin<'a>,
    keeps_contents: bool,
    changes: &'a mut Changes,
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

/// How many resources of each kind are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    states: [[usize; STATES.len()]; ResourceKind::ALL.len()],
    cached: usize,
}

/// What counts of a resource: its state, and whether it is cached.
type Counted = (ResourceState, bool);

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

/// The value of a resource, as far as it is known.
pub(crate) enum Known<T> {
    /// The last good one.
    Good(T),
    /// There is none, and an answer may still come.
    Awaited,
    /// There is none, because it is absent, refused, or the server has kept silent about it.
    Missing,
}

/// Every state, in the order in which they are counted.
const STATES: [ResourceState; 6] = [
    ResourceState::Requested,
    ResourceState::Synced,
    ResourceState::Rejected,
    ResourceState::Absent,
    ResourceState::TimedOut,
    ResourceState::Failed,
];

// === impl Origin ===

#[cfg(test)]
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
        if self.shelves[kind.index()].insert(name.clone(), entry).is_none() {
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

    /// The names of a kind that need not be held when only these are wanted: all others, or where everything is asked for
    /// those of them that the server does not have.
    pub(crate) fn dispensable(&self, kind: ResourceKind, wanted: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        let keeps_all = self.is_everything(kind);
        let is_there = |entry: &Entry| matches!(entry.state, ResourceState::Synced | ResourceState::Rejected);
        let is_gone = |entry: &Entry| !keeps_all || !is_there(entry);
        let gone = self.shelves[kind.index()].iter().filter(|(name, entry)| is_gone(entry) && !wanted.contains(*name));
        gone.map(|(name, _)| name.clone()).collect()
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

    fn entries(&self) -> impl Iterator<Item = (ResourceKind, &Arc<str>, &Entry)> {
        let shelves = ResourceKind::ALL.into_iter().zip(&self.shelves);
        shelves.flat_map(|(kind, shelf)| shelf.iter().map(move |(name, entry)| (kind, name, entry)))
    }

    /// The names of a kind, in order.
    #[cfg(all(test, feature = "testkit"))]
    pub(crate) fn names(&self, kind: ResourceKind) -> impl Iterator<Item = &Arc<str>> {
        self.shelves[kind.index()].keys()
    }

    /// What is known of a resource, if it is asked for.
    pub(crate) fn get(&self, kind: ResourceKind, name: &str) -> Option<&Entry> {
        self.shelves[kind.index()].get(&*canonical(name))
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
            Resource::RouteConfiguration(routes) => Some(routes),
            _ => None,
        })
    }

    /// The cluster of this name.
    pub(crate) fn cluster(&self, name: &str) -> Known<&Arc<Cluster>> {
        self.known(ResourceKind::Cluster, name, |resource| match resource {
            Resource::Cluster(cluster) => Some(cluster),
            _ => None,
        })
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
    /// than it was asked for.
    pub(crate) fn offer(
        &mut self,
        kind: ResourceKind,
        raw: RawResource,
        version: &Arc<str>,
        origin: &Origin<'_>,
    ) -> Result<Taken, Refused> {
        if ResourceKind::from_type_url(&raw.body.type_url) != Some(kind) {
            return Err(Refused { error: foreign(kind, &raw), is_repeated: false });
        }
        let inner = resource::name_of(&raw.body.value).map(|name| canonical_arc(&name));
        if let (Some(_), Some(outer), Some(inner)) = (&raw.version, &raw.name, &inner)
            && **outer != **inner
        {
            return Err(Refused { error: misnamed(outer, inner), is_repeated: false });
        }
        let Some(name) = inner.or_else(|| raw.name.as_deref().map(Arc::from)) else {
            return Err(Refused { error: nameless(&raw, origin.context), is_repeated: false });
        };
        if self.is_everything(kind) && self.get(kind, &name).is_none() && (origin.is_heeded)(AuthorityId::default()) {
            self.want(kind, &name, AuthorityId::default());
        }
        let entry = self.shelves[kind.index()].get_mut(&name);
        let Some(entry) = entry.filter(|entry| entry.authority.is_some_and(origin.is_heeded)) else {
            return Ok(Taken { name, is_decoded: false, has_new_warnings: false });
        };
        let before = entry.counted();
        let mut news = News { version, origin, keeps_contents: self.keeps_contents, changes: &mut self.changes };
        let outcome = entry.offer(raw, name, &mut news);
        let after = entry.counted();
        // What was gone, or new, and is there now may be what somebody waits for; so may a refusal.
        self.changes.structure |= before.0 != after.0;
        self.tally.move_one(kind, before, after);
        outcome
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
                // What is of an earlier run alone has this for a removal.
                let drops = terms.is_strict || entry.is_cached() && terms.kept.is_none();
                (ResourceState::Absent, "the control plane has no such resource", drops)
            }
            AbsenceReason::Removed => (ResourceState::Absent, "the control plane has removed it", terms.kept.is_none()),
        };
        let mut error = error.to_owned();
        if drops {
            entry.good = None;
        } else if let (AbsenceReason::Removed, Some(why), Some(_)) = (reason, terms.kept, &entry.good) {
            error = format!("{error}; it is kept {why}");
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
    match resource::decode(&raw.body, context) {
        Err(error) => error,
        Ok(_) => ResourceError { name: None, field: None, message: "it has no name".to_owned() },
    }
}

/// A resource of delta whose two names differ, so that nobody can say whose version it has.
fn misnamed(outer: &str, inner: &str) -> ResourceError {
    let message = format!("it calls itself `{inner}`");
    ResourceError { name: Some(outer.to_owned()), field: None, message }
}

/// A resource of another type than the response says of all of its resources.
fn foreign(kind: ResourceKind, raw: &RawResource) -> ResourceError {
    let message = format!("it is of type `{}` in a response of type `{}`", raw.body.type_url, kind.type_url());
    ResourceError { name: raw.name.clone(), field: Some("type_url".to_owned()), message }
}

// === impl Entry ===

impl Entry {
    fn new(authority: Option<AuthorityId>, state: ResourceState) -> Self {
        Self {
            authority,
            state,
            is_answered: false,
            good: None,
            error: None,
            failed_at: None,
            is_named: true,
            refused: None,
        }
    }

    /// How it stands.
    pub(crate) fn state(&self) -> ResourceState {
        self.state
    }

    /// Why the latest news does not serve.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// What of the serving version is not honoured.
    pub(crate) fn warnings(&self) -> &[Warning] {
        self.good.as_ref().map_or(&[], |good| &good.warnings)
    }

    /// Whether what serves is of an earlier run.
    pub(crate) fn is_cached(&self) -> bool {
        self.good.as_ref().is_some_and(|good| good.is_cached)
    }

    fn counted(&self) -> Counted {
        (self.state, self.is_cached())
    }

    fn offer(&mut self, raw: RawResource, name: Arc<str>, news: &mut News<'_>) -> Result<Taken, Refused> {
        self.is_answered = true;
        let fingerprint = Fingerprint::of([&raw.body]);
        if self.good.as_ref().is_some_and(|good| good.fingerprint == fingerprint) {
            self.confirm(raw, news);
            return Ok(Taken { name, is_decoded: false, has_new_warnings: false });
        }
        if let Some(refused) = self.refused.as_mut().filter(|refused| refused.fingerprint == fingerprint) {
            (refused.version, refused.at) = (news.version.clone(), SystemTime::now());
            self.failed_at = Some(refused.at);
            return Err(Refused { error: refused.error.clone(), is_repeated: true });
        }
        let bytes = Bytes::from(raw.body.value);
        match self.decode(&raw.body.type_url, &bytes, news.origin.context) {
            Ok(decoded) => {
                let has_new_warnings = !decoded.warnings.is_empty() && decoded.warnings != self.warnings();
                self.replace(decoded, fingerprint, bytes, news);
                Ok(Taken { name, is_decoded: true, has_new_warnings })
            }
            Err(mut error) => {
                // It may stand on the wrapper alone.
                error.name.get_or_insert_with(|| name.to_string());
                if news.origin.terms.is_strict {
                    self.good = None;
                }
                self.refuse(fingerprint, &error, news);
                Err(Refused { error, is_repeated: false })
            }
        }
    }

    /// The value of these bytes.
    ///
    /// What nobody could make use of is refused where it was asked for by name. Where it comes with everything that there is,
    /// as Istio's `PassthroughCluster` does, a refusal would be of every response: there it is kept, and fails its own traffic.
    fn decode(&self, type_url: &str, bytes: &Bytes, context: &Context) -> Result<Decoded<Resource>, ResourceError> {
        let decoded = self.read(type_url, bytes, context)?;
        match decoded.value.useless() {
            Some(error) if self.is_named => Err(error),
            _ => Ok(decoded),
        }
    }

    /// A set of endpoints shares with the one before whatever has not changed.
    fn read(&self, type_url: &str, bytes: &Bytes, context: &Context) -> Result<Decoded<Resource>, ResourceError> {
        match self.good.as_ref().map(|good| &good.resource) {
            Some(Resource::Endpoints(former)) => resource::decode_endpoints(bytes.clone(), Some(former))
                .map(|Decoded { value, warnings }| Decoded { value: Resource::Endpoints(value), warnings }),
            _ => resource::decode_parts(type_url, bytes, context),
        }
    }

    /// The bytes that serve were sent again.
    fn confirm(&mut self, raw: RawResource, news: &News<'_>) {
        self.settle();
        let Some(good) = self.good.as_mut() else { return };
        let was_cached = std::mem::take(&mut good.is_cached);
        if was_cached || good.version != *news.version {
            good.version = news.version.clone();
            good.updated = SystemTime::now();
        }
        if was_cached && good.contents.is_some() {
            // What it was read from need not be held for it.
            good.contents = Some(raw.body.value.into());
        }
    }

    fn replace(&mut self, decoded: Decoded<Resource>, fingerprint: Fingerprint, bytes: Bytes, news: &mut News<'_>) {
        let Decoded { value, warnings } = decoded;
        let contents = news.keeps_contents.then_some(bytes).filter(|bytes| !secrets::may_be_in(bytes));
        let resource = match self.good.take() {
            // Servers that write maps in any order send the same in other bytes, and that is nobody's change.
            Some(good) if good.resource == value => good.resource,
            before => {
                match &value {
                    Resource::Endpoints(assignment) if before.is_some() => {
                        news.changes.endpoints.insert(canonical_arc(&assignment.cluster));
                    }
                    _ => news.changes.structure = true,
                }
                value
            }
        };
        let (version, updated) = (news.version.clone(), SystemTime::now());
        self.good = Some(Good { resource, fingerprint, version, updated, warnings, contents, is_cached: false });
        self.settle();
    }

    /// The latest version serves.
    fn settle(&mut self) {
        self.state = ResourceState::Synced;
        self.error = None;
        self.failed_at = None;
        self.refused = None;
    }

    /// The latest news is bad.
    fn fail(&mut self, state: ResourceState, error: String) {
        self.state = state;
        self.error = Some(error);
        self.failed_at = Some(SystemTime::now());
        self.refused = None;
    }

    fn refuse(&mut self, fingerprint: Fingerprint, error: &ResourceError, news: &mut News<'_>) {
        self.fail(ResourceState::Rejected, error.to_string());
        let (version, at) = (news.version.clone(), SystemTime::now());
        self.refused = Some(RefusedVersion { fingerprint, error: error.clone(), version, at });
        // Who has nothing to serve is told the newest reason.
        news.changes.structure |= self.good.is_none();
    }

    fn status(&self, kind: ResourceKind, name: &Arc<str>) -> ResourceStatus {
        let mut status = ResourceStatus::requested(kind.name(), name.clone());
        status.state = self.state;
        status.error.clone_from(&self.error);
        if let Some(good) = &self.good {
            status.version = Some(good.version.clone());
            status.updated = Some(good.updated);
            status.warnings.clone_from(&good.warnings);
            status.is_cached = good.is_cached;
        }
        status.refused = self.refused.as_ref().map(|refused| RefusedUpdate::new(refused.version.clone(), refused.at));
        status
    }

    fn dump(&self, kind: ResourceKind, name: &Arc<str>) -> Dump {
        let good = self.good.as_ref().map(|good| DumpedGood {
            version: good.version.clone(),
            updated: good.updated,
            contents: good.contents.clone(),
        });
        let failure = self.error.clone().zip(self.failed_at).map(|(details, at)| Failure {
            details,
            at,
            version: self.refused.as_ref().map(|refused| refused.version.clone()),
        });
        Dump { kind, name: name.clone(), state: self.state, good, failure }
    }
}

// === impl Good ===

impl Good {
    fn restored(
        kind: ResourceKind,
        saved: Saved,
        keeps_contents: bool,
        context: &Context,
    ) -> Result<Self, ResourceError> {
        let Saved { version, updated, contents } = saved;
        let Decoded { value, warnings } = resource::decode_parts(kind.type_url(), &contents, context)?;
        let fingerprint = Fingerprint::of_parts(kind.type_url(), &contents);
        let contents = keeps_contents.then_some(contents);
        Ok(Self { resource: value, fingerprint, version, updated, warnings, contents, is_cached: true })
    }
}

// === impl Changes ===

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        !self.structure && self.endpoints.is_empty()
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, kind: ResourceKind, (state, is_cached): Counted) {
        self.states[kind.index()][place(state)] += 1;
        self.cached += usize::from(is_cached);
    }

    fn remove(&mut self, kind: ResourceKind, (state, is_cached): Counted) {
        self.states[kind.index()][place(state)] -= 1;
        self.cached -= usize::from(is_cached);
    }

    fn move_one(&mut self, kind: ResourceKind, from: Counted, to: Counted) {
        self.remove(kind, from);
        self.add(kind, to);
    }

    /// How many serve by what an earlier run has kept.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// Every kind and state, and how many there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ResourceKind, ResourceState, usize)> {
        ResourceKind::ALL
            .into_iter()
            .zip(self.states)
            .flat_map(|(kind, counts)| STATES.into_iter().zip(counts).map(move |(state, count)| (kind, state, count)))
    }
}

fn place(state: ResourceState) -> usize {
    STATES.iter().position(|known| *known == state).expect("every state that is set here is listed")
}

#[cfg(all(test, feature = "testkit"))]
mod tests {
    use envoy_types::{
        pb::{
            envoy::config::cluster::v3::{
                Cluster as WireCluster,
                cluster::{ClusterDiscoveryType, DiscoveryType},
            },
            google::protobuf::Any,
        },
        util::pack_any,
    };
    use mesh_core::config::Discovery;

    use super::*;
    use crate::testkit::resource::cluster;

    const CDS: ResourceKind = ResourceKind::Cluster;

    fn asking_for(name: &str) -> Store {
        let mut store = Store::default();
        store.want(CDS, &name.into(), AuthorityId::default());
        store
    }

    fn offer(store: &mut Store, resource: WireCluster, version: &str) -> Result<Taken, Refused> {
        let raw = RawResource { name: None, version: None, body: pack_any(resource) };
        store.offer(CDS, raw, &version.into(), &Origin::anybody(&Context::new()))
    }

    fn unusable(name: &str) -> WireCluster {
        WireCluster { eds_cluster_config: None, ..cluster(name) }
    }

    fn warned_of(name: &str) -> WireCluster {
        WireCluster { connection_pool_per_downstream_connection: true, ..cluster(name) }
    }

    #[test]
    fn same_bytes_are_compared_and_not_decoded() {
        let mut store = asking_for("a");
        assert!(offer(&mut store, cluster("a"), "1").expect("valid").is_decoded);
        assert!(store.take_changes().structure);
        assert!(!offer(&mut store, cluster("a"), "2").expect("valid").is_decoded);
        assert!(store.take_changes().is_empty());
        let status = store.status();
        assert_eq!(status[0].version.as_deref(), Some("2"), "and yet it is the new version that serves");
    }

    #[test]
    fn same_refusal_is_repeated_without_another_look() {
        let mut store = asking_for("a");
        let first = offer(&mut store, unusable("a"), "1").expect_err("refused");
        let again = offer(&mut store, unusable("a"), "2").expect_err("refused");
        assert_eq!((first.is_repeated, again.is_repeated), (false, true));
        assert_eq!(first.error, again.error);
        offer(&mut store, cluster("a"), "3").expect("valid");
        assert!(!offer(&mut store, unusable("a"), "4").expect_err("refused").is_repeated, "it was good in between");
    }

    #[test]
    fn refused_version_is_told_with_its_time_until_another_is_accepted() {
        let mut store = asking_for("a");
        let _ = offer(&mut store, cluster("a"), "1");
        let _ = offer(&mut store, unusable("a"), "2");
        let first = store.status()[0].refused.clone().expect("refused");
        assert_eq!(&*first.version, "2");
        let _ = offer(&mut store, unusable("a"), "3");
        let again = store.status()[0].clone();
        let refused = again.refused.expect("refused");
        assert_eq!((again.version.as_deref(), &*refused.version), (Some("1"), "3"), "offered again");
        assert!(refused.at >= first.at);
        let _ = offer(&mut store, cluster("a"), "4");
        assert_eq!(store.status()[0].refused, None);
    }

    fn saved(resource: WireCluster, version: &str) -> Saved {
        let contents = pack_any(resource).value.into();
        Saved { version: version.into(), updated: SystemTime::UNIX_EPOCH, contents }
    }

    fn restored(name: &str) -> Store {
        let mut store = asking_for(name);
        store.restore(CDS, name, saved(cluster(name), "old"), &Context::new()).expect("usable");
        store
    }

    #[test]
    fn resource_of_an_earlier_run_serves_and_counts_for_no_answer() {
        let mut store = restored("a");
        assert!(matches!(store.cluster("a"), Known::Good(_)));
        assert!(store.take_changes().structure);
        assert!(store.lacks(AuthorityId::default()), "another server may know better");
        let status = store.status().remove(0);
        assert_eq!(
            (status.state, status.is_cached, status.version.as_deref()),
            (ResourceState::Requested, true, Some("old"))
        );
        assert_eq!(status.updated, Some(SystemTime::UNIX_EPOCH));
        assert_eq!(store.tally().cached(), 1);
        store.forget(CDS, "a");
        assert_eq!(store.tally(), Tally::default());
    }

    #[test]
    fn resource_that_comes_again_is_of_this_run_and_is_nobodys_change() {
        let mut store = restored("a");
        store.take_changes();
        assert!(!offer(&mut store, cluster("a"), "new").expect("valid").is_decoded, "the same bytes");
        let status = store.status().remove(0);
        assert_eq!(
            (status.state, status.is_cached, status.version.as_deref()),
            (ResourceState::Synced, false, Some("new"))
        );
        assert!(status.updated > Some(SystemTime::UNIX_EPOCH));
        assert_eq!(store.tally().cached(), 0);
    }

    #[test]
    fn resource_of_an_earlier_run_outlives_silence_and_refusals_and_not_the_word_that_there_is_none() {
        let mut store = restored("a");
        let _ = offer(&mut store, unusable("a"), "new");
        assert!(matches!(store.cluster("a"), Known::Good(_)));
        store.absent(CDS, "a", AbsenceReason::NotFoundTimer, Terms::default());
        assert!(matches!(store.cluster("a"), Known::Good(_)));
        let kept = Terms { kept: Some("until no route names it"), ..Terms::default() };
        store.absent(CDS, "a", AbsenceReason::Unknown, kept);
        assert!(matches!(store.cluster("a"), Known::Good(_)));
        store.absent(CDS, "a", AbsenceReason::Unknown, Terms::default());
        assert!(matches!(store.cluster("a"), Known::Missing));
        assert_eq!(store.tally().cached(), 0);
    }

    #[test]
    fn news_is_not_replaced_by_what_is_old_and_the_unusable_is_told() {
        let mut store = asking_for("a");
        store.restore(CDS, "a", saved(unusable("a"), "old"), &Context::new()).expect_err("unusable");
        assert!(matches!(store.cluster("a"), Known::Awaited));
        let _ = offer(&mut store, cluster("a"), "new");
        store.restore(CDS, "a", saved(cluster("a"), "old"), &Context::new()).expect("not looked at");
        assert_eq!(store.status()[0].version.as_deref(), Some("new"));
    }

    #[test]
    fn contents_are_kept_where_asked_for_and_never_with_a_key() {
        let contents = |store: &Store| store.dump().remove(0).good.expect("good").contents;
        let mut store = asking_for("a");
        let _ = offer(&mut store, cluster("a"), "1");
        assert_eq!(contents(&store), None);
        let mut store = asking_for("a");
        store.keep_contents();
        let _ = offer(&mut store, cluster("a"), "1");
        assert_eq!(contents(&store), Some(pack_any(cluster("a")).value.into()));
        let keyed = WireCluster { alt_stat_name: "-----BEGIN PRIVATE KEY-----".to_owned(), ..cluster("a") };
        let _ = offer(&mut store, keyed, "2");
        assert_eq!(contents(&store), None);
    }

    #[test]
    fn cluster_that_cannot_be_honoured_is_refused_by_name_and_kept_among_all() {
        let passthrough = || WireCluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
            ..WireCluster { name: "a".to_owned(), ..WireCluster::default() }
        };
        let mut store = asking_for("a");
        let refused = offer(&mut store, passthrough(), "1").expect_err("asked for by name");
        assert_eq!(refused.error.name.as_deref(), Some("a"));
        assert!(refused.error.message.contains("original destination is not supported"), "{}", refused.error);

        let mut store = asking_for("a");
        store.shelves[CDS.index()].get_mut("a").expect("asked for").is_named = false;
        assert!(offer(&mut store, passthrough(), "1").expect("kept").has_new_warnings);
        let Known::Good(cluster) = store.cluster("a") else { panic!("it is there") };
        assert!(matches!(cluster.discovery, Discovery::Unsupported(_)), "{cluster:?}");
    }

    #[test]
    fn warnings_are_news_when_they_change() {
        let mut store = asking_for("a");
        assert!(offer(&mut store, warned_of("a"), "1").expect("valid").has_new_warnings);
        let other = WireCluster { alt_stat_name: "other".to_owned(), ..warned_of("a") };
        assert!(!offer(&mut store, other, "2").expect("valid").has_new_warnings);
        assert!(!offer(&mut store, cluster("a"), "3").expect("valid").has_new_warnings);
        assert!(offer(&mut store, warned_of("a"), "4").expect("valid").has_new_warnings);
        assert_eq!(store.status()[0].warnings.len(), 1);
    }

    #[test]
    fn what_nobody_asked_for_is_neither_looked_at_nor_kept() {
        let mut store = asking_for("a");
        let taken = offer(&mut store, unusable("b"), "1").expect("nobody looks");
        assert_eq!(taken, Taken { name: "b".into(), is_decoded: false, has_new_warnings: false });
        assert!(store.get(CDS, "b").is_none());
        assert!(store.take_changes().is_empty());
    }

    #[test]
    fn resource_of_another_type_or_without_a_name_is_refused() {
        let mut store = asking_for("a");
        let foreign = Any { type_url: ResourceKind::Listener.type_url().to_owned(), value: Vec::new() };
        let nameless = Any { type_url: CDS.type_url().to_owned(), value: Vec::new() };
        for (body, field) in [(foreign, "type_url"), (nameless, "name")] {
            let raw = RawResource { name: None, version: None, body };
            let refused = store.offer(CDS, raw, &"1".into(), &Origin::anybody(&Context::new())).expect_err("refused");
            assert_eq!(refused.error.field.as_deref(), Some(field), "{:?}", refused.error);
        }
    }

    #[test]
    fn every_resource_is_counted_in_one_state_and_none_when_all_are_forgotten() {
        let mut store = asking_for("a");
        let counted = |store: &Store| -> Vec<_> {
            store.tally().iter().filter(|(_, _, count)| *count > 0).map(|(_, state, count)| (state, count)).collect()
        };
        assert_eq!(counted(&store), [(ResourceState::Requested, 1)]);
        let _ = offer(&mut store, unusable("a"), "1");
        assert_eq!(counted(&store), [(ResourceState::Rejected, 1)]);
        let _ = offer(&mut store, cluster("a"), "2");
        assert_eq!(counted(&store), [(ResourceState::Synced, 1)]);
        store.absent(CDS, "a", AbsenceReason::Removed, Terms::default());
        assert_eq!(counted(&store), [(ResourceState::Absent, 1)]);
        assert_eq!(store.forget(CDS, "a"), Some(AuthorityId::default()));
        assert_eq!(counted(&store), []);
    }
}
