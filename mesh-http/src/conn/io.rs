//! A socket whose small writes are gathered while the connection works, and leave together when it rests.
//!
//! hyper writes a request's headers and its body apart, because a new stream may send data only after the connection
//! has opened it. [`Corked`] takes such writes into memory, and [`Cork::poll_flush`], called by the driver once nothing
//! is left to do, sends them in one system call (and one TLS record). `TCP_CORK` would do the same at the price of two
//! calls to set and clear it.
//!
//! Memory is bounded: past [`LIMIT`] gathered bytes a writer waits for the socket as usual. A large write is not
//! copied: it goes straight to the socket, behind what was gathered, in one vectored write, as does one that would pass
//! the limit.
//!
//! Reading goes through hyper-util's `TokioIo`, which lends hyper's uninitialised buffer to the socket. Doing that here
//! would take `unsafe`; reading aside and copying costs a unary call nothing, but large bodies a seventh more CPU.

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

/// Writes of this size are not worth copying: they fill a system call by themselves. Frames of 16 KiB, the usual size,
/// are worth it: sent one by one, streams of 1 MiB cost 1.4 times the CPU.
const LARGE: usize = 32 * 1024;

/// Memory that a connection keeps for gathering once its bursts are over.
const KEPT: usize = 8 * 1024;

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
        heard: false,
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
    /// Who waits for room, or for the last byte before shutdown. The driver's flush takes over the socket's only write
    /// waker, and so has to pass the news on.
    blocked: Option<Waker>,
    /// Set when bytes were read, cleared when the driver has looked.
    heard: bool,
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
            ready => {
                socket.heard = true;
                ready
            }
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
    /// Sends what was gathered. `Ready` says that nothing is left; an error means that hyper must be polled to hear of
    /// it.
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
        // Without progress a woken writer would find the socket as full as before, and the two would wake each other
        // forever.
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
    /// What happened at hyper's end since the last look.
    pub(super) fn look(&self) -> Look {
        let mut socket = lock(&self.0);
        if socket.released {
            Look::Released
        } else if std::mem::take(&mut socket.heard) {
            Look::Heard
        } else {
            Look::Quiet
        }
    }
}

/// See [`Cork::look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Quiet,
    /// Bytes were read, or reading failed.
    Heard,
    /// hyper has let go of the socket, which ends the connection.
    Released,
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

    /// Forgets `count` bytes. Once the socket has taken half a limit the rest moves to the front, so that a peer that
    /// reads slowly but steadily does not make the buffer grow without end.
    fn consume(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            let burst = self.bytes.len() > KEPT;
            self.bytes.clear();
            self.sent = 0;
            if !burst && self.bytes.capacity() > KEPT {
                self.bytes.shrink_to(KEPT);
            }
        } else if self.sent >= LIMIT / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_test::task::spawn;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};

    use super::*;

    type Ours = Corked<DuplexStream>;

    fn write(corked: &mut Ours, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(corked).poll_write(cx, bytes)
    }

    #[test]
    fn small_writes_leave_together_when_flushed() {
        let (ours, mut theirs) = duplex(1024);
        let (corked, cork) = cork(ours);
        let mut corked = spawn(corked);
        for part in [b"one ", b"two "] {
            assert_ready_ok!(corked.enter(|cx, mut corked| write(&mut corked, cx, part)));
        }
        let mut all = [0; 64];
        assert_pending!(spawn(theirs.read(&mut all)).poll());

        assert!(assert_ready!(corked.enter(|cx, _| cork.poll_flush(cx))).is_ok());
        let count = assert_ready_ok!(spawn(theirs.read(&mut all)).poll());
        assert_eq!(all[..count], *b"one two ");
    }

    #[tokio::test]
    async fn large_write_keeps_its_place_behind_what_was_gathered() {
        let (ours, mut theirs) = duplex(4 * LARGE);
        let (corked, _cork) = cork(ours);
        let mut corked = spawn(corked);
        let large = vec![b'x'; LARGE];
        assert_ready_ok!(corked.enter(|cx, mut corked| write(&mut corked, cx, b"head")));
        let written = assert_ready_ok!(corked.enter(|cx, mut corked| {
            Pin::new(&mut *corked).poll_write_vectored(cx, &[IoSlice::new(b"frame"), IoSlice::new(&large)])
        }));
        // A duplex takes one slice at a time, so it may stop within the write, as a socket may.
        let mut got = vec![0; 4 + written];
        theirs.read_exact(&mut got).await.expect("the peer is open");
        assert_eq!(got[..9], *b"headframe");
        assert_eq!(got[9..], large[..written - 5]);
    }

    #[tokio::test]
    async fn writer_blocked_at_the_limit_is_woken_by_the_drivers_progress() {
        const PIPE: usize = 1024;
        let (ours, mut theirs) = duplex(PIPE);
        let (corked, cork) = cork(ours);
        let mut corked = spawn(corked);
        let mut driver = spawn(());
        let chunk = vec![b'x'; LARGE - 1];

        // 1. The pipe fills, then the cork, and then the writer waits.
        let mut sent = 0;
        while let Poll::Ready(written) = corked.enter(|cx, mut corked| write(&mut corked, cx, &chunk)) {
            sent += written.expect("the pipe is open");
        }
        assert!(sent <= LIMIT + PIPE, "{sent} bytes taken");

        // 2. The driver's flush takes over the pipe's waker, and makes no progress: nobody is woken for nothing.
        assert_pending!(driver.enter(|cx, _| cork.poll_flush(cx).map(|_| ())));
        assert!(!corked.is_woken());

        // 3. The peer reads: the driver is woken, and passes it on.
        let mut got = vec![0; PIPE];
        theirs.read_exact(&mut got).await.expect("the pipe is open");
        assert!(driver.is_woken());
        assert_pending!(driver.enter(|cx, _| cork.poll_flush(cx).map(|_| ())));
        assert!(corked.is_woken());
    }

    #[tokio::test]
    async fn failed_flush_is_told_after_what_the_peer_said() {
        let (ours, mut theirs) = duplex(64);
        let (corked, cork) = cork(BrokenWrites(ours));
        let mut corked = spawn(corked);
        theirs.write_all(b"bye").await.expect("the pipe has room");
        let mut bytes = [0; 64];
        corked.enter(|cx, mut corked| {
            assert!(Pin::new(&mut *corked).poll_write(cx, b"late").is_ready());
            assert!(matches!(cork.poll_flush(cx), Poll::Ready(Err(Failed))));
            // Told to the driver once, which has hyper look.
            assert!(matches!(cork.poll_flush(cx), Poll::Ready(Ok(()))));

            let mut buf = hyper::rt::ReadBuf::new(&mut bytes);
            assert_ready_ok!(Pin::new(&mut *corked).poll_read(cx, buf.unfilled()));
            assert_eq!(buf.filled(), b"bye");
            for _ in 0..2 {
                let mut buf = hyper::rt::ReadBuf::new(&mut bytes);
                let error = assert_ready_err!(Pin::new(&mut *corked).poll_read(cx, buf.unfilled()));
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            let error = assert_ready_err!(Pin::new(&mut *corked).poll_write(cx, b"more"));
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[tokio::test]
    async fn shutdown_sends_what_was_gathered() {
        let (ours, mut theirs) = duplex(64);
        let (corked, cork) = cork(ours);
        let mut corked = spawn(corked);
        corked.enter(|cx, mut corked| {
            assert_ready_ok!(write(&mut corked, cx, b"last words"));
            assert_ready_ok!(Pin::new(&mut *corked).poll_shutdown(cx));
        });
        drop(corked);
        assert_eq!(cork.look(), Look::Released);
        let mut got = String::new();
        theirs.read_to_string(&mut got).await.expect("the pipe was closed in order");
        assert_eq!(got, "last words");
    }

    /// Random writes, flushes and reads over a small pipe: every byte arrives once, in order, and nobody waits forever.
    #[tokio::test(start_paused = true)]
    async fn every_byte_arrives_in_order() {
        for seed in 1..=50u64 {
            let mut dice = seed;
            let mut roll = move |sides: usize| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (dice >> 33) as usize % sides
            };
            let (ours, mut theirs) = duplex(1 + roll(20_000));
            let (mut corked, cork) = cork(ours);
            let sent: Vec<u8> = (0..300_000).map(|_| roll(256) as u8).collect();

            let expected = sent.clone();
            let writer = async move {
                let mut at = 0;
                while at < sent.len() {
                    let most = if roll(2) == 0 { 100 } else { 40_000 };
                    let end = sent.len().min(at + 1 + roll(most));
                    at += std::future::poll_fn(|cx| {
                        let written = write(&mut corked, cx, &sent[at..end]);
                        if written.is_pending() || roll(4) == 0 {
                            let _ = cork.poll_flush(cx);
                        }
                        written
                    })
                    .await
                    .expect("the pipe is open");
                }
                std::future::poll_fn(|cx| Pin::new(&mut corked).poll_shutdown(cx)).await.expect("the pipe is open");
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(theirs.read_to_end(&mut got), writer);
            read.expect("the pipe was closed in order");
            assert!(got == expected, "seed {seed}");
        }
    }

    /// A pipe that can be read from, while every write fails.
    struct BrokenWrites(DuplexStream);

    impl AsyncRead for BrokenWrites {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for BrokenWrites {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}
