//! What the examples share: an echo service, backends that can be killed and slowed down, and certificates made on the spot.
//!
//! None of it is needed to use the mesh; it stands in for the services that a reader already has.
#![forbid(unsafe_code)]

pub mod backend;
pub mod certificates;

/// The echo service's generated code.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod echo {
    tonic::include_proto!("mesh.examples.v1");
}
