//! A world in memory: a network of pipes, backends on hyper's connection API, the control plane of the test kit, and one
//! record of all that happened in it.
//!
//! With a current-thread runtime and a paused clock everything in it happens in one order, at virtual times, and replays: a
//! test asks for latency, refusals, resets and silence by address and by moment, and nothing is left to the machine.

mod backend;
mod caller;
mod network;
mod record;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use mesh_core::config::Address;
use mesh_http::{Mesh, MeshBuilder, connect::Connect, connect::Connecting};
use mesh_xds_client::{
    XdsClient, XdsClientBuilder,
    bootstrap::{Bootstrap, ChannelCredentials, Node},
    testkit::ControlPlane,
};

pub use self::{
    backend::{Answer, Backend, Manner, Speaks},
    caller::{Caller, failure_of},
    network::{Accepted, Listener, Network, Reach, Wire},
    record::{Entry, Record, What},
};

/// Where the control plane of a [`World`] listens.
pub const PLANE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 9, 9)), 15010);

/// A network with a control plane in it.
#[derive(Clone, Debug)]
pub struct World {
    /// Who reaches whom, and how.
    pub network: Network,
    /// Steers every mesh of this world.
    pub plane: ControlPlane,
    /// What happened, in order.
    pub record: Record,
}

/// The address of a backend, by number.
pub fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 80))
}

/// The whole body as text.
///
/// # Panics
///
/// When the body breaks off, or is not text.
pub async fn text<B>(response: http::Response<B>) -> String
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

// === impl World ===

impl World {
    /// A world that begins now. Has to be made inside a runtime.
    pub fn new() -> Self {
        let record = Record::new();
        let network = Network::new(record.clone());
        let plane = ControlPlane::new();
        let world = Self { network, plane, record };
        world.listen_for_clients();
        world
    }

    /// The control plane takes connections, again if it was stopped.
    pub fn listen_for_clients(&self) {
        let (plane, mut listener) = (self.plane.clone(), self.network.listen(PLANE));
        tokio::spawn(async move {
            while let Some(Accepted { stream, .. }) = listener.accept().await {
                tokio::spawn(plane.serve_connection(stream));
            }
        });
    }

    /// The control plane is gone: its connections break, and nobody answers its address.
    pub async fn stop_control_plane(&self) {
        self.network.close(PLANE);
        self.plane.stop().await;
    }

    /// A backend at `number`, which answers by `manner`.
    pub fn backend(&self, number: u8, name: &str, speaks: Speaks, manner: impl Manner) -> Backend {
        Backend::start(self, address(number), name, speaks, Arc::new(manner))
    }

    /// A client of the control plane, to be built. The seed decides its reconnects, of which there are several a second.
    pub fn source(&self, seed: u64) -> XdsClientBuilder {
        let bootstrap = Bootstrap::builder()
            .server(PLANE.to_string(), ChannelCredentials::Insecure)
            .node(Node::new("simulated"))
            .build()
            .expect("an address and a name make a bootstrap");
        let (initial, max) = (Duration::from_millis(100), Duration::from_millis(400));
        XdsClient::builder(bootstrap).connector(self.network.clone()).seed(seed).reconnect(initial, max)
    }

    /// A mesh in this network that nobody steers, to be built.
    pub fn unsteered(&self, seed: u64) -> MeshBuilder {
        Mesh::builder().connector(self.network.clone()).seed(seed)
    }

    /// A mesh that the control plane steers.
    pub fn mesh(&self, seed: u64) -> Mesh {
        let source = self.source(seed).build().expect("a client without TLS needs nothing more");
        self.unsteered(seed).source(source).build().expect("a test runs inside a runtime")
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Connect for Network {
    fn connect(&self, address: &Address) -> Connecting {
        match address {
            Address::Socket(address) => self.dial(*address),
            other => {
                let error = std::io::Error::other(format!("{other} is not in this network"));
                Box::pin(async move { Err(error) })
            }
        }
    }
}
