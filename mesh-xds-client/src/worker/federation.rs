//! Who is asked for what: the authorities of names, and the control planes that each of them uses (gRFC A47, A71).

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    fallback::{Fallback, Standing, Step},
    streams::Streams,
    upstream::Upstream,
};
use crate::{
    ResourceKind,
    agreement::Presence,
    bootstrap::{Bootstrap, Server},
    name::{self, XdstpName},
    store::{AuthorityId, Store},
};

/// The authorities and their control planes.
pub(super) struct Federation {
    pub(super) upstreams: Vec<Upstream>,
    /// By [`AuthorityId`]. The first has all names that are not of `xdstp:`.
    authorities: Vec<Authority>,
    by_name: BTreeMap<String, AuthorityId>,
}

/// Who has some of the resources.
struct Authority {
    /// None for the one that has the older names.
    name: Option<String>,
    /// The places of its control planes, the preferred one first.
    upstreams: Vec<usize>,
    fallback: Fallback,
    /// How many resources it is asked for.
    asked: usize,
}

/// The authority of names that are not of `xdstp:`.
const DEFAULT: AuthorityId = AuthorityId(0);

// === impl Federation ===

impl Federation {
    /// `upstreams` are those of all servers of the bootstrap, each once.
    pub(super) fn new(bootstrap: &Bootstrap, upstreams: Vec<Upstream>) -> Self {
        let places = |servers: &[Server]| {
            let mut places = Vec::new();
            for server in servers {
                let place = upstreams.iter().position(|upstream| upstream.server == *server);
                // Named twice, it would be its own stand-in.
                places.extend(place.filter(|place| !places.contains(place)));
            }
            places
        };
        let mut authorities = vec![Authority::new(None, places(bootstrap.servers()), false)];
        let mut by_name = BTreeMap::new();
        for (name, authority) in bootstrap.authorities() {
            by_name.insert(name.to_owned(), AuthorityId(authorities.len()));
            let is_on_reachability_only = authority.falls_back_on_reachability_only();
            let places = places(authority.servers());
            authorities.push(Authority::new(Some(name.to_owned()), places, is_on_reachability_only));
        }
        Self { upstreams, authorities, by_name }
    }

    /// The work on the streams was dropped, and they with it.
    pub(super) fn streams_dropped(&mut self, now: Instant) {
        for upstream in &mut self.upstreams {
            upstream.interrupted(now);
        }
    }

    /// Who has the resource of this name, or why nobody has.
    pub(super) fn authority_of(&self, kind: ResourceKind, name: &str) -> Result<AuthorityId, String> {
        if !name::is_of_one(name) {
            return Err("the name is not that of one resource".to_owned());
        }
        if !name::is_xdstp(name) {
            return Ok(DEFAULT);
        }
        let parsed = XdstpName::of_kind(kind, name).map_err(|error| error.to_string())?;
        let authority = self.by_name.get(&parsed.authority).copied();
        authority
            .ok_or_else(|| format!("its authority `{}` is not one of the bootstrap's authorities", parsed.authority))
    }

    /// Asks for everything of a kind, of the authority of the older names.
    pub(super) fn subscribe_all(&mut self, kind: ResourceKind) {
        self.authorities[DEFAULT.0].asked += 1;
        for place in self.authorities[DEFAULT.0].in_use() {
            self.upstreams[place].session.subscribe_all(kind);
        }
    }

    /// Makes room where so many names of a kind are about to be asked for, of the authority of the older names: others have few.
    pub(super) fn make_room(&mut self, kind: ResourceKind, names: usize) {
        for place in self.authorities[DEFAULT.0].in_use() {
            self.upstreams[place].session.make_room(kind, names);
        }
    }

    /// Asks for a resource.
    pub(super) fn subscribe(&mut self, authority: AuthorityId, kind: ResourceKind, name: &str) {
        self.authorities[authority.0].asked += 1;
        for place in self.authorities[authority.0].in_use() {
            self.upstreams[place].session.subscribe(kind, name);
        }
    }

    /// Asks for a resource no longer.
    pub(super) fn unsubscribe(&mut self, authority: AuthorityId, kind: ResourceKind, name: &str) {
        self.authorities[authority.0].asked -= 1;
        for place in self.authorities[authority.0].in_use() {
            self.upstreams[place].session.unsubscribe(kind, name);
        }
    }

    /// Whether this control plane is asked for the resources of an authority.
    pub(super) fn is_heeded(&self, place: usize, authority: AuthorityId) -> bool {
        self.authorities[authority.0].in_use().any(|used| used == place)
    }

    /// Whether another control plane speaks in the place of this one for an authority. The clocks of this one mean nothing
    /// then: what they wait for has been asked of the other.
    pub(super) fn is_stood_in_for(&self, place: usize, authority: AuthorityId) -> bool {
        let later = self.authorities[authority.0].in_use().skip_while(|used| *used != place).skip(1);
        later.into_iter().any(|used| self.upstreams[used].standing == Standing::Live)
    }

    /// Whether this control plane is asked for anything.
    pub(super) fn is_in_use(&self, place: usize) -> bool {
        (0..self.authorities.len()).any(|authority| self.is_heeded(place, AuthorityId(authority)))
    }

    /// Where each authority stands.
    pub(super) fn presences(&self) -> impl Iterator<Item = (AuthorityId, Presence)> {
        (0..self.authorities.len()).map(AuthorityId).map(|id| (id, self.presence(id)))
    }

    /// Where an authority stands.
    pub(super) fn presence(&self, id: AuthorityId) -> Presence {
        let authority = &self.authorities[id.0];
        let is_live = |place: usize| self.upstreams[place].standing == Standing::Live;
        match authority.in_use().any(is_live) {
            _ if authority.asked == 0 => Presence::Unasked,
            true => Presence::Present,
            false => Presence::Away,
        }
    }

    /// The control plane whose word counts most: of the first authority that is asked for anything the one that is
    /// there, or else the last hope.
    pub(super) fn main(&self) -> usize {
        let authority = self.authorities.iter().find(|authority| authority.asked > 0);
        let authority = authority.unwrap_or(&self.authorities[DEFAULT.0]);
        authority.in_use().last().or_else(|| authority.upstreams.first().copied()).unwrap_or_default()
    }

    /// Moves every authority to the control planes that it should use now. Returns whether any has moved.
    pub(super) fn steer(&mut self, store: &Store, streams: &mut Streams) -> bool {
        let mut has_moved = false;
        for authority in (0..self.authorities.len()).map(AuthorityId) {
            while let Some(step) = self.step(authority, store) {
                has_moved = true;
                match step {
                    Step::Use(server) => self.employ(authority, server, store),
                    Step::Release(servers) => {
                        servers.for_each(|server| self.release(authority, server, store, streams));
                    }
                }
            }
        }
        has_moved
    }

    fn step(&mut self, id: AuthorityId, store: &Store) -> Option<Step> {
        let Authority { upstreams, fallback, asked, .. } = &mut self.authorities[id.0];
        if fallback.in_use().is_empty() && *asked == 0 {
            return None;
        }
        fallback.step(|server| self.upstreams[upstreams[server]].standing, || store.lacks(id))
    }

    /// Asks one more server of an authority for all that is wanted of it.
    fn employ(&mut self, id: AuthorityId, server: usize, store: &Store) {
        let authority = &self.authorities[id.0];
        let place = authority.upstreams[server];
        if server > 0 {
            let (from, to) = (&self.upstreams[authority.upstreams[server - 1]].name, &self.upstreams[place].name);
            tracing::warn!(authority = authority.label(), %from, %to, "falls back to another control plane");
        }
        for preferred in &authority.upstreams[..server] {
            self.upstreams[*preferred].session.forget_versions();
        }
        let session = &mut self.upstreams[place].session;
        everything_of(id, store).for_each(|kind| session.subscribe_all(kind));
        for (kind, name) in store.asked_of(id) {
            session.subscribe(kind, name);
        }
    }

    /// Asks a server of an authority for nothing any longer, and leaves it where nobody else needs it.
    fn release(&mut self, id: AuthorityId, server: usize, store: &Store, streams: &mut Streams) {
        let authority = &self.authorities[id.0];
        let place = authority.upstreams[server];
        let heir = authority.in_use().last();
        tracing::info!(authority = authority.label(), server = %self.upstreams[place].name, "a preferred control plane is back");
        for kind in everything_of(id, store) {
            let left = self.upstreams[place].session.unsubscribe_all(kind);
            // What it alone had would otherwise stay for ever: nobody would say that it is gone.
            heir.into_iter().for_each(|heir| self.upstreams[heir].session.presume(kind, &left));
        }
        for (kind, name) in store.asked_of(id) {
            self.upstreams[place].session.unsubscribe(kind, name);
        }
        if !self.is_in_use(place) {
            streams.close(place);
            self.upstreams[place].let_go();
        }
    }
}

/// The kinds of which an authority is asked for everything.
fn everything_of(id: AuthorityId, store: &Store) -> impl Iterator<Item = ResourceKind> {
    ResourceKind::ALL.into_iter().filter(move |kind| id == DEFAULT && store.is_everything(*kind))
}

// === impl Authority ===

impl Authority {
    fn new(name: Option<String>, upstreams: Vec<usize>, is_on_reachability_only: bool) -> Self {
        let fallback = Fallback::new(upstreams.len(), is_on_reachability_only);
        Self { name, upstreams, fallback, asked: 0 }
    }

    /// The places of the control planes that are in use.
    fn in_use(&self) -> impl Iterator<Item = usize> {
        self.upstreams[self.fallback.in_use()].iter().copied()
    }

    /// What logs call it.
    fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("default")
    }
}
