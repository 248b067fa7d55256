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
//! - `streams`: the streams to all of them; `online`: that there are none once the work is dropped;
//! - `events`: what follows from what the sessions say; `decoding`: the one response that is being decoded;
//! - `assembling`: the next snapshot, and what it asks for;
//! - `cache`: what an earlier run has kept, for as long as nobody says better.
//!
//! It waits for nobody: commands come over a queue without bound, since those who fill it are among those who read
//! the snapshots, and a snapshot replaces the one before it. The next response, whoever sends it, is not read until
//! the last one is decoded and assembled, nor one of a server that leaves its answers unread, which is the only back-pressure
//! that ADS has.
//!
//! Here is the loop, and what follows from commands and resources. After each thing that happens [`settle`](Worker::settle)
//! does all that can be done without waiting, in this order: what the sessions say, the next snapshot and what it asks
//! for, who is to be asked, who stands by what is held, and the requests.

use std::sync::Arc;

use mesh_core::memory;
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    Dialect,
    assemble::Assembly,
    bootstrap::Bootstrap,
    causes::in_one_line,
    expected::Expected,
    meters::Meters,
    report::Reporter,
    resource::Context,
    status::Shared,
    store::{AuthorityId, Origin},
    transport::Heard,
};

mod assembling;
mod cache;
mod decoding;
mod events;
mod fallback;
mod federation;
mod online;
mod streams;
mod upstream;

pub(crate) use self::{
    cache::Cache,
    upstream::{Upstream, names},
};

use self::{
    decoding::Decoding,
    federation::Federation,
    online::Online,
    streams::{News, Streams},
};

/// Keeps the snapshots current while it is polled. See the [module](self).
pub(crate) struct Worker {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    bootstrap: Bootstrap,
    dialect: Dialect,
    /// What a resource may refer to, and as far as is known who sent it may say.
    context: Context,
    /// The same of one that a trusted server has sent.
    trusting: Context,
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
        let trusting = context.clone().trusting();
        // Nobody can say who sent what an earlier run has kept.
        let context = if upstreams.iter().all(Upstream::is_trusted) { trusting.clone() } else { context };
        let federation = Federation::new(&bootstrap, upstreams);
        Self {
            shared,
            commands,
            bootstrap,
            dialect,
            context,
            trusting,
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
        self.federation.streams_dropped(Instant::now());
        // A dialect may want something before there is a target.
        self.shared.held().store.touch();
        let _online = Online::new(&self.shared, &self.federation);
        let mut streams = Streams::new(self.federation.upstreams.len());
        loop {
            self.settle(&mut streams).await;
            let due = self.next_due();
            tokio::select! {
                biased;
                (place, news) = streams.next(self.decoding.is_none()) => self.hear(place, news).await,
                Some(command) = self.commands.recv() => self.obey(command),
                () = yield_now(), if self.decoding.is_some() || self.cache.is_restoring() => self.decode(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.tick(Instant::now()),
            }
        }
    }

    /// Does all that can be done without waiting for anybody, in slices where it is much.
    async fn settle(&mut self, streams: &mut Streams) {
        loop {
            self.heed(streams);
            let has_changed = self.assemble().await;
            if !self.steer(streams) && !has_changed {
                break;
            }
        }
        self.agree();
        for (place, upstream) in self.federation.upstreams.iter_mut().enumerate() {
            streams.send(place, &mut upstream.session).await;
        }
    }

    /// Has every authority use the control planes that it should. Returns whether anything has changed by that.
    fn steer(&mut self, streams: &mut Streams) -> bool {
        let mut held = self.shared.held();
        if !self.federation.steer(&held.store, streams) {
            return false;
        }
        for (place, server) in held.servers.iter_mut().enumerate() {
            server.in_use = self.federation.is_in_use(place);
            server.connected &= server.in_use;
        }
        true
    }

    // --- the time ---

    /// None while a response is decoded: what has been waited for long enough may be in it.
    fn next_due(&mut self) -> Option<Instant> {
        if self.decoding.is_some() {
            return None;
        }
        let timeouts = self.federation.upstreams.iter_mut().filter_map(|upstream| upstream.session.next_timeout());
        timeouts.chain(self.expected.next()).chain(self.age_due).min()
    }

    fn tick(&mut self, now: Instant) {
        self.federation.upstreams.iter_mut().for_each(|upstream| upstream.session.timeout(now));
        self.give_up(now);
        if self.age_due.is_some_and(|due| due <= now) {
            self.show_age(now);
        }
    }

    // --- the streams ---

    async fn hear(&mut self, place: usize, news: News) {
        let session = &mut self.federation.upstreams[place].session;
        match news {
            News::Opened => session.stream_opened(),
            News::Heard(Heard::Response(response)) => {
                session.received(*response, Instant::now());
                // To find where its resources are has been a slice's worth.
                yield_now().await;
            }
            News::Heard(Heard::Room) => {}
            News::Heard(Heard::Ended(error)) => session.stream_ended(in_one_line(&error), Instant::now()),
        }
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
                self.cache.releasing(&self.shared);
                self.assembly.release(&target);
            }
            Command::Demand(cluster) => self.assembly.demand(cluster),
            Command::Waive(cluster) => {
                self.cache.releasing(&self.shared);
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
            context: if federation.upstreams[place].is_trusted() { &self.trusting } else { &self.context },
            is_heeded: &|authority| federation.is_heeded(place, authority),
            terms: federation.upstreams[place].terms(decoding.kind),
        };
        memory::settle();
        let is_done = decoding.advance(&mut self.shared.held().store, &origin);
        decoding.tell(&mut self.federation.upstreams[place].session);
        if is_done {
            self.answer(decoding);
        } else {
            self.decoding = Some(decoding);
        }
    }

    fn answer(&mut self, decoding: Decoding) {
        let Decoding { place, kind, version, batch, verdict, accepted, findings, has_changes, .. } = decoding;
        self.meters.updated(kind, accepted, verdict.rejected.len());
        self.reporter.tell(kind, &version, &self.bootstrap.node().id, &findings);
        if self.federation.is_heeded(place, AuthorityId::default()) {
            self.shared.held().store.answered(kind);
        }
        self.cache.tell();
        if has_changes {
            self.cache.touch();
        }
        let ticket = batch.into_ticket();
        // Where one name could not be read, nobody can say which are missing.
        if ticket.is_readable() && verdict.rejected.iter().all(|error| error.name.is_some()) {
            self.told(place, kind);
        }
        self.federation.upstreams[place].session.answer(ticket, verdict, Instant::now());
    }
}

#[cfg(test)]
mod tests;
