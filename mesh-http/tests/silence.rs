//! A limit on silence and requests that stream, over pipes in memory and under a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use client_support::Net;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh_core::config::TimeLimit;
use mesh_http::{Client, Mesh};
use tokio::time::{Instant, Interval, interval_at};

const SECOND: Duration = Duration::from_secs(1);

/// A request body that gives a frame each second, ten in all.
struct Upload {
    seconds: Interval,
    left: u32,
}

/// A response body without frames, which ends with the request that it reads.
struct Reading(Incoming);

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.seconds.poll_tick(cx));
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        while let Some(frame) = ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            frame?;
        }
        Poll::Ready(None)
    }
}

#[tokio::test(start_paused = true)]
async fn upload_that_goes_on_is_not_silent_before_the_answer_nor_after() {
    for answers_at_once in [true, false] {
        let net = Net::new(move |_, stream| {
            let service = service_fn(move |request: Request<Incoming>| async move {
                if answers_at_once {
                    return Ok(Response::new(Either::Left(Reading(request.into_body()))));
                }
                request.into_body().collect().await.map(|_| Response::new(Either::Right(Empty::new())))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        });
        let mesh = Mesh::builder().connector(net).seed(1).build().unwrap();
        let client = Client::builder("shop").mesh(&mesh).endpoints(["10.0.0.1:80"]);
        let idle = Some(TimeLimit::after(2 * SECOND).unwrap());
        let client = client.pin(|policy| policy.route.timeouts.idle = idle).build().unwrap();

        let start = Instant::now();
        let upload = Upload { seconds: interval_at(start + SECOND, SECOND), left: 10 };
        let answer = client.request(Request::post("http://shop/").body(upload).unwrap()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        assert_eq!(start.elapsed(), 10 * SECOND, "answers at once: {answers_at_once}");
    }
}
