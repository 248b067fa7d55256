//! Keeps the configuration current: the xDS protocol, validation into mesh-core's types, status.
#![forbid(unsafe_code)]

pub mod resource;
