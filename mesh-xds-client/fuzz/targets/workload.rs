//! The reader of a workload's environment and of the downward API's files.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| mesh_xds_client_fuzz::workload::check(text));
