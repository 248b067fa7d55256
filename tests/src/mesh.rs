//! Meshes that are somebody: an identity of the test's authority, and TLS that asks who the other end is.

use mesh_core::config::{SpiffeId, Trust, UpstreamTls};
use mesh_http::Mesh;
use mesh_http::tls::{FileIdentity, Provider};

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
