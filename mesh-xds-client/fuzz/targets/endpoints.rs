//! The decoder of `ClusterLoadAssignment`.
#![forbid(unsafe_code)]
#![no_main]

mesh_xds_client_fuzz::resource_target!(ClusterLoadAssignment);
