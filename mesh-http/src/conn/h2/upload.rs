//! A request body that may be on its way still when the response has begun, and ends with it.
//!
//! hyper forgets a call once its head was delivered: the body goes on until its own end, whoever reads the response, and the
//! stream is open as long. So both hold an [`Upload`]. The stream counts until neither does, and a response that is over,
//! read or given up, ends what sends the body, even where that waits for the peer's window and not for more to send. h2
//! then resets the stream with CANCEL, since nobody has it any more. What h2 has taken to its end before, and holds for want of
//! the peer's window, goes on, and is not counted.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};

use super::Figures;
use crate::conn::task::Halt;

/// A stream that is held by its claim and by the body of its request.
#[derive(Debug)]
pub(super) struct Upload {
    figures: Arc<Figures>,
    is_announced: AtomicBool,
    is_stopped: AtomicBool,
    /// Of the future that sends the body.
    sending: AtomicWaker,
}

/// The body of a request as hyper has it.
pub(super) struct Uploading<B> {
    body: B,
    /// None where nothing waits for its end.
    upload: Option<Arc<Upload>>,
}

// === impl Upload ===

impl Upload {
    /// Takes over a stream that was claimed.
    pub(super) fn new(figures: Arc<Figures>) -> Arc<Self> {
        Arc::new(Self {
            figures,
            is_announced: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            sending: AtomicWaker::new(),
        })
    }

    /// The response is over.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.sending.wake();
    }

    /// hyper polls a body once before it spawns what sends the rest; so what it spawns next is that. Where no rest is left, it
    /// is what waits for the head: whoever stops the upload wants that no more either.
    fn announce(self: &Arc<Self>) {
        if !self.is_announced.swap(true, Ordering::Relaxed) {
            self.figures.spawner.halt_next(self.clone());
        }
    }
}

impl Halt for Upload {
    fn is_due(&self, cx: &Context<'_>) -> bool {
        self.sending.register(cx.waker());
        self.is_stopped.load(Ordering::Acquire)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.figures.release();
        // The body may be the last to let go, of which the claim's holder tells nobody.
        self.figures.note_room();
    }
}

// === impl Uploading ===

impl<B> Uploading<B> {
    pub(super) fn new(body: B, upload: Option<Arc<Upload>>) -> Self {
        Self { body, upload }
    }

    pub(super) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body + Unpin> Body for Uploading<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if let Some(upload) = &self.upload {
            upload.announce();
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
