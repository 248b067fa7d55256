//! Keeps the configuration current: the xDS protocol, validation into mesh-core's types, status.
//!
//! It refuses the data path: no request ever passes through it. An update takes this way:
//!
//! ```text
//! socket -> transport -> session -> resource -> store -> assemble -> Snapshot
//!           one stream   protocol   decode,     last     whole and
//!           a process    no I/O     validate    good     warm, or not yet
//! ```
//!
//! - [`XdsClient`] is the handle, and the source that a mesh takes its configuration from; its work is one task;
//! - [`bootstrap`]: which control plane to ask, and as whom;
//! - [`session`]: the protocol of one stream, as a state machine without I/O;
//! - [`resource`]: from the bytes of a resource to mesh-core's configuration;
//! - `testkit` (with the feature of that name): a control plane in process, for tests of one's own.
//!
//! # What a reader of snapshots may rely on
//!
//! A snapshot holds every cluster that a ready target's routes name, with its endpoints, or else that cluster is known not
//! to exist; new routes come when their clusters are warm, and until then the old ones stay. A response is seen as a
//! whole. What did not change is the same `Arc`. Refused versions, lost streams and silence take nothing away that
//! served; only the server's removal of a listener or a cluster does.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod resource;
pub mod session;
#[cfg(feature = "testkit")]
pub mod testkit;

mod assemble;
mod client;
mod kind;
mod meters;
mod report;
mod store;
mod transport;
mod worker;

pub use self::{
    client::{BuildError, Builder, XdsClient},
    kind::ResourceKind,
    transport::SetupError,
};
