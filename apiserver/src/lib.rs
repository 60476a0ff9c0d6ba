//! The Kubernetes API over resource rows: REST, watch, admission, discovery.
