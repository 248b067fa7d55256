//! How long a start takes that finds no control plane and has a cache file: from the building of the client, which
//! reads and verifies the file, to the snapshot that a mesh reads. CPU time of the one thread that does it all, the
//! median of several starts.
//!
//! The file is written by a client of a control plane in memory. Run with `cargo bench -p mesh-xds-client --bench restart`;
//! lines that begin with `restart` are read by the budgets.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{net::SocketAddr, path::Path, time::Duration};

use mesh_core::source::ConfigSource;
use mesh_xds_client::{
    XdsClient,
    testkit::{
        ControlPlane,
        resource::{cluster, endpoints, listener, route_config},
    },
};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

const RUNS: usize = 31;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for (clusters, endpoints) in [(1_000, 10), (10_000, 10)] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("xds.cache");
        let size = write(&file, clusters, endpoints).await;
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(start(&file, clusters).await.as_secs_f64() * 1e6);
        }
        runs.sort_by(f64::total_cmp);
        let (middle, best) = (runs[RUNS / 2], runs[0]);
        println!(
            "restart from-cache {clusters}x{endpoints} {middle:.0} us of CPU (best {best:.0}, file of {size} bytes)"
        );
    }
}

fn client(plane: &ControlPlane, file: &Path) -> XdsClient {
    plane.client().cache_file(file).cache_interval(Duration::from_millis(100)).build().unwrap()
}

/// Has a client write a file of so many clusters. Returns its size.
async fn write(file: &Path, clusters: usize, endpoints_each: usize) -> u64 {
    let name = |number| format!("outbound|9080||service-{number}.shop.svc.cluster.local");
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(listener("web", route_config("web", (0..clusters).map(|number| (name(number), 1)))));
        for number in 0..clusters {
            let address = |host: usize| SocketAddr::from(([10, (number >> 8) as u8, number as u8, host as u8], 80));
            tx.set(cluster(&name(number))).set(endpoints(&name(number), (0..endpoints_each).map(address)));
        }
    });
    let client = client(&plane, file);
    let work = tokio::spawn(client.work());
    let _interest = client.watch("web");
    client.snapshots().wait_for(|snapshot| snapshot.clusters.len() == clusters).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    work.abort();
    std::fs::metadata(file).unwrap().len()
}

async fn start(file: &Path, clusters: usize) -> Duration {
    let started = thread_cpu();
    // A control plane that is gone takes no connections.
    let client = client(&ControlPlane::new(), file);
    let work = tokio::spawn(client.work());
    let _interest = client.watch("web");
    client.snapshots().wait_for(|snapshot| snapshot.clusters.len() == clusters).await.unwrap();
    let spent = thread_cpu() - started;
    work.abort();
    let _ = work.await;
    spent
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
