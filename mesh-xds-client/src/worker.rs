//! The one task of a client: it owns the stream, the timers and the session, and turns what they say into snapshots.
//!
//! ```text
//! handles -> commands (never full) -> Worker: Session, AdsStream, Assembly -> snapshots (the latest only)
//!                                       |
//!                                     status: Store, server; locked for moments, read by `status`
//! ```
//!
//! It waits for nobody: commands come over a queue without bound, since those who fill it are among those who read the
//! snapshots, and a snapshot replaces the one before it. The next response is not read until the last one is decoded,
//! which is the only back-pressure that ADS has.

use std::{error::Error as StdError, fmt::Write as _, pin::Pin, sync::Arc, time::Duration, vec};

use mesh_core::source::ResourceState;
use metrics::Gauge;
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    Dialect, ResourceKind,
    assemble::{Assembled, Assembly, Wanted},
    bootstrap::{Bootstrap, ServerFeature},
    expected::Expected,
    meters::Meters,
    report::{Findings, Reporter},
    resource::Context,
    session::{AbsenceReason, Batch, Event, RawResource, Session, Ticket, Verdict},
    status::Shared,
    store::{Refused, Store, Taken},
    transport::{AdsStream, Dialer, Heard, StreamError},
};

/// Keeps the snapshots current while it is polled. See the [module](self).
pub(crate) struct Worker {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    bootstrap: Bootstrap,
    dialect: Dialect,
    context: Context,
    session: Session,
    assembly: Assembly,
    expected: Expected,
    /// In the order of preference.
    servers: Vec<Arc<Dialer>>,
    /// The server that is spoken to, or will be.
    server: usize,
    /// The response that is being decoded. None is read until it is done.
    decoding: Option<Decoding>,
    meters: Meters,
    reporter: Reporter,
}

/// What a handle asks of the worker.
pub(crate) enum Command {
    /// Another user of a target.
    Watch(Arc<str>),
    /// A user of a target less.
    Release(Arc<str>),
}

/// A response on its way through the decoders.
struct Decoding {
    kind: ResourceKind,
    version: Arc<str>,
    resources: vec::IntoIter<RawResource>,
    ticket: Ticket,
    verdict: Verdict,
    findings: Findings,
}

enum StreamState {
    Down,
    Opening(Opening),
    Up(Box<AdsStream>),
}

type Opening = Pin<Box<dyn Future<Output = Result<Box<AdsStream>, StreamError>> + Send>>;

/// What the stream has to say.
enum News {
    Opened(Result<Box<AdsStream>, StreamError>),
    Heard(Heard),
}

/// Marks the client as not connected when the worker's future is dropped.
struct Online {
    shared: Arc<Shared>,
    gauge: Gauge,
}

/// How much is decoded before others have their turn: some two milliseconds' worth.
///
/// In bytes rather than in time, so that a run under a paused clock takes the same steps twice. One resource is never
/// divided.
const SLICE: usize = 128 * 1024;

/// How much less comparing costs than decoding, and a resource of no bytes at all.
const COMPARING: usize = 16;
const LEAST: usize = 64;

// === impl Worker ===

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
        bootstrap: Bootstrap,
        dialect: Dialect,
        context: Context,
        session: Session,
        servers: Vec<Arc<Dialer>>,
    ) -> Self {
        let assembly = Assembly::new(&bootstrap.node().id, dialect);
        Self {
            shared,
            commands,
            bootstrap,
            dialect,
            context,
            expected: Expected::new(session.patience()),
            session,
            assembly,
            servers,
            server: 0,
            decoding: None,
            meters: Meters::new(),
            reporter: Reporter::default(),
        }
    }

    /// Works for ever. Dropping it closes the stream and loses nothing else: it can be run again.
    pub(crate) async fn run(&mut self) {
        self.session.stream_ended("the work on it was dropped", Instant::now());
        // A dialect may want something before there is a target.
        self.shared.held().store.touch();
        let _online = Online { shared: self.shared.clone(), gauge: self.meters.connected.clone() };
        let mut state = StreamState::Down;
        loop {
            self.settle(&mut state);
            let due = self.session.next_timeout().into_iter().chain(self.expected.next()).min();
            tokio::select! {
                biased;
                news = state.next(self.decoding.is_none()) => self.hear(&mut state, news),
                Some(command) = self.commands.recv() => self.obey(command),
                () = yield_now(), if self.decoding.is_some() => self.decode(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.session.timeout(Instant::now());
                    self.give_up(Instant::now());
                }
            }
        }
    }

    /// Does all that can be done without waiting.
    fn settle(&mut self, state: &mut StreamState) {
        loop {
            while let Some(event) = self.session.poll_event() {
                self.act(state, event);
            }
            if !self.assemble() {
                break;
            }
        }
        let StreamState::Up(stream) = state else { return };
        while let Some(room) = stream.room() {
            let Some(request) = self.session.poll_request(Instant::now()) else { break };
            room.send(request);
        }
    }

    // --- the stream ---

    fn hear(&mut self, state: &mut StreamState, news: News) {
        match news {
            News::Opened(Ok(stream)) => {
                *state = StreamState::Up(stream);
                self.session.stream_opened();
            }
            News::Heard(Heard::Response(response)) => self.session.received(*response, Instant::now()),
            News::Heard(Heard::Room) => {}
            News::Opened(Err(error)) | News::Heard(Heard::Ended(error)) => {
                *state = StreamState::Down;
                self.session.stream_ended(in_one_line(&error), Instant::now());
            }
        }
    }

    fn act(&mut self, state: &mut StreamState, event: Event) {
        match event {
            Event::Connect => {
                let server = self.servers[self.server].clone();
                *state = StreamState::Opening(Box::pin(async move { server.open().await }));
            }
            Event::Live => self.connected(),
            Event::Deliver(batch) => self.decoding = Some(Decoding::new(*batch)),
            Event::Absent { kind, name, reason } => self.absent(kind, &name, reason),
            Event::Lost { cause, was_live, retry_in } => self.lost(&cause, was_live, retry_in),
            Event::Ignored { type_url } => {
                tracing::warn!(node.id = self.node_id(), type_url, "response of an unknown type is ignored");
            }
        }
    }

    fn connected(&mut self) {
        self.meters.connected.set(1.0);
        let mut held = self.shared.held();
        held.is_connected = true;
        tracing::info!(server = %held.server, node.id = self.node_id(), "control plane is there");
    }

    /// After a stream the first server is tried again. One that cannot be had makes room for the next in the list, but only
    /// where something is lacking (gRFC A71): what is held is better than what a lesser server might have in its place.
    fn lost(&mut self, cause: &str, was_live: bool, retry_in: Duration) {
        self.meters.connected.set(0.0);
        let is_first_due = was_live || self.shared.held().store.is_complete();
        let next = if is_first_due { 0 } else { (self.server + 1) % self.servers.len() };
        {
            let mut held = self.shared.held();
            let (server, node_id) = (&held.server, self.node_id());
            if was_live {
                tracing::info!(server, node.id = node_id, cause, ?retry_in, "stream to the control plane ended");
            } else {
                tracing::warn!(server, node.id = node_id, cause, ?retry_in, "control plane is not there");
            }
            held.last_error = Some(cause.to_owned());
            held.is_connected = false;
            held.server = self.bootstrap.servers()[next].uri().to_string();
        }
        if next != self.server {
            self.server = next;
            self.session.change_server(self.bootstrap.servers()[next].variant());
        }
    }

    fn absent(&self, kind: ResourceKind, name: &str, reason: AbsenceReason) {
        let kept = self.why_kept(kind);
        let kept = kept.filter(|_| reason == AbsenceReason::Removed);
        self.shared.held().store.absent(kind, name, reason, kept);
        tracing::warn!(%kind, name, ?reason, is_kept = kept.is_some(), node.id = self.node_id(), "resource is absent");
    }

    /// Waits no longer for what was expected and has not come. Silence tells nothing while nobody is there to speak.
    fn give_up(&mut self, now: Instant) {
        while let Some((kind, name)) = self.expected.pop(now) {
            let mut held = self.shared.held();
            if held.store.get(kind, &name).is_none_or(|entry| entry.state() != ResourceState::Requested) {
                continue;
            }
            if held.is_connected {
                held.store.absent(kind, &name, AbsenceReason::NotFoundTimer, None);
                tracing::warn!(%kind, %name, node.id = self.node_id(), "resource has not come");
            } else {
                drop(held);
                self.expected.wait_for(kind, &name, now);
            }
        }
    }

    /// Why what the server removes goes on serving.
    ///
    /// A control plane that orders its responses removes a cluster before the routes that named it, where one change does
    /// both: until they have let go, the cluster is not to be missed. When none names it, it is forgotten.
    fn why_kept(&self, kind: ResourceKind) -> Option<&'static str> {
        let server = &self.bootstrap.servers()[self.server];
        // A88: this server wants its removals to count.
        if server.has_feature(ServerFeature::FailOnDataErrors) {
            return None;
        }
        match kind {
            ResourceKind::Cluster => return Some("until no route names it"),
            // Delta alone can remove these. Envoy goes on with them, whatever their server says.
            ResourceKind::ClusterLoadAssignment => return Some("until no cluster names it"),
            ResourceKind::RouteConfiguration => return Some("until no listener names it"),
            ResourceKind::Listener => {}
        }
        let is_ignored = server.has_feature(ServerFeature::IgnoreResourceDeletion);
        is_ignored.then_some("since the server has the feature ignore_resource_deletion")
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
            Command::Release(target) => self.assembly.release(&target),
        }
    }

    // --- the resources ---

    /// Decodes a slice of the response at hand, and answers it when that was the last.
    fn decode(&mut self) {
        let Some(mut decoding) = self.decoding.take() else { return };
        let mut held = self.shared.held();
        let mut left = SLICE;
        while left > 0 {
            let Some(raw) = decoding.resources.next() else {
                drop(held);
                return self.answer(decoding);
            };
            let size = raw.body.value.len();
            let is_decoded = self.offer(&mut held.store, raw, &mut decoding);
            left = left.saturating_sub(LEAST + if is_decoded { size } else { size / COMPARING });
        }
        drop(held);
        self.decoding = Some(decoding);
    }

    /// Returns whether the resource had to be decoded.
    fn offer(&self, store: &mut Store, raw: RawResource, decoding: &mut Decoding) -> bool {
        let Decoding { kind, version, verdict, findings, .. } = decoding;
        let own = raw.version.as_deref().filter(|own| !own.is_empty()).map(Arc::from);
        match store.offer(*kind, raw, own.as_ref().unwrap_or(version), &self.context) {
            Ok(Taken { name, is_decoded, has_new_warnings }) => {
                if has_new_warnings && let Some(entry) = store.get(*kind, &name) {
                    findings.warned.push((name.clone(), entry.warnings().to_vec()));
                }
                verdict.accepted.push(name);
                is_decoded
            }
            Err(Refused { error, is_repeated }) => {
                if !is_repeated {
                    findings.refused.push(error.clone());
                }
                verdict.rejected.push(error);
                !is_repeated
            }
        }
    }

    fn answer(&mut self, decoding: Decoding) {
        let Decoding { kind, version, verdict, findings, ticket, .. } = decoding;
        self.meters.updated(kind, verdict.accepted.len(), verdict.rejected.len());
        self.reporter.tell(kind, &version, &self.bootstrap.node().id, &findings);
        self.shared.held().store.answered(kind);
        self.session.answer(ticket, verdict, Instant::now());
    }

    /// Publishes what has changed, and asks for what is needed now. Returns whether anything had changed.
    ///
    /// Nothing is published of a response that is half decoded: what it brings is seen as a whole or not at all.
    fn assemble(&mut self) -> bool {
        if self.decoding.is_some() {
            return false;
        }
        let mut held = self.shared.held();
        let changes = held.store.take_changes();
        if changes.is_empty() {
            return false;
        }
        let Assembled { snapshot, wanted } = self.assembly.assemble(&held.store, &changes);
        if let Some(wanted) = wanted {
            reconcile(&wanted, &mut held.store, &mut self.session, &mut self.expected);
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
fn reconcile(wanted: &Wanted, store: &mut Store, session: &mut Session, expected: &mut Expected) {
    for kind in ResourceKind::ALL {
        let is_everything = wanted.everything(kind);
        if is_everything && store.want_everything(kind) {
            session.subscribe_all(kind);
        }
        for name in store.dispensable(kind, wanted.of(kind)) {
            store.forget(kind, &name);
            session.unsubscribe(kind, &name);
        }
        for name in wanted.of(kind) {
            if store.get(kind, name).is_some() {
                continue;
            }
            store.want(kind, name);
            if is_everything {
                expected.wait_for(kind, name, Instant::now());
            } else {
                session.subscribe(kind, name);
            }
        }
    }
}

/// An error and its causes.
fn in_one_line(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

// === impl Decoding ===

impl Decoding {
    fn new(batch: Batch) -> Self {
        let Batch { kind, version, resources, ticket } = batch;
        Self {
            kind,
            version: version.into(),
            resources: resources.into_iter(),
            ticket,
            verdict: Verdict::default(),
            findings: Findings::default(),
        }
    }
}

// === impl StreamState ===

impl StreamState {
    /// Waits for ever where there is nothing to wait for. Cancel safe.
    async fn next(&mut self, listen: bool) -> News {
        match self {
            Self::Down => std::future::pending().await,
            Self::Opening(opening) => News::Opened(opening.as_mut().await),
            Self::Up(stream) => News::Heard(stream.next(listen).await),
        }
    }
}

// === impl Online ===

impl Drop for Online {
    fn drop(&mut self) {
        self.shared.held().is_connected = false;
        self.gauge.set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{config::core::v3::Node, service::discovery::v3::DiscoveryResponse},
        google::protobuf::Any,
    };
    use prost::Message;

    use super::*;
    use crate::{bootstrap::ChannelCredentials, session};

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
        let shared = Arc::new(Shared::new(&bootstrap));
        let (commands, orders) = mpsc::unbounded_channel();
        let session = Session::new(session::Config::default(), Node::default(), 1);
        let mut worker =
            Worker::new(shared.clone(), orders, bootstrap, Dialect::Grpc, Context::new(), session, Vec::new());
        let names: Vec<String> = (0..1000).map(|number| format!("listener-{number}")).collect();
        for name in &names {
            commands.send(Command::Watch(name.as_str().into())).expect("the worker listens");
        }
        let command = worker.commands.try_recv().expect("just sent");
        worker.obey(command);
        assert!(worker.assemble());
        worker.session.stream_opened();
        worker.session.poll_request(Instant::now()).expect("listeners are asked for");

        let garbage = |name: &String| Any {
            type_url: ResourceKind::Listener.type_url().to_owned(),
            value: NamedGarbage { name: name.clone(), garbage: "x".repeat(1000) }.encode_to_vec(),
        };
        let response = DiscoveryResponse {
            type_url: ResourceKind::Listener.type_url().to_owned(),
            resources: names.iter().map(garbage).collect(),
            ..Default::default()
        };
        worker.session.received(response, Instant::now());
        while let Some(event) = worker.session.poll_event() {
            if let Event::Deliver(batch) = event {
                worker.decoding = Some(Decoding::new(*batch));
            }
        }
        let mut slices = 0;
        while worker.decoding.is_some() {
            assert!(!worker.assemble(), "half a response is not published");
            worker.decode();
            slices += 1;
        }
        assert_eq!(slices, (1000 * (1000 + 20 + LEAST)).div_ceil(SLICE));
        assert!(worker.assemble());
        assert_eq!(shared.snapshots.borrow().targets.len(), 1000);
        assert_eq!(shared.snapshots.borrow().generation, 1);
    }
}
