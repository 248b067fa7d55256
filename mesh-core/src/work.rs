//! Work beside the requests: this crate says what has to be done and spawns nothing, whoever owns it does.

use std::{future::Future, pin::Pin};

/// Work beside the requests; whoever owns what it is done for spawns it, and ends it by dropping it.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
