//! Nodes.

use std::sync::Arc;

use gpushare_core::fork::Caller;
use gpushare_core::log::Dispatch;
use gpushare_core::{Error, ErrorCode, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::advise::{self, Advice};
use crate::arguments;
use crate::call::{Call, Listener};
use crate::callback::call;
use crate::doctor::Diagnosis;
use crate::document::{simulated, tuple};
use crate::event::Teller;
use crate::lease::Lease;
use crate::leases::LeaseList;
use crate::log;
use crate::mps::{self, Attachment, Hazard, Split};
use crate::plan::Plan;
use crate::report::Report;
use crate::request::Requested;
use crate::resolve::Resolution;
use crate::snapshot::Snapshot;
use crate::snapshot::gpu::Gpu;
use crate::spec;

/// A node as one process opened it.
#[derive(Debug)]
pub(crate) struct State {
    node: gpushare_core::Node,
    /// The process that opened it.
    opener: Caller,
    log: Option<Dispatch>,
    /// The fleet that was asked for, where it is simulated and the caller said it.
    sim: Option<String>,
}

impl State {
    pub(crate) const fn log(&self) -> Option<&Dispatch> {
        self.log.as_ref()
    }

    pub(crate) fn is_simulated(&self) -> bool {
        self.node.is_simulated()
    }

    /// Whether this is the process that opened it.
    pub(crate) fn is_own(&self) -> bool {
        self.opener.is_this()
    }

    /// Refuses a forked child.
    pub(crate) fn expect_own(&self) -> Result<()> {
        if self.is_own() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidState,
            format!(
                "process {} opened this node, and this is a forked child of it; open a gpushare.Node of its own here, or call from the parent",
                self.opener.pid()
            ),
        ))
    }

    /// The node. Calls go through [`Call`], which refuses a forked child.
    pub(crate) const fn node(&self) -> &gpushare_core::Node {
        &self.node
    }
}

/// The GPUs of one machine, real or simulated.
///
/// A handle that threads can share. Nothing is held open between calls. Everything that is not given is
/// taken from the environment where that has it (``GPUSHARE_SIM``, ``GPUSHARE_STATE_DIR``,
/// ``GPUSHARE_NVML_PATH``, ``GPUSHARE_NVIDIA_SMI``, ``GPUSHARE_MPS_CONTROL``), unless the program is set-id.
///
/// :param sim: a simulated node: ``"8xH100-80GB"``, ``"2xA100-40GB,1xA30-24GB"``. Without a state
///     directory it is in memory and this object's own.
/// :param state_dir: where records, journals, locks and leases are, instead of ``/var/lib/gpushare``
///     and ``/run/gpushare``. A relative path counts from the directory that the process is in now.
/// :param nvml_path: the driver's library instead of the system's ``libnvidia-ml.so.1``, an absolute path;
///     ``nvidia_smi`` and ``mps_control`` likewise.
/// :param log_level: forwards what happens within the calls of this node to ``logging``, from that level
///     on, to loggers below ``gpushare``; ``gpushare.audit`` has each change of the hardware. None
///     forwards nothing.
#[pyclass(frozen, module = "gpushare", weakref)]
#[derive(Debug)]
pub(crate) struct Node(pub(crate) Arc<State>);

impl Node {
    pub(crate) fn call<'a>(&'a self, name: &'static str) -> Call<'a> {
        Call::named(name).of(&self.0)
    }
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (*, sim=None, state_dir=None, nvml_path=None, nvidia_smi=None, mps_control=None, log_level=None))]
    fn new(
        py: Python<'_>,
        sim: Option<&Bound<'_, PyAny>>,
        state_dir: Option<&Bound<'_, PyAny>>,
        nvml_path: Option<&Bound<'_, PyAny>>,
        nvidia_smi: Option<&Bound<'_, PyAny>>,
        mps_control: Option<&Bound<'_, PyAny>>,
        log_level: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let sim = sim.map(|sim| arguments::text("sim", sim)).transpose()?;
        let path = |key, given: Option<&Bound<'_, PyAny>>| {
            given.map(|given| arguments::path(key, given)).transpose()
        };
        let state_dir = path("state_dir", state_dir)?;
        let nvml_path = path("nvml_path", nvml_path)?;
        let nvidia_smi = path("nvidia_smi", nvidia_smi)?;
        let mps_control = path("mps_control", mps_control)?;
        let log = log_level.map(|level| log::dispatch(py, level)).transpose()?;
        let node = Call::named("Node").run(py, || {
            let mut builder = gpushare_core::Node::builder();
            if let Some(sim) = &sim {
                builder = builder.sim(sim);
            }
            if let Some(directory) = state_dir {
                builder = builder.state_dir(directory);
            }
            if let Some(library) = nvml_path {
                builder = builder.nvml_path(library);
            }
            if let Some(program) = nvidia_smi {
                builder = builder.nvidia_smi(program);
            }
            if let Some(program) = mps_control {
                builder = builder.mps_control(program);
            }
            builder.open()
        })?;
        Ok(Self(Arc::new(State { node, opener: Caller::this(), log, sim })))
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.is_simulated()
    }

    /// The GPUs, observed anew each time. Needs no privilege.
    #[getter]
    fn gpus<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let snapshot = self.call("Node.gpus").run(py, || self.0.node().snapshot())?;
        tuple(py, snapshot.gpus.into_iter().map(|gpu| Gpu(Arc::new(gpu))))
    }

    /// The state of the whole node now. Needs no privilege, and says what it could not see.
    fn status(&self, py: Python<'_>) -> PyResult<Snapshot> {
        let snapshot = self.call("Node.status").run(py, || self.0.node().snapshot())?;
        Ok(Snapshot(Arc::new(snapshot)))
    }

    /// The state of the whole node now in dicts, lists and plain values: ``status().to_dict()``.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        crate::document::shown(py, &*self.status(py)?.0)
    }

    /// Plans the way to a spec. Changes nothing, and asks no consent.
    ///
    /// :param spec: a dict; the path of a file; or the text of a spec, YAML or JSON. A ``str`` is text when
    ///     it has a line break or begins with ``{``, and else a path.
    fn plan(&self, py: Python<'_>, spec: &Bound<'_, PyAny>) -> PyResult<Plan> {
        let given = spec::given(spec)?;
        let plan = self.call("Node.plan").run(py, || self.0.node().plan(&given.read()?))?;
        Ok(Plan::new(plan, self.0.clone()))
    }

    /// Leases what is asked for, or waits for it as long as ``timeout`` says. Use it with ``with``.
    ///
    /// At most one of ``gpu``, ``mig`` and ``share``; without them any share of any GPU.
    ///
    /// :param gpu: a share of that GPU: NVML's index (never a CUDA ordinal), a uuid or the beginning of
    ///     one, a PCI address, ``"all"`` for any, or a :class:`Gpu`.
    /// :param mig: a MIG device of that profile, ``"1g.10gb"``; ``"1g"`` is the smallest of a GPU, ``"any"``
    ///     the smallest that has what is asked for.
    /// :param share: that share, by its id.
    /// :param visible: only what a process with that value of ``CUDA_VISIBLE_DEVICES`` would see; by
    ///     default that of this process, None for everything.
    /// :param count: several shares, all or none, of different devices where there are enough.
    /// :param thread_percentage: MPS: the share of threads that the tenant is asked to take.
    /// :param pinned_memory: MPS: the device memory that it is asked to take, its context included.
    /// :param min_memory: devices with at least that much memory: bytes, or text like ``"20GiB"``. In text every
    ///     spelling is a power of 1024, as MPS has it: ``"20GB"`` is ``"20GiB"``, and ``20e9`` is 20 * 10^9.
    /// :param min_sm_count: devices with at least that many multiprocessors.
    /// :param timeout: seconds to wait, first come first served: 0 does not wait, None waits for ever.
    /// :param create: creates the MIG device where none is free. Needs root; nothing is destroyed for it.
    /// :param give_back: destroys what was created when the lease is released, or its ``with`` ends: not when
    ///     it is collected.
    /// :param for_pid: notes that the share is held for that process, which is another one.
    /// :param allow_hazards: names of hazards of the terms that are accepted.
    /// :param progress: called with an :class:`Event` every 100 ms of waiting; what it raises ends it.
    #[pyo3(signature = (*given, **options), text_signature = "($self, *, gpu=None, mig=None, share=None, visible=..., count=1, thread_percentage=None, pinned_memory=None, min_memory=None, min_sm_count=None, timeout=0, create=False, give_back=False, for_pid=None, allow_hazards=(), progress=None)")]
    fn lease(
        &self,
        py: Python<'_>,
        given: &Bound<'_, PyTuple>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Lease> {
        expect_keywords_alone("lease", given)?;
        let Requested { request, gives_back, progress } = Requested::from_options(py, options)?;
        let mut listener = Listener::new(progress)?;
        let call = self.call("Node.lease").changes();
        let leased = call.run_heard(py, &mut listener, |listener| {
            let mut teller = Teller::new(listener);
            self.0.node().lease_with(&request, |wait| teller.hear_wait(wait))
        })?;
        Lease::new(py, leased, self.0.clone(), gives_back)
    }

    /// Decorates a function that is to have a lease: each call takes one, gives it to the function as its
    /// first argument, and gives it back at the end. Takes what :meth:`lease` takes. A method takes its lease
    /// inside: its first argument is its own.
    #[pyo3(signature = (*given, **options), text_signature = "($self, *, gpu=None, mig=None, share=None, visible=..., count=1, thread_percentage=None, pinned_memory=None, min_memory=None, min_sm_count=None, timeout=0, create=False, give_back=False, for_pid=None, allow_hazards=(), progress=None)")]
    fn leased<'py>(
        slf: &Bound<'py, Self>,
        given: &Bound<'py, PyTuple>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        expect_keywords_alone("leased", given)?;
        // What is wrong with them is said where they stand, and not when the function is called.
        Requested::from_options(py, options)?;
        let options = options.cloned().unwrap_or_else(|| PyDict::new(py));
        call(&py.import("gpushare._leased")?.getattr("leased")?, (slf, options))
    }

    /// Who has which share.
    fn leases(&self, py: Python<'_>) -> PyResult<LeaseList> {
        let list = self.call("Node.leases").run(py, || self.0.node().leases())?;
        Ok(LeaseList(Arc::new(list)))
    }

    /// Stops new leases of a GPU until :meth:`uncordon`. Leases that are there stay. Needs root.
    #[pyo3(signature = (gpu, reason))]
    fn cordon(
        &self,
        py: Python<'_>,
        gpu: &Bound<'_, PyAny>,
        reason: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (gpu, reason) = (arguments::selector("gpu", gpu)?, arguments::text("reason", reason)?);
        self.call("Node.cordon").run(py, || {
            let node = self.0.node();
            node.select(&gpu)?.iter().try_for_each(|gpu| node.cordon(gpu, &reason))
        })
    }

    /// Lets a GPU's shares be leased again. Needs root.
    #[pyo3(signature = (gpu))]
    fn uncordon(&self, py: Python<'_>, gpu: &Bound<'_, PyAny>) -> PyResult<()> {
        let gpu = arguments::selector("gpu", gpu)?;
        self.call("Node.uncordon").run(py, || {
            let node = self.0.node();
            node.select(&gpu)?.iter().try_for_each(|gpu| node.uncordon(gpu))
        })
    }

    /// Settles what dead appliers left: rolls it back, or else finishes it. Needs root.
    ///
    /// :param timeout: seconds to wait for locks: 0 does not wait, None waits for ever.
    #[pyo3(signature = (progress=None, *, timeout=Given::No), text_signature = "($self, progress=None, *, timeout=0)")]
    fn recover(
        &self,
        py: Python<'_>,
        progress: Option<Bound<'_, PyAny>>,
        timeout: Given<'_>,
    ) -> PyResult<Report> {
        let mut options = gpushare_core::ApplyOptions::new();
        if let Given::Yes(timeout) = timeout {
            options = options.timeout(arguments::timeout("timeout", &timeout)?);
        }
        let mut listener = Listener::new(progress)?;
        let call = self.call("Node.recover").changes();
        let report = call.run_heard(py, &mut listener, |listener| {
            let mut teller = Teller::new(listener);
            self.0.node().recover_with(&options, |event| teller.hear(event))
        })?;
        Ok(Report(Arc::new(report)))
    }

    /// What stands in the way of sharing GPUs here, and what mends it. Needs no privilege.
    fn doctor(&self, py: Python<'_>) -> PyResult<Diagnosis> {
        let found = self.call("Node.doctor").run(py, || Ok(self.0.node().doctor()))?;
        Ok(Diagnosis(Arc::new(found)))
    }

    /// The node in Prometheus' text format: modes, MIG devices, shares and leases, who computes with how
    /// much memory by which lease, MPS daemons, hazards in force, and transitions by what came of them.
    /// What this user may not see is missing.
    fn metrics(&self, py: Python<'_>) -> PyResult<String> {
        self.call("Node.metrics").run(py, || self.0.node().metrics())
    }

    /// Which way to share suits a workload here, and the spec that does it.
    ///
    /// :param count: how many processes at the same time.
    /// :param memory: the device memory of each, its CUDA context included.
    /// :param kernels: whether one kernel fills a GPU: ``"small"``, ``"large"`` or ``"unknown"``.
    /// :param isolation: what must hold between them: ``"none"``, ``"limits"`` or ``"strict"``.
    /// :param style: how they use a GPU over time: ``"interactive"``, ``"batch"`` or ``"unknown"``.
    /// :param half_precision: whether they compute in bf16 or fp16.
    /// :param gpu: these GPUs alone.
    #[pyo3(signature = (count=Given::No, *, memory=None, kernels=Given::No, isolation=Given::No, style=Given::No, half_precision=Given::No, gpu=None), text_signature = "($self, count=1, *, memory=None, kernels='unknown', isolation='none', style='unknown', half_precision=True, gpu=None)")]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python's")]
    fn advise(
        &self,
        py: Python<'_>,
        count: Given<'_>,
        memory: Option<&Bound<'_, PyAny>>,
        kernels: Given<'_>,
        isolation: Given<'_>,
        style: Given<'_>,
        half_precision: Given<'_>,
        gpu: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Advice> {
        let workload = advise::workload(
            py,
            &count,
            memory,
            [
                ("kernels", &kernels, "small, large or unknown"),
                ("isolation", &isolation, "none, limits or strict"),
                ("style", &style, "interactive, batch or unknown"),
            ],
            &half_precision,
        )?;
        let gpu = gpu.map(|gpu| arguments::selector("gpu", gpu)).transpose()?;
        let advice = self.call("Node.advise").run(py, || {
            let node = self.0.node();
            let only = gpu.map(|gpu| node.select(&gpu)).transpose()?;
            let snapshot = node.snapshot()?;
            Ok(gpushare_core::advise::advise_on(&snapshot, &workload, only.as_deref()))
        })?;
        Ok(Advice(Arc::new(advice)))
    }

    /// Behind :func:`gpushare.resolve_visible_devices`.
    fn _resolve(&self, py: Python<'_>, string: Option<&Bound<'_, PyAny>>) -> PyResult<Resolution> {
        let string = string.map(|string| arguments::text("string", string)).transpose()?;
        let resolution = self
            .call("resolve_visible_devices")
            .run(py, || self.0.node().resolve_visible_devices(string.as_deref()))?;
        Ok(Resolution(Arc::new(resolution)))
    }

    /// Behind :func:`gpushare.mps.verify`.
    fn _verify_mps(&self, py: Python<'_>, pid: &Bound<'_, PyAny>) -> PyResult<Attachment> {
        let pid = arguments::pid("pid", pid)?;
        let found = self.call("mps.verify").run(py, || self.0.node().verify_mps(pid))?;
        Ok(Attachment(Arc::new(found)))
    }

    /// Behind :func:`gpushare.mps.split`.
    fn _split_mps(
        &self,
        py: Python<'_>,
        parts: &Bound<'_, PyAny>,
        gpu: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Split> {
        let parts = arguments::number("n", parts)?;
        let gpu = gpu.map(|gpu| arguments::selector("gpu", gpu)).transpose()?;
        let found = self.call("mps.split").run(py, || mps::split(self.0.node(), parts, gpu))?;
        Ok(Split(Arc::new(found)))
    }

    /// Behind :func:`gpushare.mps.hazards`.
    fn _hazards_mps<'py>(
        &self,
        py: Python<'py>,
        mps: &Bound<'_, PyAny>,
        gpu: &Bound<'_, PyAny>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let config = mps::config(mps)?;
        let gpu = arguments::selector("gpu", gpu)?;
        let found =
            self.call("mps.hazards").run(py, || self.0.node().mps_hazards(&gpu, &config))?;
        tuple(py, found.iter().map(Hazard::from))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a gpushare.Node is the handle of one process and cannot be pickled or copied: open another gpushare.Node, with the same arguments, in the process that needs it",
        ))
    }

    fn __repr__(&self) -> String {
        let named = match &self.0.sim {
            Some(fleet) => format!(" {fleet}"),
            None => String::new(),
        };
        format!("<gpushare.Node{named}{}>", simulated(self.0.is_simulated()))
    }
}

/// What is asked for has names: a number in the first place could be a GPU, or how many.
fn expect_keywords_alone(name: &str, given: &Bound<'_, PyTuple>) -> PyResult<()> {
    if given.is_empty() {
        return Ok(());
    }
    let why = format!("{name}() takes keywords alone: {name}(gpu=0), {name}(mig=\"1g.10gb\")");
    Err(PyTypeError::new_err(why))
}

/// An argument that has a meaning when it is None: what Python's Option would take for not given.
#[derive(Debug)]
pub(crate) enum Given<'py> {
    No,
    Yes(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Yes(object.to_owned()))
    }
}
