//! A port that stays a test's own while whoever listens there comes and goes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket};

/// A TCP port for servers that a test stops and starts again.
///
/// A port that was only closed is free: the system may give it to anybody's server, or to the very connection that a client
/// asks for there, which then talks to itself. So a socket that does not listen keeps it, until this is dropped.
///
/// ```
/// # use mesh_xds_client::testkit::{ControlPlane, Place};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let place = Place::new([127, 0, 0, 1])?;
/// let plane = ControlPlane::new();
/// tokio::spawn(plane.serve(place.listen()?));
/// plane.stop().await;
/// // Whoever connects to `place.address()` is refused, until:
/// tokio::spawn(plane.serve(place.listen()?));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Place {
    address: SocketAddr,
    _keeper: TcpSocket,
}

// === impl Place ===

impl Place {
    /// A free port of this address of the machine, such as `[127, 0, 0, 1]`. Nobody listens there, so that connections are
    /// refused, until [`listen`](Self::listen).
    ///
    /// # Errors
    ///
    /// When there is none, or the address is not the machine's.
    pub fn new(ip: impl Into<IpAddr>) -> io::Result<Self> {
        let keeper = shared_socket(SocketAddr::new(ip.into(), 0))?;
        Ok(Self { address: keeper.local_addr()?, _keeper: keeper })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens there, for [`ControlPlane::serve`](super::ControlPlane::serve) or any other server.
    ///
    /// # Errors
    ///
    /// When the system has no socket left.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn listen(&self) -> io::Result<TcpListener> {
        shared_socket(self.address)?.listen(1024)
    }
}

/// A bound socket of a port that several may be bound to.
fn shared_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
