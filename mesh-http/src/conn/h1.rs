//! One HTTP/1.1 connection: one request at a time, no upgrades.
//!
//! The writes of a request are few and hyper puts head and body into one, so nothing is gathered here; a call costs a
//! write, a wait and a read. hyper always writes vectors, and most are of one piece: those go out by the plain call, which
//! is the cheaper one.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{BoxError, Error, SendError};
use super::options::Http1Options;

/// Prepares a connection over `io`. HTTP/1.1 has no handshake: nothing is written before the first request.
///
/// # Errors
///
/// None today; hyper's signature allows for one.
pub async fn handshake<IO, B>(io: IO, options: &Http1Options) -> Result<(Sender<B>, Driver<IO, B>), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let (requests, connection) = http1::Builder::new()
        .max_headers(options.max_headers)
        .max_buf_size(options.max_buffer.max(Http1Options::MIN_BUFFER))
        .handshake(Plain(TokioIo::new(io)))
        .await
        .map_err(|error| Error::classify(error, false))?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let driver = Driver { connection, finished: false, abandoned: Arc::clone(&abandoned) };
    Ok((Sender { requests, abandoned }, driver))
}

/// Sends requests, one after the other. Dropping it ends the driver after the call in flight.
pub struct Sender<B> {
    requests: http1::SendRequest<B>,
    /// Set when the driver is dropped before its end.
    abandoned: Arc<AtomicBool>,
}

/// Does the work of a connection. Spawn it: nothing moves otherwise.
///
/// It ends well when the sender is gone or the peer closed between two requests, and with the error of the connection
/// otherwise. Dropping it closes the socket.
#[must_use = "futures do nothing unless polled"]
pub struct Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    connection: http1::Connection<Plain<IO>, B>,
    finished: bool,
    abandoned: Arc<AtomicBool>,
}

/// A socket that writes vectors of one piece as one piece.
struct Plain<IO>(TokioIo<IO>);

// === impl Sender ===

impl<B> Sender<B> {
    /// Waits until the connection can take a request: the body of the last response was read to its end.
    ///
    /// # Errors
    ///
    /// When the connection is closed. It never becomes ready then.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.requests.poll_ready(cx).map_err(|error| Error::classify(error, true))
    }

    /// Whether a request can be sent now, as far as is known. The peer may have closed a moment ago.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }

    /// Whether the connection is closed for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

impl<B: Body + 'static> Sender<B> {
    /// Hands a request to the connection, at once, and returns the future of its response. The request needs a `host`
    /// header, and a target in the form that goes on the wire. A connection that is not ready gives the request back.
    ///
    /// Dropping that future, or the response's body before its end, closes the connection.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`](super::ErrorKind). A request that had not left comes back with the error.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<B>>> + use<B> {
        let abandoned = Arc::clone(&self.abandoned);
        let response = self.requests.try_send_request(request);
        async move {
            let response = response.await;
            response.map_err(|failed| SendError::new(failed, abandoned.load(Ordering::Acquire)))
        }
    }
}

impl<B> fmt::Debug for Sender<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish()
    }
}

// === impl Driver ===

impl<IO, B> Future for Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ended = ready!(Pin::new(&mut this.connection).poll(cx));
        this.finished = true;
        Poll::Ready(ended.map_err(|error| Error::classify(error, false)))
    }
}

impl<IO, B> Drop for Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn drop(&mut self) {
        if !self.finished {
            self.abandoned.store(true, Ordering::Release);
        }
    }
}

impl<IO, B> fmt::Debug for Driver<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("finished", &self.finished).finish_non_exhaustive()
    }
}

// === impl Plain ===

impl<IO: AsyncRead + Unpin> Read for Plain<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> Write for Plain<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            [only] => Pin::new(&mut self.0).poll_write(cx, only),
            _ => Pin::new(&mut self.0).poll_write_vectored(cx, bufs),
        }
    }
}
