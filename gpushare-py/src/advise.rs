//! Which way to share suits a workload.

use std::num::NonZeroU32;

use gpushare_core::advise::{self, Workload};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::de::DeserializeOwned;

use crate::arguments;
use crate::document::{counted, document_class, shown, shows_text, simulated, texts, tuple};
use crate::error::refused;
use crate::node::Given;
use crate::plan::Needs;

document_class!(
    /// The ways to run a workload on a node, the recommended one first. ``str()`` tells them.
    Advice,
    advise::Advice,
    |advice| {
        let options = counted(advice.options.len(), "option");
        let best = advice.recommended.map_or("none", |way| way.as_str());
        Some(format!("{options}, {best} recommended{}", simulated(advice.simulated)))
    }
);
shows_text!(Advice);

#[pymethods]
impl Advice {
    /// What is recommended: ``exclusive``, ``time_sliced``, ``mps``, ``mig`` or ``mig_with_mps``; None where
    /// nothing fits.
    #[getter]
    fn recommended(&self) -> Option<&'static str> {
        self.0.recommended.map(|way| way.as_str())
    }

    /// Every way, the best first.
    #[getter]
    fn options<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.options.iter().map(Choice::from))
    }

    /// The option that is recommended; None where nothing fits.
    #[getter]
    fn best(&self) -> Option<Choice> {
        self.0.best().map(Choice::from)
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.simulated
    }
}

document_class!(
    /// One way to run a workload on a node.
    Choice,
    advise::Choice
);
shows_text!(Choice);

#[pymethods]
impl Choice {
    /// Which way.
    #[getter]
    fn way(&self) -> &'static str {
        self.0.way.as_str()
    }

    /// Whether it gives what was asked for.
    #[getter]
    fn fits(&self) -> bool {
        self.0.fits
    }

    /// Why it does not.
    #[getter]
    fn why_not(&self) -> Option<&str> {
        self.0.why_not.as_deref()
    }

    /// The spec that does it, where it fits: for :meth:`Node.plan`.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.spec.as_ref().map(|spec| shown(py, spec)).transpose()
    }

    /// The uuids of the GPUs that it takes.
    #[getter]
    fn gpus<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.gpus)
    }

    /// What applying it must be allowed to do, where it fits.
    #[getter]
    fn needs(&self) -> Option<Needs> {
        self.0.needs.as_ref().map(Needs::from)
    }

    /// Why one would choose it here.
    #[getter]
    fn reasons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.reasons)
    }

    /// What it does not give.
    #[getter]
    fn lacks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.lacks)
    }
}

/// A key, what was given, and the words that there are.
type Chosen<'a, 'py> = (&'a str, &'a Given<'py>, &'a str);

/// A word of the core's; where none is given, what it starts with.
fn word<T: DeserializeOwned + Default>(
    py: Python<'_>,
    (key, given, words): Chosen<'_, '_>,
) -> PyResult<T> {
    let Given::Yes(word) = given else { return Ok(T::default()) };
    let word = arguments::text(key, word)?;
    serde_json::from_value(serde_json::Value::String(word.clone()))
        .map_err(|_| refused(py, key, format!("{word:?}: give {words}")))
}

pub(crate) fn workload(
    py: Python<'_>,
    count: &Given<'_>,
    memory: Option<&Bound<'_, PyAny>>,
    [kernels, isolation, style]: [Chosen<'_, '_>; 3],
    half_precision: &Given<'_>,
) -> PyResult<Workload> {
    let count = match count {
        Given::Yes(count) => arguments::positive("count", count)?,
        Given::No => NonZeroU32::MIN,
    };
    let mut workload = Workload::new(count);
    workload.memory = memory.map(|memory| arguments::size("memory", memory)).transpose()?;
    workload.kernels = word(py, kernels)?;
    workload.isolation = word(py, isolation)?;
    workload.style = word(py, style)?;
    if let Given::Yes(half_precision) = half_precision {
        workload.half_precision = arguments::flag("half_precision", half_precision)?;
    }
    Ok(workload)
}
