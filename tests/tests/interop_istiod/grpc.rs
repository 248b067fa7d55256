//! What holds of proxyless gRPC (`GENERATOR=grpc`) alone: this generator leaves much out.

use serde_json::json;
use tonic::Code;

use mesh_core::config::{Cluster, LoadBalancing};
use mesh_core::outcome::FailureKind;
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_http::Client;
use mesh_tests::kubernetes::{destination_rule, object, virtual_service};
use mesh_tests::sim::{Caller, Speaks, failure_of};
use mesh_xds_client::Dialect;

use crate::shop::{GRPC_PORT, HOST, HTTP_PORT, Ours, Shop, asked, code, rule, to};

#[tokio::test]
async fn what_this_generator_leaves_out_is_not_made_up() {
    let Some(mut shop) = Shop::open(Dialect::Grpc).await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    let ours = shop.clients().await;
    no_retries_are_not_told_from_silence(&mut shop, &ours).await;
    destination_rule_in_part(&mut shop, &ours).await;
    mutual_tls_without_an_identity(&mut shop, &ours).await;
    names_without_endpoints(&mut shop, &ours).await;
}

/// istiod makes of it a route without a policy, and where the control plane is silent the client's own word counts.
async fn no_retries_are_not_told_from_silence(shop: &mut Shop, ours: &Ours) {
    shop.istiod.apply(&virtual_service(HOST, json!([rule("once", json!({ "retries": { "attempts": 0 } }))]))).await;
    ours.routed_by("once").await;
    let [http, grpc] = ours.pair.callers();
    let strict = Client::builder(http.target()).mesh(&ours.mesh).no_retries().build().unwrap();
    assert!(asked(http, &[("fail-attempts", "1")]).await.is_ok());
    assert!(asked(&Caller::Http(strict), &[("fail-attempts", "1")]).await.is_err());
    assert_eq!(code(asked(grpc, &[("fail-attempts", "1")]).await), Some(Code::Unavailable));
}

/// This generator sends the limit of requests and leaves out outliers, the connect timeout and all else.
async fn destination_rule_in_part(shop: &mut Shop, ours: &Ours) {
    let policy = json!({
        "loadBalancer": { "simple": "LEAST_REQUEST" },
        "outlierDetection": { "consecutive5xxErrors": 3 },
        "connectionPool": {
            "tcp": { "connectTimeout": "3s", "maxConnections": 3 },
            "http": { "http2MaxRequests": 7, "http1MaxPendingRequests": 3, "maxRetries": 5 },
        },
    });
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], policy)).await;
    shop.istiod.apply(&virtual_service(HOST, json!([{ "name": "limited", "route": [to("v2")] }]))).await;
    ours.routed_by("limited").await;
    for port in [HTTP_PORT, GRPC_PORT] {
        let name = format!("outbound|{port}|v2|{HOST}");
        let limit = |cluster: &Cluster| cluster.policy.circuit_breakers.default.max_requests;
        ours.pair.until("the limit is known", |_| ours.cluster(&name).is_some_and(|c| limit(&c) == Some(7))).await;
        let policy = &ours.cluster(&name).unwrap().policy;
        assert_eq!(policy.load_balancing, Some(LoadBalancing::LEAST_REQUEST));
        assert_eq!((&policy.outlier_detection, policy.connect_timeout), (&None, None));
        let limits = &policy.circuit_breakers.default;
        assert_eq!((limits.max_connections, limits.max_pending, limits.max_retries), (None, None, None));
    }
}

/// A client that has no certificates must not fall back to plain text: it keeps what it had, and says why.
async fn mutual_tls_without_an_identity(shop: &mut Shop, ours: &Ours) {
    let policy = json!({ "tls": { "mode": "ISTIO_MUTUAL" } });
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], policy)).await;
    ours.subsets_are(ResourceState::Rejected, &["v2"]).await;
    for one in ours.source.status().resources.iter().filter(|one| one.state == ResourceState::Rejected) {
        assert!(one.error.as_ref().is_some_and(|error| error.contains("tls_certificate_provider_instance")), "{one:?}");
    }
    for caller in ours.pair.callers() {
        assert!(asked(caller, &[]).await.is_ok());
    }
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    ours.subsets_are(ResourceState::Synced, &["v2"]).await;
}

/// This generator has clusters for names, and no endpoints of them.
async fn names_without_endpoints(shop: &mut Shop, ours: &Ours) {
    let spec = json!({
        "hosts": ["named.test"],
        "resolution": "DNS",
        "ports": [{ "number": GRPC_PORT, "name": "grpc", "protocol": "GRPC" }],
        "endpoints": [{ "address": "localhost" }],
    });
    shop.istiod.apply(&object("networking.istio.io/v1", "ServiceEntry", "named", spec)).await;
    let caller = Caller::of(&ours.mesh, "named.test:7070", Speaks::Grpc);
    caller.ready().await.unwrap();
    let error = caller.call().await.unwrap_err();
    assert_eq!(failure_of(&error).unwrap().0, FailureKind::NoEndpoint, "{error}");
}
