//! The core's events in Python's `logging`, for who asks for it.

use std::fmt::{Debug, Write as _};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use crate::error::refused;

struct Sink {
    /// `logging.getLogger`.
    get_logger: Py<PyAny>,
    level: Level,
}

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
    Ok(Dispatch::new(Sink { get_logger, level }))
}

impl Subscriber for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let name = metadata.target().replace("::", ".");
        let message = line.message + &line.fields;
        Python::try_attach(|py| {
            let logged = self.get_logger.call1(py, (name,)).and_then(|logger| {
                logger.call_method1(py, "log", (number(*metadata.level()), "%s", message))
            });
            // A handler that fails stops no change of hardware.
            if let Err(error) = logged {
                error.write_unraisable(py, None);
            }
        });
    }
}

/// A message, and its fields after it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
