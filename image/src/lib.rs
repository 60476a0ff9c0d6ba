//! Image store: import, pull, verify, unpack, collect garbage. Knows OCI, no pods.
