//! What scenarios over several crates share: peers that we did not write, identities, load, and clients
//! that do no more than they are told.
//!
//! The scenarios are in `tests/`. Those named `interop_*` need a peer: `.ci/interop` at the top of the checkout gets the
//! peers and runs them, and the plain test command skips, with a line saying so, what it has no peer for.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod identity;
pub mod kubernetes;
pub mod load;
pub mod mesh;
pub mod pair;
pub mod patience;
pub mod peers;
pub mod sim;
pub mod wire;
