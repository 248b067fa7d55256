//! The decoder of `RouteConfiguration`.
#![no_main]

mesh_xds_client_fuzz::resource_target!(RouteConfiguration);
