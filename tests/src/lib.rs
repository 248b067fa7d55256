//! What scenarios over several crates share: peers that we did not write, identities, and a small gRPC client.
//!
//! The scenarios are in `tests/`. Those named `interop_*` need a peer: `.ci/interop` at the top of the checkout gets the
//! peers and runs them, and the plain test command skips, with a line saying so, what it has no peer for.
#![forbid(unsafe_code)]

pub mod echo;
pub mod identity;
pub mod peers;
pub mod wire;
