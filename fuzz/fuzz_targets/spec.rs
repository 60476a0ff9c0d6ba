//! An OCI configuration, up to the plan of its container.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzz::spec(bytes));
