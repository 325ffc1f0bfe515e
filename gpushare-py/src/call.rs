//! The border: what every call of Python goes through.
//!
//! It refuses a forked child, lets other threads run meanwhile, runs the body with the node's log, and
//! turns errors and panics into exceptions.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpushare_core::log::of_call;
use gpushare_core::{Error, ErrorCode, Outcome, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::callback;
use crate::error::{because_of, exception};
use crate::event::Event;
use crate::log;
use crate::node::State;

/// A call of Python.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    name: &'static str,
    state: Option<&'a State>,
    changes: bool,
}

impl<'a> Call<'a> {
    /// The call of that name.
    pub(crate) const fn named(name: &'static str) -> Self {
        Self { name, state: None, changes: false }
    }

    /// Of that node: its log hears of it, errors say whether it is simulated, and a forked child is refused.
    pub(crate) const fn of(self, state: &'a State) -> Self {
        Self { state: Some(state), ..self }
    }

    /// It may change hardware: after a panic nobody knows what it left.
    pub(crate) const fn changes(self) -> Self {
        Self { changes: true, ..self }
    }

    /// Runs it while other threads of Python run.
    pub(crate) fn run<T: Send>(
        self,
        py: Python<'_>,
        body: impl FnOnce() -> Result<T> + Send,
    ) -> PyResult<T> {
        let result = py.detach(|| self.caught(body));
        callback::finished(|| self.told(py, result, log::raised()))
    }

    /// Runs what waits or works long: `listener` hears how it goes, and may stop it.
    pub(crate) fn run_heard<T: Send>(
        self,
        py: Python<'_>,
        listener: &mut Listener,
        body: impl FnOnce(&mut Listener) -> Result<T> + Send,
    ) -> PyResult<T> {
        let result = py.detach(|| {
            self.caught(|| {
                callback::expect_shallow()?;
                body(&mut *listener)
            })
        });
        callback::finished(|| {
            if let Some(later) = log::raised() {
                listener.raised.note(py, later);
            }
            self.told(py, result, listener.raised.take())
        })
    }

    /// What was raised is what the caller hears; what became of the GPUs is its cause.
    fn told<T: Send>(
        self,
        py: Python<'_>,
        result: Result<T>,
        raised: Option<PyErr>,
    ) -> PyResult<T> {
        match (raised, result) {
            (None, Ok(answer)) => Ok(answer),
            (None, Err(error)) => Err(self.exception(py, &error)),
            (Some(raised), Ok(answer)) => {
                // A lease waits for who forks.
                py.detach(|| drop(answer));
                Err(raised)
            }
            (Some(raised), Err(error)) => Err(because_of(py, raised, self.exception(py, &error))),
        }
    }

    fn caught<T>(self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            plant(self.name);
            self.state.map_or(Ok(()), State::expect_own)?;
            of_call(self.state.and_then(State::log), body)
        }));
        caught.unwrap_or_else(|payload| Err(self.panicked(payload)))
    }

    fn exception(self, py: Python<'_>, error: &Error) -> PyErr {
        exception(py, error, self.state.map(State::is_simulated))
    }

    fn panicked(self, payload: Box<dyn Any + Send>) -> Error {
        let said = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "it did not say why".to_owned());
        // A payload may itself panic when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        let outcome = if self.changes { Outcome::Indeterminate } else { Outcome::Untouched };
        let name = self.name;
        Error::new(ErrorCode::Panic, format!("{name} panicked, a defect of gpushare: {said}"))
            .with_outcome(outcome)
    }
}

/// Panics in the call that `GPUSHARE_TEST_PANIC` names: in builds for tests alone.
#[cfg(debug_assertions)]
fn plant(name: &str) {
    static PLANTED: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var_os("GPUSHARE_TEST_PANIC"));
    assert!(planted.as_deref() != Some(name.as_ref()), "planted by a test");
}

#[cfg(not(debug_assertions))]
const fn plant(_: &str) {}

/// What those raised who are called back within a call, and its caller hears in the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    /// It is never locked while Python is called.
    fn place(&self) -> MutexGuard<'_, Option<PyErr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_there(&self) -> bool {
        self.place().is_some()
    }

    fn take(&self) -> Option<PyErr> {
        self.place().take()
    }

    /// What is raised later is heard, with what was raised before as its cause.
    pub(crate) fn note(&self, py: Python<'_>, raised: PyErr) {
        let raised = match self.take() {
            Some(first) => because_of(py, raised, first),
            None => raised,
        };
        *self.place() = Some(raised);
    }
}

/// Who hears how a call goes: Ctrl-C, and a function of the caller's where there is one. What either
/// raises stops the call, and is raised when all is undone. So is what [others](Raised) raise meanwhile.
pub(crate) struct Listener {
    function: Option<Py<PyAny>>,
    raised: Raised,
}

impl Listener {
    /// # Errors
    /// TypeError for what cannot be called, whether or not there will be something to tell it.
    pub(crate) fn new(function: Option<Bound<'_, PyAny>>) -> PyResult<Self> {
        if function.as_ref().is_some_and(|function| !function.is_callable()) {
            return Err(PyTypeError::new_err("progress: it cannot be called"));
        }
        Ok(Self { function: function.map(Bound::unbind), raised: Raised::default() })
    }

    /// What is raised elsewhere within the call.
    pub(crate) fn raised(&self) -> Raised {
        self.raised.clone()
    }

    /// Tells the function what `event` makes, if there is one.
    pub(crate) fn tell(&mut self, event: impl FnOnce() -> Event) -> ControlFlow<()> {
        if self.raised.is_there() {
            return ControlFlow::Break(());
        }
        if let Some(raised) = log::raised() {
            *self.raised.place() = Some(raised);
            return ControlFlow::Break(());
        }
        let function = self.function.as_ref();
        let heard = callback::within(|py| {
            py.check_signals()?;
            if let Some(function) = function {
                callback::call(function.bind(py), (Py::new(py, event())?,))?;
            }
            Ok(())
        });
        match heard {
            Some(Ok(())) => ControlFlow::Continue(()),
            Some(Err(error)) => {
                *self.raised.place() = Some(error);
                ControlFlow::Break(())
            }
            // The interpreter ends.
            None => ControlFlow::Break(()),
        }
    }
}
