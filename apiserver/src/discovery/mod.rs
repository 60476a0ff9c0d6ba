//! Discovery documents, generated from the table of served kinds.
