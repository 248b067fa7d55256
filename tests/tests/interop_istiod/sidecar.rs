//! What holds of sidecars alone: policies as they are written, mutual TLS by endpoint, names by DNS, and whole ports.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;
use tonic::Code;

use mesh_core::config::{ClusterPolicy, LoadBalancing, Percent, RetryOn, RetryPolicy, TimeLimit};
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_grpc::Channel;
use mesh_http::resolve::{Resolve, Resolved, Resolving};
use mesh_http::{Client, Mesh};
use mesh_tests::kubernetes::{destination_rule, object, virtual_service};
use mesh_tests::sim::{Backend, Caller, Speaks, text};
use mesh_xds_client::Dialect;

use crate::shop::{GRPC_PORT, HOST, HTTP_PORT, Shop, asked, code, rule, to};

async fn open() -> Option<Shop> {
    Shop::open(Dialect::Sidecar).await
}

#[tokio::test]
async fn no_retries_are_no_retries_whatever_the_clients_preset() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let ours = shop.clients().await;
    let [http, grpc] = ours.pair.callers();
    assert!(asked(grpc, &[("fail-attempts", "2")]).await.is_ok(), "istiod says two of its own accord");
    shop.istiod.apply(&virtual_service(HOST, json!([rule("once", json!({ "retries": { "attempts": 0 } }))]))).await;
    ours.routed_by("once").await;
    assert!(asked(http, &[("fail-attempts", "1")]).await.is_err());
    assert_eq!(code(asked(grpc, &[("fail-attempts", "1")]).await), Some(Code::Unavailable));

    // A pin in code holds against the control plane.
    let retries = RetryPolicy::on(RetryOn::parse("5xx,unavailable").0);
    let pinned =
        Client::builder(http.target()).mesh(&ours.mesh).pin(|pin| pin.route.retry = Some(retries.clone().into()));
    assert!(asked(&Caller::Http(pinned.build().unwrap()), &[("fail-attempts", "1")]).await.is_ok());
    let pinned = Channel::builder(grpc.target()).mesh(&ours.mesh).pin(|pin| pin.route.retry = Some(retries.into()));
    assert!(asked(&Caller::Grpc(pinned.build().unwrap()), &[("fail-attempts", "1")]).await.is_ok());
}

#[tokio::test]
async fn destination_rule_is_honoured_as_it_is_written() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let policy = json!({
        "outlierDetection": { "consecutive5xxErrors": 3, "interval": "7s", "maxEjectionPercent": 40, "minHealthPercent": 30 },
        "connectionPool": {
            "tcp": { "connectTimeout": "3s", "maxConnections": 13 },
            "http": {
                "http1MaxPendingRequests": 17,
                "http2MaxRequests": 19,
                "maxRetries": 5,
                "idleTimeout": "50s",
                "maxRequestsPerConnection": 1000,
                "maxConcurrentStreams": 11,
            },
        },
    });
    shop.istiod.apply(&destination_rule(HOST, &["v1"], policy)).await;
    shop.istiod.apply(&virtual_service(HOST, json!([{ "name": "limited", "route": [to("v1")] }]))).await;
    let ours = shop.clients().await;
    ours.routed_by("limited").await;
    for port in [HTTP_PORT, GRPC_PORT] {
        let cluster = ours.cluster(&format!("outbound|{port}|v1|{HOST}")).unwrap();
        let ClusterPolicy { circuit_breakers, connections, .. } = &cluster.policy;
        assert_eq!(cluster.policy.load_balancing, Some(LoadBalancing::LEAST_REQUEST), "Istio's default");
        assert_eq!(cluster.policy.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(cluster.policy.panic_threshold, Percent::new(30.0).ok());
        let outliers = cluster.policy.outlier_detection.as_ref().unwrap();
        assert_eq!((outliers.consecutive_errors, outliers.interval), (3, Duration::from_secs(7)));
        assert_eq!(Some(outliers.max_ejected), Percent::new(40.0).ok());
        let limits = &circuit_breakers.default;
        assert_eq!((limits.max_connections, limits.max_pending), (Some(13), Some(17)));
        assert_eq!((limits.max_requests, limits.max_retries), (Some(19), Some(5)));
        assert_eq!(connections.idle_timeout, TimeLimit::after(Duration::from_secs(50)).ok());
        assert_eq!(connections.max_requests, Some(1000));
        let streams = (port == GRPC_PORT).then_some(11);
        assert_eq!(connections.max_streams, streams, "HTTP/1 has none");
    }
    ours.pair.under_load(async || drop(ours.pair.sample().await)).await;
}

#[tokio::test]
async fn client_of_a_port_finds_every_service_by_authority() {
    let Some(mut shop) = open().await else { return };
    shop.serve("other", 11).await;
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["other"]).await;
    // Names that are no service of their own: another one's, and any below a domain.
    let alias =
        json!({ "type": "ExternalName", "externalName": HOST, "ports": [{ "name": "http", "port": HTTP_PORT }] });
    shop.istiod.apply(&object("v1", "Service", "alias", alias)).await;
    let other = &shop.workloads["v2-a"];
    let below = json!({
        "hosts": ["*.wild.test"],
        "resolution": "STATIC",
        "ports": [{ "number": HTTP_PORT, "name": "http", "protocol": "HTTP" }],
        "endpoints": [{ "address": other.ip, "ports": { "http": other.backends[0].address().port() } }],
    });
    shop.istiod.apply(&object("networking.istio.io/v1", "ServiceEntry", "wild", below)).await;
    let ours = shop.clients().await;
    let client = Client::builder(format!("*:{HTTP_PORT}")).mesh(&ours.mesh).build().unwrap();
    client.ready().await.unwrap();
    for (authority, expected) in [
        ("echo", Some("v1-a")),
        ("echo.shop", Some("v1-a")),
        ("other.shop.svc.cluster.local", Some("v2-a")),
        ("alias.shop", Some("v1-a")),
        ("any.wild.test", Some("v2-a")),
        // To where it was meant to go before, which nobody intercepted.
        ("outside.example", None),
    ] {
        let answer = client.get(format!("http://{authority}:{HTTP_PORT}/")).await;
        match expected {
            Some(name) => assert_eq!(text(answer.unwrap()).await, name, "{authority}"),
            None => assert!(answer.is_err()),
        }
    }
}

#[tokio::test]
async fn name_from_outside_is_resolved_and_called() {
    let Some(mut shop) = open().await else { return };
    let backend = Backend::listening_on(Ipv4Addr::LOCALHOST, "outside", Speaks::Grpc, mesh_tests::sim::Answer::OK);
    let backend = backend.await.unwrap();
    let spec = json!({
        "hosts": ["api.example.com"],
        "resolution": "DNS",
        "location": "MESH_EXTERNAL",
        "ports": [{ "number": GRPC_PORT, "name": "grpc", "protocol": "GRPC" }],
        "endpoints": [{ "address": "localhost", "ports": { "grpc": backend.address().port() } }],
    });
    shop.istiod.apply(&object("networking.istio.io/v1", "ServiceEntry", "named", spec)).await;
    let ours = shop.clients().await;
    let caller = Caller::of(&ours.mesh, "api.example.com:7070", Speaks::Grpc);
    caller.ready().await.unwrap();
    for _ in 0..10 {
        assert_eq!(caller.call().await.unwrap(), "outside");
    }
}

/// Whatever the name, this machine.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: &str) -> Resolving {
        Box::pin(async {
            Ok(Resolved { addresses: vec![Ipv4Addr::LOCALHOST.into()], valid_for: Duration::from_secs(60) })
        })
    }
}

#[tokio::test]
async fn name_from_outside_that_istio_leaves_to_its_callers_is_looked_up_here() {
    let Some(mut shop) = open().await else { return };
    let backend = Backend::listening_on(Ipv4Addr::LOCALHOST, "outside", Speaks::Grpc, mesh_tests::sim::Answer::OK);
    let backend = backend.await.unwrap();
    let port = backend.address().port();
    let spec = json!({
        "hosts": ["api.example.com"],
        "resolution": "NONE",
        "location": "MESH_EXTERNAL",
        "ports": [{ "number": port, "name": "grpc", "protocol": "GRPC" }],
    });
    shop.istiod.apply(&object("networking.istio.io/v1", "ServiceEntry", "named", spec)).await;
    let source = shop.caller().client().unwrap().build().unwrap();
    let mesh = Mesh::builder().source(source).resolver(Here).build().unwrap();
    let caller = Caller::of(&mesh, &format!("api.example.com:{port}"), Speaks::Grpc);
    caller.ready().await.unwrap();
    assert_eq!(caller.call().await.unwrap(), "outside");
}

#[tokio::test]
async fn what_comes_in_is_told_and_in_nobodys_way() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let ours = shop.clients().await;
    ours.pair.until("the listener is there", |_| ours.source.inbound_listener().is_some()).await;
    let listener = ours.source.inbound_listener().unwrap();
    assert!(listener.chains(HTTP_PORT).count() > 0);
    let resources = ours.source.status().resources;
    let listeners = resources.iter().filter(|one| one.kind == "Listener");
    assert!(listeners.map(|one| (&*one.name, one.state)).eq([("virtualInbound", ResourceState::Synced)]));
    ours.pair.under_load(async || drop(ours.pair.sample().await)).await;
}
