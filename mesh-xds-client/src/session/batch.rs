//! One response on its way to a verdict: its resources out of their wrappers, and the ticket to answer it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{self as wire_xds, Resource};
use envoy_types::pb::google::protobuf as wire;
use prost::{Message, Name};
use tokio::time::Instant;
use tonic::Code;

use super::wire::{Sealed, SealedAny, SealedDelta, SealedResource, SealedState};
use super::{FOREVER, ResourceError};
use crate::ResourceKind;
use crate::fingerprint::Fingerprinting;
use crate::name::{canonical, name_of};

/// The resources of one response, to be decoded and answered.
///
/// It gives them one by one, in the order of the response and without their `envoy.service.discovery.v3.Resource` wrapper:
/// there may be thousands, and whoever takes them may have other things to do in between.
///
/// What a response in delta lists twice is not given out. In state of the world the name may be known inside the resource only,
/// so there it is for whoever takes them to refuse the second.
#[derive(Debug)]
pub struct Batch {
    /// What all of the resources should be. Each resource's own type URL is the peer's claim and still to be checked.
    pub kind: ResourceKind,
    /// The server's version of this kind. In delta it is for people alone, and each resource has its own.
    pub version: String,
    left: Left,
    /// When it came, from which times to live are counted.
    received: Instant,
    pub(super) ticket: Ticket,
}

/// What nobody has taken yet, as it was sent.
#[derive(Debug)]
enum Left {
    State(vec::IntoIter<Bytes>),
    Delta {
        resources: vec::IntoIter<Bytes>,
        /// What is listed more than once, and not used.
        repeated: BTreeSet<String>,
        /// Until it is known what that is. None is taken before.
        unchecked: Option<Unchecked>,
    },
}

/// The names that a response in delta speaks of, as far as they have been looked at.
#[derive(Debug)]
struct Unchecked {
    removed: Vec<String>,
    /// How many of the resources have been.
    checked: usize,
    seen: HashSet<Bytes>,
}

/// A resource that nobody has looked into.
#[derive(Debug, Clone, PartialEq)]
pub struct RawResource {
    /// The name on the wrapper, by which the version and the time to live go, and so must the resource itself. Where the wrapper
    /// has none it is the resource's. Without a wrapper the name is inside.
    pub name: Option<String>,
    /// The version of this very resource, in delta.
    pub version: Option<String>,
    /// The resource's type and bytes, as sent.
    pub body: SealedAny,
}

/// The right and the duty to answer one [`Batch`]: it can be spent once, and should not be dropped.
#[derive(Debug)]
#[must_use = "a batch that is never answered holds back every later request of its kind"]
pub struct Ticket {
    pub(super) stream: u64,
    pub(super) kind: ResourceKind,
    pub(super) version: String,
    pub(super) nonce: String,
    /// Whether any of its resources was said to be in use.
    pub(super) is_begun: bool,
    /// Of the resources that were taken, where the response before was refused.
    pub(super) fingerprint: Option<Fingerprinting>,
    /// Errors of the wrappers, found before anyone could decode.
    pub(super) malformed: Vec<ResourceError>,
    /// Resources without a body, which says that they stand as they were.
    pub(super) heartbeats: Vec<(String, Label)>,
    /// What the wrappers say of resources, by name, until they are said to be in use.
    pub(super) labels: HashMap<String, Label>,
    pub(super) gone: Gone,
    /// Resources that the server does not give, and why.
    pub(super) denied: Vec<Denied>,
}

/// What a server says of a resource that it does not give (xRFC TP3, `resource_errors`).
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) name: String,
    pub(super) code: Code,
    pub(super) message: String,
}

/// The name on a wrapper in delta.
#[derive(Clone, PartialEq, Message)]
struct NameOnly {
    #[prost(bytes = "bytes", tag = "3")]
    name: Bytes,
}

/// What a response says of resources that are gone.
#[derive(Debug)]
pub(super) enum Gone {
    /// What it does not mention is.
    Missing,
    /// These are.
    Named(Vec<String>),
}

/// What a wrapper says of its resource.
#[derive(Debug, Default)]
pub(super) struct Label {
    /// In delta.
    pub(super) version: Option<String>,
    /// When the resource is to be forgotten, unless it comes again.
    pub(super) expires: Option<Instant>,
}

/// What became of the resources of a [`Batch`].
///
/// Every resource is in exactly one of the lists, or was [accepted](super::Session::accept) before. One rejected resource refuses the response, and its neighbours are still
/// used (gRFC A46).
#[derive(Debug, Default)]
pub struct Verdict {
    /// The names of the resources that are now in use.
    pub accepted: Vec<Arc<str>>,
    /// What is wrong with the others.
    pub rejected: Vec<ResourceError>,
}

/// What is wrong with a name that one response lists more than once.
pub(crate) const TWICE: &str = "it is listed twice in one response";

/// The type of the wrapper that resources may have in state of the world.
static WRAPPER: LazyLock<String> = LazyLock::new(Resource::type_url);

// === impl Batch ===

impl Batch {
    /// Takes the resources of a response out of their wrappers. `compares` asks for a fingerprint.
    pub(super) fn unpack(stream: u64, kind: ResourceKind, response: Sealed, compares: bool, now: Instant) -> Self {
        let mut batch = match response {
            Sealed::StateOfTheWorld(response) => Self::of_state(stream, kind, response, now),
            Sealed::Delta(response) => Self::of_delta(stream, kind, response, now),
        };
        batch.ticket.fingerprint = compares.then(Fingerprinting::default);
        batch
    }

    fn of_state(stream: u64, kind: ResourceKind, response: SealedState, now: Instant) -> Self {
        let mut ticket = Ticket::new(stream, kind, &response.version_info, response.nonce);
        if kind.is_full_state() {
            ticket.gone = Gone::Missing;
        }
        ticket.denied = denied(response.resource_errors);
        let left = Left::State(response.resources.into_iter());
        Self { kind, version: response.version_info, left, received: now, ticket }
    }

    fn of_delta(stream: u64, kind: ResourceKind, response: SealedDelta, now: Instant) -> Self {
        let mut ticket = Ticket::new(stream, kind, &response.system_version_info, response.nonce);
        ticket.denied = denied(response.resource_errors);
        let seen = HashSet::with_capacity(response.resources.len() + response.removed_resources.len());
        let unchecked = Some(Unchecked { removed: response.removed_resources, checked: 0, seen });
        let left = Left::Delta { resources: response.resources.into_iter(), repeated: BTreeSet::new(), unchecked };
        Self { kind, version: response.system_version_info, left, received: now, ticket }
    }

    /// Looks for names that are there more than once, in `most` resources. Returns in how many: none when it is known. Who takes a
    /// resource before has the rest looked at in one go.
    pub(crate) fn check(&mut self, most: usize) -> usize {
        let Left::Delta { resources, repeated, unchecked } = &mut self.left else { return 0 };
        let Some(names) = unchecked else { return 0 };
        let rest = &resources.as_slice()[names.checked..];
        let next = &rest[..most.min(rest.len())];
        let named = next.iter().filter_map(|resource| NameOnly::decode(resource.clone()).ok());
        repeated.extend(named.filter_map(|resource| names.see(resource.name)));
        names.checked += next.len();
        if next.len() == rest.len()
            && let Some(mut names) = unchecked.take()
        {
            let removed = std::mem::take(&mut names.removed);
            repeated.extend(removed.iter().filter_map(|name| names.see(Bytes::copy_from_slice(name.as_bytes()))));
            self.ticket.refuse_repeated(removed, repeated);
        }
        next.len()
    }

    /// Whether a resource that was taken, and is not said to be in use yet, has a time to live.
    pub(crate) fn is_mortal(&self, name: &str) -> bool {
        self.ticket.labels.get(name).is_some_and(|label| label.expires.is_some())
    }

    /// The resources without a body, of those that were taken, that are given a time to live.
    pub(crate) fn prolonged(&self) -> impl Iterator<Item = &str> {
        let prolonged = self.ticket.heartbeats.iter().filter(|(_, label)| label.expires.is_some());
        prolonged.map(|(name, _)| &**name)
    }

    /// What [`Session::answer`](super::Session::answer) takes. Until then no request of this kind is sent in state of the world.
    /// What nobody has taken of the batch is not used.
    pub fn into_ticket(mut self) -> Ticket {
        // Of what is wrong with the wrappers the answer tells all the same.
        self.by_ref().for_each(drop);
        self.ticket
    }
}

impl Iterator for Batch {
    type Item = RawResource;

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (Left::State(resources) | Left::Delta { resources, .. }) = &self.left;
        (0, Some(resources.len()))
    }

    fn next(&mut self) -> Option<RawResource> {
        self.check(usize::MAX);
        let Self { left, received, ticket, .. } = self;
        loop {
            let taken = match left {
                Left::State(resources) => ticket.unwrap_state(&resources.next()?, *received),
                Left::Delta { resources, repeated, .. } => ticket.unwrap_delta(&resources.next()?, repeated, *received),
            };
            if taken.is_some() {
                return taken;
            }
        }
    }
}

/// A time above zero, and none that cannot be added to an instant.
fn time_to_live(ttl: wire::Duration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(ttl.seconds).ok()?, u64::try_from(ttl.nanos).ok()?);
    let ttl = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos));
    (!ttl.is_zero()).then(|| ttl.min(FOREVER))
}

fn denied(errors: Vec<wire_xds::ResourceError>) -> Vec<Denied> {
    let told = errors.into_iter().filter_map(|error| {
        let name = error.resource_name.map(|name| name.name).filter(|name| !name.is_empty())?;
        let detail = error.error_detail.unwrap_or_default();
        Some(Denied { name: canonical_string(name), code: Code::from_i32(detail.code), message: detail.message })
    });
    told.collect()
}

fn canonical_string(name: String) -> String {
    match canonical(&name) {
        Cow::Borrowed(_) => name,
        Cow::Owned(canonical) => canonical,
    }
}

fn name_inside(body: &SealedAny) -> Option<String> {
    name_of(&body.value).map(|name| name.as_ref().to_owned())
}

fn nameless() -> ResourceError {
    complaint(None, Some("name"), "it has no name")
}

fn complaint(name: Option<String>, field: Option<&str>, message: &str) -> ResourceError {
    ResourceError { name, field: field.map(str::to_owned), message: message.to_owned() }
}

// === impl Unchecked ===

impl Unchecked {
    /// Returns a name that was seen before.
    fn see(&mut self, name: Bytes) -> Option<String> {
        let is_repeated = !name.is_empty() && !self.seen.insert(name.clone());
        is_repeated.then(|| String::from_utf8_lossy(&name).into_owned())
    }
}

// === impl Ticket ===

impl Ticket {
    fn new(stream: u64, kind: ResourceKind, version: &str, nonce: String) -> Self {
        Self {
            stream,
            kind,
            version: version.to_owned(),
            nonce,
            is_begun: false,
            fingerprint: None,
            malformed: Vec::new(),
            heartbeats: Vec::new(),
            labels: HashMap::new(),
            gone: Gone::Named(Vec::new()),
            denied: Vec::new(),
        }
    }

    /// Takes what is removed, but for names that the response speaks of more than once, and complains of those.
    fn refuse_repeated(&mut self, removed: Vec<String>, repeated: &BTreeSet<String>) {
        let removed = removed.into_iter().filter(|name| !repeated.contains(name));
        self.gone = Gone::Named(removed.map(canonical_string).collect());
        let names = repeated.iter().cloned().map(canonical_string);
        self.malformed.extend(names.map(|name| complaint(Some(name), None, "it is listed twice in one response")));
    }

    /// Whether all resources of the response have a name that can be read, as far as their wrappers go.
    pub(crate) fn is_readable(&self) -> bool {
        self.malformed.iter().all(|error| error.name.is_some())
    }

    /// The nonce of the response, for logs.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    fn unwrap_state(&mut self, sealed: &Bytes, now: Instant) -> Option<RawResource> {
        let body: SealedAny = self.open(sealed, "google.protobuf.Any")?;
        self.compare(&body);
        if body.type_url != *WRAPPER {
            return Some(RawResource { name: None, version: None, body });
        }
        let resource = self.open(&body.value, "envoy.service.discovery.v3.Resource")?;
        // The version of all stands in the response.
        self.unwrap(resource, None, now)
    }

    fn unwrap_delta(&mut self, sealed: &Bytes, repeated: &BTreeSet<String>, now: Instant) -> Option<RawResource> {
        let mut resource: SealedResource = self.open(sealed, "envoy.service.discovery.v3.Resource")?;
        resource.resource.iter().for_each(|body| self.compare(body));
        if resource.name.is_empty() {
            self.malformed.push(nameless());
            return None;
        }
        if repeated.contains(&resource.name) {
            return None;
        }
        let version = std::mem::take(&mut resource.version);
        self.unwrap(resource, Some(version), now)
    }

    fn open<M: Message + Default>(&mut self, bytes: &Bytes, wrapper: &str) -> Option<M> {
        let opened = M::decode(bytes.clone()).map_err(|error| {
            let message = format!("its {wrapper} wrapper is not valid protobuf: {error}");
            self.malformed.push(complaint(None, None, &message));
        });
        opened.ok()
    }

    fn compare(&mut self, body: &SealedAny) {
        self.fingerprint.iter_mut().for_each(|fingerprint| fingerprint.add(&body.type_url, &body.value));
    }

    /// Aliases are passed over: they are other names under which a resource may be looked up, and it is asked for by its own.
    /// So is `resource_name`, for variants by dynamic parameters, which go with requests that have `resource_locators`: ours have
    /// none, and `removed_resource_names` would speak of nothing that is held.
    fn unwrap(&mut self, resource: SealedResource, version: Option<String>, now: Instant) -> Option<RawResource> {
        let SealedResource { name, resource: body, ttl, .. } = resource;
        let name = if name.is_empty() { body.as_ref().and_then(name_inside) } else { Some(name) };
        let name = name.map(canonical_string);
        let expires = match ttl.map(time_to_live) {
            None => None,
            Some(Some(ttl)) => Some(now + ttl),
            Some(None) => {
                self.malformed.push(complaint(name, Some("ttl"), "give a time above zero, or none"));
                return None;
            }
        };
        let label = Label { version: version.clone(), expires };
        let Some(body) = body else {
            match name {
                Some(name) => self.heartbeats.push((name, label)),
                None => self.malformed.push(nameless()),
            }
            return None;
        };
        if let Some(name) = name.clone() {
            // Of a name listed twice the first is used.
            self.labels.entry(name).or_insert(label);
        }
        Some(RawResource { name, version, body })
    }
}
