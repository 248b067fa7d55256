//! Decides what should happen to a request: configuration, routing, endpoints, balancing, and the tower layers that
//! enforce it.
#![forbid(unsafe_code)]

pub mod balance;
pub mod carry;
pub mod cluster;
pub mod config;
pub mod deadline;
mod dice;
pub mod endpoint;
mod head;
pub mod hold;
pub mod identity;
pub mod limit;
mod macros;
pub mod outcome;
mod outlier;
pub mod pick;
pub mod retry;
pub mod route;
pub mod source;
mod work;

pub use self::{dice::Dice, head::RequestHead, work::Work};
