//! The client and a control plane, from the first subscription to the snapshot that a mesh reads.

mod servers;
mod subscriptions;
mod support;
mod trouble;
mod updates;
mod whole;
