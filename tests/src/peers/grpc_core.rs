//! gRPC's C-core, by way of Python: servers of `mesh.interop.Echo`, and an xDS client of our control planes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::process::Conversation;
use super::{Prober, SOURCES};
use crate::identity::Identity;
use crate::load::Tally;
use crate::patience::PATIENCE;

/// A Python that has `grpcio` and `xds-protos`.
pub struct GrpcCore {
    python: PathBuf,
}

/// Servers by name, each on a port of its own, in one process. `interop/grpc-core/server.py` tells how a call steers them.
pub struct GrpcServers {
    conversation: Conversation,
    ports: BTreeMap<String, u16>,
}

/// What a server saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Calls {
    /// Calls that reached a handler.
    pub started: u64,
    /// Calls that the handler ended, whatever the status.
    pub answered: u64,
    /// Calls that the client reset, or left by closing the connection, before the server saw the deadline pass.
    pub cancelled: u64,
    /// Calls whose deadline passed first.
    pub expired: u64,
}

/// A client of one target that counts who answers.
pub struct GrpcClient {
    conversation: Conversation,
}

/// A reader of CSDS with gRPC's own messages.
pub struct StatusReader {
    conversation: Conversation,
}

// === impl GrpcCore ===

impl GrpcCore {
    /// Nothing, after a line on standard error, where `grpcio` is not at hand.
    pub fn find() -> Option<Self> {
        super::find("grpc-core", "MESH_INTEROP_GRPC_CORE_PYTHON").map(|python| Self { python })
    }

    /// Starts servers in plain text.
    pub async fn servers(&self, names: &[&str]) -> GrpcServers {
        self.start_servers(self.server_command(names)).await
    }

    /// Starts servers that speak mutual TLS.
    pub async fn tls_servers(&self, names: &[&str], identity: &Identity) -> GrpcServers {
        let mut command = self.server_command(names);
        command.arg("--tls").arg(&identity.certificate).arg(&identity.key).arg(&identity.roots);
        self.start_servers(command).await
    }

    /// Starts servers in plain text with channel arguments, such as `grpc.max_connection_age_ms`.
    pub async fn servers_with(&self, names: &[&str], options: &[(&str, u32)]) -> GrpcServers {
        let mut command = self.server_command(names);
        for (key, value) in options {
            command.arg(format!("--option={key}={value}"));
        }
        self.start_servers(command).await
    }

    /// Starts a client of `target`; for `xds:///name`, `bootstrap` is the JSON that leads it to its control plane.
    pub async fn client(&self, target: &str, bootstrap: &str) -> GrpcClient {
        let mut command = self.command("client.py");
        command.arg(target).env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap).env_remove("GRPC_XDS_BOOTSTRAP");
        let (conversation, _) = Conversation::start(command).await;
        GrpcClient { conversation }
    }

    /// Starts a client of many targets.
    pub async fn prober(&self, bootstrap: &str) -> Prober {
        Prober::start(self.command("prober.py"), bootstrap).await
    }

    /// Starts a reader of the CSDS service at `addr`.
    pub async fn status_reader(&self, addr: SocketAddr) -> StatusReader {
        let mut command = self.command("csds.py");
        command.arg(addr.to_string());
        let (conversation, _) = Conversation::start(command).await;
        StatusReader { conversation }
    }

    fn server_command(&self, names: &[&str]) -> Command {
        let mut command = self.command("server.py");
        command.args(names.iter().map(|name| format!("--listen={name}=0")));
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.python);
        // Without it, compiled modules would be left in the checkout.
        command.arg("-B").arg(format!("{SOURCES}/grpc-core/{program}"));
        command
    }

    async fn start_servers(&self, command: Command) -> GrpcServers {
        let (conversation, ready) = Conversation::start(command).await;
        let ports = serde_json::from_value(ready).expect("the server tells its ports");
        GrpcServers { conversation, ports }
    }
}

// === impl GrpcServers ===

impl GrpcServers {
    /// Where the server of that name listens; it keeps its port over [`drain`](Self::drain) and [`start`](Self::start).
    pub fn addr(&self, name: &str) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[name]).into()
    }

    /// Sends GOAWAY and stops listening; calls in flight have `grace` seconds. Returns at once.
    pub async fn drain(&mut self, name: &str, grace: f64) {
        self.conversation.ask(&json!({ "drain": { "server": name, "grace": grace } })).await;
    }

    /// Lets a drained server listen again.
    pub async fn start(&mut self, name: &str) {
        self.conversation.ask(&json!({ "start": { "server": name } })).await;
    }

    /// What each server saw so far.
    pub async fn report(&mut self) -> BTreeMap<String, Calls> {
        let report = self.conversation.ask(&json!({ "report": {} })).await;
        serde_json::from_value(report).expect("the report has this form")
    }

    /// Waits until what the server `name` saw is as `holds` wants it.
    ///
    /// # Panics
    ///
    /// When that takes more than twenty seconds.
    pub async fn until(&mut self, name: &str, holds: impl Fn(Calls) -> bool) {
        let waiting = async { while !holds(self.report().await[name]) {} };
        let result = timeout(PATIENCE, waiting).await;
        assert!(result.is_ok(), "not in {PATIENCE:?}: {:?}", self.report().await);
    }

    /// Ends the process, all its servers with it, by `KILL`.
    pub async fn kill(self) {
        self.conversation.kill().await;
    }
}

// === impl GrpcClient ===

impl GrpcClient {
    /// Makes so many unary calls, one after another, each with a deadline of ten seconds and without wait-for-ready.
    pub async fn call(&mut self, count: u32) -> Tally {
        let tally = self.conversation.ask(&json!({ "call": { "count": count } })).await;
        serde_json::from_value(tally).expect("the tally has this form")
    }

    /// Calls, ten times a turn, until one turn is answered by all of these servers and by nobody else.
    ///
    /// C-core acknowledges a response when it has read it, which is before its calls go by it.
    ///
    /// # Panics
    ///
    /// When that does not happen within twenty seconds.
    pub async fn settle(&mut self, servers: &[&str]) {
        let settling = async { while !self.call(10).await.answers.keys().eq(servers) {} };
        let result = timeout(PATIENCE, settling).await;
        assert!(result.is_ok(), "not {servers:?} alone: {:?}", self.call(10).await);
    }

    /// Begins to make calls without a pause.
    pub async fn start(&mut self) {
        self.conversation.ask(&json!({ "start": {} })).await;
    }

    /// Ends what [`start`](Self::start) began.
    pub async fn stop(&mut self) -> Tally {
        let tally = self.conversation.ask(&json!({ "stop": {} })).await;
        serde_json::from_value(tally).expect("the tally has this form")
    }
}

// === impl StatusReader ===

impl StatusReader {
    /// A `ClientStatusResponse` in protobuf's JSON, by the unary method.
    pub async fn fetch(&mut self) -> Value {
        self.conversation.ask(&json!({ "fetch": {} })).await
    }

    /// As many responses on one stream, without the contents of resources.
    pub async fn stream(&mut self, count: u32) -> Value {
        self.conversation.ask(&json!({ "stream": { "count": count, "contents": false } })).await
    }
}
