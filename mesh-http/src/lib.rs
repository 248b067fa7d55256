//! x

pub mod tls;
