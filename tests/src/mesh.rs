//! Meshes that are somebody: an identity of the test's authority, and TLS that asks who the other end is. And what a
//! scenario sets and sees of their endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::config::{Address, OutlierDetection, Percent, SpiffeId, Trust, UpstreamTls};
use mesh_http::pool::PoolFigures;
use mesh_http::tls::{FileIdentity, Provider};
use mesh_http::{Mesh, MeshStatus, PoolStatus};

use crate::identity::Identity;

/// A mesh whose identity `default` is this one.
///
/// # Panics
///
/// When the files do not fit each other, which those of an authority do.
pub fn mesh_as(identity: &Identity) -> Mesh {
    let files = FileIdentity::builder(&identity.certificate, &identity.key).ca(&identity.roots);
    let files = files.build(&Provider::aws_lc()).expect("the files of an authority fit each other");
    Mesh::builder().identity("default", files).build().expect("a test has a runtime")
}

/// Mutual TLS with `default`, where the peer has to be `spiffe://mesh.test/{workload}`.
pub fn trusting_workload(workload: &str) -> UpstreamTls {
    let id = SpiffeId::parse(&format!("spiffe://mesh.test/{workload}")).expect("a workload is named in ASCII");
    UpstreamTls::new(Trust::Identity("default".into())).with_identity("default").with_spiffe_id(&id)
}

/// The presets' ejection, over after a tenth of a second: for tests in which endpoints come back.
pub fn short_ejection() -> OutlierDetection {
    let tenth = Duration::from_millis(100);
    OutlierDetection {
        interval: tenth,
        base_ejection: tenth,
        max_ejection: tenth,
        max_ejected: Percent::new(50.0).expect("a percentage"),
        always_eject_one: true,
        ..OutlierDetection::default()
    }
}

/// The connections to this endpoint; none of any kind where it has not been used.
pub fn pool_of(status: &MeshStatus, endpoint: SocketAddr) -> PoolFigures {
    let is_it = |pool: &&PoolStatus| pool.addresses.contains(&Address::Socket(endpoint));
    status.pools.iter().find(is_it).map(|pool| pool.figures).unwrap_or_default()
}
