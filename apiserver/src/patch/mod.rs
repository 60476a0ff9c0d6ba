//! JSON patch, merge patch and strategic merge patch: pure functions from document and patch to document.
