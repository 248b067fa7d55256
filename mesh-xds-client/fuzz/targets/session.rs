//! The state machine of a stream, in both variants of the protocol.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| mesh_xds_client_fuzz::session::check(script));
