//! A GPU that was observed.

use gpushare_core::snapshot::{GpuSnapshot, Visibility};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{document_class, shows_drawing, texts, tuple};
use crate::snapshot::parts::{GpuProcess, MigDevice, MpsDaemon, Share};
use crate::words;

document_class!(
    /// A GPU as it was observed.
    Gpu,
    GpuSnapshot
);
shows_drawing!(Gpu);

#[pymethods]
impl Gpu {
    /// Its uuid: the key to it.
    #[getter]
    fn uuid(&self) -> &str {
        self.0.uuid.as_str()
    }

    /// NVML's index, never a CUDA ordinal. None for a GPU that is lost.
    #[getter]
    fn index(&self) -> Option<u32> {
        self.0.index.map(|index| index.get())
    }

    /// The minor number of its device node.
    #[getter]
    fn minor(&self) -> Option<u32> {
        self.0.minor.map(|minor| minor.get())
    }

    /// Its PCI address.
    #[getter]
    fn pci(&self) -> Option<String> {
        self.0.pci.as_ref().map(ToString::to_string)
    }

    /// NVML's name without ``NVIDIA``.
    #[getter]
    fn model(&self) -> &str {
        &self.0.model
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

    /// Major and minor.
    #[getter]
    fn compute_capability(&self) -> Option<(u32, u32)> {
        self.0.compute_capability
    }

    /// How it is shared.
    #[getter]
    fn mode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::mode(py, self.0.mode)
    }

    /// Why it counts as that.
    #[getter]
    fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What the observer lacked to see all of it; empty where all was seen.
    #[getter]
    fn missing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        match &self.0.visibility {
            Visibility::Partial { missing } => texts(py, missing),
            _ => Ok(PyTuple::empty(py)),
        }
    }

    /// NVML's compute mode: ``default``, ``exclusive_process``, ``prohibited``; None with MIG on.
    #[getter]
    fn compute_mode(&self) -> Option<&'static str> {
        self.0.compute_mode.map(|mode| mode.as_str())
    }

    /// Mode ``time_sliced``: how many leases it admits; None where it is not managed.
    #[getter]
    fn replicas(&self) -> Option<u32> {
        self.0.time_sliced.as_ref().and_then(|status| status.replicas)
    }

    /// The MPS daemon that serves it or should.
    #[getter]
    fn mps(&self) -> Option<MpsDaemon> {
        self.0.mps.as_ref().map(MpsDaemon::from)
    }

    /// Whether MIG is on; None for a GPU without MIG.
    #[getter]
    fn mig_enabled(&self) -> Option<bool> {
        self.0.mig.as_ref().map(|mig| mig.enabled)
    }

    /// The names of the MIG profiles that the driver reports.
    #[getter]
    fn mig_profiles<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let profiles = self.0.mig.iter().flat_map(|mig| mig.geometry.profiles());
        texts(py, profiles.map(|profile| &profile.name))
    }

    /// Its MIG devices, by placement.
    #[getter]
    fn mig_devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.mig_devices.iter().map(MigDevice::from))
    }

    /// What can be leased.
    #[getter]
    fn shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.shares.iter().map(Share::from))
    }

    /// Why no new leases of it are given, where somebody stopped that.
    #[getter]
    fn cordoned(&self) -> Option<&str> {
        self.0.cordoned.as_deref()
    }

    /// Who uses it.
    #[getter]
    fn processes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.processes.iter().map(GpuProcess::from))
    }

    /// Whether the driver did not show who uses it: then nobody may be taken for idle.
    #[getter]
    fn processes_hidden(&self) -> bool {
        self.0.processes_hidden
    }

    /// A change of it that was not finished: see :meth:`Node.recover`.
    #[getter]
    fn unsettled(&self) -> Option<&str> {
        self.0.unsettled.as_deref()
    }
}
