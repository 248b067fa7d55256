//! What holds of a bootstrap whatever its text is.

use mesh_xds_client::Dialect;
use mesh_xds_client::bootstrap::Bootstrap;
use mesh_xds_client::fuzzing::lead;

/// Reads `json`, and asks what it says.
pub fn check(json: &[u8]) {
    let Ok(bootstrap) = Bootstrap::from_json(json) else { return };
    assert!(!bootstrap.servers().is_empty(), "there is somebody to ask");
    assert_eq!(bootstrap.node().to_proto().id, bootstrap.node().id);
    for target in ["echo.shop:7070", "*:7070", "", "%s/ä"] {
        let _ = bootstrap.client_listener_name(target);
        let _ = bootstrap.server_listener_name(target);
        for dialect in [Dialect::Grpc, Dialect::Sidecar] {
            let told = lead(dialect, &bootstrap, target).err();
            assert!(told.is_none_or(|why| !why.is_empty()), "who asks for what cannot be is told why");
        }
    }
    for server in bootstrap.servers() {
        let _ = (server.variant(), format!("{server:?}"));
    }
}
