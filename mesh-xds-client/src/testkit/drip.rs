//! A connection that can be made to write one byte at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::Shared;

pub(super) struct Drip<I> {
    io: I,
    shared: Arc<Shared>,
    /// The pause after the last byte. Set by a slow write, taken by the next write.
    pause: Option<Pin<Box<Sleep>>>,
}

// === impl Drip ===

impl<I> Drip<I> {
    pub(super) fn new(io: I, shared: Arc<Shared>) -> Self {
        Self { io, shared, pause: None }
    }

    fn interval(&self) -> Duration {
        self.shared.with(|state| state.faults.drip)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Drip<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Drip<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let interval = self.interval();
        if interval.is_zero() {
            return Pin::new(&mut self.io).poll_write(cx, buf);
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..buf.len().min(1)]))?;
        self.pause = Some(Box::pin(tokio::time::sleep(interval)));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
