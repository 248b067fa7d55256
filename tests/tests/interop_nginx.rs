//! nginx as backend: HTTP/1.1, TLS with client certificates, and `nginx -s reload` under load.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use hyper::{Method, StatusCode};

use mesh_tests::identity::Authority;
use mesh_tests::load::under_load;
use mesh_tests::peers::Nginx;
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

    while idle.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The workers quit one by one, and one that has not yet still accepts.
    loop {
        let mut fresh = wire::http1(backend.addr()).await.unwrap();
        let response = fresh.send_request(wire::request(Method::GET, backend.addr(), "")).await.unwrap();
        if wire::text(response).await.unwrap() == "new" {
            break;
        }
    }
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
            while get().await.unwrap() != name {}
        }
    })
    .await;

    assert!(tally.failures.is_empty(), "{tally:?}");
    assert!(tally.calls() > 0);
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
