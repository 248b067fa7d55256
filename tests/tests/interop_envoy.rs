//! Envoy as backend: HTTP/2 by prior knowledge and over mutual TLS, drained and restarted under load.
#![allow(clippy::print_stdout, reason = "the figures of a run are what it is read for")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};
use mesh_core::config::HttpProtocol;
use mesh_http::pool::PoolFigures;
use mesh_http::{Client, ClientBuilder};
use tokio::time::timeout;

use mesh_tests::identity::Authority;
use mesh_tests::load::{Tally, under_load};
use mesh_tests::mesh::{mesh_as, pool_of, short_ejection, trusting_workload};
use mesh_tests::patience::{in_time, until};
use mesh_tests::peers::{Envoy, RunningEnvoy};
use mesh_tests::wire;

#[tokio::test]
async fn drain_sends_goaway_and_restart_listens_again() {
    let Some(envoy) = Envoy::find() else { return };
    let backend = envoy.start("one", &Authority::new().identify("one")).await;
    let addr = backend.addr();
    let mut connection = wire::http2(addr).await.unwrap();
    let response = connection.send_request(wire::request(Method::GET, addr, "")).await.unwrap();
    assert_eq!(response.headers()["x-backend"], "one");
    assert_eq!(wire::text(response).await.unwrap(), "one");

    backend.drain().await;

    // Envoy draws lots whether a request meets GOAWAY, the likelier the nearer the end of the drain.
    let sent_away = async {
        while connection.ready().await.is_ok() {
            match connection.send_request(wire::request(Method::GET, addr, "")).await {
                Ok(response) => assert_eq!(response.status(), StatusCode::OK),
                Err(error) => assert!(error.is_canceled(), "{error:?}"),
            }
        }
    };
    in_time("GOAWAY", sent_away).await;
    let backend = backend.restart().await;
    let mut connection = wire::http2(backend.addr()).await.unwrap();
    let response = connection.send_request(wire::request(Method::GET, addr, "")).await.unwrap();
    assert_eq!(wire::text(response).await.unwrap(), "one");
}

#[tokio::test]
async fn failed_health_check_turns_connections_away_and_keeps_listening() {
    let Some(envoy) = Envoy::find() else { return };
    let backend = envoy.start("one", &Authority::new().identify("one")).await;
    let addr = backend.addr();
    let mut old = wire::http2(addr).await.unwrap();

    backend.fail_health_check().await;
    let response = old.send_request(wire::request(Method::GET, addr, "")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let closed = async {
        while old.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time("the old connection is closed", closed).await;

    backend.pass_health_check().await;
    let mut fresh = wire::http2(addr).await.unwrap();
    let response = fresh.send_request(wire::request(Method::GET, addr, "")).await.unwrap();
    assert_eq!(wire::text(response).await.unwrap(), "one");
}

#[tokio::test]
async fn frozen_backend_is_silent_and_answers_once_thawed() {
    let Some(envoy) = Envoy::find() else { return };
    let mut backend = envoy.start("one", &Authority::new().identify("one")).await;
    let addr = backend.addr();
    let mut connection = wire::http2(addr).await.unwrap();

    // A signal is delivered in its own time.
    backend.freeze().await;
    let unanswered = loop {
        let mut answer = Box::pin(connection.send_request(wire::request(Method::GET, addr, "")));
        if timeout(Duration::from_millis(100), &mut answer).await.is_err() {
            break answer;
        }
    };

    backend.thaw().await;
    assert_eq!(unanswered.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn mutual_tls_refuses_a_stranger() {
    let Some(envoy) = Envoy::find() else { return };
    let authority = Authority::new();
    let backend = envoy.start("one", &authority.identify("one")).await;
    let addr = backend.tls_addr();

    let client = authority.identify("client");
    let mut connection = wire::https2(addr, &client).await.unwrap();
    let response = connection.send_request(wire::request(Method::GET, addr, "")).await.unwrap();
    assert_eq!(wire::text(response).await.unwrap(), "one");

    // A stranger who believes the backend, and is not believed: in TLS 1.3 the alert follows the client's handshake.
    let stranger = Authority::new().identify("stranger").trusting(&client);
    let refused = async {
        let mut connection = wire::https2(addr, &stranger).await?;
        Ok::<_, wire::Error>(connection.send_request(wire::request(Method::GET, addr, "")).await?)
    };
    assert!(refused.await.is_err());
}

#[tokio::test]
async fn drains_and_restarts_under_load_lose_nothing() {
    let Some(envoy) = Envoy::find() else { return };
    let authority = Authority::new();
    let (one, two) = two_of(&envoy, &authority).await;
    let client = http2(Client::builder("backend.test").endpoints([one.addr(), two.addr()]));
    let tally = roll_under_load(&client, [one, two], RunningEnvoy::addr).await;
    println!("Envoy, HTTP/2, 2 drains and restarts: {} requests, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
    assert_eq!(tally.answers.len(), 2, "{tally:?}");
}

#[tokio::test]
async fn drains_and_restarts_under_load_lose_nothing_by_mutual_tls() {
    let Some(envoy) = Envoy::find() else { return };
    let authority = Authority::new();
    let (one, two) = two_of(&envoy, &authority).await;
    let mesh = mesh_as(&authority.identify("client"));
    let builder = Client::builder("backend.test").mesh(&mesh).endpoints([one.tls_addr(), two.tls_addr()]);
    let client = http2(builder.tls(trusting_workload("backend")));
    let tally = roll_under_load(&client, [one, two], RunningEnvoy::tls_addr).await;
    println!("Envoy, mutual TLS, 2 drains and restarts: {} requests, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
    assert_eq!(tally.answers.len(), 2, "{tally:?}");
}

#[tokio::test]
async fn health_check_that_fails_under_load_loses_nothing() {
    let Some(envoy) = Envoy::find() else { return };
    let backend = envoy.start("one", &Authority::new().identify("one")).await;
    let client = http2(Client::builder("backend.test").endpoints([backend.addr()]));
    let ((), tally) = under_load(8, || ask(&client), async {
        for _ in 0..5 {
            let opened = || pool_of(&client.status(), backend.addr()).opened;
            until("it is connected to", || opened() > 0).await;
            let before = opened();
            backend.fail_health_check().await;
            until("connections are turned away and opened again", || opened() > before + 10).await;
            backend.pass_health_check().await;
        }
    })
    .await;
    println!("Envoy, 5 failed health checks: {} requests, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
}

async fn two_of(envoy: &Envoy, authority: &Authority) -> (RunningEnvoy, RunningEnvoy) {
    let identity = authority.identify("backend");
    tokio::join!(envoy.start("one", &identity), envoy.start("two", &identity))
}

fn http2(builder: ClientBuilder<mesh_http::protocol::Http>) -> Client {
    builder.protocol(HttpProtocol::Http2).outlier_detection(short_ejection()).build().unwrap()
}

async fn ask(client: &Client) -> Result<String, wire::Error> {
    let response = client.get("http://backend.test/").await?;
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status()).into());
    }
    let name = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(name.to_vec())?)
}

/// Each backend in turn goes and comes back, as by a rolling restart, the first after a drain, and the client sees it.
async fn roll_under_load(
    client: &Client,
    [one, two]: [RunningEnvoy; 2],
    addr_of: impl Fn(&RunningEnvoy) -> SocketAddr,
) -> Tally {
    let (first, second) = (addr_of(&one), addr_of(&two));
    let pool = |addr| pool_of(&client.status(), addr);
    // Both outlive the load: its last calls are under way when the scenario is over.
    let (_running, tally) = under_load(8, || ask(client), async {
        until("both are connected to", || pool(first).connections > 0 && pool(second).connections > 0).await;
        let before = pool(first);
        one.drain().await;
        let is_left = |now: PoolFigures| now.connections == 0 && now.failed > before.failed;
        until("the first is left, and refuses", || is_left(pool(first))).await;
        let before = pool(first);
        let one = one.restart().await;
        until("the first is back", || pool(first).opened > before.opened).await;
        // The second goes without a drain: what is in flight is cut.
        let before = pool(second);
        let two = two.restart().await;
        until("the second is back", || pool(second).opened > before.opened).await;
        (one, two)
    })
    .await;
    tally
}
