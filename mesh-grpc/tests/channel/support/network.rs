//! Where servers listen: on a port of loopback that nobody else can get, or at the end of pipes in memory.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use hyper_util::rt::TokioIo;
use mesh_core::config::Address;
use mesh_grpc::{Channel, ChannelBuilder};
use mesh_http::{
    Mesh,
    connect::{Connect, Connecting, Stream},
};
use tokio::{
    io::{DuplexStream, duplex},
    net::{TcpListener, TcpSocket},
    sync::mpsc,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

use super::{Client, built};

/// A port of loopback that stays this test's while servers on it come and go.
///
/// A port that is only closed is free, and any test of this process may be given it: its server would then answer, or never
/// answer, calls that were meant to be refused. So a socket that does not listen keeps it.
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    _keeper: TcpSocket,
}

/// A network of one server: whoever connects, to whatever address, gets a pipe to it. It goes with a paused clock.
#[derive(Clone)]
pub(crate) struct Pipes(mpsc::UnboundedSender<io::Result<DuplexStream>>);

/// The server's ends.
pub(crate) type Incoming = UnboundedReceiverStream<io::Result<DuplexStream>>;

// === impl Place ===

impl Place {
    /// Nobody listens there, so that connections are refused, until [`listen`](Self::listen).
    pub(crate) fn new() -> Self {
        let keeper = shared_socket((Ipv4Addr::LOCALHOST, 0).into());
        Self { address: keeper.local_addr().expect("bound"), _keeper: keeper }
    }

    pub(crate) fn listen(&self) -> TcpListener {
        shared_socket(self.address).listen(128).expect("nobody else listens")
    }
}

/// A bound socket of a port that several may be bound to, one of them listening.
fn shared_socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.set_reuseport(true).expect("an option");
    socket.bind(address).expect("it is free, or kept for us");
    socket
}

/// A channel to one endpoint, whose connections are `connector`'s.
pub(crate) fn builder_over(connector: impl Connect) -> ChannelBuilder {
    let mesh = Mesh::builder().connector(connector).seed(1).build().expect("in a runtime");
    Channel::builder("echo.test").mesh(&mesh).endpoints([SocketAddr::from(([10, 0, 0, 1], 80))])
}

// === impl Pipes ===

impl Pipes {
    pub(super) fn new() -> (Self, Incoming) {
        let (connect, incoming) = mpsc::unbounded_channel();
        (Self(connect), UnboundedReceiverStream::new(incoming))
    }

    pub(crate) fn builder(&self) -> ChannelBuilder {
        builder_over(self.clone())
    }

    pub(crate) fn client(&self) -> Client {
        built(self.builder())
    }

    /// tonic's own channel, which hands no deadline on and leaves streams to the server.
    pub(crate) fn plain(&self) -> tonic::transport::Channel {
        let pipes = self.clone();
        Endpoint::from_static("http://10.0.0.1").connect_with_connector_lazy(tower::service_fn(move |_| {
            let pipe = pipes.pipe();
            async move { pipe.map(TokioIo::new) }
        }))
    }

    fn pipe(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(64 * 1024);
        self.0.send(Ok(far)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }
}

impl Connect for Pipes {
    fn connect(&self, _: &Address) -> Connecting {
        let pipe = self.pipe();
        Box::pin(async move { pipe.map(|pipe| Box::new(pipe) as Stream) })
    }
}
