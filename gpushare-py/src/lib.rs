//! The extension module of the Python package `gpushare`.
//!
//! Nothing is decided here: each function takes Python's arguments apart, calls `gpushare-core`
//! without the GIL, and gives Python's values back. Exceptions and enumerations are Python classes.

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _gpushare {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
