//! The keeper of a sandbox.

use std::ffi::OsString;

/// The hidden subcommand `keeper`: `args` are what follows `Config::keeper_argv`. Must be called before any
/// thread or async runtime exists; returns the process's exit code.
pub fn main(_args: Vec<OsString>) -> i32 {
    1
}
