//! Keeps the configuration current: the xDS protocol, validation into mesh-core's types, status.
//!
//! It refuses the data path: no request ever passes through it. What it has so far:
//!
//! - [`bootstrap`]: which control plane to ask, and as whom;
//! - [`session`]: the protocol of one stream, as a state machine without I/O;
//! - [`resource`]: from the bytes of a resource to mesh-core's configuration;
//! - `testkit` (with the feature of that name): a control plane in process, for tests of one's own.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod resource;
pub mod session;
#[cfg(feature = "testkit")]
pub mod testkit;

mod kind;

pub use self::kind::ResourceKind;
