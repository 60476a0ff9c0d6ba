//! System calls that neither tokio nor socket2 wrap.

pub(crate) mod file_change;
pub(crate) mod packet_info;
