//! Software that we did not write, found, started, steered and ended by the test that needs it.
//!
//! `.ci/interop` says where the peers are through the environment. A test begins with
//! `let Some(nginx) = Nginx::find() else { return };`, which skips it, visibly, on a machine without that peer.

use std::env;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

mod envoy;
mod example;
mod go_control_plane;
mod grpc_core;
mod grpc_go;
mod istiod;
mod nginx;
mod prober;
mod process;

pub use self::envoy::{Envoy, RunningEnvoy, SteeredEnvoy};
pub use self::example::{Example, RunningExample};
pub use self::go_control_plane::{
    GoControlPlane, KilledControlPlane, Rejection, Report, RunningControlPlane, Snapshot,
};
pub use self::grpc_core::{Calls, GrpcClient, GrpcCore, GrpcServers, StatusReader};
pub use self::grpc_go::GrpcGo;
pub use self::istiod::{ISTIOD, Istiod, RunningIstiod};
pub use self::nginx::{Nginx, RunningNginx};
pub use self::prober::Prober;

/// Where the programs and configurations for the peers are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");

/// The bootstrap, as gRPC has it, of a client that is `node` to the control plane at `addr`, in plain text.
pub fn bootstrap(addr: SocketAddr, node: &str) -> String {
    let server = json!({
        "server_uri": addr.to_string(),
        "channel_creds": [{ "type": "insecure" }],
        "server_features": ["xds_v3"],
    });
    json!({ "xds_servers": [server], "node": { "id": node } }).to_string()
}

/// The program that `.ci/interop` left in `variable`, or a line on the skipped test's output.
///
/// # Panics
///
/// Under `.ci/interop` (it sets `MESH_INTEROP_REQUIRED=1`) a missing peer fails the test.
fn find(peer: &str, variable: &str) -> Option<PathBuf> {
    let program = env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        skip(&format!("no {peer} here; get it with `.ci/interop {peer}`"));
    }
    program
}

/// Says on the test's output that it is skipped.
///
/// # Panics
///
/// Under `.ci/interop`, which leaves nothing out.
fn skip(why: &str) {
    let test = std::thread::current();
    let line = format!("skipped {}: {why}\n", test.name().unwrap_or("a test"));
    assert!(env::var_os("MESH_INTEROP_REQUIRED").is_none(), "{line}");
    // Not `eprintln`: the test harness would show it for failed tests only.
    io::stderr().write_all(line.as_bytes()).expect("standard error can be written to");
}

/// Loopback ports that nobody listened on a moment ago, all different, and given out once.
///
/// For peers that must come back on the port they had, or cannot say which port the system chose.
///
/// # Panics
///
/// Where there is none left.
fn free_ports<const N: usize>() -> [u16; N] {
    /// Of these Linux gives out none by itself: the connections of other tests would take what a peer is about to listen on.
    const PORTS: Range<u32> = 16_384..32_768;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Test programs that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(64);
    let mut candidates = std::iter::repeat_with(|| {
        let place = begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
        (PORTS.start + place) as u16
    })
    .take(PORTS.len());
    [(); N].map(|()| {
        let free = candidates.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        free.expect("loopback has a free port")
    })
}

/// Fills a configuration: each `@NAME@` in the file `template` of [`SOURCES`] becomes its value.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let path = format!("{SOURCES}/{template}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    values.iter().fold(text, |text, (name, value)| text.replace(&format!("@{name}@"), value))
}
