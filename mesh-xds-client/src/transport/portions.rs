//! A socket that is read in portions, between which others on the thread have their turn.
//!
//! A response of some megabytes comes faster than it is read, and tokio counts reads, not bytes: who reads for as long as there is
//! something, and is the only one of its task to be counted, takes all that the window lets in at once. Here each [`UNIT`] counts,
//! so that a task's budget ends after some 64 KiB, which is some 50 us of them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};

/// A socket of which each poll of a task reads so much at most. Where a task has no budget, all that there is.
pub(super) struct Portions<S>(pub(super) S);

/// How many bytes count as one of the things that tokio lets a task do in one poll, of which there are 128.
const UNIT: usize = 512;

// === impl Portions ===

impl<S: AsyncRead + Unpin> AsyncRead for Portions<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        for _ in 0..(buf.filled().len() - before) / UNIT {
            // The next read is told to wait, and sees to it that the task is polled again.
            let Poll::Ready(unit) = coop::poll_proceed(cx) else { break };
            unit.made_progress();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Portions<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const ALL: usize = 1024 * 1024;

    #[tokio::test]
    async fn one_poll_reads_a_portion_of_what_there_is_and_the_next_goes_on() {
        let (mut far, near) = duplex(ALL);
        far.write_all(&vec![7; ALL]).await.expect("it has room");
        let mut reader = Portions(near);
        let (mut read, mut polls) = (0, 0);
        let reading = poll_fn(|cx| {
            polls += 1;
            let before = read;
            while read < ALL {
                let mut bytes = [0; 16 * 1024];
                let mut buf = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut reader).poll_read(cx, &mut buf)).expect("nobody hangs up");
                read += buf.filled().len();
                assert!(read - before <= 128 * UNIT);
            }
            Poll::Ready(())
        });
        tokio::task::yield_now().await;
        reading.await;
        assert!(polls >= ALL / (128 * UNIT), "{polls} polls");
    }

    #[tokio::test]
    async fn nothing_is_lost() {
        let (mut far, near) = duplex(1000);
        let said: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        let sent = said.clone();
        tokio::spawn(async move { far.write_all(&sent).await });
        let mut heard = Vec::new();
        Portions(near).read_to_end(&mut heard).await.expect("it ends in order");
        assert_eq!(heard, said);
    }
}
