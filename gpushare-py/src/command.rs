//! The `gpushare` command.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command: ``own`` starts it again, and the first of ``arguments`` is its name. Returns its exit
/// status.
#[pyfunction]
#[pyo3(signature = (own, arguments, /))]
pub(crate) fn _command(py: Python<'_>, own: Vec<OsString>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| gpushare_core::cli::run_as(&own, arguments))
}
