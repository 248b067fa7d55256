//! What every run needs: the backends, the control plane, and a bootstrap that leads to it.

use std::net::SocketAddr;

use mesh_xds_client::testkit::ControlPlane;
use serde_json::{Value, json};

use super::{Addresses, Fleet};
use crate::identity::{Authority, Identity};
use crate::peers;

/// Backends and a control plane on loopback.
pub struct Scene {
    /// Has nothing to offer yet.
    pub plane: ControlPlane,
    /// The bootstrap of a gRPC client of it, with a certificate provider `default`.
    pub bootstrap: String,
    /// Where the control plane listens.
    pub address: SocketAddr,
    fleet: Fleet,
    _identity: Identity,
}

// === impl Scene ===

impl Scene {
    /// Starts both.
    ///
    /// # Panics
    ///
    /// When loopback has no free ports.
    pub async fn start() -> Self {
        let fleet = Fleet::start().await;
        let plane = ControlPlane::new();
        let address = plane.listen("127.0.0.1:0").await.expect("loopback has a free port");
        let identity = Authority::new().identify("client");
        let mut bootstrap: Value =
            serde_json::from_str(&peers::bootstrap(address, "conformance")).expect("it was written as JSON");
        bootstrap["certificate_providers"] = json!({ "default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": identity.certificate,
                "private_key_file": identity.key,
                "ca_certificate_file": identity.roots,
            },
        }});
        Self { plane, bootstrap: bootstrap.to_string(), address, fleet, _identity: identity }
    }

    /// Where the backends are.
    pub fn addresses(&self) -> Addresses {
        self.fleet.addresses()
    }
}
