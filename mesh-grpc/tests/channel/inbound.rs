//! The deadline of an inbound call: it ends the handler, its stream, and the calls that are made for it.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_grpc::{CallOptions, server::Deadline};
use mesh_http::Scope;
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tower::ServiceExt;

use crate::support::{Alive, Client, Server, Terms, answer, collect, message, one, until};

const DEADLINES: Terms = Terms { max_connection_age: None, deadlines: true };

fn loopback() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A call with a header of its own.
fn asking(timeout: &'static str) -> Request<bytes::Bytes> {
    let mut request = Request::new(message(""));
    request.metadata_mut().insert("grpc-timeout", timeout.parse().expect("legal"));
    request
}

/// tonic's own client, which hands nothing on and leaves streams to the server.
async fn plain(server: &Server) -> tonic::client::Grpc<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).expect("legal");
    let mut grpc = tonic::client::Grpc::new(endpoint.connect().await.expect("it listens"));
    grpc.ready().await.expect("it listens");
    grpc
}

async fn stream(
    grpc: &mut tonic::client::Grpc<tonic::transport::Channel>,
    request: Request<bytes::Bytes>,
) -> Result<tonic::Response<tonic::Streaming<bytes::Bytes>>, Status> {
    let path = http::uri::PathAndQuery::from_static("/test.Echo/ServerStream");
    grpc.server_streaming(request, path, crate::support::Raw).await
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
    assert!(start.elapsed() <= Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn time_that_is_over_is_answered_without_the_handler() {
    let handler = || -> std::future::Ready<()> { panic!("never called") };
    assert_eq!(status_of_answer("0n", handler).await, "4");
}

#[tokio::test]
async fn response_stream_ends_with_the_deadline() {
    let server = Server::on(loopback(), DEADLINES, async |_| {
        Ok(answer(futures_util::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok(message("tick")), ()))
        })))
    })
    .await;
    let answers = stream(&mut plain(&server).await, asking("120m")).await.expect("a head").into_inner();
    let (ticks, end) = collect(answers).await;
    assert!(!ticks.is_empty());
    assert_eq!(end.expect_err("it would never end").code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn call_without_a_deadline_has_all_the_time() {
    let server = Server::on(loopback(), DEADLINES, async |_| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(Scope::current().deadline(), None);
        Ok(one("whole"))
    })
    .await;
    let answer = Client::of([server.address]).unary(message("")).await.expect("an answer");
    assert_eq!(answer.into_inner(), "whole");
}

/// A server that answers by calling another, which never answers; and how its call ended.
async fn relay(options: CallOptions, ends: Arc<Mutex<Vec<Status>>>) -> (Server, Server, Alive) {
    let alive = Alive::default();
    let handlers = alive.clone();
    let behind = Server::start(move |_| {
        let guard = handlers.enter();
        async move {
            let _guard = guard;
            std::future::pending::<Result<_, Status>>().await
        }
    })
    .await;
    let client = Client::of([behind.address]);
    let front = Server::on(loopback(), DEADLINES, move |_| {
        let (mut client, ends) = (client.clone(), ends.clone());
        async move {
            let mut request = Request::new(message(""));
            request.extensions_mut().insert(options);
            // In a task of its own, so that its end is seen although the handler is dropped.
            let call = Scope::current().run(async move {
                if let Err(status) = client.unary(request).await {
                    ends.lock().expect("not poisoned").push(status);
                }
            });
            tokio::spawn(call).await.expect("no panic");
            Ok(one(""))
        }
    })
    .await;
    (front, behind, alive)
}

#[tokio::test]
async fn outbound_call_ends_with_the_call_that_it_is_made_for() {
    for options in [CallOptions::new(), CallOptions::new().within(Duration::from_secs(60))] {
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (front, _behind, alive) = relay(options, ends.clone()).await;
        let start = Instant::now();
        // What this client says is its own timer's word.
        stream(&mut plain(&front).await, asking("100m")).await.expect_err("too slow");
        until("the outbound call has ended", || !ends.lock().expect("not poisoned").is_empty()).await;
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(ends.lock().expect("not poisoned")[0].code(), Code::DeadlineExceeded);
        until("and its handler", || alive.count() == 0).await;
    }
}

#[tokio::test]
async fn nearer_limit_of_the_outbound_call_wins() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let options = CallOptions::new().within(Duration::from_millis(50));
    let (front, _behind, _) = relay(options, ends.clone()).await;
    let answer = stream(&mut plain(&front).await, asking("60S")).await.expect("the handler goes on");
    assert!(collect(answer.into_inner()).await.1.is_ok());
    assert_eq!(ends.lock().expect("not poisoned")[0].code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn detached_call_outlives_the_call_that_it_is_made_for() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (front, _behind, alive) = relay(CallOptions::new().detached(), ends.clone()).await;
    stream(&mut plain(&front).await, asking("50m")).await.expect_err("too slow");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((alive.count(), ends.lock().expect("not poisoned").len()), (1, 0));
}

#[tokio::test]
async fn outbound_call_of_a_response_stream_keeps_to_the_deadline() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let behind = Server::start(move |request| {
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().expect("visible").to_owned());
        log.lock().expect("not poisoned").push(timeout);
        async { Ok(one("behind")) }
    })
    .await;
    let client = Client::of([behind.address]);
    let front = Server::on(loopback(), DEADLINES, move |_| {
        let mut client = client.clone();
        async move {
            Ok(answer(futures_util::stream::once(async move { Ok(client.unary(message("")).await?.into_inner()) })))
        }
    })
    .await;
    let answers = stream(&mut plain(&front).await, asking("60S")).await.expect("a head").into_inner();
    assert_eq!(collect(answers).await.0, ["behind"]);
    assert!(told.lock().expect("not poisoned")[0].is_some());
}
