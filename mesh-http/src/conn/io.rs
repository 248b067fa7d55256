//! A socket whose small writes are gathered while the connection works, and leave together when it rests.
//!
//! hyper writes a request's headers and its body apart, because a new stream may send data only after the connection has opened
//! it. [`Corked`] takes such writes into memory, and [`Cork::poll_flush`], called by the driver once nothing is left to do, sends
//! them in one system call (and one TLS record). `TCP_CORK` would do the same at the price of two calls to set and clear it.
//!
//! Memory is bounded: past [`LIMIT`] gathered bytes a writer waits for the socket as usual. A large write is not copied: it goes
//! straight to the socket, behind what was gathered, in one vectored write.
//!
//! Reading goes through hyper-util's `TokioIo`, which lends hyper's uninitialised buffer to the socket; doing that here would
//! take `unsafe`, or a copy of every byte read.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes gathered before a writer has to wait for the socket.
const LIMIT: usize = 64 * 1024;

/// Writes of this size are not worth copying: moving 8 KiB costs about what a second system call does.
const LARGE: usize = 8 * 1024;

/// Slices given to one vectored write; h2 uses two.
const SLICES: usize = 8;

/// Makes the two ends of a socket: hyper reads and writes the first, the driver flushes the second.
pub(super) fn cork<IO>(io: IO) -> (Corked<IO>, Cork<IO>) {
    let socket = Arc::new(Mutex::new(Socket {
        io: TokioIo::new(io),
        gathered: Gathered::default(),
        dirty: false,
        failed: None,
        blocked: None,
        released: false,
    }));
    (Corked(Arc::clone(&socket)), Cork(socket))
}

/// The socket as hyper sees it. Flushing does nothing here: the driver always flushes before it rests.
#[derive(Debug)]
pub(super) struct Corked<IO>(Arc<Mutex<Socket<IO>>>);

/// The driver's end of the socket.
#[derive(Debug)]
pub(super) struct Cork<IO>(Arc<Mutex<Socket<IO>>>);

#[derive(Debug)]
struct Socket<IO> {
    io: TokioIo<IO>,
    gathered: Gathered,
    /// Whether `io` was written to since it was last flushed; TLS keeps records of its own.
    dirty: bool,
    /// Why writing came to an end. Kept until hyper asks, since nobody is waiting when the driver flushes.
    failed: Option<io::Error>,
    /// Who waits for room, or for the last byte before shutdown. The driver's flush takes over the socket's only write waker,
    /// and so has to pass the news on.
    blocked: Option<Waker>,
    /// Set when hyper has dropped its end.
    released: bool,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// How many of `bytes` the socket has taken.
    sent: usize,
}

fn lock<IO>(socket: &Mutex<Socket<IO>>) -> MutexGuard<'_, Socket<IO>> {
    // A panic in the transport leaves plain bytes behind, which are still in order.
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Corked ===

impl<IO: AsyncRead + Unpin> Read for Corked<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut socket = lock(&self.0);
        match Pin::new(&mut socket.io).poll_read(cx, buf) {
            // What the peer said before writing failed is still read first.
            Poll::Pending => socket.failure().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
            ready => ready,
        }
    }
}

impl<IO: AsyncWrite + Unpin> Write for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = lock(&self.0);
        match socket.poll_drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut socket.io).poll_shutdown(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => socket.block(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_gather(cx, bufs)
    }
}

impl<IO> Drop for Corked<IO> {
    fn drop(&mut self) {
        lock(&self.0).released = true;
    }
}

// === impl Cork ===

impl<IO: AsyncWrite + Unpin> Cork<IO> {
    /// Sends what was gathered. `Ready` says that nothing is left; an error means that hyper must be polled to hear of it.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let mut socket = lock(&self.0);
        if socket.is_clean() {
            return Poll::Ready(Ok(()));
        }
        let waiting = socket.gathered.len();
        let outcome = socket.poll_drain(cx).map_err(|error| {
            socket.failed = Some(error);
            Failed
        });
        // Without progress a woken writer would find the socket as full as before, and the two would wake each other forever.
        let progress = outcome.is_ready() || socket.gathered.len() < waiting;
        let blocked = if progress && socket.has_room() { socket.blocked.take() } else { None };
        drop(socket);
        if let Some(waker) = blocked {
            waker.wake();
        }
        outcome
    }
}

impl<IO> Cork<IO> {
    /// Whether hyper has let go of the socket, which ends the connection.
    pub(super) fn is_released(&self) -> bool {
        lock(&self.0).released
    }
}

/// Writing failed; the cause waits in the socket for hyper.
#[derive(Debug)]
pub(super) struct Failed;

// === impl Socket ===

impl<IO> Socket<IO> {
    fn is_clean(&self) -> bool {
        self.failed.is_some() || (self.gathered.is_empty() && !self.dirty)
    }

    fn has_room(&self) -> bool {
        self.gathered.len() < LIMIT
    }

    fn block<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.blocked = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The stored failure. Errors cannot be cloned: the first to ask gets the cause, later ones its kind.
    fn failure(&mut self) -> Option<io::Error> {
        let error = self.failed.take()?;
        self.failed = Some(error.kind().into());
        Some(error)
    }
}

impl<IO: AsyncWrite + Unpin> Socket<IO> {
    fn poll_gather(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if len < LARGE && self.gathered.len() + len <= LIMIT {
            self.gathered.extend(bufs);
            return Poll::Ready(Ok(len));
        }
        self.poll_write_through(cx, bufs)
    }

    /// Writes `bufs` behind what was gathered, without copying them, and returns how much of `bufs` was taken.
    fn poll_write_through(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.gathered.len();
            let written = match self.poll_write_behind(cx, bufs) {
                Poll::Ready(written) => some_progress(written)?,
                Poll::Pending => return self.block(cx),
            };
            self.dirty = true;
            self.gathered.consume(written.min(waiting));
            if written > waiting {
                return Poll::Ready(Ok(written - waiting));
            }
        }
    }

    fn poll_write_behind(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.gathered.is_empty() {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let all = std::iter::once(self.gathered.rest()).chain(bufs.iter().map(|buf| &**buf));
        let mut used = 0;
        for (slice, bytes) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..used])
    }

    /// Writes and flushes everything gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        while !self.gathered.is_empty() {
            let written = some_progress(ready!(Pin::new(&mut self.io).poll_write(cx, self.gathered.rest())))?;
            self.dirty = true;
            self.gathered.consume(written);
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }
}

fn some_progress(written: io::Result<usize>) -> io::Result<usize> {
    match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

// === impl Gathered ===

impl Gathered {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn extend(&mut self, bufs: &[IoSlice<'_>]) {
        for buf in bufs {
            self.bytes.extend_from_slice(buf);
        }
    }

    /// Forgets `count` bytes. Once the socket has taken half a limit the rest moves to the front, so that a peer that reads
    /// slowly but steadily does not make the buffer grow without end.
    fn consume(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent >= LIMIT / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}
