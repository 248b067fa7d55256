//! Does it over HTTP/1 and HTTP/2: the `Mesh` that owns what clients share, connections, pools, mutual TLS, bodies; a
//! client, and layers for a server.
#![forbid(unsafe_code)]

mod body;
mod call;
mod client;
mod cluster;
pub mod conn;
pub mod connect;
mod error;
mod mesh;
mod plan;
pub mod pool;
pub mod protocol;
pub mod resolve;
pub mod scope;
mod tasks;
mod telemetry;
pub mod tls;

pub use self::{
    body::Body,
    call::{CallOptions, ResponseFuture},
    client::{Client, ClientBuilder, EndpointSpec, IntoEndpoint},
    error::Error,
    mesh::{Mesh, MeshBuilder, MeshStatus, TargetStatus},
    scope::Scope,
};
