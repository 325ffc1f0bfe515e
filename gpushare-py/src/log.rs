//! The core's events in Python's `logging`, for who asks for it.

use gpushare_core::log::{self, Dispatch, Level, Message};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

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
    let logging = py.import("logging")?;
    let given = if level.is_instance_of::<PyString>() {
        let found = logging.call_method1("getLevelName", (level.call_method0("upper")?,))?;
        if !found.is_instance_of::<PyInt>() {
            return Err(refused(py, "log_level", format!("{level} is no level of logging")));
        }
        found.extract::<u32>()?
    } else if level.is_instance_of::<PyInt>() {
        crate::arguments::number("log_level", level)?
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
    Python::try_attach(|py| {
        let logged = get_logger.call1(py, (name,)).and_then(|logger| {
            logger.call_method1(py, "log", (number(message.level), "%s", message.text))
        });
        // A handler that fails stops no change of hardware.
        if let Err(error) = logged {
            error.write_unraisable(py, None);
        }
    });
}
