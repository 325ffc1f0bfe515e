//! What was observed.

pub(crate) mod gpu;
pub(crate) mod parts;

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{document_class, shows_drawing, shows_text, tuple};
use gpu::Gpu;
use parts::Share;

document_class!(
    /// The state of a node at one moment. It never changes; look again with :meth:`Node.status`.
    Snapshot,
    gpushare_core::Snapshot
);
shows_text!(Snapshot);
shows_drawing!(Snapshot);

#[pymethods]
impl Snapshot {
    /// The GPUs, by NVML's index.
    #[getter]
    fn gpus<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.gpus.iter().map(|gpu| Gpu(Arc::new(gpu.clone()))))
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.simulated
    }

    /// The kernel driver: ``580.159.04``.
    #[getter]
    fn driver_version(&self) -> &str {
        &self.0.driver.version
    }

    /// The newest CUDA that the driver supports: ``13.0``.
    #[getter]
    fn cuda_version(&self) -> Option<&str> {
        self.0.driver.cuda.as_deref()
    }

    /// SHA-256 over the structure of all GPUs: without processes, memory and times.
    #[getter]
    fn digest(&self) -> String {
        self.0.digest()
    }

    /// Leases of shares that are no more.
    #[getter]
    fn void_leases<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.void_leases.iter().map(Share::from))
    }
}
