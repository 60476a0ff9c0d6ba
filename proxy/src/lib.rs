//! Service proxy and DNS: a process of its own.
