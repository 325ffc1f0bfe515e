//! What is on a GPU.

use gpushare_core::process::Holder;
use gpushare_core::snapshot::{self, MpsStatus, Usage};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::callback::call;
use crate::document::{document_class, tuple, word};

/// A process as `gpushare.Holder`.
pub(crate) fn holder<'py>(py: Python<'py>, holder: &Holder) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.import(py, "gpushare._errors", "Holder")?;
    let what = (
        holder.pid.get(),
        &holder.command,
        holder.uid,
        word(&holder.kind),
        holder.start_time,
        holder.protected.as_deref(),
    );
    call(class, what)
}

pub(crate) fn holders<'py>(py: Python<'py>, holders: &[Holder]) -> PyResult<Bound<'py, PyTuple>> {
    let holders: PyResult<Vec<_>> = holders.iter().map(|one| holder(py, one)).collect();
    PyTuple::new(py, holders?)
}

document_class!(
    /// A MIG device.
    MigDevice,
    snapshot::MigDevice
);

#[pymethods]
impl MigDevice {
    /// Its uuid.
    #[getter]
    fn uuid(&self) -> &str {
        self.0.uuid.as_str()
    }

    /// The name of its profile.
    #[getter]
    fn profile(&self) -> String {
        self.0.profile.to_string()
    }

    /// The id of its GPU instance, which is reused.
    #[getter]
    fn gi(&self) -> u32 {
        self.0.gi.get()
    }

    /// The id of its compute instance, which is reused.
    #[getter]
    fn ci(&self) -> u32 {
        self.0.ci.get()
    }

    /// The first slot of its GPU instance, where it could be seen.
    #[getter]
    fn start(&self) -> Option<u8> {
        self.0.start
    }

    /// Its memory in bytes, shared with the other compute instances of its GPU instance.
    #[getter]
    fn memory_bytes(&self) -> Option<u64> {
        self.0.memory.map(|memory| memory.get())
    }

    /// Its streaming multiprocessors.
    #[getter]
    fn sm_count(&self) -> Option<u32> {
        self.0.sm_count
    }

    /// The name that the spec gave it.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// The MPS daemon that serves it or should.
    #[getter]
    fn mps(&self) -> Option<MpsDaemon> {
        self.0.mps.as_ref().map(MpsDaemon::from)
    }

    /// Whether somebody uses it; None where it could not be seen, which counts as in use.
    #[getter]
    fn busy(&self) -> Option<bool> {
        match &self.0.usage {
            Usage::Idle => Some(false),
            Usage::Busy(_) => Some(true),
            _ => None,
        }
    }

    /// Who uses it, as far as is known.
    #[getter]
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        holders(py, self.0.usage.holders())
    }
}

document_class!(
    /// What can be leased: a GPU, a part of one, or a MIG device.
    Share,
    snapshot::Share
);

#[pymethods]
impl Share {
    /// Its id.
    #[getter]
    fn id(&self) -> String {
        self.0.id.to_string()
    }

    /// The uuid of the GPU or MIG device that it is of.
    #[getter]
    fn device(&self) -> &str {
        self.0.id.device()
    }

    /// Whether somebody holds it.
    #[getter]
    fn leased(&self) -> bool {
        self.0.is_leased()
    }

    /// Who holds it: one process of those that do.
    #[getter]
    fn holder<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.holder.as_ref().map(|one| holder(py, one)).transpose()
    }

    /// The name of the lease by which it is held.
    #[getter]
    fn lease(&self) -> Option<&str> {
        self.0.lease.as_ref().and_then(|lease| lease.name.as_deref())
    }

    /// The process for which it is held, where that is not the holder itself.
    #[getter]
    fn for_pid(&self) -> Option<u32> {
        self.0.lease.as_ref().and_then(|lease| lease.for_pid).map(|pid| pid.get())
    }

    /// Whether the process that took it is gone, and others hold on to it.
    #[getter]
    fn inherited(&self) -> bool {
        self.0.lease.as_ref().is_some_and(|lease| lease.inherited)
    }
}

document_class!(
    /// A process on a GPU.
    GpuProcess,
    snapshot::GpuProcess
);

#[pymethods]
impl GpuProcess {
    /// Its process id.
    #[getter]
    fn pid(&self) -> u32 {
        self.0.holder.pid.get()
    }

    /// Its command, as far as it may be read.
    #[getter]
    fn command(&self) -> &str {
        &self.0.holder.command
    }

    /// The user it runs as.
    #[getter]
    fn uid(&self) -> Option<u32> {
        self.0.holder.uid
    }

    /// What it is: ``compute``, ``graphics``, ``mps_client``, ``foreign_mps``, ``service``, ``lease``.
    #[getter]
    fn kind(&self) -> String {
        word(&self.0.holder.kind)
    }

    /// When it started, in clock ticks since boot.
    #[getter]
    fn start_time(&self) -> Option<u64> {
        self.0.holder.start_time
    }

    /// On which GPU instance.
    #[getter]
    fn gi(&self) -> Option<u32> {
        self.0.gi.map(|id| id.get())
    }

    /// On which compute instance.
    #[getter]
    fn ci(&self) -> Option<u32> {
        self.0.ci.map(|id| id.get())
    }

    /// Its device memory in bytes, where the driver says.
    #[getter]
    fn memory_bytes(&self) -> Option<u64> {
        self.0.memory.map(|memory| memory.get())
    }
}

document_class!(
    /// An MPS daemon.
    MpsDaemon,
    MpsStatus
);

#[pymethods]
impl MpsDaemon {
    /// Whether it is gpushare's.
    #[getter]
    fn ours(&self) -> bool {
        self.0.ours
    }

    /// Whether it answers and lets its clients in.
    #[getter]
    fn alive(&self) -> bool {
        self.0.alive
    }

    /// Its process, where it is known.
    #[getter]
    fn pid(&self) -> Option<u32> {
        self.0.pid.map(|pid| pid.get())
    }

    /// How it is: ``answers``, ``frozen``, ``unknown``, ``gone``; None where it is not ours.
    #[getter]
    fn health(&self) -> Option<&'static str> {
        self.0.health.map(|health| health.as_str())
    }

    /// What its clients have in ``CUDA_MPS_PIPE_DIRECTORY``.
    #[getter]
    fn directory(&self) -> Option<String> {
        self.0.directory.as_ref().map(|path| path.display().to_string())
    }

    /// The share of threads in percent that each client gets at most.
    #[getter]
    fn thread_percentage(&self) -> Option<f64> {
        self.0.config.as_ref().map(|config| config.thread_percentage.get())
    }

    /// The device memory in bytes that each client gets at most; None for no limit.
    #[getter]
    fn pinned_memory_limit_bytes(&self) -> Option<u64> {
        self.0.config.as_ref()?.pinned_memory_limit.map(|limit| limit.get())
    }

    /// The pids of its clients, as it lists them.
    #[getter]
    fn clients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.servers.iter().flat_map(|server| &server.clients).map(|pid| pid.get()))
    }
}
