//! The decoder of `ClusterLoadAssignment`.
#![no_main]

mesh_xds_client_fuzz::resource_target!(ClusterLoadAssignment);
