//! go-control-plane: its snapshot cache and its server, steering whoever asks with a known node id.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::process::Conversation;
use crate::patience::PATIENCE;

/// The server, built.
#[derive(Clone, Debug)]
pub struct GoControlPlane {
    program: PathBuf,
    answers: Answers,
}

/// When the server answers a request for names.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// Once all names of its snapshot were asked for.
    Whole,
    /// At once, with what it has of them.
    AsAsked,
}

/// The server, running; it speaks aggregated discovery, state of the world and incremental, in plain text.
pub struct RunningControlPlane {
    program: GoControlPlane,
    conversation: Conversation,
    port: u16,
}

/// A server that is gone, and the port it had.
pub struct KilledControlPlane {
    program: GoControlPlane,
    port: u16,
}

/// All that one node is to be served, in Envoy's JSON.
///
/// Unless told [otherwise](GoControlPlane::answering_as_asked) the server runs in its ADS mode: an answer is held until the client has named every resource of that type which its
/// snapshot holds. So a snapshot holds what the client asks for, or is about to ask for once it has the routes; a cluster
/// that no route leads to, and that the client does not have from before, silences CDS.
///
/// Clusters are sent before routes. A snapshot that drops a cluster which the routes of the last one lead to takes it from
/// under them for a moment, and C-core fails calls in that moment. To shift without loss, list the cluster once more with
/// weight 0, wait for [`accepted`](RunningControlPlane::accepted), and drop it then.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    node: String,
    version: String,
    listeners: Vec<Value>,
    routes: Vec<Value>,
    clusters: Vec<Value>,
    endpoints: Vec<Value>,
}

/// What the server saw of its clients.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Streams open now.
    pub streams: u32,
    /// Streams opened since the start.
    pub opened: u32,
    /// The version last accepted, by type URL; on incremental streams the nonce of the response.
    pub acked: BTreeMap<String, String>,
    /// Every rejection, in order.
    pub rejected: Vec<Rejection>,
    /// The node id last announced.
    pub node: String,
    /// The client features last announced.
    pub features: Vec<String>,
}

/// A response that a client did not accept.
#[derive(Clone, Debug, Deserialize)]
pub struct Rejection {
    /// Of the rejected response.
    pub type_url: String,
    /// The client's words.
    pub message: String,
}

// === impl GoControlPlane ===

impl GoControlPlane {
    /// Nothing, after a line on standard error, where the server was not built.
    pub fn find() -> Option<Self> {
        super::find("go-control-plane", "MESH_INTEROP_GO_CONTROL_PLANE")
            .map(|program| Self { program, answers: Answers::Whole })
    }

    /// The same, which answers at once with what it has of what is asked for: for clients that want all clusters and not all
    /// endpoints.
    #[must_use]
    pub fn answering_as_asked(self) -> Self {
        Self { answers: Answers::AsAsked, ..self }
    }

    /// Starts with nothing to serve.
    pub async fn start(&self) -> RunningControlPlane {
        self.start_on(0).await
    }

    async fn start_on(&self, port: u16) -> RunningControlPlane {
        let mut command = Command::new(&self.program);
        let is_whole = matches!(self.answers, Answers::Whole);
        command.arg(format!("-port={port}")).arg(format!("-ads={is_whole}"));
        let (conversation, ready) = Conversation::start(command).await;
        let port = ready["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.expect("the server tells its port");
        RunningControlPlane { program: self.clone(), conversation, port }
    }
}

// === impl RunningControlPlane ===

impl RunningControlPlane {
    /// Where discovery is served.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Serves this to its node from now on, in place of what that node had.
    ///
    /// # Panics
    ///
    /// When the server does not take it: a field that Envoy does not have, a cluster without endpoints.
    pub async fn set(&mut self, snapshot: &Snapshot) {
        self.conversation.ask(&json!({ "snapshot": snapshot })).await;
    }

    /// What the clients were seen to do so far.
    pub async fn report(&mut self) -> Report {
        let report = self.conversation.ask(&json!({ "report": {} })).await;
        serde_json::from_value(report).expect("the report has this form")
    }

    /// Waits until this version was accepted of listeners, routes, clusters and endpoints.
    ///
    /// # Panics
    ///
    /// When a client rejects a response before that, or one of the four is not accepted within twenty seconds.
    pub async fn accepted(&mut self, version: impl ToString) {
        let version = version.to_string();
        let waiting = async {
            loop {
                let report = self.report().await;
                assert!(report.rejected.is_empty(), "waiting for {version}: {report:?}");
                if report.acked.len() == 4 && report.acked.values().all(|acked| *acked == version) {
                    return;
                }
                // Each report is a round trip to another process; a moment between two leaves the processor to clients.
                sleep(Duration::from_millis(5)).await;
            }
        };
        let result = timeout(PATIENCE, waiting).await;
        assert!(result.is_ok(), "{version} was not accepted: {:?}", self.report().await);
    }

    /// Ends the process by `KILL`.
    pub async fn kill(self) -> KilledControlPlane {
        let Self { program, conversation, port } = self;
        conversation.kill().await;
        KilledControlPlane { program, port }
    }
}

// === impl KilledControlPlane ===

impl KilledControlPlane {
    /// Starts another on the same port; it has forgotten everything.
    pub async fn restart(self) -> RunningControlPlane {
        self.program.start_on(self.port).await
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Nothing yet, for the node of that id. A changed snapshot needs another version, or nobody is told.
    pub fn new(node: &str, version: impl ToString) -> Self {
        let (listeners, routes, clusters, endpoints) = Default::default();
        Self { node: node.to_owned(), version: version.to_string(), listeners, routes, clusters, endpoints }
    }

    /// A listener called `name` whose requests go to clusters by weight, each with its endpoints; RDS and EDS over the same
    /// stream. A cluster of weight 0 is served, and no route leads to it.
    #[must_use]
    pub fn target(mut self, name: &str, clusters: &[(&str, u32, &[SocketAddr])]) -> Self {
        let route = format!("{name}/routes");
        self.listeners.push(listener(name, &route));
        self.routes(&route, clusters)
    }

    /// Routes called `name` without a listener, as sidecars ask for them, to clusters by weight, each with its endpoints. No
    /// route leads to a cluster of weight 0.
    #[must_use]
    pub fn routes(mut self, name: &str, clusters: &[(&str, u32, &[SocketAddr])]) -> Self {
        self.routes.push(weighted_route(name, clusters));
        for (cluster, _, addrs) in clusters {
            self.clusters.push(eds_cluster(cluster));
            self.endpoints.push(endpoints(cluster, addrs));
        }
        self
    }

    /// Sets a field of the cluster called `name`, which some target has.
    #[must_use]
    pub fn cluster_field(mut self, name: &str, field: &str, value: Value) -> Self {
        let cluster = self.clusters.iter_mut().find(|cluster| cluster["name"] == name);
        cluster.expect("a target has that cluster")[field] = value;
        self
    }
}

fn over_ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

fn listener(name: &str, route: &str) -> Value {
    let router = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" });
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let manager = json!({
        "@type": format!("type.googleapis.com/{manager}"),
        "stat_prefix": name,
        "rds": { "route_config_name": route, "config_source": over_ads() },
        "http_filters": [{ "name": "router", "typed_config": router }],
    });
    json!({ "name": name, "api_listener": { "api_listener": manager } })
}

fn weighted_route(name: &str, clusters: &[(&str, u32, &[SocketAddr])]) -> Value {
    let clusters = clusters.iter().filter(|(_, weight, _)| *weight > 0);
    let clusters: Vec<_> = clusters.map(|(name, weight, _)| json!({ "name": name, "weight": weight })).collect();
    let route = json!({ "match": { "prefix": "" }, "route": { "weighted_clusters": { "clusters": clusters } } });
    json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] })
}

fn eds_cluster(name: &str) -> Value {
    json!({ "name": name, "type": "EDS", "eds_cluster_config": { "eds_config": over_ads() } })
}

fn endpoints(cluster: &str, addrs: &[SocketAddr]) -> Value {
    let hosts: Vec<_> = addrs.iter().map(endpoint).collect();
    // gRPC ignores a locality without a weight (gRFC A27).
    let here = json!({ "locality": { "region": "here" }, "load_balancing_weight": 1, "lb_endpoints": hosts });
    json!({ "cluster_name": cluster, "endpoints": [here] })
}

fn endpoint(addr: &SocketAddr) -> Value {
    let socket = json!({ "address": addr.ip().to_string(), "port_value": addr.port() });
    json!({ "endpoint": { "address": { "socket_address": socket } } })
}
