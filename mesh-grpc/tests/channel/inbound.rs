//! The deadline of an inbound call: it ends the handler, its stream, and the calls that are made for it.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_grpc::{CallOptions, server::Deadline, testkit::Echo};
use mesh_http::Scope;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tonic::{Code, Request};
use tower::ServiceExt;

use crate::support::{Alive, Pipes, Server, answer, collect, message, one, ticks};

/// A call with a header of its own.
fn asking(timeout: &'static str) -> Request<bytes::Bytes> {
    let mut request = Request::new(message(""));
    request.metadata_mut().insert("grpc-timeout", timeout.parse().expect("legal"));
    request
}

/// A server that answers by calling another, which takes its time.
struct Relay {
    front: Pipes,
    /// The calls that are with the server behind.
    behind: Alive,
    /// Lets one of them be answered.
    release: Arc<Semaphore>,
    /// How the calls to it ended.
    ends: mpsc::UnboundedReceiver<Result<(), Code>>,
}

impl Relay {
    /// One that calls with `options`.
    fn start(options: CallOptions) -> Self {
        let (behind, release) = (Alive::default(), Arc::new(Semaphore::new(0)));
        let (tell, ends) = mpsc::unbounded_channel();
        let client = Server::in_memory({
            let (behind, release) = (behind.clone(), release.clone());
            move |_| {
                let (guard, release) = (behind.enter(), release.clone());
                async move {
                    let _guard = guard;
                    release.acquire().await.expect("never closed").forget();
                    Ok(one(""))
                }
            }
        })
        .client();
        let front = Server::with_deadlines(move |_| {
            let (mut client, tell) = (client.clone(), tell.clone());
            async move {
                let mut request = Request::new(message(""));
                request.extensions_mut().insert(options);
                // In a task of its own, so that its end is seen although the handler is dropped.
                let call = Scope::current().run(async move {
                    let end = client.unary(request).await;
                    tell.send(end.map(drop).map_err(|status| status.code())).expect("the test goes on");
                });
                tokio::spawn(call).await.expect("no panic");
                Ok(one(""))
            }
        });
        Self { front, behind, release, ends }
    }
}

/// An inbound request as it comes, and the gRPC status of its answer.
async fn status_of_answer<F>(timeout: &str, handler: impl FnOnce() -> F + Send + 'static) -> http::HeaderValue
where
    F: Future<Output = ()>,
{
    let mut handler = Some(handler);
    let service = tower::service_fn(move |_: http::Request<()>| {
        let handled = handler.take().expect("one call")();
        async {
            handled.await;
            Ok::<_, std::convert::Infallible>(http::Response::new(tonic::body::Body::empty()))
        }
    });
    let request = http::Request::post("/").header("grpc-timeout", timeout).body(()).expect("legal");
    let answer = Deadline::new(service).oneshot(request).await.expect("it answers");
    answer.headers().get("grpc-status").expect("trailers only").clone()
}

#[tokio::test(start_paused = true)]
async fn handler_ends_with_its_deadline() {
    let alive = Alive::default();
    let guard = alive.enter();
    let start = Instant::now();
    let handler = || async move {
        let _guard = guard;
        std::future::pending().await
    };
    assert_eq!(status_of_answer("50m", handler).await, "4");
    assert_eq!(alive.count(), 0);
    assert_eq!(start.elapsed(), Duration::from_millis(49), "a moment before tonic's own timer");
}

#[tokio::test(start_paused = true)]
async fn time_that_is_over_is_answered_without_the_handler() {
    let handler = || -> std::future::Ready<()> { panic!("never called") };
    assert_eq!(status_of_answer("0n", handler).await, "4");
}

#[tokio::test(start_paused = true)]
async fn response_stream_ends_with_the_deadline() {
    let server = Server::with_deadlines(async |_| Ok(ticks(Duration::from_millis(50), ())));
    let answers = Echo::new(server.plain()).server_stream(asking("120m")).await.expect("a head").into_inner();
    let (ticks, end) = collect(answers).await;
    assert_eq!(ticks.len(), 2);
    assert_eq!(end.expect_err("it would never end").code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn call_without_a_deadline_has_all_the_time() {
    const LONG: Duration = Duration::from_secs(3600);
    let server = Server::with_deadlines(async |_| {
        tokio::time::sleep(LONG).await;
        assert_eq!(Scope::current().deadline(), None);
        Ok(one("whole"))
    });
    let answer = server.client().unary(message("")).await.expect("an answer");
    assert_eq!(answer.into_inner(), "whole");
}

#[tokio::test(start_paused = true)]
async fn outbound_call_ends_with_the_call_that_it_is_made_for() {
    for options in [CallOptions::new(), CallOptions::new().within(Duration::from_secs(60))] {
        let mut relay = Relay::start(options);
        let start = Instant::now();
        // What this client says is its own timer's word.
        Echo::new(relay.front.plain()).server_stream(asking("100m")).await.expect_err("too slow");
        assert_eq!(relay.ends.recv().await, Some(Err(Code::DeadlineExceeded)));
        relay.behind.reaches(0).await;
        assert_eq!(start.elapsed(), Duration::from_millis(99), "with the handler, a moment before tonic's own timer");
    }
}

#[tokio::test(start_paused = true)]
async fn nearer_limit_of_the_outbound_call_wins() {
    let mut relay = Relay::start(CallOptions::new().within(Duration::from_millis(50)));
    let answer = Echo::new(relay.front.plain()).server_stream(asking("60S")).await.expect("the handler goes on");
    assert!(collect(answer.into_inner()).await.1.is_ok());
    assert_eq!(relay.ends.recv().await, Some(Err(Code::DeadlineExceeded)));
}

#[tokio::test(start_paused = true)]
async fn detached_call_outlives_the_call_that_it_is_made_for() {
    let mut relay = Relay::start(CallOptions::new().detached());
    Echo::new(relay.front.plain()).server_stream(asking("50m")).await.expect_err("too slow");
    assert_eq!(relay.behind.count(), 1);
    relay.release.add_permits(1);
    assert_eq!(relay.ends.recv().await, Some(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn outbound_call_of_a_response_stream_keeps_to_the_deadline() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let client = Server::in_memory(move |request| {
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().expect("visible").to_owned());
        log.lock().expect("not poisoned").push(timeout);
        async { Ok(one("behind")) }
    })
    .client();
    let front = Server::with_deadlines(move |_| {
        let mut client = client.clone();
        async move {
            Ok(answer(futures_util::stream::once(async move { Ok(client.unary(message("")).await?.into_inner()) })))
        }
    });
    let answers = Echo::new(front.plain()).server_stream(asking("60S")).await.expect("a head").into_inner();
    assert_eq!(collect(answers).await.0, ["behind"]);
    assert!(told.lock().expect("not poisoned")[0].is_some());
}
