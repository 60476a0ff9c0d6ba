//! A seccomp profile, up to the filter.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzz::seccomp(bytes));
