//! What a mesh occupies that came over xDS and that nobody calls: what the protocol's client holds to compare with, what it
//! publishes, and what the mesh makes of it, by a counting allocator.
//!
//! A client of 1,000 clusters with 100,000 endpoints is told all of them by a control plane in another thread, which is not
//! counted. `bytes-cluster` is what another cluster of one endpoint adds, its route and its virtual host included,
//! `bytes-endpoint` what another endpoint of a cluster does, and `bytes-metadata` what Istio's metadata adds to an endpoint,
//! of which there are as many kinds as workloads. `cargo bench -p mesh-tests --bench memory`.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Duration;

use allocation_counter::measure;
use mesh_http::{Client, Control};
use mesh_xds_client::session::Variant;
use tokio::time::sleep;

mod support;
use support::{Elsewhere, Size, TARGET, called, runtime};

const CLUSTERS: usize = 1_000;
const ENDPOINTS: usize = 100;

fn main() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        // The first mesh makes what a process has once.
        occupied(variant, Size { clusters: 1, endpoints: 1 }, false);
        let (one, few) = (Size { clusters: 1, endpoints: 1 }, Size { clusters: CLUSTERS + 1, endpoints: 1 });
        let many = Size { clusters: CLUSTERS + 1, endpoints: ENDPOINTS };
        let [one, few, plain, istio] = [(one, false), (few, false), (many, false), (many, true)]
            .map(|(size, istio)| occupied(variant, size, istio));
        let (clusters, endpoints) = (CLUSTERS as i64, (CLUSTERS * (ENDPOINTS - 1)) as i64);
        let variant = called(variant);
        println!("bytes-cluster {variant} {}", (few - one) / clusters);
        println!("bytes-endpoint {variant} {}", (plain - few) / endpoints);
        println!("bytes-metadata {variant} {}", (istio - plain) / (CLUSTERS * ENDPOINTS) as i64);
    }
}

fn occupied(variant: Variant, size: Size, has_metadata: bool) -> i64 {
    let elsewhere = Elsewhere::start();
    elsewhere.offer_described(size, has_metadata);
    let runtime = runtime();
    let mut client = None;
    let counted = measure(|| {
        client = Some(runtime.block_on(async {
            let mesh = elsewhere.mesh(variant, Control::Runtime);
            let client = Client::builder(TARGET).mesh(&mesh).build().expect("a legal configuration");
            client.ready().await.expect("it is told");
            // What the push set off has come to rest.
            sleep(Duration::from_millis(500)).await;
            client
        }));
    });
    counted.bytes_current
}
