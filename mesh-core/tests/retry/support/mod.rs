//! What the tests of the retry layer share: a service that follows a script, the terms of a route, and requests.

mod script;
mod terms;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use mesh_core::{
    config::{RetryOn, RetryPolicy},
    outcome::{BoxError, Flags},
};
use tokio::time::{Sleep, sleep};

pub(crate) use self::{
    script::{Script, Step},
    terms::{Terms, budget_of, on_terms, retries_under_way},
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A request body that gives ten frames, with a gap before each.
pub(crate) struct Upload {
    gap: Duration,
    left: u32,
    sleep: Pin<Box<Sleep>>,
}

pub(crate) fn policy(on: RetryOn, retries: u32) -> RetryPolicy {
    RetryPolicy::on(on).max_retries(retries).expect("legal")
}

pub(crate) fn get() -> Request<Full<Bytes>> {
    Request::new(Full::from("body"))
}

pub(crate) fn flags_of(response: &Response<impl Sized>) -> Flags {
    response.extensions().get::<Flags>().copied().unwrap_or_default()
}

// === impl Upload ===

impl Upload {
    pub(crate) fn new(gap: Duration) -> Request<Self> {
        Request::new(Self { gap, left: 10, sleep: Box::pin(sleep(gap)) })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.sleep.as_mut().poll(cx));
        self.left -= 1;
        self.sleep = Box::pin(sleep(self.gap));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}
