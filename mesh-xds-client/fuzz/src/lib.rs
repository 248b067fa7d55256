//! Coverage-guided fuzzing of what mesh-xds-client reads from a control plane: what holds whatever comes.
//!
//! Targets are a few lines each, under `targets/`; `.ci/fuzz` builds and runs them with a stable compiler.
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod resource;
pub mod session;
