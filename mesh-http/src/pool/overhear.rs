//! Remembers how TLS failed on a stream, since hyper's errors do not always carry it to the request.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::{TlsError, TlsStream};

/// How TLS failed, once it has.
///
/// With TLS 1.3 a peer refuses our certificate only after we have taken the handshake for done.
pub(super) type TlsEnd = Arc<OnceLock<TlsError>>;

/// A stream that writes down the first TLS failure that a read meets, before the reader hears of it.
pub(super) struct Overheard<IO> {
    io: TlsStream<IO>,
    end: TlsEnd,
}

impl<IO> Overheard<IO> {
    pub(super) fn new(io: TlsStream<IO>, end: TlsEnd) -> Self {
        Self { io, end }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Overheard<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read
            && let Some(error) = TlsError::find(error)
        {
            // The first counts; later ones follow from it.
            _ = self.end.set(error.clone());
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Overheard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
