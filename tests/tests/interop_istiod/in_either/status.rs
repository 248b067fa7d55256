//! What istiod and its tools say of us.

use serde_json::{Value, json};

use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_tests::kubernetes::virtual_service;

use super::open;
use crate::shop::{GRPC_PORT, HOST, HTTP_PORT, is_acked, none_failed, proxy_status, to, types};

const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

#[tokio::test]
async fn istiod_shows_what_is_accepted_and_why_something_is_not() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let ours = shop.clients().await;
    shop.istiod.synced(|state| types(state).len() == 4 && types(state).values().all(is_acked)).await;
    let (name, columns) = proxy_status(&shop.istiod).await;
    assert_eq!((&*name, columns.matches("SYNCED").count()), ("caller.shop", 4), "{columns}");

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
            let why = |state: &Value| types(state)[ROUTES]["lastError"].as_str().unwrap_or_default().to_owned();
            shop.istiod.synced(|state| why(state).contains("safe_regex")).await;
            let state = shop.istiod.syncz().await;
            let refused = ours.routes_of(GRPC_PORT);
            for part in [&*refused, "virtual_hosts[0].routes[0].match.safe_regex", "/a("] {
                assert!(why(&state).contains(part), "{part} in {}", why(&state));
            }
            assert!(!is_acked(&types(&state)[ROUTES]), "{state:#}");
            let (_, columns) = proxy_status(&shop.istiod).await;
            assert_eq!((columns.matches("SYNCED").count(), columns.matches("ERROR").count()), (3, 1), "{columns}");
            let resources = ours.source.status().resources;
            let rejected = resources.iter().filter(|one| one.state == ResourceState::Rejected);
            assert!(rejected.map(|one| &*one.name).eq([&*refused]), "{resources:?}");

            // The neighbour in the same response counts, and the last good one of what is refused.
            assert_eq!(ours.routes().each_ref().map(|name| &**name), ["good", "default"]);
            ours.pair.sample().await;

            shop.istiod.apply(&virtual_service(HOST, json!([{ "name": "mended", "route": [to("")] }]))).await;
            ours.routed_by("mended").await;
            shop.istiod.synced(|state| types(state).values().all(is_acked)).await;
            let (_, columns) = proxy_status(&shop.istiod).await;
            assert_eq!(columns.matches("SYNCED").count(), 4, "{columns}");
        })
        .await;
    none_failed(&tally);
}
