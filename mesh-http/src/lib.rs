//! Does what `mesh-core` decided, over HTTP/1 and HTTP/2.

#![forbid(unsafe_code)]

pub mod conn;
