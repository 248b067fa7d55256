//! Limits on silence once there is an answer: a stream is silent when neither side moves.
#![allow(missing_docs)]

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use mesh_core::{
    config::{RetryOn, RetryPolicy},
    deadline::{Bound, Elapsed},
    hold::UntilEnd,
    outcome::{BoxError, HttpClassifier, find_cause},
    retry::{ReplayBody, RetryLayer},
};
use tokio::time::{Instant, Interval, interval_at};
use tower::{Layer, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

/// A request body that gives a frame each second, ten in all.
struct Upload {
    seconds: Interval,
    left: u32,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.seconds.poll_tick(cx));
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

/// Answers at once, reads its request, and never says anything more.
async fn mute(request: Request<ReplayBody>) -> Result<Response<Never>, BoxError> {
    tokio::spawn(request.into_body().collect());
    Ok(Response::new(Never))
}

/// A body without frames or end.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Pending
    }
}

// Else whoever uploads for long would be cut off while all goes well.
#[tokio::test(start_paused = true)]
async fn stream_is_not_silent_while_its_request_is_read() {
    let layer = RetryLayer::new(RetryPolicy::on(RetryOn::RESET)).per_try_idle_timeout(2 * SECOND);
    let service = layer.hold(UntilEnd(HttpClassifier)).layer(service_fn(mute));
    let start = Instant::now();
    let upload = Upload { seconds: interval_at(start + SECOND, SECOND), left: 10 };
    let response = service.oneshot(Request::new(upload)).await.expect("a head");
    let mut body = Box::pin(response.into_body());
    let error = body.frame().await.expect("an end").expect_err("silence, in the end");
    assert_eq!(find_cause::<Elapsed>(&*error).map(Elapsed::bound), Some(Bound::PerTryIdle));
    let silent = start.elapsed() - 10 * SECOND;
    assert!((2 * SECOND..=4 * SECOND).contains(&silent), "cut off after one limit, and two at most: {silent:?}");
}
