//! The forms that arguments come in.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use gpushare_core::hazard::HazardName;
use gpushare_core::id::Pid;
use gpushare_core::units::{Bytes, ThreadPercentage};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDelta, PyDict, PyFloat, PyInt, PyString};

use crate::callback::{call, call_method};
use crate::error::{refused, refused_by};
use crate::snapshot::gpu::Gpu;

/// Longer than any machine runs.
const FOR_EVER: f64 = 1e9;

pub(crate) fn wrong_type(key: &str, value: &Bound<'_, PyAny>, wanted: &str) -> PyErr {
    let found = value.get_type().name();
    let found = found.map_or_else(|_| "it".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{key}: {found} is not {wanted}"))
}

/// A whole number of whatever kind, numpy's as well. True and False are none.
pub(crate) fn as_whole<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if value.is_instance_of::<PyBool>() {
        return Ok(None);
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(Some(value.clone()));
    }
    if !value.get_type().hasattr("__index__")? {
        return Ok(None);
    }
    static INDEX: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let whole = call(INDEX.import(value.py(), "operator", "index")?, (value,))?;
    Ok(Some(whole))
}

/// A number of whatever kind; infinite where it is too large. True and False are none.
pub(crate) fn as_float(value: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    let kind = value.get_type();
    if value.is_instance_of::<PyBool>()
        || !(kind.hasattr("__float__")? || kind.hasattr("__index__")?)
    {
        return Ok(None);
    }
    match value.extract::<f64>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            Ok(Some(f64::INFINITY))
        }
        float => float.map(Some),
    }
}

/// A whole number. Negative ones and those that are too large are wrong values, not types.
fn whole(key: &str, value: &Bound<'_, PyAny>, least: u64, most: u64) -> PyResult<u64> {
    let Some(value) = as_whole(value)? else {
        return Err(wrong_type(key, value, "a whole number"));
    };
    value.extract::<u64>().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        let shown = value.str().map_or_else(|_| String::new(), |text| text.to_string());
        refused(value.py(), key, format!("{shown}: give a whole number from {least} to {most}"))
    })
}

fn number_from(least: u32, key: &str, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    let number = whole(key, value, least.into(), u32::MAX.into())?;
    u32::try_from(number).map_err(|_| refused(value.py(), key, "too large"))
}

pub(crate) fn number(key: &str, value: &Bound<'_, PyAny>) -> PyResult<u32> {
    number_from(0, key, value)
}

/// A whole number from 1 on.
pub(crate) fn positive(key: &str, value: &Bound<'_, PyAny>) -> PyResult<NonZeroU32> {
    NonZeroU32::new(number_from(1, key, value)?)
        .ok_or_else(|| refused(value.py(), key, "0: give a whole number from 1 on"))
}

/// A process.
pub(crate) fn pid(key: &str, value: &Bound<'_, PyAny>) -> PyResult<Pid> {
    let pid = positive(key, value)?.get();
    if i32::try_from(pid).is_err() {
        return Err(refused(value.py(), key, format!("{pid} is no process")));
    }
    Ok(Pid::new(pid))
}

/// A thread percentage.
pub(crate) fn percentage(key: &str, value: &Bound<'_, PyAny>) -> PyResult<ThreadPercentage> {
    let Some(percent) = as_float(value)? else {
        return Err(wrong_type(key, value, "a number"));
    };
    ThreadPercentage::new(percent).map_err(|error| refused_by(value.py(), key, error))
}

/// A size: bytes, or text like `4GiB`.
pub(crate) fn size(key: &str, value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if value.is_instance_of::<PyString>() {
        let text = text(key, value)?;
        return text.parse().map_err(|error| refused_by(value.py(), key, error));
    }
    // As 20e9 is written.
    let integral = value.is_instance_of::<PyFloat>() && value.extract::<f64>()?.fract() == 0.0;
    let whole_float = if integral { Some(call_method(value, "__int__", ())?) } else { None };
    let Some(value) = whole_float.map_or_else(|| as_whole(value), |whole| Ok(Some(whole)))? else {
        return Err(wrong_type(key, value, "a whole number of bytes or text like '4GiB'"));
    };
    whole(key, &value, 0, u64::MAX).map(Bytes::new)
}

/// Seconds, as a number or a timedelta.
pub(crate) fn seconds(key: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds: f64 = if value.is_instance_of::<PyDelta>() {
        value.call_method0("total_seconds")?.extract()?
    } else if let Some(seconds) = as_float(value)? {
        seconds
    } else {
        return Err(wrong_type(key, value, "a number of seconds or a timedelta"));
    };
    if (0.0..=FOR_EVER).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(refused(value.py(), key, format!("{seconds}: give seconds, from 0 to {FOR_EVER}")))
}

/// How long may be waited: None is for ever.
pub(crate) fn timeout(key: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    if value.is_none() {
        return Ok(None);
    }
    if value.is_instance_of::<PyFloat>() && value.extract::<f64>()? == f64::INFINITY {
        return Ok(None);
    }
    seconds(key, value).map(Some)
}

/// Hazards by name: an iterable of them, or one.
pub(crate) fn hazards(key: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<HazardName>> {
    let names: Vec<String> = if value.is_instance_of::<PyString>() {
        vec![text(key, value)?]
    } else {
        // What it raises itself is heard.
        let wrong = |error: PyErr| {
            if error.is_instance_of::<PyTypeError>(value.py()) {
                wrong_type(key, value, "an iterable of names")
            } else {
                error
            }
        };
        let mut names = Vec::new();
        for name in value.try_iter().map_err(wrong)? {
            let name = name?;
            if !name.is_instance_of::<PyString>() {
                return Err(wrong_type(key, &name, "the name of a hazard"));
            }
            names.push(text(key, &name)?);
        }
        names
    };
    let known = |name: String| {
        let known = HazardName::ALL.iter().copied().find(|known| known.as_str() == name);
        known.ok_or_else(|| {
            let all: Vec<_> = HazardName::ALL.iter().map(|known| known.as_str()).collect();
            let why = format!("{name:?} is no hazard; there are {}", all.join(", "));
            refused(value.py(), key, why)
        })
    };
    names.into_iter().map(known).collect()
}

/// Which GPU: NVML's index, text as the command line takes it, or a GPU that was observed.
pub(crate) fn selector(key: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(gpu) = value.cast::<Gpu>() {
        return Ok(gpu.get().0.uuid.to_string());
    }
    if value.is_instance_of::<PyString>() {
        return text(key, value);
    }
    if let Some(value) = as_whole(value)? {
        return number(key, &value).map(|index| index.to_string());
    }
    Err(wrong_type(key, value, "an index, text or a Gpu"))
}

/// Adds the variables of a mapping to an environment.
pub(crate) fn environment(
    key: &str,
    given: &Bound<'_, PyAny>,
    environment: &Bound<'_, PyDict>,
) -> PyResult<()> {
    for (name, value) in pairs(key, given)? {
        for text in [&name, &value] {
            // As os.environb has them, and os.environ.
            if !text.is_instance_of::<PyString>() {
                return Err(wrong_type(key, text, "text, which an environment consists of"));
            }
        }
        environment.set_item(name, value)?;
    }
    Ok(())
}

/// Whether it is a mapping. What the question raises itself is heard.
pub(crate) fn is_mapping(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    if value.is_instance_of::<PyDict>() {
        return Ok(true);
    }
    static MAPPING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    value.is_instance(MAPPING.import(value.py(), "collections.abc", "Mapping")?)
}

/// A key of a mapping, and its value.
pub(crate) type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// What a mapping has.
pub(crate) fn pairs<'py>(key: &str, value: &Bound<'py, PyAny>) -> PyResult<Vec<Pair<'py>>> {
    if !is_mapping(value)? {
        return Err(wrong_type(key, value, "a mapping"));
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        return Ok(dict.iter().collect());
    }
    let items = call_method(value, "items", ())?;
    let mut pairs = Vec::new();
    for item in items.try_iter()? {
        let item = item?;
        let pair = item.extract();
        pairs.push(
            pair.map_err(|_| wrong_type(key, &item, "a pair, which items() of a mapping gives"))?,
        );
    }
    Ok(pairs)
}

/// True or False.
pub(crate) fn flag(key: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.extract().map_err(|_| wrong_type(key, value, "True or False"))
}

/// The path of a file or directory.
pub(crate) fn path(key: &str, value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let path: PathBuf = value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyUnicodeEncodeError>(value.py()) {
            refused(value.py(), key, NO_TEXT)
        } else {
            wrong_type(key, value, "a path")
        }
    })?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(refused(value.py(), key, "a path has no NUL character"));
    }
    Ok(path)
}

const NO_TEXT: &str = "it is not valid text: it has a lone surrogate";

/// Text.
pub(crate) fn text(key: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if !value.is_instance_of::<PyString>() {
        return Err(wrong_type(key, value, "text"));
    }
    // Lone surrogates are text of Python's and of nobody else's.
    value.extract().map_err(|_| refused(value.py(), key, NO_TEXT))
}
