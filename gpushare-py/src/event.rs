//! What happens while a call waits or works.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::time::Duration;

use gpushare_core::lease::Wait;
use gpushare_core::process::Holder;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::call::Listener;
use crate::document::{hash, json};
use crate::error::refused;
use crate::snapshot::parts::holders;
use crate::words;

/// What happens while a call waits or works. A ``progress`` function is called with it at each step and
/// every 100 ms of waiting, on the thread that made the call; what it returns does not count.
///
/// A progress bar of n steps goes on by ``bar.update(event.step - bar.n)`` (tqdm), or
/// ``progress.update(task, completed=event.step, total=event.steps, description=event.text)`` (rich).
#[pyclass(frozen, eq, module = "gpushare", weakref)]
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    kind: Cow<'static, str>,
    text: String,
    gpu: Option<String>,
    step: usize,
    steps: usize,
    waited: Duration,
    holders: Vec<Holder>,
}

#[pymethods]
impl Event {
    /// What happens.
    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::event_kind(py, &self.kind)
    }

    /// It in words.
    #[getter]
    fn text(&self) -> &str {
        &self.text
    }

    /// The uuid of the GPU that it is about.
    #[getter]
    fn gpu(&self) -> Option<&str> {
        self.gpu.as_deref()
    }

    /// The number of the last step that began, over all GPUs: 0 before the first.
    #[getter]
    fn step(&self) -> usize {
        self.step
    }

    /// How many steps there are: 0 before that is known.
    #[getter]
    fn steps(&self) -> usize {
        self.steps
    }

    /// Waiting for a share: the seconds so far.
    #[getter]
    fn waited(&self) -> f64 {
        self.waited.as_secs_f64()
    }

    /// Who is in the way.
    #[getter]
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        holders(py, &self.holders)
    }

    #[staticmethod]
    fn _from_json(py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<Self> {
        let text = arguments::text("Event", text)?;
        serde_json::from_str(&text).map_err(|error| refused(py, "Event", error))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.getattr("_from_json")?, (json(slf.get()),)))
    }

    fn __hash__(&self) -> u64 {
        hash(self)
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!(
            "<gpushare.Event {}, step {} of {}: {}>",
            self.kind, self.step, self.steps, self.text
        )
    }
}

/// Makes events of what the core tells, and counts the steps.
pub(crate) struct Teller<'a> {
    listener: &'a mut Listener,
    step: usize,
    steps: usize,
}

fn names(holders: &[Holder]) -> String {
    let names: Vec<_> = holders.iter().take(8).map(ToString::to_string).collect();
    if names.is_empty() { "somebody who cannot be seen".to_owned() } else { names.join(", ") }
}

impl<'a> Teller<'a> {
    pub(crate) fn new(listener: &'a mut Listener) -> Self {
        Self { listener, step: 0, steps: 0 }
    }

    fn tell(
        &mut self,
        kind: &'static str,
        gpu: Option<String>,
        holders: &[Holder],
        text: impl FnOnce() -> String,
    ) -> ControlFlow<()> {
        let (step, steps) = (self.step, self.steps);
        self.listener.tell(|| Event {
            kind: kind.into(),
            text: text(),
            gpu,
            step,
            steps,
            waited: Duration::ZERO,
            holders: holders.to_vec(),
        })
    }

    pub(crate) fn hear(&mut self, event: &gpushare_core::Event) -> ControlFlow<()> {
        use gpushare_core::Event as Core;
        match event {
            Core::Planned { plan } => {
                self.steps = plan.step_count();
                let steps = self.steps;
                self.tell("planned", None, &[], || format!("{steps} steps are planned"))
            }
            Core::WaitingForLock { gpu } => {
                let text = || format!("waiting for the lock of {gpu}");
                self.tell("waiting_for_lock", Some(gpu.to_string()), &[], text)
            }
            Core::Draining { holders } => self.tell("draining", None, holders, || {
                format!("waiting for {} to go", names(holders))
            }),
            Core::Evicting { holder } => {
                let all = std::slice::from_ref(holder);
                self.tell("evicting", None, all, || format!("ending {holder}"))
            }
            Core::Step { number, of, gpu, what } => {
                (self.step, self.steps) = (*number, *of);
                self.tell("step", Some(gpu.to_string()), &[], || what.clone())
            }
            Core::RollingBack => self.tell("rolling_back", None, &[], || "rolling back".to_owned()),
            Core::Recovering { journal } => self.tell("recovering", None, &[], || {
                format!("settling the unfinished change {journal}")
            }),
            other => self.tell("other", None, &[], || format!("{other:?}")),
        }
    }

    pub(crate) fn hear_wait(&mut self, wait: &Wait) -> ControlFlow<()> {
        self.listener.tell(|| Event {
            kind: "waiting_for_share".into(),
            text: format!("waiting for {}: held by {}", wait.what, names(&wait.holders)),
            gpu: None,
            step: 0,
            steps: 0,
            waited: wait.waited,
            holders: wait.holders.clone(),
        })
    }
}
