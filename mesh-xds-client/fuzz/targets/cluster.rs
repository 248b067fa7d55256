//! The decoder of `Cluster`.
#![forbid(unsafe_code)]
#![no_main]

mesh_xds_client_fuzz::resource_target!(Cluster);
