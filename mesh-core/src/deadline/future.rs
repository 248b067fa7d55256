//! One request under a time limit.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use super::{BodyLimits, Expiry, Timer};
use crate::{
    hold::Hold,
    outcome::{AtEndpoint, BoxError, Failed, Sent},
};

/// A request whose time is limited.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, H> {
    /// None once it has finished or its time was up.
    #[pin]
    future: Option<F>,
    #[pin]
    timer: Timer,
    expiry: Option<Expiry>,
    hold: H,
}

impl<F, H> ResponseFuture<F, H> {
    pub(super) const fn new(future: F, expiry: Option<Expiry>, hold: H) -> Self {
        Self { future: Some(future), timer: Timer::new(), expiry, hold }
    }
}

impl<F, H, Res, E> Future for ResponseFuture<F, H>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    H: Hold<Res, BodyLimits>,
{
    type Output = Result<H::Held, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let future = this.future.as_mut().as_pin_mut().expect("a finished future is not polled again");
        if let Poll::Ready(result) = future.poll(cx) {
            this.future.set(None);
            let limits = BodyLimits { overall: *this.expiry, ..BodyLimits::default() };
            return Poll::Ready(result.map(|response| this.hold.hold(response, limits)).map_err(Into::into));
        }
        let Some(expiry) = this.expiry else {
            return Poll::Pending;
        };
        ready!(this.timer.poll(cx, expiry.at()));
        let at = expiry.give_up(Sent::Maybe, || this.future.set(None));
        Poll::Ready(Err(AtEndpoint::wrap(at, Failed::from(expiry.elapsed(Sent::Maybe)))))
    }
}
