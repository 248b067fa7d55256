//! An xDS control plane in your own process, to test what your service does when its configuration changes.
//!
//! A [`ControlPlane`] speaks ADS as a real one does: over gRPC, in state of the world and in delta, whichever a client calls, with
//! versions and nonces, to this crate's client as well as to Envoy or gRPC's own. It is a handle: cheap to clone, and the
//! control plane ends with the last one.
//!
//! # A canary in ten lines
//!
//! ```
//! use mesh_xds_client::ResourceKind;
//! use mesh_xds_client::testkit::{ControlPlane, resource};
//! # use std::net::SocketAddr;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let (v1, v2) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
//! let plane = ControlPlane::new();
//! plane.update(|tx| {
//!     tx.set(resource::listener("echo", "echo-routes"))
//!         .set(resource::route_config("echo-routes", [("v1", 100), ("v2", 0)]))
//!         .set(resource::cluster("v1"))
//!         .set(resource::cluster("v2"))
//!         .set(resource::endpoints("v1", [v1]))
//!         .set(resource::endpoints("v2", [v2]));
//! });
//! let address = plane.listen("127.0.0.1:0").await?;
//! // Start the client under test with `address` as its control plane, then shift a tenth of the traffic:
//! let version = plane.set(resource::route_config("echo-routes", [("v1", 90), ("v2", 10)]));
//! # let client = tokio::spawn(mesh_xds_client_doc_client(address));
//! # async fn mesh_xds_client_doc_client(address: SocketAddr) {
//! #     use envoy_types::pb::envoy::service::discovery::v3::{
//! #         DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
//! #     };
//! #     let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.expect("listening");
//! #     let (requests, outgoing) = tokio::sync::mpsc::channel(4);
//! #     let mut request = DiscoveryRequest {
//! #         type_url: ResourceKind::RouteConfiguration.type_url().to_owned(),
//! #         resource_names: vec!["echo-routes".to_owned()],
//! #         ..Default::default()
//! #     };
//! #     requests.send(request.clone()).await.expect("open");
//! #     let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
//! #     let mut responses = client.stream_aggregated_resources(outgoing).await.expect("served").into_inner();
//! #     while let Ok(Some(response)) = responses.message().await {
//! #         request.version_info = response.version_info;
//! #         request.response_nonce = response.nonce;
//! #         let _ = requests.send(request.clone()).await;
//! #     }
//! # }
//! plane.wait_acked(ResourceKind::RouteConfiguration, &version).await.expect("the client takes the new routes");
//! // Send requests, and count who answered.
//! # client.abort();
//! # Ok(())
//! # }
//! ```
//!
//! # Transports
//!
//! [`listen`](ControlPlane::listen) binds a TCP address; [`serve`](ControlPlane::serve) takes a listener of yours, TCP or
//! Unix; [`serve_connection`](ControlPlane::serve_connection) takes any one connection, such as an end of
//! [`tokio::io::duplex`] under a paused clock, or a TLS stream. It decides nothing by chance, so a test with a paused clock and
//! one thread replays.
//!
//! # Breaking it
//!
//! Streams end with a status ([`end_streams`](ControlPlane::end_streams)); connections are cut
//! ([`abort_connections`](ControlPlane::abort_connections)) or crawl ([`drip`](ControlPlane::drip)); answers come late
//! ([`delay`](ControlPlane::delay)), never ([`silence`](ControlPlane::silence)), or are anything you write
//! ([`send`](ControlPlane::send)): a wrong nonce, an unknown type, names nobody asked for. [`raw`](ControlPlane::raw) offers
//! bytes that are no protobuf. [`pause`](ControlPlane::pause) leaves new connections unserved, and
//! [`stop`](ControlPlane::stop) closes everything, to be started again on the same address.
//!
//! # What clients see
//!
//! Only kinds that changed are sent, clusters and endpoints before listeners and routes. A refused version is not sent again
//! until something changes. Load reporting is answered with `UNIMPLEMENTED`.
//!
//! In state of the world listeners and clusters come whole, filtered by the names asked for, or all of them where a client asks
//! for none; routes and endpoints come when they were set since they were last sent. A new stream gets everything, whatever
//! version the client claims.
//!
//! In delta a client gets what it does not have, each resource with the version in which it was set, and hears of what is gone
//! or was never there. On a new stream it is believed what it says it holds.
//!
//! All that clients say is kept until the control plane goes, to be looked at when a test is over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envoy_types::pb::google::protobuf::Any;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tonic::{Status, metadata::MetadataMap};

use crate::ResourceKind;
use crate::session::Response;

mod delta;
mod drip;
#[doc(hidden)]
pub mod measured;
mod record;
pub mod resource;
mod serve;
mod state_of_the_world;
mod store;
mod stream;

pub use self::record::{Event, Nacked, Request};
pub use self::serve::Accept;
pub use self::store::{Resource, Transaction};

use self::store::Store;
use self::stream::{Command, StreamHandle};

/// A control plane in process. See the [module](self).
#[derive(Debug, Clone)]
pub struct ControlPlane {
    shared: Arc<Shared>,
    /// Ends everything that serves when the last handle goes. The tasks hold `shared` only.
    _last: Arc<LastHandle>,
}

#[derive(Debug)]
struct LastHandle(Arc<Shared>);

/// What handles, connections and streams share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was recorded.
    recorded: Notify,
    /// Connections may be served again.
    resumed: Notify,
    /// Something that served has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    faults: Faults,
    record: Vec<Event>,
    /// The last number given to a stream, a connection or a listener.
    last_id: u64,
    /// Ordered, as the others below, so that telling them all something happens in one order.
    streams: BTreeMap<u64, StreamHandle>,
    /// What is told to a connection ends it.
    connections: BTreeMap<u64, Arc<Notify>>,
    /// What is told to a listener closes it.
    listeners: BTreeMap<u64, Arc<Notify>>,
}

/// How the control plane misbehaves at present.
#[derive(Debug, Default)]
struct Faults {
    delay: Duration,
    drip: Duration,
    is_silent: bool,
    is_paused: bool,
}

// === impl ControlPlane ===

impl Default for ControlPlane {
    fn default() -> Self {
        Self::new()
    }
}

/// Serving.
impl ControlPlane {
    /// A control plane that has nothing to offer and listens nowhere.
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        Self { _last: Arc::new(LastHandle(Arc::clone(&shared))), shared }
    }

    /// Binds a TCP address and serves it from a task of its own, until [`stop`](Self::stop). Returns the bound address: port 0
    /// picks a free one.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tokio::spawn(self.serve(listener));
        Ok(address)
    }

    /// Serves every connection of `listener`, each in a task of its own, until [`stop`](Self::stop) or until the last handle is
    /// dropped. The listener counts as served from this call on; dropping the future closes it.
    pub fn serve<L: Accept>(&self, listener: L) -> impl Future<Output = ()> + Send + 'static + use<L> {
        serve::listener(Arc::clone(&self.shared), listener)
    }

    /// Serves one connection until either side ends it. Dropping the future cuts it.
    pub fn serve_connection<I>(&self, io: I) -> impl Future<Output = ()> + Send + 'static + use<I>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        serve::connection(Arc::clone(&self.shared), io)
    }
}

/// Resources.
impl ControlPlane {
    /// Offers a resource, in place of the one of that kind and name if there is one, and sends it to those who asked. Returns the
    /// new version of its kind.
    pub fn set<R: Resource>(&self, resource: R) -> String {
        self.change(R::KIND, |tx| tx.set(resource))
    }

    /// As [`set`](Self::set), with bytes that need not be what they claim to be, offered under `name`.
    pub fn raw(&self, kind: ResourceKind, name: &str, body: Any) -> String {
        self.change(kind, |tx| tx.raw(kind, name, body))
    }

    /// Removes a resource, and returns the version of its kind. See [`Transaction::remove`].
    pub fn remove(&self, kind: ResourceKind, name: &str) -> String {
        self.change(kind, |tx| tx.remove(kind, name))
    }

    /// Makes several changes that are sent as one: one new version for each kind that changes.
    ///
    /// Streams and other handles wait for `change`, so it must not use the control plane itself.
    pub fn update(&self, change: impl FnOnce(&mut Transaction<'_>)) {
        self.shared.with(|state| state.update(change));
    }

    /// The present version of a kind, `"0"` before anything was set.
    pub fn version(&self, kind: ResourceKind) -> String {
        self.shared.with(|state| state.version(kind))
    }

    fn change<F>(&self, kind: ResourceKind, change: F) -> String
    where
        F: for<'t, 's> FnOnce(&'t mut Transaction<'s>) -> &'t mut Transaction<'s>,
    {
        self.shared.with(|state| {
            state.update(|tx| {
                change(tx);
            });
            state.version(kind)
        })
    }
}

/// Observing.
impl ControlPlane {
    /// All that clients did so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.with(|state| state.record.clone())
    }

    /// The requests that accepted a response, oldest first.
    pub fn acks(&self) -> Vec<Request> {
        self.shared.with(|state| state.record.iter().filter_map(Event::acked).cloned().collect())
    }

    /// The requests that refused a response, oldest first.
    pub fn nacks(&self) -> Vec<Request> {
        self.shared.with(|state| state.record.iter().filter_map(Event::nacked).cloned().collect())
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.shared.with(|state| state.streams.len())
    }

    /// The names of a kind that open streams ask for.
    pub fn subscriptions(&self, kind: ResourceKind) -> BTreeSet<String> {
        self.shared.with(|state| {
            state.streams.values().filter_map(|stream| stream.names.get(&kind)).flatten().cloned().collect()
        })
    }

    /// The first event, past or to come, that `is_it` says yes to.
    ///
    /// Waits for ever when there is none: put it in a [`tokio::time::timeout`]. Dropping the future has no effect.
    pub async fn wait_for(&self, mut is_it: impl FnMut(&Event) -> bool) -> Event {
        let mut seen = 0;
        self.wait_until(move |plane| {
            let new = plane.shared.with(|state| state.record[seen..].to_vec());
            seen += new.len();
            new.into_iter().find(&mut is_it)
        })
        .await
    }

    /// Waits until exactly `count` streams are open.
    pub async fn wait_streams(&self, count: usize) {
        self.wait_until(|plane| (plane.streams() == count).then_some(())).await;
    }

    /// Waits until a client accepts `version` of a kind, or a later one. A version that is no number, from a response of your own,
    /// is awaited exactly.
    ///
    /// # Errors
    ///
    /// The refusal, when a client refuses that version or a later one before any accepts it.
    pub async fn wait_acked(&self, kind: ResourceKind, version: &str) -> Result<Request, Nacked> {
        let answers = |request: &Request| request.kind == Some(kind) && request.answers_at_least(version);
        let event = self.wait_for(|event| {
            let answer = event.acked().or_else(|| event.nacked());
            answer.is_some_and(answers)
        });
        match event.await {
            Event::Nacked(request) => Err(Nacked::new(request)),
            event => Ok(event.request().cloned().unwrap_or_default()),
        }
    }

    /// Waits until every response that was sent on a stream which is still open has been answered, one way or the other.
    pub async fn wait_answered(&self) {
        self.wait_until(|plane| {
            let is_answered = |stream: &StreamHandle| stream.unanswered.values().all(|count| *count == 0);
            plane.shared.with(|state| state.streams.values().all(is_answered)).then_some(())
        })
        .await;
    }

    async fn wait_until<T>(&self, mut find: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let recorded = self.shared.recorded.notified();
            tokio::pin!(recorded);
            // Registered before looking, so that nothing recorded in between is missed.
            recorded.as_mut().enable();
            if let Some(found) = find(self) {
                return found;
            }
            recorded.await;
        }
    }
}

/// Breaking.
impl ControlPlane {
    /// Ends every open stream with a status, after what was already on its way. Connections stay.
    pub fn end_streams(&self, status: Status) {
        self.shared.with(|state| state.tell_streams(|| Command::End(status.clone())));
    }

    /// Cuts every open connection, without a word.
    pub fn abort_connections(&self) {
        self.shared.with(|state| notify_all(&state.connections));
    }

    /// Leaves new connections unserved until [`resume`](Self::resume): they open, and nothing answers. Open ones go on.
    pub fn pause(&self) {
        self.shared.with(|state| state.faults.is_paused = true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.with(|state| state.faults.is_paused = false);
        self.shared.resumed.notify_waiters();
    }

    /// Closes every listener and cuts every connection. When it returns, the ports are free, and
    /// [`listen`](Self::listen) or [`serve`](Self::serve) start again with the same resources and higher versions.
    ///
    /// Waits for the futures of `serve` and `serve_connection` to end, so those must be running in tasks, or have been dropped.
    pub async fn stop(&self) {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.shared.with(|state| state.end_serving()) {
                return;
            }
            ended.await;
        }
    }

    /// Sends every response this much later. Zero, the default, sends at once.
    pub fn delay(&self, delay: Duration) {
        self.shared.with(|state| state.faults.delay = delay);
    }

    /// Writes to connections one byte at a time, this far apart. Zero, the default, writes at full speed.
    pub fn drip(&self, pause: Duration) {
        self.shared.with(|state| state.faults.drip = pause);
    }

    /// Listens to requests and answers none, until called with `false`, when all that is due is sent.
    pub fn silence(&self, is_silent: bool) {
        self.shared.with(|state| {
            state.faults.is_silent = is_silent;
            state.tell_streams(|| Command::Changed);
        });
    }

    /// Sends a response to every open stream of its variant exactly as it is: unsolicited, with a wrong nonce, of an unknown
    /// type.
    pub fn send(&self, response: impl Into<Response>) {
        let response = response.into();
        self.shared.with(|state| state.tell_streams(|| Command::Send(Box::new(response.clone()))));
    }
}

// === impl LastHandle ===

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.with(|state| state.end_serving());
    }
}

// === impl Shared ===

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.lock())
    }

    /// A panic in a user's closure under `update` leaves the state usable, so poison says nothing here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, event: Event) {
        self.with(|state| state.record.push(event));
        self.recorded.notify_waiters();
    }

    fn open_stream(&self, commands: UnboundedSender<Command>, metadata: MetadataMap) -> u64 {
        let stream = self.with(|state| {
            let stream = state.next_id();
            state
                .streams
                .insert(stream, StreamHandle { commands, names: BTreeMap::new(), unanswered: BTreeMap::new() });
            stream
        });
        self.record(Event::StreamOpened { stream, metadata });
        stream
    }

    fn close_stream(&self, stream: u64) {
        self.with(|state| state.streams.remove(&stream));
        self.record(Event::StreamClosed { stream });
    }
}

// === impl State ===

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn update(&mut self, change: impl FnOnce(&mut Transaction<'_>)) {
        change(&mut self.store.begin());
        self.tell_streams(|| Command::Changed);
    }

    fn version(&self, kind: ResourceKind) -> String {
        self.store.shelf(kind).version.to_string()
    }

    fn tell_streams(&self, command: impl Fn() -> Command) {
        for stream in self.streams.values() {
            // A stream whose task has ended is about to leave the map.
            let _ = stream.commands.send(command());
        }
    }

    /// Tells everything that serves to end. Returns whether nothing did.
    fn end_serving(&mut self) -> bool {
        notify_all(&self.listeners);
        notify_all(&self.connections);
        self.listeners.is_empty() && self.connections.is_empty()
    }
}

fn notify_all(tasks: &BTreeMap<u64, Arc<Notify>>) {
    for task in tasks.values() {
        task.notify_one();
    }
}
