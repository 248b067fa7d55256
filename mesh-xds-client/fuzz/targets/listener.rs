//! The decoder of `Listener`.
#![no_main]

mesh_xds_client_fuzz::resource_target!(Listener);
