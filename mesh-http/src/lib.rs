//! Does it over HTTP/1 and HTTP/2: the `Mesh` that owns what clients share, connections, pools, mutual TLS, bodies; a
//! client, and layers for a server.
#![forbid(unsafe_code)]

pub mod conn;
pub mod connect;
pub mod resolve;
pub mod tls;
