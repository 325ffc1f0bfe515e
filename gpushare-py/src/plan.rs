//! Plans.

use std::sync::Arc;

use gpushare_core::apply::Source;
use gpushare_core::id::GpuUuid;
use gpushare_core::plan;
use gpushare_core::{ApplyOptions, Error, ErrorCode};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::call::{Call, Listener};
use crate::cdi::Specified;
use crate::document::{
    document_class, hash, json, repr, shown, shows_drawing, shows_text, texts, tuple,
};
use crate::error::{exception, refused_by};
use crate::event::Teller;
use crate::hook::Hooked;
use crate::mps::Hazard;
use crate::node::{Given, Node, State};
use crate::report::Report;
use crate::snapshot::parts::holders;
use crate::words;

/// The steps from the state of a node to what was asked for, and what they need.
///
/// ``str()`` explains it. It pickles, and goes on as a document: :meth:`apply` then plans again, and what
/// comes out must be the same.
#[pyclass(frozen, module = "gpushare", weakref)]
#[derive(Debug)]
pub(crate) struct Plan {
    plan: Arc<plan::Plan>,
    /// The node that it was made on; none for one that was a document.
    state: Option<Arc<State>>,
}

shows_drawing!(Plan);

impl Plan {
    pub(crate) fn new(plan: plan::Plan, state: Arc<State>) -> Self {
        Self { plan: Arc::new(plan), state: Some(state) }
    }
}

#[pymethods]
impl Plan {
    /// Whether there is nothing to do.
    #[getter]
    fn is_noop(&self) -> bool {
        self.plan.noop
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.plan.simulated
    }

    /// What is done, in this order.
    #[getter]
    fn steps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let steps = self.plan.gpus.iter().flat_map(|gpu| {
            let of = |step: &plan::Step| Told { gpu: gpu.uuid.clone(), step: step.clone() };
            gpu.steps.iter().map(move |step| Step(Arc::new(of(step))))
        });
        tuple(py, steps)
    }

    /// The plan for each selected GPU, by uuid.
    #[getter]
    fn gpus<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.plan.gpus.iter().map(GpuPlan::from))
    }

    /// What :meth:`apply` must be allowed to do.
    #[getter]
    fn needs(&self) -> Needs {
        Needs::from(&self.plan.needs)
    }

    /// SHA-256 over the structure of the selected GPUs, what was asked for, and the steps.
    #[getter]
    fn digest(&self) -> &str {
        &self.plan.digest
    }

    /// Applies it, if the GPUs are still as it was made for. Needs root.
    ///
    /// After it every GPU is in the old state or in the new one. What ``progress`` raises, and Ctrl-C,
    /// stop it: what was done is rolled back, and that is raised, with gpushare's own error as its cause.
    ///
    /// :param progress: called with an :class:`Event` at each step and every 100 ms of waiting.
    /// :param allow_evict: ends the processes that are in the way.
    /// :param allow_reset: resets GPUs where that is the only way.
    /// :param allow_hazards: the names of hazards that are accepted.
    /// :param timeout: seconds to wait for locks: 0 does not wait, None waits for ever.
    /// :param drain: seconds that processes in the way have to go by themselves.
    /// :param grace: seconds between SIGTERM and SIGKILL of an evicted process.
    /// :param hooks: what is done around the change, such as to stop the monitors that hold a GPU open: a
    ///     function that is called ``hook(moment, plan, error, gpu)`` at each :class:`Moment`, ``error`` at the
    ///     failure and ``gpu``, a uuid, before its mode changes, each None elsewhere. Or the path of a directory
    ///     with programs called ``pre-apply``, ``pre-mode``, ``post-apply`` and ``failure``, as far as they are
    ///     there, which read the plan as JSON.
    ///     Nothing is called where nothing is to do. What a function raises before the change stops it, as
    ///     ``progress`` does; an Exception after it is in ``report.failed_hooks``, or in the error.
    /// :param hook_timeout: seconds that each of the programs may take. Ctrl-C is heard when it has ended.
    /// :param cdi: the directory in which the GPUs of this plan have CDI specifications from now on, such as
    ///     ``"/var/run/cdi"``, where container runtimes look: a container gets a share by
    ///     ``gpushare.dev/share=NAME``. They follow every change of these GPUs, also one that does not ask for it,
    ///     and are written when nothing else is to do. A relative path counts from the directory that the process
    ///     is in now. False removes them, and there are none from now on; None leaves it as it is.
    /// :param cdi_program: the absolute path of the ``gpushare`` command with which each container takes a lease
    ///     of its share, such as :func:`command_path`; the container runtime starts it. None for containers
    ///     without leases. It goes with ``cdi``.
    /// :param node: the node to apply it on, for a plan that was unpickled.
    #[pyo3(
        signature = (progress=None, *, allow_evict=Given::No, allow_reset=Given::No, allow_hazards=Given::No, timeout=Given::No, drain=Given::No, grace=Given::No, hooks=None, hook_timeout=Given::No, cdi=None, cdi_program=None, node=None),
        text_signature = "($self, progress=None, *, allow_evict=False, allow_reset=False, allow_hazards=(), timeout=0, drain=0, grace=30, hooks=None, hook_timeout=60, cdi=None, cdi_program=None, node=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python's")]
    fn apply(
        &self,
        py: Python<'_>,
        progress: Option<Bound<'_, PyAny>>,
        allow_evict: Given<'_>,
        allow_reset: Given<'_>,
        allow_hazards: Given<'_>,
        timeout: Given<'_>,
        drain: Given<'_>,
        grace: Given<'_>,
        hooks: Option<&Bound<'_, PyAny>>,
        hook_timeout: Given<'_>,
        cdi: Option<&Bound<'_, PyAny>>,
        cdi_program: Option<&Bound<'_, PyAny>>,
        node: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Report> {
        let mut options = ApplyOptions::new();
        if let Given::Yes(allowed) = allow_evict {
            options = options.allow_evict(arguments::flag("allow_evict", &allowed)?);
        }
        if let Given::Yes(allowed) = allow_reset {
            options = options.allow_reset(arguments::flag("allow_reset", &allowed)?);
        }
        if let Given::Yes(names) = allow_hazards {
            for hazard in arguments::hazards("allow_hazards", &names)? {
                options = options.allow_hazard(hazard);
            }
        }
        if let Given::Yes(timeout) = timeout {
            options = options.timeout(arguments::timeout("timeout", &timeout)?);
        }
        if let Given::Yes(drain) = drain {
            options = options.drain(arguments::seconds("drain", &drain)?);
        }
        if let Given::Yes(grace) = grace {
            options = options.grace(arguments::seconds("grace", &grace)?);
        }
        let specified = Specified::new(cdi, cdi_program)?;
        let given = node.map(|node| match node.cast::<Node>() {
            Ok(node) => Ok(node.get().0.clone()),
            Err(_) => Err(arguments::wrong_type("node", node, "a gpushare.Node")),
        });
        let given = given.transpose()?;
        let Some(state) = given.or_else(|| self.state.clone()) else {
            let why = "this plan was a document, and knows no node: give apply(node=…)";
            let error = Error::new(ErrorCode::InvalidState, why);
            return Err(exception(py, &error, Some(self.plan.simulated)));
        };
        let mut listener = Listener::new(progress)?;
        let hooks = Hooked::new(hooks, hook_timeout, &state, listener.raised())?;
        let call = Call::named("Plan.apply").of(&state).changes();
        let report = call.run_heard(py, &mut listener, |listener| {
            let options = match &hooks {
                Some(hooked) => options.hooks(hooked.hooks(state.node())?),
                None => options,
            };
            let options = options.cdi(specified.specifications(state.node())?);
            let mut teller = Teller::new(listener);
            let source = Source::Plan(&self.plan);
            state.node().apply_with(source, &options, |event| teller.hear(event))
        })?;
        Ok(Report(Arc::new(report)))
    }

    /// The same in dicts, lists and plain values: what the command line prints with ``--json``.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, &*self.plan)
    }

    #[staticmethod]
    fn _from_json(py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<Self> {
        let text = arguments::text("Plan", text)?;
        let plan = plan::Plan::from_json(&text).map_err(|error| refused_by(py, "Plan", error))?;
        Ok(Self { plan: Arc::new(plan), state: None })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.getattr("_from_json")?, (slf.get().plan.to_json(),)))
    }

    // Of what is no plan, it is the other's to say.
    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        // Whether its steps were computed here does not count.
        json(&*self.plan) == json(&*other.get().plan)
    }

    fn __hash__(&self) -> u64 {
        hash(&*self.plan)
    }

    fn __str__(&self) -> String {
        self.plan.to_string()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        repr(py, "Plan", &*self.plan)
    }
}

document_class!(
    /// The plan for one GPU.
    GpuPlan,
    plan::GpuPlan
);
shows_text!(GpuPlan);

#[pymethods]
impl GpuPlan {
    /// The GPU.
    #[getter]
    fn uuid(&self) -> &str {
        self.0.uuid.as_str()
    }

    /// NVML's index.
    #[getter]
    fn index(&self) -> Option<u32> {
        self.0.index.map(|index| index.get())
    }

    /// Its model.
    #[getter]
    fn model(&self) -> &str {
        &self.0.model
    }

    /// The mode that it is in.
    #[getter]
    fn mode_before<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::mode(py, self.0.from)
    }

    /// The mode that it will be in.
    #[getter]
    fn mode_after<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::mode(py, self.0.to)
    }

    /// The uuids of MIG devices that stay.
    #[getter]
    fn kept<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, self.0.keep.iter().flat_map(|kept| &kept.uuids))
    }

    /// The profiles of which one would still fit beside the instances afterwards.
    #[getter]
    fn fits_after<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, self.0.fits_after.iter().map(|fit| &fit.profile))
    }

    /// What a person should know.
    #[getter]
    fn notes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.notes)
    }
}

/// A step and its GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    gpu: GpuUuid,
    #[serde(flatten)]
    step: plan::Step,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.step.fmt(f)
    }
}

document_class!(
    /// One change of one GPU. ``str()`` says it in words.
    Step,
    Told
);
shows_text!(Step);

#[pymethods]
impl Step {
    /// The uuid of the GPU.
    #[getter]
    fn gpu(&self) -> &str {
        self.0.gpu.as_str()
    }

    /// What kind of change: ``create_gpu_instance``, ``set_compute_mode``, ``start_mps``, …
    #[getter]
    fn kind(&self) -> String {
        let document = serde_json::to_value(&self.0.step).unwrap_or_default();
        document["step"].as_str().unwrap_or_default().to_owned()
    }
}

document_class!(
    /// What apply must be allowed to do. True where it is anything.
    Needs,
    plan::Needs
);

#[pymethods]
impl Needs {
    /// Holders that must go: ``allow_evict``.
    #[getter]
    fn evict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.evict.iter().map(Eviction::from))
    }

    /// The uuids of GPUs that may be reset: ``allow_reset``.
    #[getter]
    fn reset<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.reset)
    }

    /// Hazards that must be accepted: ``allow_hazards``.
    #[getter]
    fn hazards<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.hazards.iter().map(Hazard::from))
    }

    fn __bool__(&self) -> bool {
        !self.0.is_empty()
    }
}

document_class!(
    /// Holders that must go.
    Eviction,
    plan::Eviction
);

#[pymethods]
impl Eviction {
    /// The uuid of the GPU.
    #[getter]
    fn gpu(&self) -> &str {
        self.0.gpu.as_str()
    }

    /// What they hold.
    #[getter]
    fn what(&self) -> &str {
        &self.0.what
    }

    /// Who they are; empty where it could not be seen.
    #[getter]
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        holders(py, &self.0.holders)
    }
}
