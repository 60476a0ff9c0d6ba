//! The node agent: manifest sources, pod sync, probes, volumes, status.
