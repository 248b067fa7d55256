//! Decides what should happen to a request: configuration, routing, endpoints, balancing, and the tower layers that
//! enforce it.
//!
//! It refuses I/O: it opens no socket, parses no certificate, speaks no xDS and spawns nothing. What has to be done beside the
//! requests is [`Work`] that its owner spawns.
//!
//! What is decided:
//!
//! - [`config`]: what may be said of targets, routes, clusters and endpoints, as plain data that is valid once it exists;
//! - [`source`]: where configuration comes from; [`identity`]: who this process is, and whom it believes;
//! - [`route`]: which route a request takes, from a compiled table, and why;
//! - [`endpoint`], [`pick`], [`cluster`]: who is there and what is known of them, whom a request gets, and the one who writes
//!   both down. Each knows those before it;
//! - [`outcome`]: what became of a request, in one value that everything above and below learns from.
//!
//! What enforces it, each a tower layer that also stands alone:
//!
//! - [`retry`]: tries a request again; [`deadline`]: ends it in time;
//! - [`limit`]: refuses what is too much; [`balance`]: sends it to an endpoint of its cluster;
//! - [`hold`]: keeps a layer's guard until the response has ended; [`carry`]: where a layer's policy comes from.
//!
//! [`RequestHead`] is what routing sees of a request, and [`Dice`] are its chance; [`memory`] is for whoever takes apart what
//! thousands of these were made of.
#![forbid(unsafe_code)]

pub mod balance;
pub mod carry;
pub mod cluster;
pub mod config;
pub mod deadline;
mod dice;
pub mod endpoint;
mod former;
mod head;
pub mod hold;
pub mod identity;
pub mod limit;
mod macros;
pub mod memory;
pub mod outcome;
mod outlier;
pub mod pick;
pub mod retry;
pub mod route;
pub mod source;
mod work;

pub use self::{dice::Dice, head::RequestHead, work::Work};
