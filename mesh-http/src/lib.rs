//! Does it over HTTP/1 and HTTP/2: the `Mesh` that owns what clients share, connections, pools, mutual TLS, bodies, and a
//! client.
//!
//! It refuses to decide: which route, which endpoint, whether to retry is mesh-core's, and what a control plane says comes
//! through its `ConfigSource`. What differs between protocols over HTTP is one trait, [`protocol::Protocol`].
//!
//! - [`Mesh`] owns tasks, clusters, identities and the source, which it follows where [`Control`] says; [`Client`] sends
//!   requests to one target of it;
//! - [`CallOptions`] say what one request wants otherwise; [`Scope`] bounds requests by the call that they are made in;
//! - [`pool`]: the connections of one endpoint, and who waits for them;
//! - [`conn`]: one connection, HTTP/1 or HTTP/2, as one task;
//! - [`connect`] and [`resolve`]: how bytes and names are had, both replaceable, in tests by memory;
//! - [`tls`]: who the peer must be, and who this process is to it.
#![forbid(unsafe_code)]

mod answer;
mod body;
mod call;
mod client;
mod cluster;
pub mod conn;
pub mod connect;
mod error;
#[doc(hidden)]
pub mod files;
mod mesh;
mod outgoing;
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
    cluster::PoolStatus,
    error::Error,
    mesh::{Control, Mesh, MeshBuilder, MeshStatus, TargetStatus},
    scope::Scope,
};
