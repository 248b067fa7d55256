//! How many calls a client makes in a second directly, and through a pair of Envoys as sidecars: the hop that an application
//! saves by linking the mesh.
//!
//! The flow is that of `loopback`, 32 at once, with one Envoy of one worker on either side. Envoy is the program that
//! `MESH_INTEROP_ENVOY` names, which `.ci/interop envoy` gets; without it there is a line that says so.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    env,
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Uri;
use http_body_util::BodyExt;
use mesh_core::config::HttpProtocol;
use mesh_http::Client;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

mod support;
use support::{
    Load, Stack,
    backend::{self, Backend, Speaks},
};

const LOAD: Load = Load { at_once: 32, calls: 9_600 };
const ROUNDS: usize = 5;

fn main() {
    if env::args().nth(1).is_some_and(|argument| argument == "serve") {
        return backend::serve(Speaks::Http);
    }
    let Some(program) = env::var_os("MESH_INTEROP_ENVOY") else {
        println!("not measured: .ci/interop envoy");
        return;
    };
    let backend = Backend::start();
    support::runtime().block_on(async {
        for (name, protocol, backend) in [
            ("http1", HttpProtocol::Http1, backend.addresses()[0]),
            ("http2", HttpProtocol::Http2, backend.addresses()[1]),
        ] {
            let near_backend = Sidecar::start(&program, protocol, backend).await;
            let near_client = Sidecar::start(&program, protocol, near_backend.address).await;
            compare(name, &stack(protocol, backend), &stack(protocol, near_client.address)).await;
        }
    });
}

async fn compare(name: &str, direct: &Stack, pair: &Stack) {
    // Warm first.
    per_second(direct).await;
    per_second(pair).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (direct, pair) = (per_second(direct).await, per_second(pair).await);
        rounds.push((direct / pair, direct, pair));
    }
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (ratio, direct, pair) = rounds[ROUNDS / 2];
    println!("sidecars {name} {ratio:.2} ({direct:.0} a second, {pair:.0} through the pair)");
}

async fn per_second(stack: &Stack) -> f64 {
    let started = Instant::now();
    stack.run(LOAD).await;
    LOAD.calls as f64 / started.elapsed().as_secs_f64()
}

fn stack(protocol: HttpProtocol, address: SocketAddr) -> Stack {
    let client = Client::builder("reviews.bench:80").endpoints([address]).protocol(protocol).build();
    let client = client.expect("a legal configuration");
    Stack::new("mesh", move || {
        let answer = client.get(Uri::from_static("http://reviews.bench:80/v1/7"));
        async move {
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let _: Bytes = answer.into_body().collect().await.expect("a whole body").to_bytes();
        }
    })
}

/// An Envoy that passes everything on to one address.
struct Sidecar {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

// === impl Sidecar ===

impl Sidecar {
    async fn start(program: &OsStr, protocol: HttpProtocol, to: SocketAddr) -> Self {
        // Free a moment ago; nobody else asks for ports while a bench runs.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("envoy.yaml");
        fs::write(&path, configuration(protocol, address, to)).expect("the directory can be written to");
        let process = Command::new(program)
            .args([OsStr::new("--config-path"), path.as_os_str()])
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program that was named runs");
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        Self { process, address, _directory: directory }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// No telemetry, no TLS, no limits: the least that a sidecar does.
fn configuration(protocol: HttpProtocol, listen: SocketAddr, to: SocketAddr) -> String {
    let (codec, upstream) = match protocol {
        HttpProtocol::Http2 => ("HTTP2", "http2_protocol_options: {}"),
        _ => ("HTTP1", "http_protocol_options: {}"),
    };
    let address = |address: SocketAddr| {
        format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", address.ip(), address.port())
    };
    let (listen, to) = (address(listen), address(to));
    format!(
        r#"
static_resources:
  listeners:
  - address: {listen}
    filter_chains:
    - filters: [ {{ name: http, typed_config: {{
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: all, codec_type: {codec},
        route_config: {{ virtual_hosts: [ {{ name: all, domains: [ "*" ], routes: [
          {{ match: {{ prefix: / }}, route: {{ cluster: next }} }} ] }} ] }},
        http_filters: [ {{ name: router, typed_config: {{
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ] }} }} ]
  clusters:
  - name: next
    connect_timeout: 1s
    load_assignment: {{ cluster_name: next, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {to} }} }} ] }} ] }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ {upstream} }}
"#
    )
}
