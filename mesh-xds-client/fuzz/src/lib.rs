//! Coverage-guided fuzzing of what mesh-xds-client reads from a control plane: what holds whatever comes.
//!
//! The README beside this says what, and how to run it.
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod resource;
pub mod session;
pub mod workload;
