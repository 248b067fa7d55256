//! Decides what should happen to a request: configuration, routing, endpoints, balancing, and the tower layers that
//! enforce it.
#![forbid(unsafe_code)]

pub mod balance;
pub mod carry;
pub mod config;
pub mod deadline;
mod dice;
pub mod hold;
pub mod limit;
pub mod outcome;
pub mod retry;

pub use self::dice::Dice;
