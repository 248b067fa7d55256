//! From a control plane's address to a live ADS stream, over the connections of mesh-http.
//!
//! It spawns nothing: the driver of the connection is part of the [`AdsStream`], and runs while the stream is polled. Names
//! are looked up, and identities read, anew for every stream.

mod dialer;
mod messages;
mod portions;
mod requests;
mod stream;

pub use self::dialer::SetupError;
pub(crate) use self::{
    dialer::{Dialer, Limits, Parts, identity},
    requests::encode,
    stream::{AdsStream, Heard, StreamError},
};
