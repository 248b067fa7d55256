//! A real istiod steers our clients, by objects applied to a Kubernetes API of ours: in gRPC's dialect (`GENERATOR=grpc`) and
//! in that of sidecars, over delta.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]
#![allow(clippy::print_stdout, reason = "the figures are what is asked for")]

mod grpc;
mod mtls;
mod outside;
mod pod;
mod shop;
mod sidecar;

/// What holds in either dialect is claimed of both.
macro_rules! dialects {
    ($($name:ident: $dialect:expr, istiod gone for $outage:literal s;)+) => {
        $(
            #[allow(clippy::duplicate_mod, reason = "the same claims in another dialect")]
            #[path = "in_either"]
            mod $name {
                use std::time::Duration;

                use mesh_xds_client::Dialect;

                use crate::shop::Shop;

                mod changes;
                mod rules;
                mod secure;
                mod status;

                /// How long istiod is gone when it is.
                const OUTAGE: Duration = Duration::from_secs($outage);

                /// A shop whose clients speak so; nothing where istiod was not built.
                async fn open() -> Option<Shop> {
                    Shop::open($dialect).await
                }
            }
        )+
    };
}

dialects! {
    as_grpc: Dialect::Grpc, istiod gone for 10 s;
    as_sidecars: Dialect::Sidecar, istiod gone for 60 s;
}
