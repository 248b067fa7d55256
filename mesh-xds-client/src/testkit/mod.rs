//! An xDS control plane in your own process, to test what your service does when its configuration changes.
//!
//! A [`ControlPlane`] speaks ADS as a real one does: over gRPC, in state of the world and in delta, whichever a client calls, with
//! versions and nonces, to this crate's client as well as to Envoy or gRPC's own. It is a handle: cheap to clone, and the
//! control plane ends with the last one.
//!
//! # A canary in ten lines
//!
//! A control plane, two backends, a client, and traffic that is shifted from one to the other. What it should look like is
//! asserted of the answers, and nothing is left to luck: [`shift`](ControlPlane::shift) returns when the client has taken the
//! new routes, and with a seed the mesh draws the same lots in every run.
//!
//! ```
//! use mesh_http::{Client, Mesh};
//! use mesh_xds_client::testkit::ControlPlane;
//! # use http_body_util::BodyExt;
//! # use std::net::SocketAddr;
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # /// A server that answers every request with its name.
//! # async fn backend(name: &'static str) -> std::io::Result<SocketAddr> {
//! #     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! #     let address = listener.local_addr()?;
//! #     tokio::spawn(async move {
//! #         while let Ok((mut io, _)) = listener.accept().await {
//! #             tokio::spawn(async move {
//! #                 let mut request = [0; 4096];
//! #                 while io.read(&mut request).await.is_ok_and(|read| read > 0) {
//! #                     let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
//! #                     io.write_all(answer.as_bytes()).await.expect("the client is there");
//! #                 }
//! #             });
//! #         }
//! #     });
//! #     Ok(address)
//! # }
//! #
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plane = ControlPlane::new();
//! plane.offer("echo.test", [("v1", backend("v1").await?), ("v2", backend("v2").await?)]);
//! let mesh = Mesh::builder().source(plane.client().build()?).seed(1).build()?;
//! let client = Client::builder("echo.test").mesh(&mesh).build()?;
//! for share in [0, 50, 100] {
//!     plane.shift("echo.test", [("v1", 100 - share), ("v2", share)]).await?;
//!     let mut canary = 0;
//!     for _ in 0..200 {
//!         let answer = client.get("http://echo.test/").await?.into_body().collect().await?.to_bytes();
//!         canary += u32::from(answer == "v2");
//!     }
//!     assert!((canary / 2).abs_diff(share) <= 5, "{canary} of 200 calls for a share of {share} %");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Routes that match more finely, subsets or timeouts are messages from [`resource`], with whatever fields you set, and
//! [`set`](ControlPlane::set) or [`update`](ControlPlane::update); [`wait_acked`](ControlPlane::wait_acked) waits for the client,
//! and says why if it refuses. A service that brings its own client gets an address by [`listen`](ControlPlane::listen).
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
//! | what | how |
//! |---|---|
//! | late | [`delay`](ControlPlane::delay) every response, or [one kind](ControlPlane::delay_kind) |
//! | never | [`silence`](ControlPlane::silence); [`pause`](ControlPlane::pause) leaves new connections unserved |
//! | out of order | [`hold`](ControlPlane::hold) responses back, [`release`](ControlPlane::release) them rearranged, twice, or in part |
//! | corrupt | the [next response](ControlPlane::corrupt_next) of a kind, or [all of them](ControlPlane::mutate) by a seed; [`raw`](ControlPlane::raw) offers a resource that is none |
//! | unasked | [`send`](ControlPlane::send) any response: a wrong nonce, an unknown type; [`send_bytes`](ControlPlane::send_bytes) anything at all |
//! | refused | [`refuse_streams`](ControlPlane::refuse_streams) with a status |
//! | broken off | [`end_streams`](ControlPlane::end_streams) with a status, [`abort_connections`](ControlPlane::abort_connections), [`stop`](ControlPlane::stop) it all and start again on the same address |
//! | slow | [`drip`](ControlPlane::drip) a byte at a time |
//!
//! All of it counts in tokio's time, so under a paused clock it takes none.
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
//! All that clients say is kept until the control plane goes, to be looked at when a test is over, or until a test that runs for
//! long [takes](ControlPlane::take_events) it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use envoy_types::pb::google::protobuf::Any;
use mesh_core::config::Address;
use mesh_http::connect::{Connect, Connecting};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tonic::{Status, metadata::MetadataMap};

use crate::bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature};
use crate::session::Response;
use crate::{ResourceKind, XdsClient, XdsClientBuilder};

mod delta;
mod drip;
mod faults;
#[doc(hidden)]
pub mod measured;
mod mutation;
mod record;
pub mod resource;
mod serve;
mod state_of_the_world;
mod store;
mod stream;

pub use self::faults::Held;
pub use self::mutation::Mutations;
pub use self::record::{Event, Nacked, Request};
pub use self::serve::Accept;
pub use self::store::{Resource, Transaction};

use self::faults::{Damage, Faults};
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

/// Opens pipes to a control plane while that is there.
#[derive(Debug, Clone)]
struct InMemory(Weak<Shared>);

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
    /// How many events were taken out of the record: the place of its first.
    taken: usize,
    /// The last number given to a stream, a connection or a listener.
    last_id: u64,
    /// Ordered, as the others below, so that telling them all something happens in one order.
    streams: BTreeMap<u64, StreamHandle>,
    /// What is told to a connection ends it.
    connections: BTreeMap<u64, Arc<Notify>>,
    /// What is told to a listener closes it.
    listeners: BTreeMap<u64, Arc<Notify>>,
}

/// How much a pipe holds, in bytes.
const PIPE: usize = 64 * 1024;

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

/// A canary.
impl ControlPlane {
    /// A client of this control plane, through memory, to be built: it needs no address and no bootstrap. It speaks state of the
    /// world, its node is `test`, and what it leaves to chance is the same in each run.
    pub fn client(&self) -> XdsClientBuilder {
        self.client_with([])
    }

    /// As [`client`](Self::client), of a server with these features: [`ServerFeature::Delta`] has it speak delta.
    pub fn client_with(&self, features: impl IntoIterator<Item = ServerFeature>) -> XdsClientBuilder {
        let bootstrap = Bootstrap::builder()
            .server_with_features("127.0.0.1:15010", ChannelCredentials::Insecure, features)
            .node(Node::new("test"))
            .build()
            .expect("an address and a name make a bootstrap");
        XdsClient::builder(bootstrap).connector(InMemory(Arc::downgrade(&self.shared))).seed(1)
    }

    /// Offers a target, and clusters with an endpoint each, of which the first gets everything. Its routes are named like it.
    pub fn offer<N: Into<String>>(&self, target: &str, clusters: impl IntoIterator<Item = (N, SocketAddr)>) {
        let clusters: Vec<_> = clusters.into_iter().map(|(name, address)| (name.into(), address)).collect();
        let weights = clusters.iter().enumerate().map(|(place, (name, _))| (name.clone(), u32::from(place == 0)));
        self.update(|tx| {
            tx.set(resource::listener(target, target)).set(resource::route_config(target, weights));
            for (name, address) in &clusters {
                tx.set(resource::cluster(name)).set(resource::endpoints(name, [*address]));
            }
        });
    }

    /// Shares the requests of an [offered](Self::offer) target among clusters by weight, and waits until a client takes that.
    ///
    /// # Errors
    ///
    /// When a client refuses it.
    pub async fn shift<N: Into<String>>(
        &self,
        target: &str,
        weights: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<(), Nacked> {
        let version = self.set(resource::route_config(target, weights));
        self.wait_acked(ResourceKind::RouteConfiguration, &version).await.map(drop)
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
    /// All that clients did so far and was not [taken](Self::take_events), oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.with(|state| state.record.clone())
    }

    /// As [`events`](Self::events), and forgets them, so that a test which runs for long keeps its memory.
    pub fn take_events(&self) -> Vec<Event> {
        self.shared.with(|state| {
            state.taken += state.record.len();
            std::mem::take(&mut state.record)
        })
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
        let mut seen = 0_usize;
        self.wait_until(move |plane| {
            let new = plane.shared.with(|state| {
                let new = state.record[seen.saturating_sub(state.taken)..].to_vec();
                seen = state.taken + state.record.len();
                new
            });
            new.into_iter().find(&mut is_it)
        })
        .await
    }

    /// Waits until exactly `count` streams are open.
    pub async fn wait_streams(&self, count: usize) {
        self.wait_until(|plane| (plane.streams() == count).then_some(())).await;
    }

    /// Waits until at least `count` responses are [held back](Self::hold).
    pub async fn wait_held(&self, count: usize) {
        let held = |state: &mut State| state.faults.held.as_ref().map_or(0, Vec::len);
        self.wait_until(|plane| (plane.shared.with(held) >= count).then_some(())).await;
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

    /// Answers new streams with this status, or serves them again. Open ones go on.
    pub fn refuse_streams(&self, status: impl Into<Option<Status>>) {
        let status = status.into();
        self.shared.with(|state| state.faults.refusal = status);
    }

    /// Sends every response this much later. Zero, the default, sends at once.
    pub fn delay(&self, delay: Duration) {
        self.shared.with(|state| state.faults.delay = delay);
    }

    /// Sends the responses of one kind this much later than the others, which pass them.
    pub fn delay_kind(&self, kind: ResourceKind, delay: Duration) {
        self.shared.with(|state| state.faults.delays.insert(kind, delay));
    }

    /// Holds responses back until [`release`](Self::release). Those of [`send`](Self::send) leave all the same.
    pub fn hold(&self) {
        self.shared.with(|state| {
            state.faults.held.get_or_insert_default();
        });
    }

    /// Sends what was [held back](Self::hold), after `rearrange` has put it in another order, left some of it out or said some
    /// of it twice. Nothing is held back from then on.
    ///
    /// ```
    /// # let plane = mesh_xds_client::testkit::ControlPlane::new();
    /// plane.hold();
    /// // Change resources; `wait_held` says when the responses are there.
    /// plane.release(|held| held.reverse());
    /// ```
    pub fn release(&self, rearrange: impl FnOnce(&mut Vec<Held>)) {
        let mut held = self.shared.with(|state| state.faults.held.take()).unwrap_or_default();
        rearrange(&mut held);
        self.shared.with(|state| {
            for Held { stream, response } in held {
                if let Some(stream) = state.streams.get(&stream) {
                    let _ = stream.commands.send(Command::Release(Box::new(response)));
                }
            }
        });
    }

    /// Does this to the bytes of the next response of a kind, on whatever stream. Said twice, it is done to the next two.
    ///
    /// ```
    /// # use mesh_xds_client::ResourceKind;
    /// # let plane = mesh_xds_client::testkit::ControlPlane::new();
    /// plane.corrupt_next(ResourceKind::Cluster, |bytes| bytes.truncate(bytes.len() / 2));
    /// ```
    pub fn corrupt_next(&self, kind: ResourceKind, damage: impl FnOnce(&mut Vec<u8>) + Send + 'static) {
        let damage = Damage(Box::new(damage));
        self.shared.with(|state| state.faults.damages.entry(kind).or_default().push_back(damage));
    }

    /// Sends of every response the next of these [mutations](Mutations), or all of them whole again.
    pub fn mutate(&self, mutations: impl Into<Option<Mutations>>) {
        let mutations = mutations.into();
        self.shared.with(|state| state.faults.mutations = mutations);
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

    /// Sends a response to every open stream of its variant as it is: unsolicited, with a wrong nonce, of an unknown
    /// type.
    pub fn send(&self, response: impl Into<Response>) {
        let response = response.into();
        self.shared.with(|state| state.tell_streams(|| Command::Send(Box::new(response.clone()))));
    }

    /// Sends these bytes to every open stream in place of a response, at once.
    pub fn send_bytes(&self, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.shared.with(|state| state.tell_streams(|| Command::Write(bytes.clone())));
    }
}

// === impl InMemory ===

impl Connect for InMemory {
    fn connect(&self, _: &Address) -> Connecting {
        let Some(shared) = self.0.upgrade() else {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(serve::connection(shared, theirs));
        Box::pin(async move { Ok(Box::new(ours) as mesh_http::connect::Stream) })
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

    fn hold(&self, held: Held) {
        self.with(|state| state.faults.held.get_or_insert_default().push(held));
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
