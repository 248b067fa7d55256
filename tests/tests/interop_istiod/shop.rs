//! A shop that istiod knows, its workloads, and our clients in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::{Code, Status};

use mesh_core::config::{Cluster, Locality};
use mesh_core::source::{ConfigSource as _, ResourceState};
use mesh_http::Mesh;
use mesh_tests::kubernetes::{NAMESPACE, endpoint_slice, gateway_route, object, pod, service, virtual_service};
use mesh_tests::pair::Pair;
use mesh_tests::peers::{Istiod, RunningIstiod};
use mesh_tests::sim::{Answer, Backend, Caller, Speaks};
use mesh_tests::wire::Error;
use mesh_xds_client::{Dialect, XdsClient, istio};

pub(crate) const HOST: &str = "echo.shop.svc.cluster.local";
/// Where we are.
pub(crate) const REGION: &str = "here";
pub(crate) const HTTP_PORT: u16 = 8080;
pub(crate) const GRPC_PORT: u16 = 7070;

/// What istiod calls our process.
const PROCESS: &str = "caller.shop";

/// The longest wait of our clients before they look for istiod again.
pub(crate) const RECONNECT: Duration = Duration::from_secs(1);

/// istiod, a service `echo` for HTTP and for gRPC, and the workloads behind it.
pub(crate) struct Shop {
    pub(crate) istiod: RunningIstiod,
    dialect: Dialect,
    pub(crate) workloads: BTreeMap<&'static str, Workload>,
}

/// A pod of its own loopback address: a backend for each port, both called as the pod is.
pub(crate) struct Workload {
    name: &'static str,
    pub(crate) ip: Ipv4Addr,
    pub(crate) backends: [Backend; 2],
    services: Vec<&'static str>,
}

/// Our clients in a mesh that istiod steers. The gRPC client calls the service by a short name.
pub(crate) struct Ours {
    dialect: Dialect,
    pub(crate) source: XdsClient,
    pub(crate) mesh: Mesh,
    pub(crate) pair: Pair,
}

// === impl Shop ===

impl Shop {
    /// Nothing where istiod was not built.
    pub(crate) async fn open(dialect: Dialect) -> Option<Self> {
        let istiod =
            Istiod::find()?.start(&json!({ "rootNamespace": "istio-system", "trustDomain": "mesh.test" })).await;
        let mut shop = Self { istiod, dialect, workloads: BTreeMap::new() };
        shop.serve("echo", 10).await;
        Some(shop)
    }

    pub(crate) async fn serve(&mut self, name: &str, number: u8) {
        self.istiod.apply(&service(name, number, &[("http", HTTP_PORT), ("grpc", GRPC_PORT)])).await;
    }

    /// Starts a workload of these services; its name begins with its version.
    pub(crate) async fn add(&mut self, name: &'static str, number: u8, services: &[&'static str]) {
        let workload = Workload::start(name, number, services).await;
        for object in workload.objects() {
            self.istiod.apply(&object).await;
        }
        self.workloads.insert(name, workload);
    }

    /// Says of a workload what its readiness probe would.
    pub(crate) async fn unready(&mut self, name: &str) {
        for mut slice in self.workloads[name].objects().into_iter().skip(1) {
            slice["endpoints"][0]["conditions"]["ready"] = json!(false);
            self.istiod.apply(&slice).await;
        }
    }

    /// Takes a workload from its services, and leaves it running.
    pub(crate) async fn remove(&mut self, name: &str) -> Workload {
        let workload = self.workloads.remove(name).unwrap();
        for object in workload.objects().iter().rev() {
            self.istiod.delete(object).await;
        }
        workload
    }

    /// Who we are to istiod: at an address that no workload of the shop has.
    pub(crate) fn caller(&self) -> istio::Workload {
        istio::Workload::new("caller", NAMESPACE, Ipv4Addr::new(127, 0, 0, 9).into())
            .locality(Locality { region: REGION.into(), ..Locality::default() })
            .discovery(self.istiod.addr().to_string())
            .plaintext()
            .dialect(self.dialect)
    }

    pub(crate) async fn clients(&self) -> Ours {
        self.clients_as(&self.caller()).await
    }

    pub(crate) async fn clients_as(&self, caller: &istio::Workload) -> Ours {
        // By default the waits of a long outage grow beyond the patience of a test.
        let source = caller.client().unwrap().reconnect(RECONNECT, RECONNECT).build().unwrap();
        let mesh = Mesh::builder().source(source.clone()).build().unwrap();
        let pair = Pair::of(&mesh, &format!("{HOST}:{HTTP_PORT}"), &format!("echo.shop:{GRPC_PORT}")).await;
        Ours { dialect: self.dialect, source, mesh, pair }
    }
}

// === impl Workload ===

impl Workload {
    pub(crate) async fn start(name: &'static str, number: u8, services: &[&'static str]) -> Self {
        let ip = Ipv4Addr::new(127, 0, 7, number);
        let http = Backend::listening_on(ip, name, Speaks::Http1, as_asked).await.unwrap();
        let grpc = Backend::listening_on(ip, name, Speaks::Grpc, as_asked).await.unwrap();
        Self { name, ip, backends: [http, grpc], services: services.to_vec() }
    }

    /// The pod, and its place in each service.
    pub(crate) fn objects(&self) -> Vec<Value> {
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
    pub(crate) fn routes(&self) -> [Arc<str>; 2] {
        self.pair.callers().each_ref().map(|caller| caller.route_of(&[]).unwrap_or_default())
    }

    /// What the routes of a port of `echo` are called.
    pub(crate) fn routes_of(&self, port: u16) -> String {
        match self.dialect {
            Dialect::Grpc => format!("outbound|{port}||{HOST}"),
            _ => format!("{HOST}:{port}"),
        }
    }

    /// Waits until both clients follow the route of this name.
    pub(crate) async fn routed_by(&self, name: &str) {
        self.pair.until(name, |_| self.routes().iter().all(|route| **route == *name)).await;
    }

    /// Waits until both ports of `echo` have so many endpoints.
    pub(crate) async fn endpoints(&self, count: usize) {
        let have = |port: u16| {
            let name = format!("outbound|{port}||{HOST}");
            let clusters = self.mesh.status().clusters;
            clusters.iter().any(|cluster| *cluster.name == *name && cluster.endpoints.len() == count)
        };
        self.pair.until(&format!("{count} endpoints"), |_| [HTTP_PORT, GRPC_PORT].into_iter().all(have)).await;
    }

    /// Waits until a target has no configuration, or has one.
    pub(crate) async fn is_unavailable(&self, target: &str, unavailable: bool) {
        let is_so = |_: &_| {
            let targets = self.mesh.status().targets;
            targets.iter().any(|one| *one.name == *target && one.unavailable.is_some() == unavailable)
        };
        self.pair.until(&format!("{target} is unavailable: {unavailable}"), is_so).await;
    }

    /// Waits until the clusters of these subsets stand so.
    pub(crate) async fn subsets_are(&self, state: ResourceState, versions: &[&str]) {
        let stand = |version: &str, port: u16| {
            let name = format!("outbound|{port}|{version}|{HOST}");
            let resources = self.source.status().resources;
            resources.iter().any(|one| one.kind == "Cluster" && *one.name == *name && one.state == state)
        };
        let all = |_: &_| versions.iter().all(|version| stand(version, HTTP_PORT) && stand(version, GRPC_PORT));
        self.pair.until(&format!("subsets are {state:?}"), all).await;
    }

    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        let snapshots = self.source.snapshots();
        let snapshot = snapshots.borrow();
        snapshot.clusters.get(name).map(|entry| entry.cluster.clone())
    }
}

/// One call with headers that a workload obeys or a route looks at.
pub(crate) async fn asked(caller: &Caller, headers: &[(&'static str, &str)]) -> Result<String, Error> {
    caller.call_with(headers).await
}

pub(crate) fn code(result: Result<String, Error>) -> Option<Code> {
    result.err()?.downcast_ref::<Status>().map(Status::code)
}

/// A destination of a rule; the whole service without a subset.
pub(crate) fn to(subset: &str) -> Value {
    match subset {
        "" => json!({ "destination": { "host": HOST } }),
        subset => json!({ "destination": { "host": HOST, "subset": subset } }),
    }
}

/// A rule for all requests, to the whole service, with more to say.
pub(crate) fn rule(name: &str, more: Value) -> Value {
    let mut rule = more;
    rule["name"] = json!(name);
    rule["route"] = json!([to("")]);
    rule
}

pub(crate) fn canary(weight: u32) -> Value {
    let (mut v1, mut v2) = (to("v1"), to("v2"));
    (v1["weight"], v2["weight"]) = (json!(100 - weight), json!(weight));
    virtual_service(HOST, json!([{ "name": format!("canary-{weight}"), "route": [v1, v2] }]))
}

/// Testers go to the second version, and of everybody else so many in a hundred.
pub(crate) fn split(kind: &str, port: u16, weight: u32) -> Value {
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
pub(crate) fn service_entry(host: &str, workloads: &[(&Workload, &str)]) -> Value {
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

/// What istiod knows of each type that we ask for. While `istioctl` asks, it is a client too.
pub(crate) fn types(state: &Value) -> BTreeMap<String, Value> {
    let processes = state.as_array().into_iter().flatten();
    let ours =
        processes.filter(|process| process["proxy"] == PROCESS).find_map(|process| process["resources"].as_object());
    ours.cloned().unwrap_or_default().into_iter().collect()
}

pub(crate) fn is_acked(of_type: &Value) -> bool {
    of_type["sent"].is_string() && of_type["sent"] == of_type["acked"]
}

/// Waits until we have accepted the last of each type.
pub(crate) async fn accepted(istiod: &RunningIstiod) {
    istiod.synced(|state| types(state).len() == 4 && types(state).values().all(is_acked)).await;
}

/// Waits until `istioctl proxy-status` lists us with so many types of each state.
///
/// Between two questions istiod may push again, which shows as a type that is stale for a moment.
///
/// # Panics
///
/// After twenty seconds.
pub(crate) async fn listed(istiod: &RunningIstiod, states: &[(&str, usize)]) {
    let mut table = String::new();
    let listing = async {
        loop {
            table = istiod.proxy_status().await;
            let ours = table.lines().find(|line| line.split_whitespace().next() == Some(PROCESS)).unwrap_or_default();
            if !ours.is_empty() && states.iter().all(|(state, count)| ours.matches(state).count() == *count) {
                return;
            }
        }
    };
    if timeout(Duration::from_secs(20), listing).await.is_err() {
        panic!("not {states:?}: {table}");
    }
}
