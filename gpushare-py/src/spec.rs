//! Specs as Python gives them.

use std::path::PathBuf;

use gpushare_core::{Error, ErrorCode, Result, Spec};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::arguments::{is_mapping, path};
use crate::document::from_python;

/// What was given, before it is read.
#[derive(Debug)]
pub(crate) enum Given {
    Document(String),
    Text(String),
    File(PathBuf),
}

/// A mapping; text, which has a line break or begins with a brace; or a path.
pub(crate) fn given(spec: &Bound<'_, PyAny>) -> PyResult<Given> {
    if is_mapping(spec)? {
        return from_python(spec, "").map(Given::Document);
    }
    if spec.is_instance_of::<PyString>() {
        let text = crate::arguments::text("spec", spec)?;
        if text.contains('\n') || text.trim_start().starts_with('{') {
            return Ok(Given::Text(text));
        }
    }
    path("spec", spec).map(Given::File).map_err(|error| {
        if error.is_instance_of::<PyTypeError>(spec.py()) {
            PyTypeError::new_err("spec: give a dict, a path, or the text of a spec")
        } else {
            error
        }
    })
}

impl Given {
    pub(crate) fn read(&self) -> Result<Spec> {
        match self {
            Self::Document(document) => from_document(document),
            Self::Text(text) => text.parse(),
            Self::File(path) => Spec::from_file(path).map_err(|error| error.context("spec")),
        }
    }
}

/// A spec that stands in no file: errors name the key alone.
pub(crate) fn from_document(json: &str) -> Result<Spec> {
    serde_json::from_str(json)
        .map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()))
}
