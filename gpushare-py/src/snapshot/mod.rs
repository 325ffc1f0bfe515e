//! What was observed.

pub(crate) mod gpu;
pub(crate) mod parts;

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{document_class, shows_drawing, shows_text, simulated, tuple};
use gpu::Gpu;
use parts::Share;

document_class!(
    /// The state of a node at one moment. It never changes; look again with :meth:`Node.status`.
    Snapshot,
    gpushare_core::Snapshot,
    |snapshot| Some(told(snapshot))
);
shows_text!(Snapshot);
shows_drawing!(Snapshot);

/// The driver, and how many GPUs there are of each model.
fn told(snapshot: &gpushare_core::Snapshot) -> String {
    let mut models: Vec<(&str, usize)> = Vec::new();
    for gpu in &snapshot.gpus {
        match models.iter_mut().find(|(model, _)| *model == gpu.model) {
            Some((_, count)) => *count += 1,
            None => models.push((&gpu.model, 1)),
        }
    }
    let models: Vec<_> = models.iter().map(|(model, count)| format!("{count} x {model}")).collect();
    let gpus = if models.is_empty() { "no GPU".to_owned() } else { models.join(", ") };
    let driver = &snapshot.driver.version;
    format!("{gpus}, driver {driver}{}", simulated(snapshot.simulated))
}

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
