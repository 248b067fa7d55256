//! Errors in data, and what they mean for what was good before (gRFC A88).

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, ResourceError as WireError, ResourceName,
};
use envoy_types::pb::google::rpc;
use mesh_core::source::{ConfigSource, Interest, ResourceState};
use mesh_xds_client::ResourceKind;
use mesh_xds_client::ResourceKind::{ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{endpoints, listener, route_config};
use tokio::time::Instant;
use tonic::Code;

use super::{NODE, SECOND, assert_alive, builder};
use crate::support::{Running, address, offer, routed, run, set};

/// Says of a resource in a response of its own that the server does not give it.
fn deny(plane: &ControlPlane, kind: ResourceKind, name: &str, code: Code) {
    let error = || WireError {
        resource_name: Some(ResourceName { name: name.to_owned(), ..Default::default() }),
        error_detail: Some(rpc::Status {
            code: code as i32,
            message: "ask somebody else".to_owned(),
            details: Vec::new(),
        }),
    };
    // One of each variant: a stream takes the one of its own.
    plane.send(DeltaDiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: "denial".to_owned(),
        resource_errors: vec![error()],
        ..Default::default()
    });
    plane.send(DiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: "denial".to_owned(),
        version_info: "denial".to_owned(),
        resource_errors: vec![error()],
        ..Default::default()
    });
}

/// Serves `echo`, or no longer, from routes and a cluster of that name.
async fn serves(
    features: &[ServerFeature],
    spoil: impl AsyncFnOnce(&ControlPlane, &mut Running),
) -> (ControlPlane, Running, Interest) {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, features.iter().copied()));
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    spoil(&plane, &mut running).await;
    running.settle(SECOND).await;
    (plane, running, interest)
}

#[tokio::test(start_paused = true)]
async fn denial_keeps_the_last_good_one_and_says_why() {
    for (code, state) in [(Code::NotFound, ResourceState::Absent), (Code::Internal, ResourceState::Failed)] {
        let spoil = async |plane: &ControlPlane, _: &mut Running| deny(plane, RouteConfiguration, "echo", code);
        let (plane, mut running, _interest) = serves(&[], spoil).await;
        assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
        let resource = running.resource(RouteConfiguration, "echo").expect("asked for");
        assert_eq!(resource.state, state);
        let error = resource.error.expect("denied");
        assert!(error.contains("ask somebody else; the version before is kept"), "{error}");
        assert!(plane.nacks().is_empty());
        assert_alive(&plane, &mut running).await;
    }
}

#[tokio::test(start_paused = true)]
async fn denial_of_what_never_came_is_told_at_once() {
    let plane = ControlPlane::new();
    let mut running = run(builder(&plane, [ServerFeature::ResourceTimerIsTransientError]));
    let _interest = running.client.watch("echo");
    plane.wait_for(|event| event.request().is_some()).await;
    let start = Instant::now();
    deny(&plane, Listener, "echo", Code::PermissionDenied);
    let reason = running.until_unavailable("echo").await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(reason.contains("PermissionDenied: ask somebody else") && reason.contains(NODE), "{reason}");
    offer(&plane, "echo", &["v1"]);
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn strict_servers_denials_and_refused_versions_end_what_was_good_before() {
    let strict = [ServerFeature::FailOnDataErrors];
    for kind in [Listener, RouteConfiguration] {
        for is_denied in [true, false] {
            let spoil = async |plane: &ControlPlane, running: &mut Running| {
                if is_denied {
                    deny(plane, kind, "echo", Code::PermissionDenied);
                } else {
                    let named = match kind {
                        Listener => {
                            envoy_types::util::pack_any(envoy_types::pb::envoy::config::listener::v3::Listener {
                                api_listener: None,
                                ..listener("echo", "echo")
                            })
                        }
                        _ => {
                            let mut routes = route_config("echo", [("v1", 1)]);
                            routes.virtual_hosts[0].routes[0].r#match = None;
                            envoy_types::util::pack_any(routes)
                        }
                    };
                    plane.raw(kind, "echo", named);
                }
                let reason = running.until_unavailable("echo").await;
                assert!(reason.contains(kind.name()), "{reason}");
            };
            let (plane, mut running, _interest) = serves(&strict, spoil).await;
            plane.set(listener("echo", "echo"));
            plane.set(route_config("echo", [("v1", 1)]));
            running.until_routed("echo", &["v1"]).await;
        }
    }
    // Trouble that is not the resource's own takes nothing away, here either.
    let spoil = async |plane: &ControlPlane, _: &mut Running| deny(plane, Listener, "echo", Code::Unavailable);
    let (_plane, running, _interest) = serves(&strict, spoil).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
}

#[tokio::test(start_paused = true)]
async fn strict_servers_refused_endpoints_leave_their_cluster_without_any() {
    let spoil = async |plane: &ControlPlane, running: &mut Running| {
        let mut unusable = endpoints("v1", [address(1)]);
        unusable.endpoints[0].priority = 7;
        plane.set(unusable);
        running.until(|snapshot| snapshot.clusters["v1"].endpoints.is_none()).await;
    };
    let (plane, mut running, _interest) = serves(&[ServerFeature::FailOnDataErrors], spoil).await;
    assert_eq!(running.state(ClusterLoadAssignment, "v1"), Some(ResourceState::Rejected));
    assert_alive(&plane, &mut running).await;
}
