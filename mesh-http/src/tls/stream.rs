//! An encrypted connection: bytes in and out, with TLS failures typed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;

use super::TlsError;

/// A connection that has been encrypted by [`Connector::connect`](super::Connector::connect).
///
/// An `io::Error` of its reads and writes holds a [`TlsError`] where TLS failed, such as a refusal of our certificate that
/// arrives late; a peer that closes without saying so by TLS is `UnexpectedEof`. Dropping it closes the connection beneath
/// without a `close_notify`; `shutdown` sends one.
#[derive(Debug)]
#[pin_project]
pub struct TlsStream<IO>(#[pin] client::TlsStream<IO>);

impl<IO> TlsStream<IO> {
    pub(crate) fn new(inner: client::TlsStream<IO>) -> Self {
        Self(inner)
    }

    /// The protocol that ALPN settled on; `None` where the peer ignored the offer, or none was made.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.session().alpn_protocol()
    }

    /// The peer's chain in DER, its own certificate first.
    pub fn peer_certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.session().peer_certificates().unwrap_or_default().iter().map(|der| &**der)
    }

    /// Whether an earlier session was resumed, without certificates being exchanged.
    pub fn is_resumed(&self) -> bool {
        self.session().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The connection beneath.
    pub fn get_ref(&self) -> &IO {
        self.0.get_ref().0
    }

    fn session(&self) -> &rustls::ClientConnection {
        self.0.get_ref().1
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_read(cx, buf).map_err(typed)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().0.poll_write(cx, buf).map_err(typed)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_flush(cx).map_err(typed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_shutdown(cx).map_err(typed)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().0.poll_write_vectored(cx, bufs).map_err(typed)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// Puts our error in the place of rustls's; what came from the connection beneath stays as it is.
fn typed(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|held| held.downcast_ref::<rustls::Error>()) {
        Some(tls) => io::Error::new(error.kind(), TlsError::from_rustls(tls.clone())),
        None => error,
    }
}
