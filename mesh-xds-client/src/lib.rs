//! Keeps the configuration current: the xDS protocol, validation into mesh-core's types, status.
//!
//! It refuses the data path: no request ever passes through it.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod session;
#[cfg(feature = "testkit")]
pub mod testkit;

mod kind;

pub use self::kind::ResourceKind;
