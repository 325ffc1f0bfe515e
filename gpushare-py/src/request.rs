//! What somebody asks for when they lease.

use gpushare_core::lease::LeaseRequest;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyEllipsis, PyString};

use crate::arguments::{
    flag, hazards, number, percentage, pid, positive, selector, size, text, timeout,
};
use crate::call::Listener;
use crate::callback::call_method;
use crate::error::{refused, refused_by};
use crate::snapshot::parts::Share;

/// A request, and who wants to hear of the waiting.
pub(crate) struct Requested<'py> {
    pub(crate) request: LeaseRequest,
    pub(crate) gives_back: bool,
    pub(crate) progress: Option<Bound<'py, PyAny>>,
}

/// What bounds the choice where the caller does not say.
fn own_visible(py: Python<'_>) -> PyResult<Option<String>> {
    const NAME: &str = "CUDA_VISIBLE_DEVICES";
    let environment = py.import("os")?.getattr("environ")?;
    let value = call_method(&environment, "get", (NAME,))?;
    if value.is_none() { Ok(None) } else { text(NAME, &value).map(Some) }
}

impl<'py> Requested<'py> {
    pub(crate) fn from_options(
        py: Python<'py>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Self> {
        let mut of: Vec<(&str, LeaseRequest)> = Vec::new();
        let mut visible = None;
        let mut said_visible = false;
        let (mut gives_back, mut progress) = (false, None);
        // What a lease is of is known first: the rest is said of it.
        let pairs: Vec<(String, Bound<'py, PyAny>)> = match options {
            Some(options) => options
                .extract::<Bound<'py, PyDict>>()?
                .iter()
                .map(|(key, value)| (key.to_string(), value))
                .collect(),
            None => Vec::new(),
        };
        for (key, value) in pairs.iter().filter(|(_, value)| !value.is_none()) {
            match key.as_str() {
                "gpu" => of.push(("gpu", LeaseRequest::gpu(selector("gpu", value)?))),
                "mig" => of.push(("mig", mig(value)?)),
                "share" => of.push(("share", share(value)?)),
                _ => {}
            }
        }
        if of.len() > 1 {
            let names: Vec<_> = of.iter().map(|(name, _)| *name).collect();
            let why = "only one of gpu, mig and share can be asked for";
            return Err(refused(py, &names.join(", "), why));
        }
        let mut request = of.pop().map_or_else(LeaseRequest::any, |(_, request)| request);
        for (key, value) in &pairs {
            if key == "visible" {
                said_visible = value.cast::<PyEllipsis>().is_err();
                if said_visible && !value.is_none() {
                    visible = Some(text(key, value)?);
                }
                continue;
            }
            if key == "timeout" {
                request = request.timeout(timeout(key, value)?);
                continue;
            }
            request = match key.as_str() {
                "gpu" | "mig" | "share" => request,
                "count" => request.count(positive(key, value)?),
                "create" => request.create(flag(key, value)?),
                "give_back" => {
                    gives_back = flag(key, value)?;
                    request.give_back(gives_back)
                }
                "allow_hazards" => {
                    hazards(key, value)?.into_iter().fold(request, LeaseRequest::allow_hazard)
                }
                "progress" => {
                    progress = Some(value.clone()).filter(|value| !value.is_none());
                    request
                }
                "thread_percentage" if value.is_none() => request,
                "thread_percentage" => request.thread_percentage(percentage(key, value)?),
                "pinned_memory" if value.is_none() => request,
                "pinned_memory" => request.pinned_memory_limit(size(key, value)?),
                "min_memory" if value.is_none() => request,
                "min_memory" => request.min_memory(size(key, value)?),
                "min_sm_count" if value.is_none() => request,
                "min_sm_count" => request.min_sm_count(number(key, value)?),
                "for_pid" if value.is_none() => request,
                "for_pid" => request.for_pid(pid(key, value)?),
                _ => {
                    let why = format!("lease() got an unexpected keyword argument '{key}'");
                    return Err(PyTypeError::new_err(why));
                }
            };
        }
        if !said_visible {
            visible = own_visible(py)?;
        }
        if let Some(visible) = visible {
            request = request.visible(visible);
        }
        // Said where it stands, and not when a decorated function is called.
        Listener::new(progress.clone())?;
        Ok(Self { request, gives_back, progress })
    }
}

fn mig(value: &Bound<'_, PyAny>) -> PyResult<LeaseRequest> {
    let profile = text("mig", value)?;
    if profile == "any" {
        return Ok(LeaseRequest::any_mig());
    }
    let profile = profile.parse().map_err(|error| refused_by(value.py(), "mig", error))?;
    Ok(LeaseRequest::mig(profile))
}

fn share(value: &Bound<'_, PyAny>) -> PyResult<LeaseRequest> {
    if let Ok(share) = value.cast::<Share>() {
        return Ok(LeaseRequest::share(share.get().0.id.clone()));
    }
    if !value.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("share: give the id of a share, or a Share"));
    }
    let share = text("share", value)?;
    let share = share.parse().map_err(|error| refused_by(value.py(), "share", error))?;
    Ok(LeaseRequest::share(share))
}
