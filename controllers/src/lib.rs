//! The controllers, one folder each: observe, decide, apply.
