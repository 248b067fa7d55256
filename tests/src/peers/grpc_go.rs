//! grpc-go as an xDS client of our control plane.

use std::path::PathBuf;

use tokio::process::Command;

use super::Prober;

/// The client, built.
pub struct GrpcGo {
    program: PathBuf,
}

// === impl GrpcGo ===

impl GrpcGo {
    /// Nothing, after a line on standard error, where the client was not built.
    pub fn find() -> Option<Self> {
        super::find("grpc-go", "MESH_INTEROP_GRPC_GO").map(|program| Self { program })
    }

    /// Starts a client of many targets.
    pub async fn prober(&self, bootstrap: &str) -> Prober {
        Prober::start(Command::new(&self.program), bootstrap).await
    }
}
