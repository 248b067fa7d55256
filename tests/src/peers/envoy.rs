//! Envoy as an HTTP/2 backend and, on a second port, over mutual TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::process::{self, Process};
use crate::identity::Identity;

/// Envoy, installed.
pub struct Envoy {
    program: PathBuf,
}

/// Envoy, serving. Each answer is `200`, with the backend's name as body and as `x-backend`.
pub struct RunningEnvoy {
    program: PathBuf,
    process: Process,
    identity: Identity,
    name: String,
    ports: [u16; 3],
}

/// Envoy as a sidecar that serves nobody and obeys a control plane.
pub struct SteeredEnvoy {
    _process: Process,
}

// === impl Envoy ===

impl Envoy {
    /// Nothing, after a line on standard error, where Envoy is not at hand.
    pub fn find() -> Option<Self> {
        super::find("envoy", "MESH_INTEROP_ENVOY").map(|program| Self { program })
    }

    /// Starts a backend called `name` on free ports; over TLS it is `identity`, and trusts what `identity` does.
    pub async fn start(&self, name: &str, identity: &Identity) -> RunningEnvoy {
        self.start_on(super::free_ports(), name, identity).await
    }

    /// Starts one that takes listeners and clusters, all there are, from the control plane at this address.
    pub async fn steered(&self, plane: SocketAddr) -> SteeredEnvoy {
        let [admin] = super::free_ports();
        let values = [("PLANE_PORT", &*plane.port().to_string()), ("ADMIN_PORT", &*admin.to_string())];
        let mut process = self.run("envoy/steered.yaml", &values);
        let admin = (Ipv4Addr::LOCALHOST, admin).into();
        process.until(async || command(admin, "GET", "/ready").await.is_some()).await;
        SteeredEnvoy { _process: process }
    }

    async fn start_on(&self, ports: [u16; 3], name: &str, identity: &Identity) -> RunningEnvoy {
        let values = [
            ("PORT", &*ports[0].to_string()),
            ("TLS_PORT", &*ports[1].to_string()),
            ("ADMIN_PORT", &*ports[2].to_string()),
            ("NAME", name),
            ("CERT", &*identity.certificate.to_string_lossy()),
            ("KEY", &*identity.key.to_string_lossy()),
            ("CA", &*identity.roots.to_string_lossy()),
        ];
        let process = self.run("envoy/envoy.yaml", &values);
        let (program, identity, name) = (self.program.clone(), identity.clone(), name.to_owned());
        let mut running = RunningEnvoy { program, process, identity, name, ports };
        let admin = running.admin_addr();
        running.process.until(async || command(admin, "GET", "/ready").await == Some(StatusCode::OK)).await;
        running
    }

    /// Starts the program with a configuration out of this template.
    fn run(&self, template: &str, values: &[(&str, &str)]) -> Process {
        let directory = process::directory();
        let path = directory.path().join("envoy.yaml");
        fs::write(&path, super::fill(template, values)).expect("the directory can be written to");
        let path = path.display().to_string();
        // A drain takes two seconds, in place of ten minutes; without hot restart several can run side by side.
        let arguments = ["--config-path", &path, "--concurrency", "1", "--disable-hot-restart"];
        let arguments = [&arguments[..], &["--drain-time-s", "2", "--log-level", "warning"]].concat();
        Process::leashed(&self.program, &arguments, directory)
    }
}

// === impl RunningEnvoy ===

impl RunningEnvoy {
    /// Where HTTP/2 is served by prior knowledge.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Where HTTP/2 is served over mutual TLS.
    pub fn tls_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[1]).into()
    }

    /// Where the administration interface is.
    pub fn admin_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[2]).into()
    }

    /// Begins a graceful drain: connections get GOAWAY as they bring requests, and after two seconds the listeners are
    /// gone. Only [`restart`](Self::restart) brings them back.
    pub async fn drain(&self) {
        self.administer("/drain_listeners?graceful").await;
    }

    /// Turns an idle connection away at its next request, as a failed health check of its own does, and keeps listening.
    pub async fn fail_health_check(&self) {
        self.administer("/healthcheck/fail").await;
    }

    /// Ends what [`fail_health_check`](Self::fail_health_check) began.
    pub async fn pass_health_check(&self) {
        self.administer("/healthcheck/ok").await;
    }

    /// Stops the process where it is, by `STOP`: connections stay, new ones are accepted by the system, nobody answers.
    pub async fn freeze(&mut self) {
        self.process.write("STOP").await;
    }

    /// Lets a frozen process go on.
    pub async fn thaw(&mut self) {
        self.process.write("CONT").await;
    }

    /// Stops at once, connections with it, and starts again on the same ports.
    pub async fn restart(self) -> Self {
        let Self { program, process, identity, name, ports } = self;
        process.stop().await;
        Envoy { program }.start_on(ports, &name, &identity).await
    }

    async fn administer(&self, path: &str) {
        let status = command(self.admin_addr(), "POST", path).await;
        assert_eq!(status, Some(StatusCode::OK), "POST {path} to the administration interface");
    }
}

/// Nothing where nobody answers.
async fn command(admin: SocketAddr, method: &str, path: &str) -> Option<StatusCode> {
    let request = Request::builder().method(method).uri(format!("http://{admin}{path}"));
    let request = request.body(Empty::<Bytes>::new()).expect("the parts are valid");
    let client = Client::builder(TokioExecutor::new()).build_http();
    client.request(request).await.ok().map(|response| response.status())
}
