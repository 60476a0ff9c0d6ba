//! Builders, fakes and clocks for tests.
