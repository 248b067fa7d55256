//! The channel over real sockets, against tonic's server and against peers that do worse.
#![allow(clippy::result_large_err, reason = "it is tonic's error type")]

mod support;

mod calls;
mod cancel;
mod deadlines;
mod drain;
mod faults;
mod inbound;
mod retries;
mod routes;
