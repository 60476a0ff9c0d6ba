//! Protobuf request bodies to JSON, driven by a table of messages and fields.
