//! End-to-end tests: the release binary and stock clients.
