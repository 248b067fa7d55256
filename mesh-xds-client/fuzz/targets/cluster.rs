//! The decoder of `Cluster`.
#![no_main]

mesh_xds_client_fuzz::resource_target!(Cluster);
