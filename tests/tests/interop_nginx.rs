//! nginx as backend: HTTP/1.1, TLS with client certificates, and `nginx -s reload` under load.
#![allow(clippy::print_stdout, reason = "the figures of a run are what it is read for")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use mesh_core::outcome::Sent;
use mesh_http::{Client, ClientBuilder};

use mesh_tests::identity::Authority;
use mesh_tests::load::{Tally, under_load};
use mesh_tests::mesh::{mesh_as, trusting_workload};
use mesh_tests::patience::in_time;
use mesh_tests::peers::{Nginx, RunningNginx};
use mesh_tests::wire;

#[tokio::test]
async fn every_method_is_answered_with_the_name_of_the_backend() {
    let Some(nginx) = Nginx::find() else { return };
    let backend = nginx.start("one", &Authority::new().identify("one")).await;
    let mut connection = wire::http1(backend.addr()).await.unwrap();

    for (method, body) in [(Method::GET, ""), (Method::POST, "order"), (Method::DELETE, "")] {
        let response = connection.send_request(wire::request(method, backend.addr(), body)).await.unwrap();
        assert_eq!(response.headers()["x-backend"], "one");
        assert_eq!(wire::text(response).await.unwrap(), "one");
    }
}

#[tokio::test]
async fn reload_closes_idle_connections_and_comes_to_answer_with_the_new_name() {
    let Some(nginx) = Nginx::find() else { return };
    let backend = nginx.start("old", &Authority::new().identify("one")).await;
    let mut idle = wire::http1(backend.addr()).await.unwrap();
    let response = idle.send_request(wire::request(Method::GET, backend.addr(), "")).await.unwrap();
    assert_eq!(wire::text(response).await.unwrap(), "old");

    backend.reload("new").await;

    let closed = async {
        while idle.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    in_time("the idle connection is closed", closed).await;
    // The workers quit one by one, and one that has not yet still accepts.
    let renamed = async {
        loop {
            let mut fresh = wire::http1(backend.addr()).await.unwrap();
            let response = fresh.send_request(wire::request(Method::GET, backend.addr(), "")).await.unwrap();
            if wire::text(response).await.unwrap() == "new" {
                break;
            }
        }
    };
    in_time("an answer of a new worker", renamed).await;
}

// What our client loses over a reload, it loses by itself: nginx never stops listening.
#[tokio::test]
async fn connection_for_each_get_loses_nothing_over_reloads() {
    let Some(nginx) = Nginx::find() else { return };
    let backend = nginx.start("0", &Authority::new().identify("one")).await;
    let addr = backend.addr();
    let get = || async move {
        let mut connection = wire::http1(addr).await?;
        wire::text(connection.send_request(wire::request(Method::GET, addr, "")).await?).await
    };

    let ((), tally) = under_load(4, get, async {
        for name in ["1", "2", "3"] {
            backend.reload(name).await;
            in_time("an answer of a new worker", async { while get().await.unwrap() != name {} }).await;
        }
    })
    .await;

    tally.assert_none_failed();
}

#[tokio::test]
async fn tls_asks_for_a_certificate_of_the_same_authority() {
    let Some(nginx) = Nginx::find() else { return };
    let authority = Authority::new();
    let backend = nginx.start("one", &authority.identify("one")).await;

    let client = authority.identify("client");
    let mut connection = wire::https1(backend.tls_addr(), &client).await.unwrap();
    let request = wire::request(Method::GET, backend.tls_addr(), "");
    assert_eq!(connection.send_request(request.clone()).await.unwrap().status(), StatusCode::OK);

    // A stranger who believes the backend, and is not believed.
    let stranger = Authority::new().identify("stranger").trusting(&client);
    let mut connection = wire::https1(backend.tls_addr(), &stranger).await.unwrap();
    assert_eq!(connection.send_request(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn restart_keeps_the_port() {
    let Some(nginx) = Nginx::find() else { return };
    let backend = nginx.start("old", &Authority::new().identify("one")).await;
    let addr = backend.addr();

    let backend = backend.restart("new").await;

    assert_eq!(backend.addr(), addr);
    let mut connection = wire::http1(addr).await.unwrap();
    let response = connection.send_request(wire::request(Method::GET, addr, "")).await.unwrap();
    assert_eq!(wire::text(response).await.unwrap(), "new");
}

#[tokio::test]
async fn client_loses_no_get_over_reloads() {
    let Some(nginx) = Nginx::find() else { return };
    let backend = nginx.start(NAMES[0], &Authority::new().identify("one")).await;
    let client = client_of(|builder| builder.endpoints([backend.addr()]));
    let tally = reload_under_load(&backend, &client, Method::GET).await;
    println!("nginx, GET over reloads: {} requests, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
    assert!(tally.answers.keys().eq(NAMES), "{tally:?}");
}

#[tokio::test]
async fn client_loses_no_get_over_reloads_by_mutual_tls() {
    let Some(nginx) = Nginx::find() else { return };
    let authority = Authority::new();
    let backend = nginx.start(NAMES[0], &authority.identify("one")).await;
    let mesh = mesh_as(&authority.identify("client"));
    let tls = trusting_workload("one");
    let client = client_of(|builder| builder.mesh(&mesh).endpoints([backend.tls_addr()]).tls(tls));
    let tally = reload_under_load(&backend, &client, Method::GET).await;
    println!("nginx, GET over reloads, mutual TLS: {} requests, {:?}", tally.calls(), tally);
    tally.assert_none_failed();
    assert!(tally.answers.keys().eq(NAMES), "{tally:?}");
}

#[tokio::test]
async fn post_fails_over_reloads_only_where_it_may_have_been_sent() {
    let Some(nginx) = Nginx::find() else { return };
    let backend = nginx.start(NAMES[0], &Authority::new().identify("one")).await;
    let client = client_of(|builder| builder.endpoints([backend.addr()]));
    let (sent, unsent) = (AtomicU64::new(0), AtomicU64::new(0));
    let post = || async {
        ask(&client, Method::POST).await.inspect_err(|error| {
            let error = error.downcast_ref::<mesh_http::Error>();
            let counter = if error.is_some_and(|error| error.sent() != Sent::No) { &sent } else { &unsent };
            counter.fetch_add(1, Ordering::Relaxed);
        })
    };
    let ((), tally) = under_load(8, post, reloads(&backend, &client)).await;
    println!("nginx, POST over reloads: {} requests, {:?}", tally.calls(), tally);
    assert_eq!(unsent.into_inner(), 0, "{tally:?}");
    assert!(sent.into_inner() * 100 < tally.calls(), "{tally:?}");
}

#[tokio::test]
async fn client_without_a_certificate_that_counts_is_refused() {
    let Some(nginx) = Nginx::find() else { return };
    let authority = Authority::new();
    let backend = nginx.start("one", &authority.identify("one")).await;
    let client_identity = authority.identify("client");
    let mesh = mesh_as(&client_identity);

    // 1. The backend is not who it should be.
    let tls = trusting_workload("two");
    let client = client_of(|builder| builder.mesh(&mesh).endpoints([backend.tls_addr()]).tls(tls));
    let error = client.get("http://backend.test/").await.unwrap_err();
    assert!(error.is_tls() && error.sent() == Sent::No, "{error:?}");

    // 2. The client is not believed: nginx says so in HTTP.
    let stranger = mesh_as(&Authority::new().identify("stranger").trusting(&client_identity));
    let tls = trusting_workload("one");
    let client = client_of(|builder| builder.mesh(&stranger).endpoints([backend.tls_addr()]).tls(tls));
    assert_eq!(client.get("http://backend.test/").await.unwrap().status(), StatusCode::BAD_REQUEST);
}

fn client_of(
    terms: impl FnOnce(ClientBuilder<mesh_http::protocol::Http>) -> ClientBuilder<mesh_http::protocol::Http>,
) -> Client {
    terms(Client::builder("backend.test")).build().unwrap()
}

async fn ask(client: &Client, method: Method) -> Result<String, wire::Error> {
    let body = if method == Method::POST { Full::new(Bytes::from_static(b"order")) } else { Full::default() };
    let request = Request::builder().method(method).uri("http://backend.test/").body(body)?;
    let response = client.request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status()).into());
    }
    let name = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(name.to_vec())?)
}

async fn reload_under_load(backend: &RunningNginx, client: &Client, method: Method) -> Tally {
    let ((), tally) = under_load(8, || ask(client, method.clone()), reloads(backend, client)).await;
    tally
}

/// What the backend is called at first, and after each reload.
const NAMES: [&str; 6] = ["0", "1", "2", "3", "4", "5"];

/// A reload for each name, as soon as the one before has answered so often that every caller of the load has met it.
async fn reloads(backend: &RunningNginx, client: &Client) {
    let answers = async |name: &str| {
        let mut left = 100;
        while left > 0 {
            left -= u32::from(ask(client, Method::GET).await.unwrap() == name);
        }
    };
    in_time("answers", answers(NAMES[0])).await;
    for name in &NAMES[1..] {
        backend.reload(name).await;
        in_time("answers of new workers", answers(name)).await;
    }
}
