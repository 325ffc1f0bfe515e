//! Words that are enumerations in Python.

use gpushare_core::apply::Moment;
use gpushare_core::export;
use gpushare_core::mode::{SharingMode, Verdict};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::callback::call;

fn member<'py>(
    py: Python<'py>,
    class: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
    word: &str,
) -> PyResult<Bound<'py, PyAny>> {
    call(class.import(py, "gpushare._enums", name)?, (word,))
}

/// `gpushare.SharingMode`.
pub(crate) fn mode(py: Python<'_>, mode: SharingMode) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    member(py, &CLASS, "SharingMode", mode.as_str())
}

/// `gpushare.Verdict`.
pub(crate) fn verdict(py: Python<'_>, verdict: Verdict) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    member(py, &CLASS, "Verdict", verdict.as_str())
}

/// `gpushare.EventKind`.
pub(crate) fn event_kind<'py>(py: Python<'py>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    member(py, &CLASS, "EventKind", kind)
}

/// `gpushare.ExportKind`.
pub(crate) fn export_kind(py: Python<'_>, kind: export::Kind) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    member(py, &CLASS, "ExportKind", kind.as_str())
}

/// `gpushare.Moment`.
pub(crate) fn moment<'py>(py: Python<'py>, moment: &Moment<'_>) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    member(py, &CLASS, "Moment", moment.as_str())
}

/// `gpushare.HazardName`.
pub(crate) fn hazard_name<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    member(py, &CLASS, "HazardName", name)
}
