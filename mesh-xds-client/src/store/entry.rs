//! What is known of one resource: the version that serves, and what became of the latest.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use mesh_core::{
    config::{Decoded, Warning},
    source::{RefusedUpdate, ResourceState, ResourceStatus},
};

use super::{
    AuthorityId, Changes, Origin, Refused, Taken,
    kept::{Contents, Dump, DumpedGood, Failure, Saved},
    tally::Counted,
};
use crate::{
    ResourceKind,
    fingerprint::Fingerprint,
    name::canonical_arc,
    resource::{self, Context, Resource},
    session::ResourceError,
};

/// What is known of one resource.
#[derive(Debug)]
pub(crate) struct Entry {
    /// None where its name is none that anybody could be asked for.
    pub(super) authority: Option<AuthorityId>,
    pub(super) state: ResourceState,
    /// Whether a server has answered, be it that there is none. Where none has, and it cannot be reached, another may
    /// be asked (gRFC A71).
    pub(super) is_answered: bool,
    pub(super) good: Option<Good>,
    /// Why the latest news does not serve. Set by bad news, cleared by good.
    pub(super) error: Option<String>,
    /// When the latest bad news came, for as long as `error` is set.
    pub(super) failed_at: Option<SystemTime>,
    /// Whether the latest news is that the server does not give it, and why (xRFC TP3).
    pub(super) is_denied: bool,
    /// Whether it is asked for by its name, rather than among all that there are.
    pub(super) is_named: bool,
    /// Boxed, since hardly any resource has one.
    pub(super) refused: Option<Box<RefusedVersion>>,
}

/// The version that was refused last, so that it is not decoded, nor reported, again.
#[derive(Debug)]
pub(super) struct RefusedVersion {
    pub(super) fingerprint: Fingerprint,
    /// How many identities were registered then. Where there are more, it may be valid that was refused for want of one.
    identities: usize,
    pub(super) error: ResourceError,
    pub(super) version: Arc<str>,
    pub(super) at: SystemTime,
}

/// A version that serves.
#[derive(Debug)]
pub(super) struct Good {
    pub(super) resource: Resource,
    pub(super) fingerprint: Fingerprint,
    pub(super) version: Arc<str>,
    pub(super) updated: SystemTime,
    pub(super) warnings: Vec<Warning>,
    /// As they came, where they are kept.
    pub(super) contents: Option<Contents>,
    /// Whether it is from an earlier run, and no server has sent it in this one.
    pub(super) is_cached: bool,
    /// Whether it has a time to live, so that it is nothing for a later run.
    pub(super) is_mortal: bool,
}

/// What is needed to take a resource out of a response.
pub(super) struct News<'a> {
    pub(super) version: &'a Arc<str>,
    pub(super) origin: &'a Origin<'a>,
    /// How many identities were registered before it was looked at; what is taken in pieces refers to none.
    pub(super) identities: usize,
    pub(super) keeps_contents: bool,
    pub(super) changes: &'a mut Changes,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(authority: Option<AuthorityId>, state: ResourceState) -> Self {
        Self {
            authority,
            state,
            is_answered: false,
            good: None,
            error: None,
            failed_at: None,
            is_denied: false,
            is_named: true,
            refused: None,
        }
    }

    /// Who is asked for it.
    pub(crate) fn authority(&self) -> Option<AuthorityId> {
        self.authority
    }

    /// How it stands.
    pub(crate) fn state(&self) -> ResourceState {
        self.state
    }

    /// Whether the server has it, as far as it has said: it has given it, usable or not, and has not taken it away. That it
    /// does not give it any more, for a reason, takes nothing away that goes on serving (gRFC A88).
    pub(crate) fn is_there(&self) -> bool {
        match self.state {
            ResourceState::Synced | ResourceState::Rejected => true,
            _ => self.is_denied && self.good.is_some(),
        }
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

    /// Whether what serves is of this run.
    pub(crate) fn is_served_anew(&self) -> bool {
        self.good.as_ref().is_some_and(|good| !good.is_cached)
    }

    pub(super) fn counted(&self) -> Counted {
        (self.state, self.is_cached())
    }

    /// What is to be done with bytes that are known already, by their fingerprint.
    pub(super) fn recognise(
        &mut self,
        fingerprint: Fingerprint,
        bytes: &Bytes,
        name: &Arc<str>,
        news: &News<'_>,
    ) -> Option<Result<Taken, Refused>> {
        self.is_answered = true;
        if self.good.as_ref().is_some_and(|good| good.fingerprint == fingerprint) {
            self.confirm(bytes, news);
            return Some(Ok(Taken { name: name.clone(), is_decoded: false, has_new_warnings: false }));
        }
        let is_this = |refused: &&mut Box<RefusedVersion>| {
            (refused.fingerprint, refused.identities) == (fingerprint, news.identities)
        };
        let refused = self.refused.as_mut().filter(is_this)?;
        (refused.version, refused.at) = (news.version.clone(), SystemTime::now());
        self.failed_at = Some(refused.at);
        Some(Err(Refused { error: refused.error.clone(), is_repeated: true }))
    }

    /// The last good version, of which what has not changed can be used again.
    pub(super) fn former(&self) -> Option<&Resource> {
        self.good.as_ref().map(|good| &good.resource)
    }

    /// What was decoded serves, or is refused.
    pub(super) fn conclude(
        &mut self,
        outcome: Result<Decoded<Resource>, ResourceError>,
        fingerprint: Fingerprint,
        bytes: Bytes,
        name: Arc<str>,
        news: &mut News<'_>,
    ) -> Result<Taken, Refused> {
        match outcome {
            Ok(decoded) => {
                let has_new_warnings = !decoded.warnings.is_empty() && decoded.warnings != self.warnings();
                self.replace(decoded, fingerprint, bytes, news);
                Ok(Taken { name, is_decoded: true, has_new_warnings })
            }
            Err(mut error) => {
                // It may stand on the wrapper alone, or be written in another way than the one that it is known by here and in
                // the session, which would not take the resource for mentioned.
                error.name = Some(name.to_string());
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
    pub(super) fn decode(
        &self,
        kind: ResourceKind,
        bytes: &Bytes,
        context: &Context,
    ) -> Result<Decoded<Resource>, ResourceError> {
        let decoded = self.read(kind, bytes, context)?;
        match decoded.value.useless() {
            Some(error) if self.is_named => Err(error),
            _ => Ok(decoded),
        }
    }

    /// Endpoints and routes share with those before whatever has not changed.
    fn read(&self, kind: ResourceKind, bytes: &Bytes, context: &Context) -> Result<Decoded<Resource>, ResourceError> {
        match self.former() {
            Some(Resource::Endpoints(former)) => {
                resource::decode_endpoints(bytes.clone(), Some(former)).map(|decoded| decoded.map(Resource::Endpoints))
            }
            Some(Resource::RouteConfiguration(former)) => resource::decode_routes(bytes.clone(), Some(former), context)
                .map(|decoded| decoded.map(Resource::RouteConfiguration)),
            _ => resource::decode_parts(kind.type_url(), bytes, context),
        }
    }

    /// The bytes that serve were sent again.
    fn confirm(&mut self, bytes: &Bytes, news: &News<'_>) {
        self.settle();
        let Some(good) = self.good.as_mut() else { return };
        let was_cached = std::mem::take(&mut good.is_cached);
        if was_cached || good.version != *news.version {
            good.version = news.version.clone();
            good.updated = SystemTime::now();
        }
        if was_cached && good.contents.is_some() {
            // What it was read from need not be held for it.
            good.contents = Some(Contents::new(Bytes::copy_from_slice(bytes)));
        }
    }

    fn replace(&mut self, decoded: Decoded<Resource>, fingerprint: Fingerprint, bytes: Bytes, news: &mut News<'_>) {
        let Decoded { value, warnings } = decoded;
        // They are part of a response, which need not be held for them.
        let contents = news.keeps_contents.then(|| Contents::new(Bytes::copy_from_slice(&bytes)));
        let resource = match self.good.take() {
            // Servers that write maps in any order send the same in other bytes, and that is nobody's change.
            Some(good) if good.resource == value => value.in_place_of(good.resource),
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
        let (is_cached, is_mortal) = (false, false);
        self.good = Some(Good { resource, fingerprint, version, updated, warnings, contents, is_cached, is_mortal });
        self.settle();
    }

    /// The latest version serves.
    fn settle(&mut self) {
        self.state = ResourceState::Synced;
        self.error = None;
        self.failed_at = None;
        self.is_denied = false;
        self.refused = None;
    }

    /// The latest news is bad.
    pub(super) fn fail(&mut self, state: ResourceState, error: String) {
        self.state = state;
        self.error = Some(error);
        self.failed_at = Some(SystemTime::now());
        self.is_denied = false;
        self.refused = None;
    }

    fn refuse(&mut self, fingerprint: Fingerprint, error: &ResourceError, news: &mut News<'_>) {
        self.fail(ResourceState::Rejected, error.to_string());
        let (identities, error, version) = (news.identities, error.clone(), news.version.clone());
        let refused = RefusedVersion { fingerprint, identities, error, version, at: SystemTime::now() };
        self.refused = Some(Box::new(refused));
        // Who has nothing to serve is told the newest reason.
        news.changes.structure |= self.good.is_none();
    }

    pub(super) fn status(&self, kind: ResourceKind, name: &Arc<str>) -> ResourceStatus {
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

    pub(crate) fn dump(&self, kind: ResourceKind, name: &Arc<str>) -> Dump {
        let good = self.good.as_ref().map(|good| DumpedGood {
            version: good.version.clone(),
            updated: good.updated,
            contents: good.contents.clone(),
            is_mortal: good.is_mortal,
        });
        let failure = self.error.clone().zip(self.failed_at).map(|(details, at)| Failure {
            details,
            at,
            version: self.refused.as_ref().map(|refused| refused.version.clone()),
            is_denial: self.is_denied,
        });
        Dump { kind, name: name.clone(), state: self.state, is_answered: self.is_answered, good, failure }
    }
}

// === impl Good ===

impl Good {
    pub(super) fn restored(
        kind: ResourceKind,
        saved: Saved,
        keeps_contents: bool,
        context: &Context,
    ) -> Result<Self, ResourceError> {
        let Saved { version, updated, contents } = saved;
        let Decoded { value, warnings } = resource::decode_parts(kind.type_url(), &contents, context)?;
        let fingerprint = context.fingerprint(kind.type_url(), &contents);
        let contents = keeps_contents.then(|| Contents::new(contents));
        let (is_cached, is_mortal) = (true, false);
        Ok(Self { resource: value, fingerprint, version, updated, warnings, contents, is_cached, is_mortal })
    }
}
