//! What keepers and their clients say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzz::protocol(bytes));
