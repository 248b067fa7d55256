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
//! [`tokio::io::duplex`] under a paused clock, or a TLS stream. A [`Place`] keeps the port of one that is stopped and started
//! again. It decides nothing by chance, so a test with a paused clock and one thread replays.
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
//! | broken off | [`end_streams`](ControlPlane::end_streams) with a status, [`abort_connections`](ControlPlane::abort_connections), [`stop`](ControlPlane::stop) it all and start again on the same address, which a [`Place`] keeps |
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

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, ToSocketAddrs};

use crate::ResourceKind;

mod breaking;
mod canary;
mod command;
mod delta;
mod drip;
mod faults;
#[doc(hidden)]
pub mod measured;
mod mutation;
mod observe;
mod place;
mod record;
pub mod resource;
mod serve;
mod shared;
mod state_of_the_world;
mod store;
mod stream;

pub use self::faults::Held;
pub use self::mutation::Mutations;
pub use self::place::Place;
pub use self::record::{Event, Nacked, Request};
pub use self::serve::Accept;
pub use self::store::{Resource, Transaction};

use self::shared::{Shared, State};

/// A control plane in process. See the [module](self).
#[derive(Debug, Clone)]
pub struct ControlPlane {
    shared: Arc<Shared>,
    /// Ends everything that serves when the last handle goes. The tasks hold `shared` only.
    _last: Arc<LastHandle>,
}

#[derive(Debug)]
struct LastHandle(Arc<Shared>);

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

// === impl LastHandle ===

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.with(|state| state.end_serving());
    }
}
