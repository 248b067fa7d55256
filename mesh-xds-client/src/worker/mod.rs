//! The one task of a client: it owns the streams, the timers and the sessions, and turns what they say into snapshots.
//!
//! ```text
//! handles -> commands (never full) -> Worker: Federation, Streams, Assembly -> snapshots (the latest only)
//!                                       |
//!                                     status: Store, servers; locked for moments, read by `status`
//! ```
//!
//! - `federation`: who is asked for what; `upstream`: one control plane and its session;
//! - `fallback`: which of an authority's control planes are in use, as a state machine without I/O;
//! - `streams`: the streams to all of them; `decoding`: the one response that is being decoded;
//! - `cache`: what an earlier run has kept, for as long as nobody says better.
//!
//! It waits for nobody: commands come over a queue without bound, since those who fill it are among those who read
//! the snapshots, and a snapshot replaces the one before it. The next response, whoever sends it, is not read until
//! the last one is decoded, which is the only back-pressure that ADS has.

use std::{error::Error as StdError, fmt::Write as _, sync::Arc, time::Duration};

use mesh_core::source::ResourceState;
use metrics::Gauge;
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    Dialect, ResourceKind,
    agreement::Presence,
    assemble::{Assembled, Assembly, Wanted},
    bootstrap::Bootstrap,
    expected::Expected,
    meters::Meters,
    report::Reporter,
    resource::Context,
    session::{AbsenceReason, Event, Variant},
    status::Shared,
    store::{AuthorityId, Denial, Entry, Origin, Store},
    transport::Heard,
};

mod cache;
mod decoding;
mod fallback;
mod federation;
mod streams;
mod upstream;

pub(crate) use self::{cache::Cache, upstream::Upstream};

use self::{
    decoding::Decoding,
    fallback::Standing,
    federation::Federation,
    streams::{News, Streams},
};

/// Keeps the snapshots current while it is polled. See the [module](self).
pub(crate) struct Worker {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    bootstrap: Bootstrap,
    dialect: Dialect,
    context: Context,
    federation: Federation,
    assembly: Assembly,
    expected: Expected,
    /// The response that is being decoded. None is read until it is done.
    decoding: Option<Decoding>,
    meters: Meters,
    reporter: Reporter,
    cache: Cache,
    /// When the age of the configuration is to be shown anew: while it has one.
    age_due: Option<Instant>,
}

/// What a handle asks of the worker.
pub(crate) enum Command {
    /// Another user of a target.
    Watch(Arc<str>),
    /// A user of a target less.
    Release(Arc<str>),
    /// Another user of a cluster, whatever routes name.
    Demand(Arc<str>),
    /// A user of such a cluster less.
    Waive(Arc<str>),
}

/// Marks every control plane as not connected when the worker's future is dropped.
struct Online {
    shared: Arc<Shared>,
    gauges: Vec<Gauge>,
}

/// How often the age of the configuration is shown, and then each time that it has grown by a part of itself. Nobody can tell
/// here whether there is a recorder: without one it is a waking of this task, while no control plane answers.
const AGE_INTERVAL: Duration = Duration::from_secs(1);
const AGE_PART: u32 = 100;

// === impl Worker ===

impl Worker {
    /// `upstreams` are those of all servers of the bootstrap, each once, and the status has them in the same order.
    pub(crate) fn new(
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
        bootstrap: Bootstrap,
        dialect: Dialect,
        context: Context,
        upstreams: Vec<Upstream>,
        cache: Cache,
    ) -> Self {
        let assembly = Assembly::new(&bootstrap.node().id, dialect);
        let patience = upstreams.iter().map(|upstream| upstream.session.patience()).max().unwrap_or_default();
        let federation = Federation::new(&bootstrap, upstreams);
        Self {
            shared,
            commands,
            bootstrap,
            dialect,
            context,
            federation,
            assembly,
            expected: Expected::new(patience),
            decoding: None,
            meters: Meters::new(),
            reporter: Reporter::default(),
            cache,
            age_due: None,
        }
    }

    /// Works for ever. Dropping it closes the streams and loses nothing else: it can be run again.
    pub(crate) async fn run(&mut self) {
        for upstream in &mut self.federation.upstreams {
            upstream.session.stream_ended("the work on it was dropped", Instant::now());
        }
        // A dialect may want something before there is a target.
        self.shared.held().store.touch();
        let gauges = self.federation.upstreams.iter().map(|upstream| upstream.connected.clone());
        let _online = Online { shared: self.shared.clone(), gauges: gauges.collect() };
        let mut streams = Streams::new(self.federation.upstreams.len());
        loop {
            self.settle(&mut streams);
            let timeouts = self.federation.upstreams.iter_mut().filter_map(|upstream| upstream.session.next_timeout());
            let due = timeouts.chain(self.expected.next()).chain(self.age_due).min();
            tokio::select! {
                biased;
                (place, news) = streams.next(self.decoding.is_none()) => self.hear(place, news),
                Some(command) = self.commands.recv() => self.obey(command),
                () = yield_now(), if self.decoding.is_some() || self.cache.is_restoring() => self.decode(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let now = Instant::now();
                    self.federation.upstreams.iter_mut().for_each(|upstream| upstream.session.timeout(now));
                    self.give_up(now);
                    if self.age_due.is_some_and(|due| due <= now) {
                        self.show_age(now);
                    }
                }
            }
        }
    }

    /// Does all that can be done without waiting.
    fn settle(&mut self, streams: &mut Streams) {
        loop {
            self.heed(streams);
            let has_changed = self.assemble();
            if !self.steer(streams) && !has_changed {
                break;
            }
        }
        self.agree();
        for (place, upstream) in self.federation.upstreams.iter_mut().enumerate() {
            streams.send(place, &mut upstream.session);
        }
    }

    // --- the streams ---

    fn hear(&mut self, place: usize, news: News) {
        let session = &mut self.federation.upstreams[place].session;
        match news {
            News::Opened => session.stream_opened(),
            News::Heard(Heard::Response(response)) => session.received(*response, Instant::now()),
            News::Heard(Heard::Room) => {}
            News::Heard(Heard::Ended(error)) => session.stream_ended(in_one_line(&error), Instant::now()),
        }
    }

    /// Acts on what the sessions say.
    fn heed(&mut self, streams: &mut Streams) {
        for place in 0..self.federation.upstreams.len() {
            while let Some(event) = self.federation.upstreams[place].session.poll_event() {
                self.act(streams, place, event);
            }
        }
    }

    fn act(&mut self, streams: &mut Streams, place: usize, event: Event) {
        match event {
            Event::Connect => {
                let dialer = self.federation.upstreams[place].dialer.clone();
                streams.open(place, Box::pin(async move { dialer.open().await }));
            }
            Event::Live => self.connected(place),
            Event::Deliver(batch) => self.decoding = Some(Decoding::new(place, *batch)),
            Event::Absent { kind, name, reason } => self.absent(place, kind, &name, reason),
            Event::Denied { kind, name, code, message } => {
                tracing::warn!(%kind, name, ?code, message, node.id = self.node_id(), "resource is denied");
                let terms = self.federation.upstreams[place].terms(kind);
                self.shared.held().store.deny(kind, &name, Denial { code, message }, terms);
            }
            Event::Lost { cause, was_live, retry_in } => self.lost(place, cause, was_live, retry_in),
            Event::Ignored { type_url } => {
                tracing::warn!(node.id = self.node_id(), type_url, "response of an unknown type is ignored");
            }
        }
    }

    fn connected(&mut self, place: usize) {
        let upstream = &mut self.federation.upstreams[place];
        upstream.standing = Standing::Live;
        upstream.connected.set(1.0);
        self.shared.held().servers[place].connected = true;
        tracing::info!(server = %upstream.name, node.id = self.bootstrap.node().id, "control plane is there");
    }

    /// Notes whose control planes stand by what is held, and whose word counts most.
    fn agree(&mut self) {
        let now = Instant::now();
        let mut held = self.shared.held();
        held.main = self.federation.main();
        for (authority, presence) in self.federation.presences() {
            held.agreements.update(authority, presence, now);
        }
        let has_moved = held.agreements.take_moved();
        drop(held);
        if has_moved {
            self.show_age(now);
            self.cache.outlive();
        }
        // What is being restored may name more that is wanted, of the same run and the same mind.
        if self.decoding.is_none() {
            let Self { federation, cache, .. } = self;
            let is_present = |authority| federation.presence(authority) == Presence::Present;
            cache.let_go(|kind, name| federation.authority_of(kind, name).is_ok_and(is_present));
        }
    }

    fn show_age(&mut self, now: Instant) {
        let held = self.shared.held();
        let age = held.agreements.age(now);
        self.meters.age.set(age.as_secs_f64());
        self.age_due = held.agreements.is_past().then(|| now + AGE_INTERVAL.max(age / AGE_PART));
    }

    fn lost(&mut self, place: usize, cause: String, was_live: bool, retry_in: Duration) {
        let is_in_use = self.federation.is_in_use(place);
        let upstream = &mut self.federation.upstreams[place];
        upstream.connected.set(0.0);
        let mut held = self.shared.held();
        held.servers[place].connected = false;
        upstream.is_told = Default::default();
        if !is_in_use {
            return;
        }
        let (server, node_id) = (&upstream.name, &self.bootstrap.node().id);
        // gRFC A57: servers end streams in the normal course of things, but not before they have said a word.
        if was_live {
            upstream.standing = Standing::Untold;
            tracing::info!(server, node.id = node_id, cause, ?retry_in, "stream to the control plane ended");
        } else {
            upstream.standing = Standing::Failing;
            tracing::warn!(server, node.id = node_id, cause, ?retry_in, "control plane is not there");
        }
        held.last_error = Some(cause.clone());
        held.servers[place].last_error = Some(cause);
    }

    /// Has every authority use the control planes that it should. Returns whether anything has changed by that.
    fn steer(&mut self, streams: &mut Streams) -> bool {
        let mut held = self.shared.held();
        if !self.federation.steer(&held.store, streams) {
            return false;
        }
        for (place, server) in held.servers.iter_mut().enumerate() {
            server.in_use = self.federation.is_in_use(place);
        }
        true
    }

    fn absent(&self, place: usize, kind: ResourceKind, name: &str, reason: AbsenceReason) {
        let upstream = &self.federation.upstreams[place];
        let terms = upstream.terms(kind);
        let mut held = self.shared.held();
        let by_the_clock = matches!(reason, AbsenceReason::NotFoundTimer | AbsenceReason::Expired);
        let authority = held.store.get(kind, name).and_then(Entry::authority);
        if by_the_clock && authority.is_some_and(|authority| self.federation.is_stood_in_for(place, authority)) {
            return;
        }
        let reason = match reason {
            AbsenceReason::NotFoundTimer => {
                upstream.silence_about(kind, held.store.get(kind, name).is_some_and(Entry::is_cached))
            }
            reason => reason,
        };
        held.store.absent(kind, name, reason, terms);
        drop(held);
        self.cache.touch();
        tracing::warn!(%kind, name, ?reason, node.id = self.node_id(), "resource is absent");
    }

    /// Waits no longer for what was expected and has not come. Silence tells nothing while nobody is there to speak.
    fn give_up(&mut self, now: Instant) {
        // It may be in the response at hand.
        while self.decoding.is_none()
            && let Some((kind, name)) = self.expected.pop(now)
        {
            let mut held = self.shared.held();
            let waiting = held.store.get(kind, &name).filter(|entry| entry.state() == ResourceState::Requested);
            let Some(is_cached) = waiting.map(Entry::is_cached) else { continue };
            let place = held.main;
            if held.servers[place].connected {
                let upstream = &self.federation.upstreams[place];
                let reason = upstream.silence_about(kind, is_cached);
                held.store.absent(kind, &name, reason, upstream.terms(kind));
                drop(held);
                self.cache.touch();
                tracing::warn!(%kind, %name, node.id = self.node_id(), "resource has not come");
            } else {
                drop(held);
                self.expected.wait_for(kind, &name, now);
            }
        }
    }

    fn node_id(&self) -> &str {
        &self.bootstrap.node().id
    }

    // --- the targets ---

    fn obey(&mut self, command: Command) {
        self.follow(command);
        // The sweep that comes after is worth doing once for all of them.
        while let Ok(command) = self.commands.try_recv() {
            self.follow(command);
        }
        self.shared.held().store.touch();
    }

    fn follow(&mut self, command: Command) {
        match command {
            Command::Watch(target) => {
                let lead = || self.dialect.lead(&self.bootstrap, &target);
                self.assembly.watch(target.clone(), lead);
            }
            Command::Release(target) => {
                self.cache.keep_for_write(&self.shared);
                self.assembly.release(&target);
            }
            Command::Demand(cluster) => self.assembly.demand(cluster),
            Command::Waive(cluster) => {
                self.cache.keep_for_write(&self.shared);
                self.assembly.waive(&cluster);
            }
        }
    }

    // --- the resources ---

    /// Decodes a slice of what an earlier run has kept, or of the response at hand, and answers that when it was the last.
    fn decode(&mut self) {
        if self.cache.is_restoring() {
            let held = &mut *self.shared.held();
            return self.cache.restore(&mut held.store, &mut held.agreements, &self.context);
        }
        let Some(mut decoding) = self.decoding.take() else { return };
        let (place, federation) = (decoding.place, &self.federation);
        let origin = Origin {
            context: &self.context,
            is_heeded: &|authority| federation.is_heeded(place, authority),
            terms: federation.upstreams[place].terms(decoding.kind),
        };
        if decoding.advance(&mut self.shared.held().store, &origin) {
            self.answer(decoding);
        } else {
            self.decoding = Some(decoding);
        }
    }

    fn answer(&mut self, decoding: Decoding) {
        let Decoding { place, kind, version, verdict, findings, ticket, has_changes, .. } = decoding;
        self.meters.updated(kind, verdict.accepted.len(), verdict.rejected.len());
        self.reporter.tell(kind, &version, &self.bootstrap.node().id, &findings);
        if self.federation.is_heeded(place, AuthorityId::default()) {
            self.shared.held().store.answered(kind);
        }
        self.cache.tell();
        if has_changes {
            self.cache.touch();
        }
        // Where one name could not be read, nobody can say which are missing.
        let is_readable = ticket.is_readable() && verdict.rejected.iter().all(|error| error.name.is_some());
        if is_readable && self.is_full(place, kind) {
            self.federation.upstreams[place].is_told[kind.index()] = true;
            self.disown(place, kind);
        }
        self.federation.upstreams[place].session.answer(ticket, verdict, Instant::now());
    }

    /// Whether a response of a kind leaves nothing out that a server has and is asked for. In delta one that brings everything
    /// may be followed by more of it, for which there is the same time as for what is asked for by name.
    fn is_full(&self, place: usize, kind: ResourceKind) -> bool {
        let variant = self.federation.upstreams[place].server.variant();
        let is_everything = || self.shared.held().store.is_everything(kind);
        kind.is_full_state() && (variant == Variant::StateOfTheWorld || is_everything())
    }

    /// A full state has come, later than there was time for. What serves by what an earlier run has kept, and is still not in it,
    /// does not exist.
    fn disown(&mut self, place: usize, kind: ResourceKind) {
        let (federation, upstream) = (&self.federation, &self.federation.upstreams[place]);
        if upstream.silence_about(kind, true) == AbsenceReason::NotFoundTimer {
            return;
        }
        let is_spoken_for =
            |authority| federation.is_heeded(place, authority) && !federation.is_stood_in_for(place, authority);
        let mut held = self.shared.held();
        let unspoken_of = held.store.unspoken_of(kind);
        let gone = unspoken_of.filter(|(_, entry)| entry.authority().is_some_and(is_spoken_for));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            held.store.absent(kind, name, AbsenceReason::Unknown, upstream.terms(kind));
        }
        drop(held);
        for name in gone {
            self.cache.touch();
            tracing::warn!(%kind, %name, node.id = self.node_id(), "what an earlier run has kept is not there any longer");
        }
    }

    /// Publishes what has changed, and asks for what is needed now. Returns whether anything had changed.
    ///
    /// Nothing is published of a response that is half decoded: what it brings is seen as a whole or not at all. What an earlier
    /// run has kept is not looked at piece by piece either.
    fn assemble(&mut self) -> bool {
        if self.decoding.is_some() || self.cache.is_restoring() {
            return false;
        }
        let mut held = self.shared.held();
        let changes = held.store.take_changes();
        if changes.is_empty() {
            return false;
        }
        let Assembled { snapshot, wanted } = self.assembly.assemble(&held.store, &changes);
        if let Some(wanted) = wanted {
            let Self { federation, expected, cache, .. } = self;
            reconcile(&wanted, &mut held.store, federation, expected, cache);
        }
        self.meters.resources(held.store.tally());
        drop(held);
        if let Some(snapshot) = snapshot {
            tracing::debug!(
                generation = snapshot.generation,
                targets = snapshot.targets.len(),
                clusters = snapshot.clusters.len(),
                "configuration published"
            );
            self.shared.snapshots.send_replace(snapshot);
        }
        true
    }
}

/// Asks for what is wanted and not yet asked for, and forgets the rest. Where everything is asked for, names are waited for.
fn reconcile(
    wanted: &Wanted,
    store: &mut Store,
    federation: &mut Federation,
    expected: &mut Expected,
    cache: &mut Cache,
) {
    for kind in ResourceKind::ALL {
        let is_everything = wanted.everything(kind);
        if is_everything && store.want_everything(kind) {
            federation.subscribe_all(kind);
        }
        for name in store.dispensable(kind, wanted.of(kind)) {
            if let Some(authority) = store.forget(kind, &name).filter(|_| !is_everything) {
                federation.unsubscribe(authority, kind, &name);
            }
        }
        for name in wanted.of(kind) {
            if store.get(kind, name).is_some() {
                continue;
            }
            if is_everything {
                store.want(kind, name, AuthorityId::default());
                expected.wait_for(kind, name, Instant::now());
            } else {
                want(kind, name, store, federation);
            }
            cache.want(kind, name);
        }
    }
}

fn want(kind: ResourceKind, name: &Arc<str>, store: &mut Store, federation: &mut Federation) {
    match federation.authority_of(kind, name) {
        Ok(authority) => {
            store.want(kind, name, authority);
            federation.subscribe(authority, kind, name);
        }
        Err(reason) => {
            tracing::warn!(%kind, %name, reason, "resource cannot be asked for");
            store.refuse_name(kind, name, reason);
        }
    }
}

/// An error and its causes.
pub(crate) fn in_one_line(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

// === impl Online ===

impl Drop for Online {
    fn drop(&mut self) {
        let mut held = self.shared.held();
        held.servers.iter_mut().for_each(|server| server.connected = false);
        held.agreements.end(Instant::now());
        drop(held);
        self.gauges.iter().for_each(|gauge| gauge.set(0.0));
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{config::core::v3::Node, service::discovery::v3::DiscoveryResponse},
        google::protobuf::Any,
    };
    use mesh_http::{connect::SocketConnector, resolve::SystemResolver};
    use prost::Message;

    use super::decoding::{LEAST, SLICE};
    use super::*;
    use crate::{
        bootstrap::ChannelCredentials,
        session,
        transport::{Dialer, Limits, Parts},
    };

    /// A listener in name only.
    #[derive(Clone, PartialEq, Message)]
    struct NamedGarbage {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "1000")]
        garbage: String,
    }

    /// What slices are for cannot be seen by a test, which has no other thread to be held up; that there are some can.
    #[test]
    fn large_response_is_decoded_in_slices_and_published_as_one() {
        let bootstrap = Bootstrap::builder().server("plane:80", ChannelCredentials::Insecure);
        let bootstrap = bootstrap.build().expect("a valid bootstrap");
        let server = bootstrap.servers()[0].clone();
        let parts = Parts {
            connector: Arc::new(SocketConnector),
            resolver: Arc::new(SystemResolver::default()),
            provider: None,
            limits: Limits::default(),
        };
        let dialer = Arc::new(Dialer::new(&server, &parts).expect("plaintext"));
        let upstream = Upstream::new(server, dialer, session::Config::default(), Node::default(), 1);
        let shared = Arc::new(Shared::new(Node::default(), ["plane:80".to_owned()]));
        let (commands, orders) = mpsc::unbounded_channel();
        let mut worker = Worker::new(
            shared.clone(),
            orders,
            bootstrap,
            Dialect::Grpc,
            Context::new(),
            vec![upstream],
            Cache::default(),
        );
        let mut streams = Streams::new(1);
        let names: Vec<String> = (0..1000).map(|number| format!("listener-{number}")).collect();
        for name in &names {
            commands.send(Command::Watch(name.as_str().into())).expect("the worker listens");
        }
        let command = worker.commands.try_recv().expect("just sent");
        worker.obey(command);
        worker.settle(&mut streams);
        let session = &mut worker.federation.upstreams[0].session;
        session.stream_opened();
        session.poll_request(Instant::now()).expect("listeners are asked for");

        let garbage = |name: &String| Any {
            type_url: ResourceKind::Listener.type_url().to_owned(),
            value: NamedGarbage { name: name.clone(), garbage: "x".repeat(1000) }.encode_to_vec(),
        };
        let response = DiscoveryResponse {
            type_url: ResourceKind::Listener.type_url().to_owned(),
            resources: names.iter().map(garbage).collect(),
            ..Default::default()
        };
        worker.federation.upstreams[0].session.received(response, Instant::now());
        worker.heed(&mut streams);
        let mut slices = 0;
        while worker.decoding.is_some() {
            assert!(!worker.assemble(), "half a response is not published");
            worker.decode();
            slices += 1;
        }
        // The last finds that there is nothing left.
        assert_eq!(slices, 1000 / SLICE.div_ceil(1000 + 20 + LEAST) + 1);
        assert!(worker.assemble());
        assert_eq!(shared.snapshots.borrow().targets.len(), 1000);
        assert_eq!(shared.snapshots.borrow().generation, 1);
    }
}
