//! Envoy as backend: HTTP/2 by prior knowledge and over mutual TLS, drained and restarted under load.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::time::timeout;

use mesh_tests::identity::Authority;
use mesh_tests::peers::Envoy;
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
    while connection.ready().await.is_ok() {
        match connection.send_request(wire::request(Method::GET, addr, "")).await {
            Ok(response) => assert_eq!(response.status(), StatusCode::OK),
            Err(error) => assert!(error.is_canceled(), "{error:?}"),
        }
    }
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
    while old.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }

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
