//! Does it for gRPC: a tonic channel, what statuses and trailers mean, deadlines; layers for a tonic server.
//!
//! It has no connection code of its own: a [`Channel`] is mesh-http's client, told by the [`Grpc`] protocol how gRPC differs
//! from plain HTTP. It refuses everything that is not gRPC's: routing, balancing and retries are decided below.
#![forbid(unsafe_code)]

mod body;
mod channel;
mod classify;
mod protocol;
pub mod server;
mod status;
#[cfg(feature = "testkit")]
pub mod testkit;
mod timeout;
mod wire;

pub use mesh_http::CallOptions;

pub use self::{
    body::Body,
    channel::{Channel, ChannelBuilder, ResponseFuture},
    classify::{GrpcClassifier, GrpcEnd},
    status::{flags, status_of},
    wire::Grpc,
};
