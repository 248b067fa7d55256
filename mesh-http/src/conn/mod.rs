//! One HTTP connection: bytes on one side, requests and responses on the other.
//!
//! hyper speaks the protocols; this room decides how hyper is run. A handshake returns a sender, which takes requests,
//! and a driver, a plain future that the caller spawns and that does all the work of the connection. Nothing here
//! connects, encrypts, counts endpoints or repeats a request: the rooms that do stand on this one.
//!
//! The usual way is to spawn hyper's connection and to let hyper spawn the rest, a task or two for each HTTP/2 request.
//! Here a connection is *one* task, and what its requests write while it runs leaves in one write. Both matter because,
//! with one request in flight, two thirds of the cost of a call is spent in the kernel, and with several worker threads
//! each additional task is a thread to be woken.
//!
//! | | [`h1`] | [`h2`] |
//! |---|---|---|
//! | requests in flight | one | as many as the peer permits |
//! | sender | unique | cloned |
//! | a dropped call | closes the connection | resets its stream with CANCEL |
//!
//! # What an error tells
//!
//! A call fails with a [`SendError`], which gives the request back where it is certain that none of it was written, and
//! says in [`SendError::sent`] what the peer may have seen. Whether to repeat a request is decided elsewhere, by this
//! answer.
//!
//! # Dropping
//!
//! Dropping the driver closes the socket: calls in flight fail with [`ErrorKind::Lost`], or get their request back if
//! it was still waiting. Dropping every sender lets calls in flight finish, and then the driver.

mod error;
pub mod h1;
pub mod h2;
mod io;
mod options;
mod task;

pub use self::error::{Error, ErrorKind, SendError};
pub use self::options::{Http1Options, Http2Options, KeepAlive};
