//! Rules for requests do what they say: those of Istio, and those of the Gateway API.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;

use mesh_core::outcome::FailureKind;
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_tests::kubernetes::{NAMESPACE, destination_rule, virtual_service};
use mesh_tests::pair::assert_by_chance;
use mesh_tests::sim::failure_of;

use super::open;
use crate::shop::{GRPC_PORT, HOST, HTTP_PORT, Ours, Shop, accepted, asked, code, rule, split, to};

#[tokio::test]
async fn virtual_service_and_destination_rule_do_what_they_say() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    let ours = shop.clients().await;
    for caller in ours.pair.callers() {
        assert_eq!(caller.route_of(&[]).as_deref(), Some("default"));
    }

    retries_of_a_service_that_nothing_is_said_of(&ours).await;
    header_match(&mut shop, &ours).await;
    timeout_ends_a_call(&mut shop, &ours).await;
    retries_and_their_time_limit(&mut shop, &ours).await;
    faults(&mut shop, &ours).await;
}

/// istiod says two retries of its own accord, on what gRPC calls unavailable but not on 503.
async fn retries_of_a_service_that_nothing_is_said_of(ours: &Ours) {
    let [http, grpc] = ours.pair.callers();
    assert!(asked(grpc, &[("fail-attempts", "2")]).await.is_ok());
    assert_eq!(code(asked(grpc, &[("fail-attempts", "3")]).await), Some(Code::Unavailable));
    let error = asked(http, &[("fail-attempts", "1")]).await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
}

async fn header_match(shop: &mut Shop, ours: &Ours) {
    let rules = json!([
        { "name": "testers", "match": [{ "headers": { "x-group": { "prefix": "test" } } }], "route": [to("v2")] },
        { "name": "public", "route": [to("v1")] },
    ]);
    shop.istiod.apply(&virtual_service(HOST, rules)).await;
    ours.routed_by("public").await;
    for caller in ours.pair.callers() {
        for _ in 0..20 {
            assert_eq!(asked(caller, &[("x-group", "testers")]).await.unwrap(), "v2-a");
            assert_eq!(asked(caller, &[("x-group", "buyers")]).await.unwrap(), "v1-a");
        }
    }
}

async fn timeout_ends_a_call(shop: &mut Shop, ours: &Ours) {
    shop.istiod.apply(&virtual_service(HOST, json!([rule("timeout", json!({ "timeout": "1s" }))]))).await;
    ours.routed_by("timeout").await;
    for caller in ours.pair.callers() {
        assert!(asked(caller, &[("think-ms", "10")]).await.is_ok());
        let start = Instant::now();
        let error = asked(caller, &[("think-ms", "20000")]).await.unwrap_err();
        assert_eq!(failure_of(&error).unwrap().0, FailureKind::Timeout, "{error}");
        assert!((Duration::from_secs(1)..Duration::from_secs(10)).contains(&start.elapsed()), "{start:?}");
    }
}

async fn retries_and_their_time_limit(shop: &mut Shop, ours: &Ours) {
    let retries = json!({ "attempts": 3, "perTryTimeout": "0.5s", "retryOn": "5xx,unavailable", "backoff": "0.005s" });
    shop.istiod.apply(&virtual_service(HOST, json!([rule("retries", json!({ "retries": retries }))]))).await;
    ours.routed_by("retries").await;
    for caller in ours.pair.callers() {
        assert!(asked(caller, &[("fail-attempts", "3")]).await.is_ok());
        assert!(asked(caller, &[("fail-attempts", "4")]).await.is_err());
        // The first attempt thinks for too long.
        assert!(asked(caller, &[("think-ms", "20000"), ("think-attempts", "1")]).await.is_ok());
    }
}

async fn faults(shop: &mut Shop, ours: &Ours) {
    let [http, grpc] = ours.pair.callers();
    let fault = |port: u16, abort: Value| {
        let delay = json!({ "fixedDelay": "0.2s", "percentage": { "value": 100 } });
        let mut rule = rule("faults", json!({ "fault": { "abort": abort, "delay": delay } }));
        rule["match"] = json!([{ "port": port }]);
        rule
    };
    let always = json!({ "value": 100 });
    let rules = json!([
        fault(HTTP_PORT, json!({ "httpStatus": 418, "percentage": always })),
        fault(GRPC_PORT, json!({ "grpcStatus": "RESOURCE_EXHAUSTED", "percentage": always })),
    ]);
    shop.istiod.apply(&virtual_service(HOST, rules)).await;
    ours.routed_by("faults").await;
    let start = Instant::now();
    let error = asked(http, &[]).await.unwrap_err();
    assert!(error.to_string().contains("418"), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(code(asked(grpc, &[]).await), Some(Code::ResourceExhausted));
    assert!(start.elapsed() >= Duration::from_millis(400));

    let some = json!({ "abort": { "httpStatus": 503, "percentage": { "value": 50 } } });
    shop.istiod.apply(&virtual_service(HOST, json!([rule("half", json!({ "fault": some }))]))).await;
    ours.routed_by("half").await;
    for caller in ours.pair.callers() {
        let mut failed = 0;
        for _ in 0..200 {
            failed += i32::from(asked(caller, &[]).await.is_err());
        }
        // Five times the deviation of chance.
        assert!((65..=135).contains(&failed), "{failed} of 200");
    }
}

#[tokio::test]
async fn routes_of_the_gateway_api_are_followed_without_a_failed_call() {
    let Some(mut shop) = open().await else { return };
    shop.serve("echo-v1", 11).await;
    shop.serve("echo-v2", 12).await;
    shop.add("v1-a", 1, &["echo", "echo-v1"]).await;
    shop.add("v2-a", 2, &["echo", "echo-v2"]).await;
    let ours = shop.clients().await;

    let (lines, tally) = ours
        .pair
        .under_load(async || {
            let mut lines = Vec::new();
            for weight in [25, 75] {
                for (kind, port) in [("HTTPRoute", HTTP_PORT), ("GRPCRoute", GRPC_PORT)] {
                    let which = usize::from(port == GRPC_PORT);
                    let route = split(kind, port, weight);
                    shop.istiod.apply(&route).await;
                    let rule = format!("{NAMESPACE}.{kind}-{weight}.1").to_lowercase();
                    ours.pair.until(&rule, |_| *ours.routes()[which] == *rule).await;
                    let is_accepted = |route: &Value| {
                        let told = &route["status"]["parents"][0]["conditions"][0];
                        (&told["type"], &told["status"]) == (&json!("Accepted"), &json!("True"))
                    };
                    shop.istiod.stands(&route, is_accepted).await;

                    let shares = &ours.pair.sample().await[which];
                    assert_by_chance(shares, "v2-a", f64::from(weight) / 100.0);
                    lines.push(format!("{kind}, {weight} % meant: {shares:?}"));
                    for _ in 0..20 {
                        let caller = &ours.pair.callers()[which];
                        assert_eq!(asked(caller, &[("x-group", "testers")]).await.unwrap(), "v2-a");
                    }

                    // Of two routes of one parent the older one counts.
                    shop.istiod.delete(&route).await;
                    ours.pair.until("the route is gone", |_| *ours.routes()[which] == *"default").await;
                }
            }
            lines
        })
        .await;
    println!("{}", lines.join("\n"));
    tally.assert_none_failed();
}

/// Rules with every field that istiod makes something of for clients. A refusal would be an error of the whole type to istiod, for
/// as long as the rule is there.
#[tokio::test]
async fn nothing_that_istio_can_say_is_refused() {
    let Some(mut shop) = open().await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], every_policy())).await;
    shop.istiod.apply(&virtual_service(HOST, every_rule())).await;
    let ours = shop.clients().await;
    ours.routed_by("last").await;
    ours.subsets_are(ResourceState::Synced, &["v1"]).await;
    let mut resources = ours.source.status().resources;
    for one in &resources {
        one.warnings.iter().for_each(|warning| println!("{} {}: {warning}", one.kind, one.name));
    }
    resources.retain(|one| one.state == ResourceState::Rejected);
    assert!(resources.is_empty(), "{resources:#?}");
    accepted(&shop.istiod).await;
    for caller in ours.pair.callers() {
        assert!(asked(caller, &[]).await.is_ok());
    }
}

fn every_policy() -> Value {
    json!({
        "loadBalancer": {
            "consistentHash": { "httpCookie": { "name": "session", "ttl": "60s" }, "ringHash": { "minimumRingSize": 512 } },
            "localityLbSetting": { "enabled": true, "failover": [{ "from": "here", "to": "there" }] },
            "warmup": { "duration": "30s", "aggression": 1.5 },
        },
        "outlierDetection": {
            "consecutive5xxErrors": 7,
            "consecutiveGatewayErrors": 5,
            "consecutiveLocalOriginFailures": 3,
            "splitExternalLocalOriginErrors": true,
            "interval": "10s",
            "baseEjectionTime": "30s",
            "maxEjectionPercent": 50,
            "minHealthPercent": 10,
        },
        "connectionPool": {
            "tcp": {
                "maxConnections": 100,
                "connectTimeout": "2s",
                "maxConnectionDuration": "600s",
                "idleTimeout": "60s",
                "tcpKeepalive": { "time": "60s", "interval": "10s", "probes": 3 },
            },
            "http": {
                "h2UpgradePolicy": "DO_NOT_UPGRADE",
                "http1MaxPendingRequests": 100,
                "http2MaxRequests": 100,
                "maxRequestsPerConnection": 1000,
                "maxRetries": 10,
                "idleTimeout": "50s",
                "maxConcurrentStreams": 50,
            },
        },
        "retryBudget": { "percent": 25, "minRetryConcurrency": 5 },
    })
}

fn every_rule() -> Value {
    let rule = |name: &str, matches: Value, more: Value| {
        let mut rule = more;
        (rule["name"], rule["match"]) = (json!(name), json!([matches]));
        rule
    };
    let to_v1 = || json!([to("v1")]);
    let mut weighed = json!([to("v1"), to("v2")]);
    (weighed[0]["weight"], weighed[1]["weight"]) = (json!(30), json!(70));
    weighed[0]["headers"] =
        json!({ "request": { "set": { "x-version": "1" } }, "response": { "remove": ["x-internal"] } });
    json!([
        rule("redirect", json!({ "uri": { "exact": "/old" } }), json!({
            "redirect": { "uri": "/new", "authority": "new.example", "scheme": "https", "redirectCode": 308 },
        })),
        rule("redirect-prefix", json!({ "uri": { "prefix": "/old/" } }), json!({
            "redirect": { "uri": "%PREFIX()%/new", "derivePort": "FROM_REQUEST_PORT" },
        })),
        rule("answer", json!({ "uri": { "prefix": "/teapot" }, "ignoreUriCase": true }), json!({
            "directResponse": { "status": 418, "body": { "string": "short and stout" } },
        })),
        rule("rewrite", json!({ "uri": { "regex": "/v[0-9]+/.*" } }), json!({
            "rewrite": { "uriRegexRewrite": { "match": "/v([0-9]+)/(.*)", "rewrite": "/\\2" }, "authority": "inner" },
            "route": to_v1(),
        })),
        rule("rewrite-prefix", json!({ "uri": { "prefix": "/api/" }, "method": { "exact": "GET" } }), json!({
            "rewrite": { "uri": "/" },
            "route": to_v1(),
            "timeout": "3s",
            "retries": {
                "attempts": 3,
                "perTryTimeout": "1s",
                "retryOn": "gateway-error,connect-failure,reset,retriable-4xx,503",
                "retryRemoteLocalities": true,
                "retryIgnorePreviousHosts": false,
                "backoff": "0.1s",
            },
        })),
        rule("headers", json!({
            "headers": { "x-one": { "exact": "1" }, "x-two": { "prefix": "2" }, "x-three": { "regex": "3.*" }, "x-four": {} },
            "withoutHeaders": { "x-five": { "exact": "5" }, "x-six": {} },
            "queryParams": { "q": { "exact": "1" }, "r": { "regex": "2.*" }, "s": { "prefix": "3" } },
            "authority": { "prefix": "echo" },
            "scheme": { "exact": "http" },
            "port": HTTP_PORT,
        }), json!({
            "route": weighed,
            "headers": {
                "request": { "add": { "x-a": "%REQ(x-b)%" }, "set": { "x-c": "1" }, "remove": ["x-d"] },
                "response": { "add": { "x-e": "%PROTOCOL%" }, "set": { "x-f": "100%%" } },
            },
        })),
        rule("mirror", json!({ "uri": { "prefix": "/mirror" } }), json!({
            "route": to_v1(),
            "mirrors": [{ "destination": { "host": HOST, "subset": "v2" }, "percentage": { "value": 0.5 } }],
        })),
        rule("cors", json!({ "uri": { "prefix": "/cors" } }), json!({
            "route": to_v1(),
            "corsPolicy": {
                "allowOrigins": [{ "regex": ".*" }, { "exact": "https://a.example" }],
                "allowMethods": ["GET"],
                "allowHeaders": ["x-a"],
                "exposeHeaders": ["x-b"],
                "maxAge": "24h",
                "allowCredentials": true,
            },
        })),
        rule("faults", json!({ "uri": { "prefix": "/faults" } }), json!({
            "route": to_v1(),
            "fault": {
                "delay": { "fixedDelay": "1s", "percentage": { "value": 0.1 } },
                "abort": { "httpStatus": 500, "percentage": { "value": 0.01 } },
            },
        })),
        { "name": "last", "route": to_v1() },
    ])
}
