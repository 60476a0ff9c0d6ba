//! Rows and columns of `kubectl get`: one function per kind, from an object to its printed cells.
