//! The core's events in Python's `logging`, for who asks for it.

use std::cell::RefCell;

use gpushare_core::log::{self, Dispatch, Level, Message};
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

use crate::arguments::{self, as_whole};
use crate::callback;
use crate::error::refused;

/// Logging's own number; TRACE is half of DEBUG.
const fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

/// What forwards events from a level on: a number of `logging`, or its name.
pub(crate) fn dispatch(py: Python<'_>, level: &Bound<'_, PyAny>) -> PyResult<Dispatch> {
    let number_of = |level: &Bound<'_, PyAny>| arguments::number("log_level", level);
    let logging = py.import("logging")?;
    let given = if level.is_instance_of::<PyString>() {
        let found = logging.call_method1("getLevelName", (level.call_method0("upper")?,))?;
        if !found.is_instance_of::<PyInt>() {
            return Err(refused(py, "log_level", format!("{level} is no level of logging")));
        }
        // A name of the program's own can be of any number.
        number_of(&found)?
    } else if let Some(level) = as_whole(level)? {
        number_of(&level)?
    } else {
        return Err(PyTypeError::new_err("log_level: give a level of logging, or its name"));
    };
    let all = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
    let level = all.into_iter().find(|level| number(*level) >= given).unwrap_or(Level::ERROR);
    let get_logger = logging.getattr("getLogger")?.unbind();
    Ok(log::dispatch(level, move |message| forward(&get_logger, message)))
}

fn forward(get_logger: &Py<PyAny>, message: &Message<'_>) {
    let name = message.target.replace("::", ".");
    callback::within(|py| {
        let logged = callback::call(get_logger.bind(py), (name,)).and_then(|logger| {
            let told = (number(message.level), "%s", message.text);
            callback::call_method(&logger, "log", told)
        });
        match logged {
            Ok(_) => {}
            // A handler that fails stops no change of hardware.
            Err(error) if error.is_instance_of::<PyException>(py) => {
                error.write_unraisable(py, None);
            }
            Err(error) => RAISED.with_borrow_mut(|raised| *raised = Some(error)),
        }
    });
}

thread_local! {
    /// Ctrl-C, or sys.exit of a handler of signals, that came while a message was handled.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// What ends the call, where it was raised while one of its messages was handled. Once.
pub(crate) fn raised() -> Option<PyErr> {
    RAISED.take()
}
