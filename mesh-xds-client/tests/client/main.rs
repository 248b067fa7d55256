//! The client and a control plane, from the first subscription to the snapshot that a mesh reads.

mod cache;
mod deaf;
mod delta;
mod fallback;
mod federation;
mod servers;
mod sidecar;
mod sockets;
mod support;
mod whole;

/// What holds in either variant is claimed of both.
macro_rules! variants {
    ($($variant:ident: $features:expr;)+) => {
        $(
            #[allow(clippy::duplicate_mod, reason = "the same claims of another client")]
            #[path = "in_either"]
            mod $variant {
                use mesh_xds_client::XdsClientBuilder;
                use mesh_xds_client::bootstrap::ServerFeature;
                use mesh_xds_client::testkit::ControlPlane;

                use crate::support::{self, Running, run};

                mod restart;
                mod subscriptions;
                mod trouble;
                mod updates;

                /// A client of `plane`, to be built.
                fn builder(plane: &ControlPlane, features: impl IntoIterator<Item = ServerFeature>) -> XdsClientBuilder {
                    let of_variant = $features;
                    support::builder(plane, features.into_iter().chain(of_variant))
                }

                /// A client of `plane` at work.
                fn running(plane: &ControlPlane) -> Running {
                    run(builder(plane, []))
                }
            }
        )+
    };
}

variants! {
    in_state_of_the_world: [];
    in_delta: [ServerFeature::Delta];
}
