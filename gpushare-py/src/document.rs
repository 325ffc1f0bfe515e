//! Documents: plain values of Python and JSON, and what all classes that show one have.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde::Serialize;
use serde_json::Value;

use crate::arguments::{is_mapping, pairs};

/// As deep as a spec may be, and a little more: the core says where it is too deep.
const DEPTH: usize = 80;

/// Every value that is shown serialises.
pub(crate) fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

/// JSON as Python's own values, in the order in which it is written.
pub(crate) fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "json", "loads")?.call1((text,))
}

/// A document as Python's own values.
pub(crate) fn shown<'py>(
    py: Python<'py>,
    document: &impl Serialize,
) -> PyResult<Bound<'py, PyAny>> {
    loads(py, &json(document))
}

/// The word that stands for something in documents.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(crate) fn hash(document: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    json(document).hash(&mut hasher);
    hasher.finish()
}

/// A tuple of what an iterator gives.
pub(crate) fn tuple<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
) -> PyResult<Bound<'py, PyTuple>> {
    let items: PyResult<Vec<_>> =
        items.into_iter().map(|item| item.into_bound_py_any(py)).collect();
    PyTuple::new(py, items?)
}

/// A tuple of texts.
pub(crate) fn texts<'py, T: ToString>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
) -> PyResult<Bound<'py, PyTuple>> {
    tuple(py, items.into_iter().map(|item| item.to_string()))
}

/// JSON as Python's own values.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(py.None().into_bound(py)),
        Value::Bool(value) => value.into_bound_py_any(py),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => whole.into_bound_py_any(py),
            (None, Some(whole)) => whole.into_bound_py_any(py),
            (None, None) => number.as_f64().into_bound_py_any(py),
        },
        Value::String(text) => text.into_bound_py_any(py),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_python(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Value::Object(object) => {
            let dict = PyDict::new(py);
            for (key, item) in object {
                dict.set_item(key, to_python(py, item)?)?;
            }
            Ok(dict.into_any())
        }
    }
}

/// As long as a spec in a file may be, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// Of a longer path to a value messages have the beginning.
const MOST_PATH: usize = 100;

/// Ctrl-C is heard after so many values.
const VALUES_BETWEEN_SIGNALS: usize = 4096;

/// Python's own values as JSON, in their order.
///
/// # Errors
/// TypeError for what a document cannot hold; InvalidRequestError for what is longer than any spec.
pub(crate) fn from_python(value: &Bound<'_, PyAny>, key: &str) -> PyResult<String> {
    let mut text = String::new();
    let mut values = 0;
    write(&mut text, &mut values, value, key, 0)?;
    Ok(text)
}

/// `key` is the path to the value, for messages.
fn write(
    text: &mut String,
    values: &mut usize,
    value: &Bound<'_, PyAny>,
    key: &str,
    depth: usize,
) -> PyResult<()> {
    let at = || match (key.is_empty(), key.char_indices().nth(MOST_PATH)) {
        (true, _) => "spec".to_owned(),
        (_, None) => format!("spec, {key}"),
        (_, Some((end, _))) => format!("spec, {}…", key.get(..end).unwrap_or_default()),
    };
    let wrong = |what: &str| Err(PyTypeError::new_err(format!("{}: {what}", at())));
    if depth > DEPTH {
        return wrong("lists and maps in one another without an end");
    }
    *values += 1;
    if *values % VALUES_BETWEEN_SIGNALS == 0 {
        value.py().check_signals()?;
    }
    let expect_room = |length: usize| {
        if length <= MOST_BYTES {
            return Ok(());
        }
        Err(crate::error::refused(value.py(), &at(), "the spec is longer than 1 MiB by here"))
    };
    expect_room(text.len())?;
    if value.is_none() {
        text.push_str("null");
    } else if value.is_instance_of::<PyBool>() {
        text.push_str(if value.extract()? { "true" } else { "false" });
    } else if value.is_instance_of::<PyInt>() {
        let whole = value.extract::<i64>().map(|whole| whole.to_string());
        let whole = whole.or_else(|_| value.extract::<u64>().map(|whole| whole.to_string()));
        // Larger than anything that a spec counts.
        let refuse = |_| crate::error::refused(value.py(), &at(), "a number that is too large");
        text.push_str(&whole.map_err(refuse)?);
    } else if value.is_instance_of::<PyFloat>() {
        let float: f64 = value.extract()?;
        if !float.is_finite() {
            return Err(crate::error::refused(
                value.py(),
                &at(),
                format!("{float}: give a finite number"),
            ));
        }
        text.push_str(&json(&float));
    } else if value.is_instance_of::<PyString>() {
        expect_room(text.len() + value.len()?)?;
        text.push_str(&json(&crate::arguments::text(&at(), value)?));
    } else if is_mapping(value)? {
        text.push('{');
        for (position, (name, item)) in pairs(&at(), value)?.into_iter().enumerate() {
            if !name.is_instance_of::<PyString>() {
                return wrong(&format!("the key {} is no text", name.repr()?));
            }
            expect_room(text.len() + name.len()?)?;
            let name = crate::arguments::text(&at(), &name)?;
            let below = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            if position > 0 {
                text.push(',');
            }
            text.push_str(&json(&name));
            text.push(':');
            write(text, values, &item, &below, depth + 1)?;
        }
        text.push('}');
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        text.push('[');
        for (position, item) in value.try_iter()?.enumerate() {
            if position > 0 {
                text.push(',');
            }
            write(text, values, &item?, &format!("{key}[{position}]"), depth + 1)?;
        }
        text.push(']');
    } else if let Some(whole) = crate::arguments::as_whole(value)? {
        write(text, values, &whole, key, depth)?;
    } else if let Some(float) = crate::arguments::as_float(value)? {
        write(text, values, &PyFloat::new(value.py(), float), key, depth)?;
    } else {
        return wrong(&format!("a {} cannot be in a spec", value.get_type().name()?));
    }
    Ok(())
}

/// A repr with what is plain in a document: `Name(uuid='…', index=0)`.
pub(crate) fn repr(py: Python<'_>, name: &str, document: &impl Serialize) -> PyResult<String> {
    let shown = shown(py, document)?;
    let mut parts = Vec::new();
    for (key, value) in shown.cast::<PyDict>()?.iter() {
        let nested = value.is_instance_of::<PyDict>() || value.is_instance_of::<PyList>();
        if !value.is_none() && !nested && key.to_string() != "schema" {
            parts.push(format!("{key}={}", value.repr()?));
        }
    }
    Ok(format!("{name}({})", parts.join(", ")))
}

/// How a repr ends, for a simulated node.
pub(crate) const fn simulated(simulated: bool) -> &'static str {
    if simulated { ", SIMULATED" } else { "" }
}

/// A number of things: `1 share`, `2 shares`.
pub(crate) fn counted(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// What every class has that pickles as a document. Its one field derefs to what is serialised.
macro_rules! pickles_document {
    ($class:ident) => {
        #[pyo3::pymethods]
        impl $class {
            #[staticmethod]
            fn _from_json(
                py: pyo3::Python<'_>,
                text: &pyo3::Bound<'_, pyo3::PyAny>,
            ) -> pyo3::PyResult<Self> {
                let text = $crate::arguments::text(stringify!($class), text)?;
                match serde_json::from_str(&text) {
                    Ok(document) => Ok(Self(std::sync::Arc::new(document))),
                    Err(error) => Err($crate::error::refused(py, stringify!($class), error)),
                }
            }

            fn __reduce__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<(pyo3::Bound<'py, pyo3::PyAny>, (String,))> {
                use pyo3::types::PyAnyMethods as _;
                let text = $crate::document::json(&*slf.get().0);
                Ok((slf.getattr("_from_json")?, (text,)))
            }

            fn __hash__(&self) -> u64 {
                $crate::document::hash(&*self.0)
            }
        }
    };
}

/// What every class that shows a document of the core has, as above.
macro_rules! shows_document {
    ($class:ident) => {
        $crate::document::pickles_document!($class);

        #[pyo3::pymethods]
        impl $class {
            /// The same in dicts, lists and plain values: what the command line prints with ``--json``.
            fn to_dict<'py>(
                &self,
                py: pyo3::Python<'py>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                $crate::document::shown(py, &*self.0)
            }
        }
    };
}

/// A class that shows a document of the core. Its repr is the plain fields, or what a function tells.
macro_rules! document_class {
    ($(#[$attribute:meta])* $class:ident, $document:ty) => {
        $crate::document::document_class!($(#[$attribute])* $class, $document, |_| None);
    };
    ($(#[$attribute:meta])* $class:ident, $document:ty, $told:expr) => {
        $(#[$attribute])*
        #[pyo3::pyclass(frozen, eq, module = "gpushare", weakref)]
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $class(pub(crate) std::sync::Arc<$document>);

        impl From<&$document> for $class {
            fn from(document: &$document) -> Self {
                Self(std::sync::Arc::new(document.clone()))
            }
        }

        $crate::document::shows_document!($class);

        #[pyo3::pymethods]
        impl $class {
            fn __repr__(&self, py: pyo3::Python<'_>) -> pyo3::PyResult<String> {
                let told: fn(&$document) -> Option<String> = $told;
                match told(&self.0) {
                    Some(told) => Ok(format!("<gpushare.{} {told}>", stringify!($class))),
                    None => $crate::document::repr(py, stringify!($class), &*self.0),
                }
            }
        }
    };
}

/// The same text as the core's for people.
macro_rules! shows_text {
    ($class:ident) => {
        #[pyo3::pymethods]
        impl $class {
            fn __str__(&self) -> String {
                self.0.to_string()
            }
        }
    };
}

/// Notebooks show the drawing.
macro_rules! shows_drawing {
    ($class:ident) => {
        #[pyo3::pymethods]
        impl $class {
            fn _repr_html_<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                use pyo3::types::PyAnyMethods as _;
                slf.py().import("gpushare._drawing")?.call_method1("draw", (slf,))
            }
        }
    };
}

pub(crate) use {document_class, pickles_document, shows_document, shows_drawing, shows_text};
