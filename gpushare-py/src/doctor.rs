//! What stands in the way of sharing GPUs, and what mends it.

use gpushare_core::doctor;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{counted, document_class, shows_text, simulated, texts, tuple};

document_class!(
    /// What was found, what was not looked at, and what is as it should be. ``str()`` tells it.
    Diagnosis,
    doctor::Diagnosis,
    |diagnosis| {
        let findings = counted(diagnosis.findings.len(), "finding");
        let (unseen, end) = (diagnosis.unseen.len(), simulated(diagnosis.simulated));
        Some(format!("{findings}, {unseen} not looked at{end}"))
    }
);
shows_text!(Diagnosis);

#[pymethods]
impl Diagnosis {
    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.simulated
    }

    /// Whether there is something to mend: an error or a warning.
    #[getter]
    fn needs_mending(&self) -> bool {
        self.0.needs_mending()
    }

    /// What was found, the worst first.
    #[getter]
    fn findings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.findings.iter().map(Finding::from))
    }

    /// What could not be looked at.
    #[getter]
    fn unseen<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.unseen.iter().map(Unseen::from))
    }

    /// The ids of the checks that found nothing and saw all.
    #[getter]
    fn checked<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.checked)
    }
}

document_class!(
    /// Something that the doctor found.
    Finding,
    doctor::Finding
);
shows_text!(Finding);

#[pymethods]
impl Finding {
    /// The check that found it: an id that never changes.
    #[getter]
    fn id(&self) -> &str {
        &self.0.id
    }

    /// How bad it is: ``error``, ``warning`` or ``notice``.
    #[getter]
    fn severity(&self) -> &'static str {
        self.0.severity.as_str()
    }

    /// The uuid of the GPU; None where it is about the machine.
    #[getter]
    fn gpu(&self) -> Option<&str> {
        self.0.gpu.as_ref().map(|gpu| gpu.as_str())
    }

    /// What it is, in a sentence.
    #[getter]
    fn summary(&self) -> &str {
        &self.0.summary
    }

    /// What was seen.
    #[getter]
    fn evidence<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.evidence)
    }

    /// The command that mends it, or what to do.
    #[getter]
    fn mend(&self) -> &str {
        &self.0.mend
    }

    /// Where it is known from that this is so.
    #[getter]
    fn source(&self) -> &str {
        &self.0.source
    }
}

document_class!(
    /// Something that could not be looked at.
    Unseen,
    doctor::Unseen
);

#[pymethods]
impl Unseen {
    /// What.
    #[getter]
    fn what(&self) -> &str {
        &self.0.what
    }

    /// What it would take.
    #[getter]
    fn needed(&self) -> &str {
        &self.0.needed
    }

    /// The ids of the checks that could not be made for that, or not wholly.
    #[getter]
    fn checks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.checks)
    }
}
