//! Decides what should happen to a request: configuration, routing, endpoints, balancing, and the tower layers that
//! enforce it.
#![forbid(unsafe_code)]

pub mod config;
mod dice;
pub mod route;

pub use self::dice::Dice;
