//! What a caller is told, and when, where no answer comes: time is up, or no connection can be had.

mod client_support;

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use client_support::Net;
use http::Request;
use http_body_util::Full;
use mesh_core::{
    config::Address,
    outcome::{FailureKind, Flags, Sent},
};
use mesh_http::{
    CallOptions, Client, ClientBuilder, Error, Mesh,
    connect::{Connect, Connecting},
    protocol::Http,
};
use tokio::{io::AsyncReadExt as _, time::Instant};

/// A client of one endpoint, whose connections are `connector`'s.
fn over(connector: impl Connect) -> ClientBuilder<Http> {
    let mesh = Mesh::builder().connector(connector).seed(1).build().expect("in a runtime");
    Client::builder("reviews").mesh(&mesh).endpoints(["10.0.0.1:80"])
}

/// Servers that never answer, and whether one was asked.
fn silent() -> (Net, Arc<AtomicBool>) {
    let asked = Arc::<AtomicBool>::default();
    let asking = asked.clone();
    let net = Net::new(move |_, mut stream| {
        let asked = asking.clone();
        tokio::spawn(async move {
            while let Ok(1..) = stream.read(&mut [0; 1024]).await {
                asked.store(true, Ordering::Relaxed);
            }
        });
    });
    (net, asked)
}

/// The error of the request, and after how long it came.
async fn failure(client: &Client, request: Request<Full<Bytes>>) -> (Error, Duration) {
    let start = Instant::now();
    let error = client.request(request).await.expect_err("there is no answer");
    (error, start.elapsed())
}

fn get() -> Request<Full<Bytes>> {
    Request::get("http://reviews/").body(Full::default()).expect("a legal request")
}

#[tokio::test(start_paused = true)]
async fn slow_answer_ends_at_the_limit_and_says_so() {
    const LIMIT: Duration = Duration::from_millis(50);
    let (net, asked) = silent();
    let client = over(net).timeout(LIMIT).build().expect("a legal client");
    let (error, elapsed) = failure(&client, get()).await;
    assert_eq!((error.kind(), error.flags(), elapsed), (FailureKind::Timeout, Flags::UT, LIMIT));
    assert!(error.is_timeout() && !error.is_connect() && !error.is_config(), "{error:?}");
    assert!(asked.load(Ordering::Relaxed), "the server has it");
    assert_eq!(error.sent(), Sent::Maybe);
}

#[tokio::test(start_paused = true)]
async fn options_of_a_call_count_above_the_route() {
    const LIMIT: Duration = Duration::from_millis(20);
    let client = over(silent().0).timeout(3 * LIMIT).build().expect("a legal client");
    let mut request = get();
    request.extensions_mut().insert(CallOptions::new().within(LIMIT));
    let (error, elapsed) = failure(&client, request).await;
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(elapsed, LIMIT);
    assert_eq!(failure(&client, get()).await.1, 3 * LIMIT, "other calls keep to the route");
}

/// A network on which nobody is reached: connections are refused, or take for ever.
struct Nobody {
    refuses: bool,
}

impl Connect for Nobody {
    fn connect(&self, _: &Address) -> Connecting {
        let refuses = self.refuses;
        Box::pin(async move {
            if refuses {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            pending().await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn connection_that_cannot_be_had_is_no_timeout_of_the_request() {
    const LIMIT: Duration = Duration::from_secs(2);
    for (refuses, kind, time) in
        [(true, FailureKind::Connect, Duration::ZERO), (false, FailureKind::ConnectTimeout, LIMIT)]
    {
        let builder = over(Nobody { refuses }).connect_timeout(LIMIT).no_retries();
        let (error, elapsed) = failure(&builder.build().expect("a legal client"), get()).await;
        assert_eq!((error.kind(), error.flags(), elapsed), (kind, Flags::UF, time));
        assert!(error.is_connect() && !error.is_timeout() && !error.is_tls(), "{error:?}");
        assert_eq!(error.sent(), Sent::No);
    }
}
