//! Waiting until the cluster may have an endpoint again, for requests that would rather wait than fail.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};

use super::{Cluster, Transport};

/// Ends when some endpoint may be available, at once if one is. Misses nothing that happens after it was made.
///
/// Another request may be faster: whoever waits picks again, and waits again where that fails.
#[pin_project]
pub struct Available<T: Transport> {
    cluster: Arc<Cluster<T>>,
    #[pin]
    news: OwnedNotified,
    /// Until an endpoint that could not be reached may be tried again.
    #[pin]
    probe: Option<Sleep>,
}

impl<T: Transport> Cluster<T> {
    /// Ends when some endpoint is healthy, not ejected and not known to be out of reach. Dropping it stops the waiting.
    pub fn available(self: &Arc<Self>) -> Available<T> {
        Available { cluster: self.clone(), news: self.home.news.clone().notified_owned(), probe: None }
    }

    fn is_available(&self, now: Instant) -> bool {
        self.set.load().is_available(self.home.millis(now))
    }

    fn next_probe(&self) -> Option<Instant> {
        self.set.load().next_probe().map(|millis| self.home.moment(millis))
    }
}

impl<T: Transport> Future for Available<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            // Listen before looking: what happens in between rings.
            while this.news.as_mut().poll(cx).is_ready() {
                this.news.set(this.cluster.home.news.clone().notified_owned());
            }
            if this.cluster.is_available(Instant::now()) {
                return Poll::Ready(());
            }
            this.probe.set(this.cluster.next_probe().map(sleep_until));
            match this.probe.as_mut().as_pin_mut() {
                Some(probe) => ready!(probe.poll(cx)),
                None => return Poll::Pending,
            }
        }
    }
}
