//! Errors as exceptions, which are classes of Python's.

use gpushare_core::{Error, ErrorCode};
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use serde_json::Value;

use crate::callback::call;
use crate::document::to_python;

/// What one can do all the same on a machine without a GPU.
const NO_DRIVER: &str = "; gpushare.Node(sim=\"1xH100-80GB\") simulates a node where there is none";

/// The exception for an error, with all that it says.
///
/// # Errors
/// What a handler of signals raises meanwhile.
pub(crate) fn made<'py>(
    py: Python<'py>,
    error: &Error,
    simulated: Option<bool>,
) -> PyResult<Bound<'py, PyAny>> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let from_document = MAKE.import(py, "gpushare._errors", "from_document")?;
    let mut document = error.to_document();
    if let Some(object) = document.as_object_mut() {
        object.insert("simulated".to_owned(), simulated.map_or(Value::Null, Value::Bool));
    }
    let mut message = error.to_string();
    if simulated == Some(false) && document["driver"]["name"] == "LIBRARY_NOT_FOUND" {
        message += NO_DRIVER;
    }
    call(from_document, (message, to_python(py, &document)?))
}

/// The same in any case. Where a handler of signals raises meanwhile, what it
/// raised, with that as its cause.
pub(crate) fn exception(py: Python<'_>, error: &Error, simulated: Option<bool>) -> PyErr {
    let make = || made(py, error, simulated).map(PyErr::from_value);
    let raised = match make() {
        Ok(exception) => return exception,
        Err(raised) => raised,
    };
    // It is made by Python, which runs handlers of signals there. What one of them raised, an Exception or
    // not, does not come again.
    match make() {
        Ok(exception) => because_of(py, raised, exception),
        // Two signals. What is no Exception is never of the package's own files.
        Err(_) if !raised.is_instance_of::<PyException>(py) => raised,
        Err(again) if !again.is_instance_of::<PyException>(py) => again,
        // The package's own files are broken.
        Err(_) => because_of(py, PyRuntimeError::new_err(error.to_string()), raised),
    }
}

/// So many causes of causes are followed: they can go round in a circle.
const MOST_CAUSES: usize = 64;

/// An exception with its cause: after those that it has itself, by `raise … from …`.
pub(crate) fn because_of(py: Python<'_>, raised: PyErr, cause: PyErr) -> PyErr {
    let mut last = raised.clone_ref(py);
    for _ in 0..MOST_CAUSES {
        match last.cause(py) {
            Some(earlier) if earlier.value(py).is(cause.value(py)) => break,
            Some(earlier) => last = earlier,
            None => {
                if !last.value(py).is(cause.value(py)) {
                    last.set_cause(py, Some(cause));
                }
                break;
            }
        }
    }
    raised
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
