//! A real istiod steers our clients as proxyless gRPC (`GENERATOR=grpc`), by objects applied to a Kubernetes API of ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]
#![allow(clippy::print_stdout, reason = "the figures are what is asked for")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use mesh_core::config::{Cluster, LoadBalancing, Locality};
use mesh_core::outcome::FailureKind;
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_http::{Client, Mesh};
use mesh_tests::kubernetes::{
    NAMESPACE, destination_rule, endpoint_slice, gateway_route, object, pod, service, virtual_service,
};
use mesh_tests::load::{Tally, under_load};
use mesh_tests::pair::{Pair, assert_by_chance};
use mesh_tests::peers::{Istiod, RunningIstiod};
use mesh_tests::sim::{Answer, Backend, Caller, Speaks, failure_of};
use mesh_tests::wire::Error;
use mesh_xds_client::XdsClient;
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node};

/// Who we are to istiod: four parts, with an address that no workload of the shop has.
const NODE: &str = "sidecar~127.0.0.9~caller.shop~shop.svc.cluster.local";
const HOST: &str = "echo.shop.svc.cluster.local";
/// Where we are.
const REGION: &str = "here";
const HTTP_PORT: u16 = 8080;
const GRPC_PORT: u16 = 7070;
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The longest wait of our clients before they look for istiod again.
const RECONNECT: Duration = Duration::from_secs(1);
/// How long istiod is gone.
const OUTAGE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn endpoints_and_services_come_and_go_without_a_failed_call() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
    shop.add("v1-a", 1, &["echo"]).await;
    let ours = shop.clients().await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            shop.add("v1-b", 2, &["echo"]).await;
            shop.add("v1-c", 3, &["echo"]).await;
            ours.endpoints(3).await;
            assert_eq!(ours.pair.sample().await.map(|answers| answers.len()), [3, 3]);
            for (leaving, left) in [("v1-a", 2), ("v1-c", 1)] {
                // One is gone at once, the other is seen to be unready before.
                if leaving == "v1-c" {
                    shop.unready(leaving).await;
                    ours.endpoints(left).await;
                }
                let workload = shop.remove(leaving).await;
                ours.endpoints(left).await;
                let idle = |_: &_| workload.backends.iter().all(|backend| backend.in_flight() == 0);
                ours.pair.until("what it was asked before is answered", idle).await;
            }
            for answers in ours.pair.sample().await {
                assert!(answers.keys().eq(["v1-b"]), "{answers:?}");
            }

            // A target may be asked for before its service is there.
            let late = Caller::of(&ours.mesh, "late.shop:8080", Speaks::Http1);
            let outside = Caller::of(&ours.mesh, "outside.test:7070", Speaks::Grpc);
            let apply = async {
                shop.serve("late", 11).await;
                shop.add("late-a", 4, &["late"]).await;
                shop.istiod.apply(&service_entry("outside.test", &[(&shop.workloads["late-a"], REGION)])).await;
            };
            let ((), http, grpc) = tokio::join!(apply, late.ready(), outside.ready());
            http.and(grpc).unwrap();
            assert_eq!(late.call().await.unwrap(), "late-a");
            assert_eq!(outside.call().await.unwrap(), "late-a");

            shop.istiod.delete(&service("late", 11, &[])).await;
            ours.is_unavailable("late.shop:8080", true).await;
            let error = late.call().await.unwrap_err();
            assert_eq!(failure_of(&error).unwrap().0, FailureKind::NoConfig, "{error}");
            shop.serve("late", 11).await;
            ours.is_unavailable("late.shop:8080", false).await;
            assert_eq!(late.call().await.unwrap(), "late-a");
        })
        .await;
    none_failed(&tally);
}

#[tokio::test]
async fn canary_is_followed_without_a_failed_call() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
    for (name, number) in [("v1-a", 1), ("v1-b", 2), ("v2-a", 3)] {
        shop.add(name, number, &["echo"]).await;
    }
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    shop.istiod.apply(&canary(0)).await;
    let ours = shop.clients().await;

    let (lines, tally) = ours
        .pair
        .under_load(async || {
            let mut lines = Vec::new();
            for weight in [0, 5, 50, 100, 50, 0] {
                shop.istiod.apply(&canary(weight)).await;
                ours.routed_by(&format!("canary-{weight}")).await;
                let shares = ours.pair.sample().await;
                for answers in &shares {
                    assert_by_chance(answers, "v2-a", f64::from(weight) / 100.0);
                }
                lines.push(format!("{weight} % meant: {shares:?}"));
            }
            lines
        })
        .await;
    println!("{}", lines.join("\n"));
    none_failed(&tally);
}

#[tokio::test]
async fn subsets_that_come_late_and_go_early_cost_no_call() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    let ours = shop.clients().await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            for _ in 0..3 {
                // The new routes lead to clusters that there are none of, so that the old ones stay.
                shop.istiod.apply(&canary(50)).await;
                ours.subsets_are(ResourceState::Requested, &["v1", "v2"]).await;
                assert_eq!(ours.routes().each_ref().map(|name| &**name), ["default"; 2]);
                shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
                ours.routed_by("canary-50").await;
                // Routes still lead to them, so that they stay.
                shop.istiod.delete(&destination_rule(HOST, &[], json!({}))).await;
                ours.subsets_are(ResourceState::Absent, &["v1", "v2"]).await;
                ours.pair.sample().await;
                shop.istiod.delete(&canary(50)).await;
                ours.routed_by("default").await;
            }
        })
        .await;
    none_failed(&tally);
}

#[tokio::test]
async fn istiod_that_is_killed_and_comes_back_costs_no_call() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
    shop.add("v1-a", 1, &["echo"]).await;
    shop.add("v2-a", 2, &["echo"]).await;
    shop.istiod.apply(&destination_rule(HOST, &["v1", "v2"], json!({}))).await;
    shop.istiod.apply(&canary(50)).await;
    let ours = shop.clients().await;
    ours.routed_by("canary-50").await;

    let ((), tally) = ours
        .pair
        .under_load(async || {
            shop.istiod.kill().await;
            // What changes meanwhile is learnt afterwards.
            shop.istiod.apply(&canary(100)).await;
            sleep(OUTAGE).await;
            assert!(!ours.source.status().connected);
            for answers in ours.pair.sample().await {
                assert_by_chance(&answers, "v2-a", 0.5);
            }
            shop.istiod.restart().await;
            ours.routed_by("canary-100").await;
            for answers in ours.pair.sample().await {
                assert!(answers.keys().eq(["v2-a"]), "{answers:?}");
            }
            shop.istiod.synced(|state| types(state).len() == 4 && types(state).values().all(is_acked)).await;
        })
        .await;
    none_failed(&tally);
}

#[tokio::test]
async fn virtual_service_and_destination_rule_do_what_they_say() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
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
    destination_rule_in_part(&mut shop, &ours).await;
    mutual_tls_without_an_identity(&mut shop, &ours).await;
    names_without_endpoints(&mut shop, &ours).await;
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

    // istiod makes of it a route without a policy, and where the control plane is silent the client's own word counts.
    shop.istiod.apply(&virtual_service(HOST, json!([rule("once", json!({ "retries": { "attempts": 0 } }))]))).await;
    ours.routed_by("once").await;
    let [http, grpc] = ours.pair.callers();
    let strict = Client::builder(http.target()).mesh(&ours.mesh).no_retries().build().unwrap();
    assert!(asked(http, &[("fail-attempts", "1")]).await.is_ok());
    assert!(asked(&Caller::Http(strict), &[("fail-attempts", "1")]).await.is_err());
    assert_eq!(code(asked(grpc, &[("fail-attempts", "1")]).await), Some(Code::Unavailable));
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

#[tokio::test]
async fn routes_of_the_gateway_api_are_followed_without_a_failed_call() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
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
                    let accepted = &shop.istiod.get(&route).await["status"]["parents"][0]["conditions"][0];
                    assert_eq!((&accepted["type"], &accepted["status"]), (&json!("Accepted"), &json!("True")));

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
    none_failed(&tally);
}

#[tokio::test]
async fn locality_that_dies_is_left_for_the_next_without_a_failed_call() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
    let (near, far) = (Workload::start("near-a", 1, &[]).await, Workload::start("far-a", 2, &[]).await);
    shop.istiod.apply(&service_entry("spread.test", &[(&near, REGION), (&far, "elsewhere")])).await;
    // Without outlier detection istiod tells no priorities.
    let policy = json!({ "outlierDetection": { "consecutive5xxErrors": 1 } });
    shop.istiod.apply(&destination_rule("spread.test", &[], policy)).await;
    let ours = shop.clients().await;
    let caller = Caller::of(&ours.mesh, "spread.test:7070", Speaks::Grpc);
    caller.ready().await.unwrap();

    let ((), tally) = under_load(4, || caller.call(), async {
        for _ in 0..100 {
            assert_eq!(caller.call().await.unwrap(), "near-a");
        }
        drop(near);
        for _ in 0..100 {
            assert_eq!(caller.call().await.unwrap(), "far-a");
        }
    })
    .await;
    none_failed(&tally);
}

#[tokio::test]
async fn istiod_shows_what_is_accepted_and_why_something_is_not() {
    let Some(istiod) = Istiod::find() else { return };
    let mut shop = Shop::open(&istiod).await;
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
            let refused = format!("outbound|{GRPC_PORT}||{HOST}");
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

/// istiod, a service `echo` for HTTP and for gRPC, and the workloads behind it.
struct Shop {
    istiod: RunningIstiod,
    workloads: BTreeMap<&'static str, Workload>,
}

/// A pod of its own loopback address: a backend for each port, both called as the pod is.
struct Workload {
    name: &'static str,
    ip: Ipv4Addr,
    backends: [Backend; 2],
    services: Vec<&'static str>,
}

/// Our clients in a mesh that istiod steers. The gRPC client calls the service by a short name.
struct Ours {
    source: XdsClient,
    mesh: Mesh,
    pair: Pair,
}

// === impl Shop ===

impl Shop {
    async fn open(istiod: &Istiod) -> Self {
        let istiod = istiod.start(&json!({ "rootNamespace": "istio-system" })).await;
        let mut shop = Self { istiod, workloads: BTreeMap::new() };
        shop.serve("echo", 10).await;
        shop
    }

    async fn serve(&mut self, name: &str, number: u8) {
        self.istiod.apply(&service(name, number, &[("http", HTTP_PORT), ("grpc", GRPC_PORT)])).await;
    }

    /// Starts a workload of these services; its name begins with its version.
    async fn add(&mut self, name: &'static str, number: u8, services: &[&'static str]) {
        let workload = Workload::start(name, number, services).await;
        for object in workload.objects() {
            self.istiod.apply(&object).await;
        }
        self.workloads.insert(name, workload);
    }

    /// Says of a workload what its readiness probe would.
    async fn unready(&mut self, name: &str) {
        for mut slice in self.workloads[name].objects().into_iter().skip(1) {
            slice["endpoints"][0]["conditions"]["ready"] = json!(false);
            self.istiod.apply(&slice).await;
        }
    }

    /// Takes a workload from its services, and leaves it running.
    async fn remove(&mut self, name: &str) -> Workload {
        let workload = self.workloads.remove(name).unwrap();
        for object in workload.objects().iter().rev() {
            self.istiod.delete(object).await;
        }
        workload
    }

    async fn clients(&self) -> Ours {
        let mut node = Node::new(NODE)
            .metadata("GENERATOR", "grpc")
            .metadata("NAMESPACE", NAMESPACE)
            .metadata("CLUSTER_ID", "Kubernetes")
            .metadata("INSTANCE_IPS", "127.0.0.9")
            .metadata("PROXY_CONFIG", json!({}));
        node.locality = Some(Locality { region: REGION.into(), ..Locality::default() });
        let server = self.istiod.addr().to_string();
        let bootstrap = Bootstrap::builder().server(server, ChannelCredentials::Insecure).node(node).build().unwrap();
        // By default the waits of a long outage grow beyond the patience of a test.
        let source = XdsClient::builder(bootstrap).reconnect(RECONNECT, RECONNECT).build().unwrap();
        let mesh = Mesh::builder().source(source.clone()).build().unwrap();
        let pair = Pair::of(&mesh, &format!("{HOST}:{HTTP_PORT}"), &format!("echo.shop:{GRPC_PORT}")).await;
        Ours { source, mesh, pair }
    }
}

// === impl Workload ===

impl Workload {
    async fn start(name: &'static str, number: u8, services: &[&'static str]) -> Self {
        let ip = Ipv4Addr::new(127, 0, 7, number);
        let http = Backend::listening_on(ip, name, Speaks::Http1, as_asked).await.unwrap();
        let grpc = Backend::listening_on(ip, name, Speaks::Grpc, as_asked).await.unwrap();
        Self { name, ip, backends: [http, grpc], services: services.to_vec() }
    }

    /// The pod, and its place in each service.
    fn objects(&self) -> Vec<Value> {
        let [http, grpc] = self.backends.each_ref().map(|backend| backend.address().port());
        let slice = |service: &&str| endpoint_slice(service, self.name, self.ip, &[("http", http), ("grpc", grpc)]);
        let (version, _) = self.name.split_once('-').unwrap();
        [pod(self.name, self.ip, version)].into_iter().chain(self.services.iter().map(slice)).collect()
    }
}

/// Thinks for `think-ms` during the attempts up to `think-attempts`, or all; fails the attempts up to `fail-attempts`.
fn as_asked(request: &Request<Incoming>, _: usize) -> Answer {
    let number = |name| request.headers().get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Clients of gRPC say how many came before, and nothing of a first one.
    let attempt = number("x-envoy-attempt-count").unwrap_or(1 + number("grpc-previous-rpc-attempts").unwrap_or(0));
    let fails = attempt <= number("fail-attempts").unwrap_or(0);
    let thinks = attempt <= number("think-attempts").unwrap_or(u64::MAX);
    Answer {
        after: Duration::from_millis(number("think-ms").filter(|_| thinks).unwrap_or(0)),
        status: if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK },
    }
}

// === impl Ours ===

impl Ours {
    /// The names of the routes that a call without headers of its own takes.
    fn routes(&self) -> [Arc<str>; 2] {
        self.pair.callers().each_ref().map(|caller| caller.route_of(&[]).unwrap_or_default())
    }

    /// Waits until both clients follow the route of this name.
    async fn routed_by(&self, name: &str) {
        self.pair.until(name, |_| self.routes().iter().all(|route| **route == *name)).await;
    }

    /// Waits until both ports of `echo` have so many endpoints.
    async fn endpoints(&self, count: usize) {
        let have = |port: u16| {
            let name = format!("outbound|{port}||{HOST}");
            let clusters = self.mesh.status().clusters;
            clusters.iter().any(|cluster| *cluster.name == *name && cluster.endpoints.len() == count)
        };
        self.pair.until(&format!("{count} endpoints"), |_| [HTTP_PORT, GRPC_PORT].into_iter().all(have)).await;
    }

    /// Waits until a target has no configuration, or has one.
    async fn is_unavailable(&self, target: &str, unavailable: bool) {
        let is_so = |_: &_| {
            let targets = self.mesh.status().targets;
            targets.iter().any(|one| *one.name == *target && one.unavailable.is_some() == unavailable)
        };
        self.pair.until(&format!("{target} is unavailable: {unavailable}"), is_so).await;
    }

    /// Waits until the clusters of these subsets stand so.
    async fn subsets_are(&self, state: ResourceState, versions: &[&str]) {
        let stand = |version: &str, port: u16| {
            let name = format!("outbound|{port}|{version}|{HOST}");
            let resources = self.source.status().resources;
            resources.iter().any(|one| one.kind == "Cluster" && *one.name == *name && one.state == state)
        };
        let all = |_: &_| versions.iter().all(|version| stand(version, HTTP_PORT) && stand(version, GRPC_PORT));
        self.pair.until(&format!("subsets are {state:?}"), all).await;
    }

    fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        let snapshots = self.source.snapshots();
        let snapshot = snapshots.borrow();
        snapshot.clusters.get(name).map(|entry| entry.cluster.clone())
    }
}

fn none_failed(tally: &Tally) {
    println!("failed: {:?} of {} calls", tally.failures, tally.calls());
    assert!(tally.failures.is_empty(), "{tally:?}");
}

/// One call with headers that a workload obeys or a route looks at.
async fn asked(caller: &Caller, headers: &[(&'static str, &str)]) -> Result<String, Error> {
    caller.call_with(headers).await
}

fn code(result: Result<String, Error>) -> Option<Code> {
    result.err()?.downcast_ref::<Status>().map(Status::code)
}

/// A destination of a rule; the whole service without a subset.
fn to(subset: &str) -> Value {
    match subset {
        "" => json!({ "destination": { "host": HOST } }),
        subset => json!({ "destination": { "host": HOST, "subset": subset } }),
    }
}

/// A rule for all requests, to the whole service, with more to say.
fn rule(name: &str, more: Value) -> Value {
    let mut rule = more;
    rule["name"] = json!(name);
    rule["route"] = json!([to("")]);
    rule
}

fn canary(weight: u32) -> Value {
    let (mut v1, mut v2) = (to("v1"), to("v2"));
    (v1["weight"], v2["weight"]) = (json!(100 - weight), json!(weight));
    virtual_service(HOST, json!([{ "name": format!("canary-{weight}"), "route": [v1, v2] }]))
}

/// Testers go to the second version, and of everybody else so many in a hundred.
fn split(kind: &str, port: u16, weight: u32) -> Value {
    let backend = |service: &str, weight: u32| json!({ "name": service, "port": port, "weight": weight });
    let mut is_tester = json!({ "headers": [{ "type": "Exact", "name": "x-group", "value": "testers" }] });
    if kind == "HTTPRoute" {
        is_tester["path"] = json!({ "type": "PathPrefix", "value": "/" });
    }
    let rules = json!([
        { "matches": [is_tester], "backendRefs": [backend("echo-v2", 1)] },
        { "backendRefs": [backend("echo-v1", 100 - weight), backend("echo-v2", weight)] },
    ]);
    gateway_route(kind, &format!("{kind}-{weight}").to_lowercase(), ("echo", port), rules)
}

/// A host that is no service of the cluster, with workloads as its endpoints, each in its region.
fn service_entry(host: &str, workloads: &[(&Workload, &str)]) -> Value {
    let endpoint = |(workload, region): &(&Workload, &str)| {
        let port = workload.backends[1].address().port();
        json!({ "address": workload.ip, "ports": { "grpc": port }, "locality": region })
    };
    let spec = json!({
        "hosts": [host],
        "resolution": "STATIC",
        "ports": [{ "number": GRPC_PORT, "name": "grpc", "protocol": "GRPC" }],
        "endpoints": workloads.iter().map(endpoint).collect::<Value>(),
    });
    object("networking.istio.io/v1", "ServiceEntry", host, spec)
}

/// What istiod knows of each type that its only client asks for.
fn types(state: &Value) -> BTreeMap<String, Value> {
    let types = state[0]["resources"].as_object().cloned().unwrap_or_default();
    types.into_iter().collect()
}

fn is_acked(of_type: &Value) -> bool {
    of_type["sent"].is_string() && of_type["sent"] == of_type["acked"]
}

/// The only process that `istioctl proxy-status` lists, and the line.
async fn proxy_status(istiod: &RunningIstiod) -> (String, String) {
    let table = istiod.proxy_status().await;
    let line = table.lines().nth(1).unwrap_or_else(|| panic!("nothing listed: {table}"));
    (line.split_whitespace().next().unwrap().to_owned(), line.to_owned())
}
