//! Errors as exceptions, which are classes of Python's.

use gpushare_core::{Error, ErrorCode};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use serde_json::Value;

use crate::document::to_python;

/// The exception for an error, with all that it says.
pub(crate) fn exception(py: Python<'_>, error: &Error, simulated: Option<bool>) -> PyErr {
    let make = || -> PyResult<PyErr> {
        static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let from_document = MAKE.import(py, "gpushare._errors", "from_document")?;
        let mut document = error.to_document();
        if let Some(object) = document.as_object_mut() {
            object.insert("simulated".to_owned(), simulated.map_or(Value::Null, Value::Bool));
        }
        let message = error.to_string();
        Ok(PyErr::from_value(from_document.call1((message, to_python(py, &document)?))?))
    };
    // Only where the package's own files are broken.
    make().unwrap_or_else(|broken| {
        let plain = PyRuntimeError::new_err(error.to_string());
        plain.set_cause(py, Some(broken));
        plain
    })
}

/// An argument of the right type whose value makes no sense.
pub(crate) fn refused(py: Python<'_>, key: &str, why: impl std::fmt::Display) -> PyErr {
    let error = Error::new(ErrorCode::InvalidArgument, format!("{key}: {why}"));
    exception(py, &error, None)
}

/// The same, as the core says it.
pub(crate) fn refused_by(py: Python<'_>, key: &str, error: Error) -> PyErr {
    exception(py, &error.context(key.to_owned()), None)
}
