//! What apply and recover did.

use gpushare_core::apply::report;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{counted, document_class, shown, shows_text, simulated, texts, tuple, word};
use crate::snapshot::parts::holder;

document_class!(
    /// What was done. ``str()`` says it in words.
    Report,
    report::Report,
    |report| {
        let (outcome, steps) = (word(&report.outcome), counted(report.steps, "step"));
        Some(format!("{outcome}: {steps}{}", simulated(report.simulated)))
    }
);
shows_text!(Report);

#[pymethods]
impl Report {
    /// ``unchanged``, ``applied`` or ``recovered``.
    #[getter]
    fn outcome(&self) -> String {
        word(&self.0.outcome)
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.simulated
    }

    /// The digest of the plan that was applied.
    #[getter]
    fn digest(&self) -> Option<&str> {
        self.0.digest.as_deref()
    }

    /// How many steps were done.
    #[getter]
    fn step_count(&self) -> usize {
        self.0.steps
    }

    /// A spec that leads back to the state before: ``node.plan(report.previous).apply()`` undoes it.
    #[getter]
    fn previous<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, &self.0.previous)
    }

    /// GPUs whose state before no spec can say, with why.
    #[getter]
    fn not_in_previous<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.not_in_previous)
    }

    /// MIG devices that were created again in the place of earlier ones.
    #[getter]
    fn recreated<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.recreated.iter().map(Recreated::from))
    }

    /// Processes that were ended.
    #[getter]
    fn evicted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.evicted.iter().map(Evicted::from))
    }

    /// Changes of dead appliers that were settled first.
    #[getter]
    fn recovered<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.recovered.iter().map(Recovered::from))
    }

    /// What hooks said that failed after the change was done.
    #[getter]
    fn failed_hooks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.failed_hooks)
    }

    /// The paths of the CDI specifications that were written.
    #[getter]
    fn cdi_specifications<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, self.0.cdi_specifications.iter().map(|path| path.display().to_string()))
    }

    /// The paths of the CDI specifications that were removed for good.
    #[getter]
    fn removed_cdi_specifications<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, self.0.removed_cdi_specifications.iter().map(|path| path.display().to_string()))
    }
}

document_class!(
    /// A MIG device that was created again.
    Recreated,
    report::Recreated
);

#[pymethods]
impl Recreated {
    /// The uuid of its GPU.
    #[getter]
    fn gpu(&self) -> &str {
        self.0.gpu.as_str()
    }

    /// Its uuid before.
    #[getter]
    fn old(&self) -> &str {
        self.0.old.as_str()
    }

    /// Its uuid now.
    #[getter(new)]
    fn uuid_now(&self) -> &str {
        self.0.new.as_str()
    }
}

document_class!(
    /// A process that was ended.
    Evicted,
    report::Evicted
);

#[pymethods]
impl Evicted {
    /// The uuid of the GPU that it was on.
    #[getter]
    fn gpu(&self) -> &str {
        self.0.gpu.as_str()
    }

    /// Who it was.
    #[getter]
    fn holder<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        holder(py, &self.0.holder)
    }

    /// Whether it had to be killed.
    #[getter]
    fn killed(&self) -> bool {
        self.0.killed
    }
}

document_class!(
    /// A change of a dead applier that was settled.
    Recovered,
    report::Recovered
);

#[pymethods]
impl Recovered {
    /// The name of its journal.
    #[getter]
    fn journal(&self) -> &str {
        &self.0.journal
    }

    /// The uuids of its GPUs.
    #[getter]
    fn gpus<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.gpus)
    }

    /// How it was settled: ``rolled_back``, ``finished``, or ``void`` after a reboot.
    #[getter]
    fn settled(&self) -> String {
        word(&self.0.settled)
    }
}
