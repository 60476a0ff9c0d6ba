//! Reading requests: paths, parameters, media types and bodies.

pub(crate) mod accept;
pub(crate) mod content;
pub(crate) mod params;
pub(crate) mod path;
