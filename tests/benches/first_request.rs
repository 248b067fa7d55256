//! From the first connection to a control plane that knows 1,000 clusters to the answer to the first request, beside gRPC's
//! C-core.
//!
//! Both clients are told the same by the same control plane: a virtual host and a cluster of ten endpoints for each of 1,000
//! services. C-core speaks state of the world alone; its process (`.ci/interop grpc-core` gets it) is up, and its channel
//! is made, before the clock starts, as ours are. The times are those of the wall: the least of several, since others of the
//! machine only add to them. `cargo bench -p mesh-tests --bench first_request`.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use mesh_core::config::HttpProtocol;
use mesh_http::{Client, Control};
use mesh_tests::peers::bootstrap;
use mesh_xds_client::session::Variant;

mod support;
use support::{Elsewhere, Size, TARGET, called, host, runtime};

const SIZE: Size = Size { clusters: 1_000, endpoints: 10 };
const RUNS: usize = 15;

fn main() {
    let elsewhere = Elsewhere::start();
    elsewhere.offer(SIZE, 0);
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        print(called(variant), (0..RUNS).map(|_| ours(&elsewhere, variant)).collect());
    }
    match env::var_os("MESH_INTEROP_GRPC_CORE_PYTHON") {
        None => println!("not measured: no C-core here; get it with `.ci/interop grpc-core`"),
        Some(python) => {
            // Its target is a name that one of the virtual hosts has.
            elsewhere.plane.set(mesh_xds_client::testkit::resource::listener(&host(0), "routes"));
            print("c-core", (0..RUNS).map(|_| c_core(&python, elsewhere.address)).collect());
        }
    }
}

fn print(name: &str, times: Vec<Duration>) {
    let least = times.iter().min().expect("there were runs");
    println!("first-request {name} {:.1} ms", least.as_secs_f64() * 1e3);
}

fn ours(elsewhere: &Elsewhere, variant: Variant) -> Duration {
    runtime().block_on(async {
        let started = Instant::now();
        let mesh = elsewhere.mesh(variant, Control::Runtime);
        let builder = Client::builder(TARGET).mesh(&mesh).any_authority().protocol(HttpProtocol::Http2);
        let client = builder.build().expect("a legal configuration");
        let request = http::Request::post(format!("http://{}/", host(0)));
        let request = request.body(Full::new(Bytes::from_static(b"first"))).expect("legal");
        let answer = client.request(request).await.expect("an answer");
        answer.into_body().collect().await.expect("a whole body");
        started.elapsed()
    })
}

/// Says when it is ready to begin, waits for a line, and tells the nanoseconds that the first call took.
const CLIENT: &str = r#"
import sys, time
import grpc
call = lambda: grpc.insecure_channel(sys.argv[1]).unary_unary("/mesh.bench.Echo/Unary")
print("ready", flush=True)
sys.stdin.readline()
started = time.monotonic_ns()
assert call()(b"first", timeout=60) == b"first"
print(time.monotonic_ns() - started, flush=True)
"#;

fn c_core(python: &std::ffi::OsStr, plane: SocketAddr) -> Duration {
    let mut process = Command::new(python)
        .args(["-c", CLIENT, &format!("xds:///{}", host(0))])
        .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap(plane, "c-core"))
        .env_remove("GRPC_XDS_BOOTSTRAP")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the peer is a program");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("it tells").expect("text");
    assert_eq!(line(), "ready");
    writeln!(process.stdin.as_mut().expect("piped"), "begin").expect("it reads");
    let nanoseconds = line().parse().expect("a number");
    let _ = process.wait();
    Duration::from_nanos(nanoseconds)
}
