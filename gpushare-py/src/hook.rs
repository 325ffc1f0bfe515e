//! Hooks: what a program does around a change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gpushare_core::apply::{Hooks, Moment};
use gpushare_core::plan::Plan;
use gpushare_core::{Error, ErrorCode, Node, Result};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::arguments::{self, wrong_type};
use crate::call::Raised;
use crate::callback::{self, call};
use crate::error::made;
use crate::node::{Given, State};
use crate::words;

/// How long a program may take where nobody says: as on the command line and in C.
const LIMIT: Duration = Duration::from_secs(60);

/// Hooks as Python gives them.
#[derive(Debug)]
pub(crate) enum Hooked {
    /// Programs in a directory, each with so much time.
    Programs(PathBuf, Duration),
    Function(Arc<Function>),
}

/// A function of Python's.
#[derive(Debug)]
pub(crate) struct Function {
    function: Py<PyAny>,
    /// The node that its plans are of.
    state: Arc<State>,
    raised: Raised,
}

impl Hooked {
    /// # Errors
    /// TypeError for what is neither a path nor can be called.
    pub(crate) fn new(
        given: Option<&Bound<'_, PyAny>>,
        limit: Given<'_>,
        state: &Arc<State>,
        raised: Raised,
    ) -> PyResult<Option<Self>> {
        let limit = match limit {
            Given::Yes(limit) => arguments::seconds("hook_timeout", &limit)?,
            Given::No => LIMIT,
        };
        let Some(given) = given else { return Ok(None) };
        if given.is_instance_of::<PyString>() || given.get_type().hasattr("__fspath__")? {
            return Ok(Some(Self::Programs(arguments::path("hooks", given)?, limit)));
        }
        if !given.is_callable() {
            return Err(wrong_type("hooks", given, "a function or the path of a directory"));
        }
        let function = given.clone().unbind();
        Ok(Some(Self::Function(Arc::new(Function { function, state: state.clone(), raised }))))
    }

    /// The same for the core. It reads the directory.
    pub(crate) fn hooks(&self, node: &Node) -> Result<Hooks> {
        match self {
            Self::Programs(directory, limit) => {
                node.hooks(directory, *limit).map_err(|error| error.context("hooks"))
            }
            Self::Function(function) => {
                let function = function.clone();
                Ok(Hooks::new(move |moment, plan| function.call(moment, plan)))
            }
        }
    }
}

impl Function {
    fn call(&self, moment: &Moment<'_>, plan: &Plan) -> Result<()> {
        let said = callback::within(|py| {
            let Err(raised) = self.called(py, moment, plan) else { return Ok(()) };
            let why = self.told(py, &raised);
            let is_over = matches!(moment, Moment::PostApply | Moment::Failure(_));
            // The change is what it is by then, and the core tells what its hooks said. Ctrl-C and
            // sys.exit() are the caller's to hear.
            if !is_over || !raised.is_instance_of::<PyException>(py) {
                self.raised.note(py, raised);
            }
            Err(why)
        });
        let why = match said {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => format!("it raised {why}"),
            None => "the interpreter ends, and it was not called".to_owned(),
        };
        Err(Error::new(ErrorCode::Interrupted, why))
    }

    fn called(&self, py: Python<'_>, moment: &Moment<'_>, plan: &Plan) -> PyResult<()> {
        let (error, gpu) = match moment {
            Moment::Failure(error) => {
                (Some(made(py, error, Some(self.state.is_simulated()))?), None)
            }
            Moment::PreMode(gpu) => (None, Some(gpu.as_str())),
            _ => (None, None),
        };
        let plan = Py::new(py, crate::plan::Plan::new(plan.clone(), self.state.clone()))?;
        call(self.function.bind(py), (words::moment(py, moment)?, plan, error, gpu))?;
        Ok(())
    }

    /// What was raised, in words.
    fn told(&self, py: Python<'_>, raised: &PyErr) -> String {
        let value = raised.value(py);
        let name = value.get_type().qualname();
        let name = name.map_or_else(|_| "something".to_owned(), |name| name.to_string());
        match call(py.get_type::<PyString>().as_any(), (value,)) {
            Ok(text) => match text.cast::<PyString>().map(|text| text.to_string_lossy()) {
                Ok(text) if !text.is_empty() => format!("{name}: {text}"),
                _ => name,
            },
            // Its text is made by Python, where a signal may come.
            Err(error) => {
                if !error.is_instance_of::<PyException>(py) {
                    self.raised.note(py, error);
                }
                name
            }
        }
    }
}
