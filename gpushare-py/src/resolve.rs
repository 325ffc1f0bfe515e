//! What CUDA shows with a value of `CUDA_VISIBLE_DEVICES`.

use gpushare_core::visible;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{document_class, shows_text, texts, tuple, word};
use crate::words;

document_class!(
    /// What CUDA shows a process with a value of ``CUDA_VISIBLE_DEVICES``. ``str()`` explains it.
    Resolution,
    visible::Resolution
);
shows_text!(Resolution);

#[pymethods]
impl Resolution {
    /// The value; None for the variable unset.
    #[getter]
    fn string(&self) -> Option<&str> {
        self.0.string.as_deref()
    }

    /// ``devices``, ``no_device``, ``invalid_device`` or ``unknown``.
    #[getter]
    fn outcome(&self) -> String {
        word(&self.0.outcome)
    }

    /// What ``cuInit`` answers; None where the outcome is unknown.
    #[getter]
    fn cu_init(&self) -> Option<u32> {
        self.0.cu_init
    }

    /// Whether all of this was measured. If not, :attr:`flags` say what rests on what.
    #[getter]
    fn certain(&self) -> bool {
        self.0.certain
    }

    /// Why, where that does not lie in an entry.
    #[getter]
    fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// The devices in CUDA's order. Empty unless the outcome is ``devices``.
    #[getter]
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.devices.iter().map(VisibleDevice::from))
    }

    /// What was not measured, in words.
    #[getter]
    fn flags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, self.0.flags.iter().map(|flag| &flag.message))
    }
}

document_class!(
    /// A device that CUDA shows.
    VisibleDevice,
    visible::VisibleDevice
);

#[pymethods]
impl VisibleDevice {
    /// Its number in CUDA: ``cuda:0``, ``cuda:1``, …
    #[getter]
    fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// ``gpu`` or ``mig_device``.
    #[getter]
    fn kind(&self) -> String {
        word(&self.0.kind)
    }

    /// Its uuid.
    #[getter]
    fn uuid(&self) -> &str {
        &self.0.uuid
    }

    /// NVML's index of the GPU.
    #[getter]
    fn index(&self) -> Option<u32> {
        self.0.index.map(|index| index.get())
    }

    /// NVML's name of the GPU without ``NVIDIA``.
    #[getter]
    fn model(&self) -> &str {
        &self.0.model
    }

    /// The profile of a MIG device.
    #[getter]
    fn profile(&self) -> Option<String> {
        self.0.profile.map(|profile| profile.to_string())
    }

    /// Its memory in bytes.
    #[getter]
    fn memory_bytes(&self) -> Option<u64> {
        self.0.memory.map(|memory| memory.get())
    }

    /// Its streaming multiprocessors.
    #[getter]
    fn sm_count(&self) -> Option<u32> {
        self.0.sm_count
    }

    /// How the GPU is shared.
    #[getter]
    fn mode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::mode(py, self.0.mode)
    }

    /// The uuid of the GPU that a MIG device is on.
    #[getter]
    fn parent(&self) -> Option<&str> {
        self.0.parent.as_ref().map(|gpu| gpu.as_str())
    }
}
