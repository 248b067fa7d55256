//! The reader of the bootstrap file.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|json: &[u8]| mesh_xds_client_fuzz::bootstrap::check(json));
