//! gRPC's C-core on the other end: all four kinds of call, statuses, deadlines, cancellation, GOAWAY on drain.
#![allow(clippy::print_stdout, reason = "the figures of a run are what it is read for")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Streaming};

use mesh_core::config::{CircuitBreakers, Percent, RetryBudget, Thresholds};
use mesh_grpc::{CallOptions, Channel, flags, testkit::Echo};

use mesh_tests::identity::{Authority, Identity};
use mesh_tests::load::under_load;
use mesh_tests::mesh::{mesh_as, pool_of, short_ejection, trusting_workload};
use mesh_tests::patience::{in_time, until};
use mesh_tests::peers::{GrpcCore, GrpcServers};
use mesh_tests::wire;

#[tokio::test]
async fn all_four_kinds_of_call_echo() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers(&["one"]).await;
    let mut echo = connect(&servers, "one");

    let answer = echo.unary(message("a")).await.unwrap();
    assert_eq!(answer.metadata().get("echo-server").unwrap(), "one");
    assert_eq!(answer.into_inner(), "a");

    let answer = echo.client_stream(tokio_stream::iter([message("a"), message("b")])).await.unwrap();
    assert_eq!(answer.into_inner(), "ab");

    let mut request = Request::new(message("a"));
    request.metadata_mut().insert("echo-count", 3.into());
    let answers = echo.server_stream(request).await.unwrap().into_inner();
    assert_eq!(collect(answers).await, ["a", "a", "a"]);

    let answers = echo.both(tokio_stream::iter([message("a"), message("b")])).await.unwrap().into_inner();
    assert_eq!(collect(answers).await, ["a", "b"]);
}

#[tokio::test]
async fn status_comes_with_message_details_and_trailers() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers(&["one"]).await;
    let mut request = Request::new(message("a"));
    let metadata = request.metadata_mut();
    metadata.insert("echo-status", (Code::ResourceExhausted as i32).into());
    metadata.insert("echo-message", "no%20caf%C3%A9".parse().unwrap());
    metadata.insert_bin("echo-details-bin", tonic::metadata::MetadataValue::from_bytes(b"\x08\x08"));
    metadata.insert("echo-trailer", "grpc-retry-pushback-ms=5".parse().unwrap());

    let status = connect(&servers, "one").unary(request).await.unwrap_err();

    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "no café");
    assert_eq!(status.details(), b"\x08\x08");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "5");
}

#[tokio::test]
async fn server_sees_a_deadline_and_a_cancellation() {
    let Some(core) = GrpcCore::find() else { return };
    let mut servers = core.servers(&["one"]).await;
    let mut echo = connect(&servers, "one");

    let mut timely = Request::new(message("a"));
    timely.set_timeout(Duration::from_secs(60));
    let answer = echo.unary(timely).await.unwrap();
    let left: u64 = answer.metadata().get("echo-timeout-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left} ms left");

    let mut slow = Request::new(message("a"));
    slow.metadata_mut().insert("echo-delay-ms", 60_000.into());
    let call = tokio::spawn(async move { echo.unary(slow).await });
    servers.until("one", |seen| seen.started == 2).await;
    call.abort();
    servers.until("one", |seen| seen.cancelled == 1).await;
}

#[tokio::test]
async fn deadline_ends_a_call_on_both_sides() {
    let Some(core) = GrpcCore::find() else { return };
    let mut servers = core.servers(&["one"]).await;
    let mut echo = connect(&servers, "one");
    let mut slow = Request::new(message("a"));
    slow.metadata_mut().insert("echo-delay-ms", 60_000.into());
    slow.set_timeout(Duration::from_secs(2));
    let status = echo.unary(slow).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    servers.until("one", |seen| seen.cancelled + seen.expired == 1).await;
}

#[tokio::test]
async fn unavailable_is_retried_and_attempts_are_numbered() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers(&["one"]).await;
    let mut request = idempotent();
    request.metadata_mut().insert("echo-status", (Code::Unavailable as i32).into());
    request.metadata_mut().insert("echo-fail-attempts", 2.into());
    let answer = connect(&servers, "one").unary(request).await.unwrap();
    assert_eq!(answer.metadata().get("echo-attempt").unwrap(), "2");
}

#[tokio::test]
async fn call_waits_for_a_server_that_comes_back() {
    let Some(core) = GrpcCore::find() else { return };
    let mut servers = core.servers(&["one"]).await;
    servers.drain("one", 0.0).await;
    let mut echo = connect(&servers, "one");
    let status = echo.unary(message("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!flags(&status).is_empty());

    let mut patient = Request::new(message("a"));
    patient.extensions_mut().insert(CallOptions::new().wait_for_ready());
    let (answer, ()) = tokio::join!(echo.unary(patient), servers.start("one"));
    assert_eq!(answer.unwrap().into_inner(), "a");
}

#[tokio::test]
async fn drains_and_restarts_under_load_lose_nothing() {
    let Some(core) = GrpcCore::find() else { return };
    let mut servers = core.servers(&["one", "two"]).await;
    // A draining C-core server answers CANCELLED to every call at once that no handler has taken, which may be all callers.
    let budget = RetryBudget { percent: Percent::ALL, min_concurrency: 16 };
    let limits = Thresholds { retry_budget: Some(budget), ..Thresholds::default() };
    let breakers = CircuitBreakers { default: limits, high: limits };
    let builder = Channel::builder("echo.test").endpoints([servers.addr("one"), servers.addr("two")]);
    let channel = builder.circuit_breakers(breakers).outlier_detection(short_ejection()).build().unwrap();
    let echo = Echo::new(channel.clone());
    let ((), tally) = under_load(16, || ask(echo.clone()), async {
        for name in ["one", "two", "one", "two"] {
            let addr = servers.addr(name);
            until("it is connected to", || pool_of(&channel.status(), addr).connections > 0).await;
            let before = pool_of(&channel.status(), addr);
            servers.drain(name, 5.0).await;
            until("it is left, and refuses", || {
                let now = pool_of(&channel.status(), addr);
                now.connections == 0 && now.failed > before.failed
            })
            .await;
            let before = pool_of(&channel.status(), addr);
            servers.start(name).await;
            until("it is back", || pool_of(&channel.status(), addr).opened > before.opened).await;
        }
    })
    .await;
    println!("C-core, 4 drains of one of two servers: {} calls, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
    assert_eq!(tally.answers.len(), 2, "{tally:?}");
}

#[tokio::test]
async fn old_connections_under_load_lose_nothing() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers_with(&["one"], &[("grpc.max_connection_age_ms", 50)]).await;
    let channel = channel([servers.addr("one")]);
    let echo = Echo::new(channel.clone());
    let aged = until("twenty connections, one after the other", || {
        pool_of(&channel.status(), servers.addr("one")).opened > 20
    });
    let ((), tally) = under_load(16, || ask(echo.clone()), aged).await;
    println!("C-core, connections of 50 ms: {} calls, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
}

#[tokio::test]
async fn drain_lets_a_call_in_flight_finish_and_refuses_new_ones() {
    let Some(core) = GrpcCore::find() else { return };
    let mut servers = core.servers(&["one", "two"]).await;
    let mut slow = Request::new(message("a"));
    slow.metadata_mut().insert("echo-delay-ms", 500.into());
    let mut echo = connect(&servers, "one");
    let in_flight = tokio::spawn(async move { echo.unary(slow).await });
    servers.until("one", |seen| seen.started == 1).await;

    servers.drain("one", 5.0).await;
    assert_eq!(in_flight.await.unwrap().unwrap().into_inner(), "a");
    assert_eq!(connect(&servers, "one").unary(message("a")).await.unwrap_err().code(), Code::Unavailable);
    assert!(connect(&servers, "two").unary(message("a")).await.is_ok());

    servers.start("one").await;
    assert!(connect(&servers, "one").unary(message("a")).await.is_ok());
}

#[tokio::test]
async fn connection_is_sent_away_when_it_is_old() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers_with(&["one"], &[("grpc.max_connection_age_ms", 50)]).await;
    let mut connection = wire::http2(servers.addr("one")).await.unwrap();
    let closed = async {
        while connection.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time("the connection is closed", closed).await;
}

#[tokio::test]
async fn mutual_tls_refuses_a_stranger() {
    let Some(core) = GrpcCore::find() else { return };
    let authority = Authority::new();
    let servers = core.tls_servers(&["one"], &authority.identify("one")).await;
    let addr = servers.addr("one");
    let call = async |identity: &Identity| {
        let mut connection = wire::https2(addr, identity).await?;
        // One message of no bytes.
        let mut request = wire::request(Method::POST, addr, "\0\0\0\0\0");
        *request.uri_mut() = format!("https://{addr}/mesh.interop.Echo/Unary").parse()?;
        request.headers_mut().insert("content-type", "application/grpc".parse()?);
        request.headers_mut().insert("te", "trailers".parse()?);
        Ok::<_, wire::Error>(connection.send_request(request).await?)
    };

    let client = authority.identify("client");
    assert_eq!(call(&client).await.unwrap().headers()["echo-server"], "one");
    assert!(call(&Authority::new().identify("stranger").trusting(&client)).await.is_err());
}

#[tokio::test]
async fn channel_speaks_mutual_tls() {
    let Some(core) = GrpcCore::find() else { return };
    let authority = Authority::new();
    let servers = core.tls_servers(&["one"], &authority.identify("one")).await;
    let connect = |identity: &Identity| {
        let mesh = mesh_as(identity);
        let builder = Channel::builder("echo.test").mesh(&mesh).endpoints([servers.addr("one")]);
        Echo::new(builder.tls(trusting_workload("one")).build().unwrap())
    };
    let client = authority.identify("client");
    assert_eq!(ask(connect(&client)).await.unwrap(), "one");

    let stranger = Authority::new().identify("stranger").trusting(&client);
    let status = ask(connect(&stranger)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn client_counts_who_answered() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers(&["one"]).await;
    let mut client = core.client(&servers.addr("one").to_string(), "{}").await;
    let tally = client.call(5).await;
    assert_eq!(tally.answers["one"], 5);
    tally.assert_none_failed();
}

fn connect(servers: &GrpcServers, name: &str) -> Echo<Channel> {
    Echo::new(channel([servers.addr(name)]))
}

fn channel<const N: usize>(addrs: [SocketAddr; N]) -> Channel {
    Channel::builder("echo.test").endpoints(addrs).build().unwrap()
}

async fn ask(mut echo: Echo<Channel>) -> Result<String, tonic::Status> {
    let answer = echo.unary(idempotent()).await?;
    Ok(answer.metadata().get("echo-server").unwrap().to_str().unwrap().to_owned())
}

/// An echo may be repeated whatever became of it.
fn idempotent() -> Request<Bytes> {
    let mut request = Request::new(message("a"));
    request.extensions_mut().insert(CallOptions::new().idempotent());
    request
}

fn message(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn collect(answers: Streaming<Bytes>) -> Vec<Bytes> {
    answers.map(|answer| answer.unwrap()).collect().await
}
