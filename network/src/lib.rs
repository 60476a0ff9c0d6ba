//! Pod networking by netlink. Knows no pods: it attaches network namespaces to a bridge.
