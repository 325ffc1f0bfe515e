//! MPS: who is a client, equal parts, hazards.

use gpushare_core::Result;
use gpushare_core::hazard;
use gpushare_core::mode::Verdict;
use gpushare_core::parameters::MpsConfig;
use gpushare_core::plan::GpuHazard;
use gpushare_core::snapshot::GpuSnapshot;
use gpushare_core::spec::Want;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arguments::{is_mapping, wrong_type};
use crate::document::{document_class, from_python, shows_text, texts};
use crate::error::{exception, refused};
use crate::spec::from_document;
use crate::words;

document_class!(
    /// Whether a process is a client of an MPS daemon of gpushare's. True when it is: unknown never passes.
    Attachment,
    gpushare_core::mps::Attachment
);
shows_text!(Attachment);

#[pymethods]
impl Attachment {
    /// Attached, not attached or unknown.
    #[getter]
    fn verdict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::verdict(py, self.0.verdict)
    }

    /// Why, in words.
    #[getter]
    fn reasons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.reasons)
    }

    /// The process.
    #[getter]
    fn pid(&self) -> u32 {
        self.0.pid.get()
    }

    /// Attached: the uuid of the GPU or MIG device whose daemon serves it.
    #[getter]
    fn device(&self) -> Option<&str> {
        self.0.domain.as_ref().map(|domain| domain.as_str())
    }

    /// Attached: the process of the server.
    #[getter]
    fn server_pid(&self) -> Option<u32> {
        self.0.server.map(|pid| pid.get())
    }

    /// Attached: the device memory in bytes that it uses there, by NVML.
    #[getter]
    fn memory_bytes(&self) -> Option<u64> {
        self.0.memory.map(|memory| memory.get())
    }

    /// The multiprocessors that the server lets it have at most; None where unknown.
    #[getter]
    fn at_most_sm_count(&self) -> Option<u32> {
        self.0.at_most.sm_count
    }

    /// The share of threads in percent that the server lets it have at most; None where unknown.
    #[getter]
    fn at_most_thread_percentage(&self) -> Option<f64> {
        self.0.at_most.thread_percentage.map(|percentage| percentage.get())
    }

    /// The device memory in bytes that the server lets it have at most; None where unknown.
    #[getter]
    fn at_most_memory_bytes(&self) -> Option<u64> {
        self.0.at_most.memory.map(|memory| memory.get())
    }

    fn __bool__(&self) -> bool {
        self.0.verdict == Verdict::Attached
    }
}

document_class!(
    /// Equal parts of a GPU for MPS clients, without a hazard.
    Split,
    hazard::Split
);
shows_text!(Split);

#[pymethods]
impl Split {
    /// How many parts.
    #[getter]
    fn parts(&self) -> u32 {
        self.0.parts
    }

    /// The thread percentage of each.
    #[getter]
    fn thread_percentage(&self) -> f64 {
        self.0.thread_percentage.get()
    }

    /// The multiprocessors of each.
    #[getter]
    fn sm_count(&self) -> u32 {
        self.0.sm_count
    }

    /// The memory in bytes of each, in whole MiB; None where it cannot be limited.
    #[getter]
    fn memory_bytes(&self) -> Option<u64> {
        self.0.memory.map(|memory| memory.get())
    }

    /// The multiprocessors of the device.
    #[getter]
    fn sm_total(&self) -> u32 {
        self.0.sm_total
    }

    /// Multiprocessors that no part has.
    #[getter]
    fn sm_left_over(&self) -> u32 {
        self.0.sm_left_over
    }
}

document_class!(
    /// A setting that works and harms, on a GPU.
    Hazard,
    GpuHazard
);

#[pymethods]
impl Hazard {
    /// The name by which it is allowed.
    #[getter]
    fn name<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::hazard_name(py, self.0.hazard.name.as_str())
    }

    /// The uuid of the GPU.
    #[getter]
    fn gpu(&self) -> &str {
        self.0.gpu.as_str()
    }

    /// What would happen.
    #[getter]
    fn message(&self) -> &str {
        &self.0.hazard.message
    }

    /// Values that do no harm.
    #[getter]
    fn safe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.hazard.safe)
    }
}

/// Equal parts of that GPU, or of all where they give one answer.
pub(crate) fn split(
    node: &gpushare_core::Node,
    parts: u32,
    gpu: Option<String>,
) -> Result<hazard::Split> {
    let chosen = gpu.map(|gpu| node.select(&gpu)).transpose()?;
    let snapshot = node.snapshot()?;
    let is_chosen = |gpu: &&GpuSnapshot| chosen.as_ref().is_none_or(|all| all.contains(&gpu.uuid));
    hazard::split_gpus(&snapshot, snapshot.gpus.iter().filter(is_chosen), parts)
}

/// What a spec says at `mps`.
pub(crate) fn config(mps: &Bound<'_, PyAny>) -> PyResult<MpsConfig> {
    let py = mps.py();
    if !is_mapping(mps)? {
        return Err(wrong_type("mps", mps, "a mapping"));
    }
    let mps = from_python(mps, "mps")?;
    let version = gpushare_core::spec::VERSION;
    let spec = format!(
        r#"{{"version":"{version}","gpus":[{{"select":"all","mode":"mps","mps":{mps}}}]}}"#
    );
    let spec = from_document(&spec).map_err(|error| exception(py, &error, None))?;
    match spec.gpus.into_iter().next().map(|entry| entry.want) {
        Some(Want::Mps(config)) => Ok(config),
        _ => Err(refused(py, "mps", "no parameters of mps")),
    }
}
