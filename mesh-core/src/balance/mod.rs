//! The layer that sends each request to an endpoint of its cluster, and on to another where it never left the first.
//!
//! A refusal is an answer: the breaker of the cluster is asked first, then an endpoint is [picked](crate::pick). What was
//! picked is held until the response has ended.

mod future;
mod layer;
mod service;

pub use self::{
    future::ResponseFuture,
    layer::BalanceLayer,
    service::{Balance, OverServices},
};
pub use crate::{
    outcome::AtEndpoint,
    pick::{NoEndpoint, OwnDice, Picked, Terms},
};
