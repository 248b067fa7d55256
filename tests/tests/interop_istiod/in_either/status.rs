//! What istiod and its tools say of us.

use serde_json::{Value, json};

use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_tests::kubernetes::virtual_service;

use super::open;
use crate::shop::{GRPC_PORT, HOST, HTTP_PORT, accepted, is_acked, listed, to, types};

const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

#[tokio::test]
async fn istiod_shows_what_is_accepted_and_why_something_is_not() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let ours = shop.clients().await;
    accepted(&shop.istiod).await;
    listed(&shop.istiod, &[("SYNCED", 4)]).await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            // A cluster with a validating webhook would not take it; istiod itself passes it on.
            let broken = json!({ "port": GRPC_PORT, "uri": { "regex": "/a(" } });
            let rules = json!([
                { "name": "good", "match": [{ "port": HTTP_PORT }], "route": [to("")] },
                { "name": "broken", "match": [broken], "route": [to("")] },
            ]);
            shop.istiod.apply(&virtual_service(HOST, rules)).await;
            let routes = |state: &Value| types(state).remove(ROUTES).unwrap_or_default();
            let why = |state: &Value| routes(state)["lastError"].as_str().unwrap_or_default().to_owned();
            shop.istiod.synced(|state| why(state).contains("safe_regex")).await;
            let state = shop.istiod.syncz().await;
            let refused = ours.routes_of(GRPC_PORT);
            for part in [&*refused, "virtual_hosts[0].routes[0].match.safe_regex", "/a("] {
                assert!(why(&state).contains(part), "{part} in {}", why(&state));
            }
            assert!(!is_acked(&routes(&state)), "{state:#}");
            listed(&shop.istiod, &[("SYNCED", 3), ("ERROR", 1)]).await;
            let resources = ours.source.status().resources;
            let rejected = resources.iter().filter(|one| one.state == ResourceState::Rejected);
            assert!(rejected.map(|one| &*one.name).eq([&*refused]), "{resources:?}");

            // The neighbour in the same response counts, and the last good one of what is refused.
            assert_eq!(ours.routes().each_ref().map(|name| &**name), ["good", "default"]);
            ours.pair.sample().await;

            shop.istiod.apply(&virtual_service(HOST, json!([{ "name": "mended", "route": [to("")] }]))).await;
            ours.routed_by("mended").await;
            accepted(&shop.istiod).await;
            listed(&shop.istiod, &[("SYNCED", 4)]).await;
        })
        .await;
    tally.assert_none_failed();
}
