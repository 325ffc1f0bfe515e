//! Leases.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpushare_core::lease::{self, CudaDevice, Grant};
use gpushare_core::mode::Verdict;
use gpushare_core::units::Bytes;
use gpushare_core::{Error, ErrorCode, Result};
use pyo3::exceptions::{PyResourceWarning, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::arguments;
use crate::call::Call;
use crate::callback::{call, call_method, call_with};
use crate::document::{document_class, loads, simulated, texts, tuple, word};
use crate::error::exception;
use crate::mps::Attachment;
use crate::node::State;
use crate::words;

/// The right of one process tree to one share, or to several.
///
/// It lasts until :meth:`release`, the end of ``with``, collection (with a ResourceWarning), or the end of
/// this process; and where :meth:`fileno` handed it on, until the last process that has it is gone. Only
/// the first two destroy what was created for it, where ``give_back`` said so.
#[pyclass(frozen, module = "gpushare", weakref)]
#[derive(Debug)]
pub(crate) struct Lease {
    state: Arc<State>,
    /// None when it was given back. It is never locked while something is done with the lease, which can
    /// call Python; who is the last to do so gives back what was released meanwhile.
    lease: Mutex<Option<Arc<lease::Lease>>>,
    name: String,
    grants: Vec<Grant>,
    variables: Vec<(String, String)>,
    unset: Vec<String>,
    document: String,
    private: bool,
    /// Whether what was created for it is to be destroyed.
    gives_back: bool,
    /// What it changed in `os.environ`: an `Activation`, made where it was taken.
    activation: Py<PyAny>,
}

impl Lease {
    pub(crate) fn new(
        py: Python<'_>,
        lease: lease::Lease,
        state: Arc<State>,
        gives_back: bool,
    ) -> PyResult<Self> {
        let activation = match activation(py, lease.name()) {
            Ok(activation) => activation,
            Err(error) => {
                // It waits for who forks, who waits for the GIL.
                py.detach(|| drop(lease));
                return Err(error);
            }
        };
        let pair = |(name, value): (&String, &String)| (name.clone(), value.clone());
        Ok(Self {
            state,
            gives_back,
            activation,
            name: lease.name().to_owned(),
            grants: lease.grants().to_vec(),
            variables: lease.variables().iter().map(pair).collect(),
            unset: lease.unset().iter().cloned().collect(),
            document: lease.to_json(),
            private: lease.scope() == gpushare_core::port::LeaseScope::Private,
            lease: Mutex::new(Some(Arc::new(lease))),
        })
    }

    fn call<'a>(&'a self, name: &'static str) -> Call<'a> {
        Call::named(name).of(&self.state)
    }

    /// Does something with the lease, where it was not given back.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        name: &'static str,
        what: impl FnOnce(&lease::Lease) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.call(name).run(py, || {
            let Some(lease) = self.held().clone() else {
                return Err(Error::new(ErrorCode::InvalidState, "the lease was given back"));
            };
            let answer = what(&lease);
            let released = Arc::into_inner(lease).map_or(Ok(()), lease::Lease::release);
            answer.and_then(|answer| released.map(|()| answer))
        })
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<lease::Lease>>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one grant of a lease of one share.
    fn one(&self, py: Python<'_>, what: &str) -> PyResult<&Grant> {
        match &self.grants[..] {
            [grant] => Ok(grant),
            grants => {
                let count = grants.len();
                let why =
                    format!("the lease is of {count} shares: ask each of lease.shares for {what}");
                let error = Error::new(ErrorCode::InvalidState, why);
                Err(exception(py, &error, Some(self.state.is_simulated())))
            }
        }
    }

    fn give_back(&self, py: Python<'_>) -> PyResult<()> {
        // A forked child gave it up when it was forked, and it goes on in the parent.
        if !self.state.is_own() {
            return Ok(());
        }
        let released = self.call("Lease.release").changes().run(py, || {
            let lease = self.held().take();
            lease.and_then(Arc::into_inner).map_or(Ok(()), lease::Lease::release)
        });
        call_method(self.activation.bind(py), "put_back", ())?;
        released
    }
}

fn activation(py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
    static ACTIVATION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let environment = py.import("os")?.getattr("environ")?;
    let class = ACTIVATION.import(py, "gpushare._environment", "Activation")?;
    Ok(call(class, (name, environment))?.unbind())
}

#[pymethods]
impl Lease {
    /// Its name, which ``gpushare leases`` shows.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was given back.
    #[getter]
    fn released(&self) -> bool {
        !self.state.is_own() || self.held().is_none()
    }

    /// Whether it holds for this user's processes alone, because gpushare is not set up on this node.
    #[getter]
    fn private(&self) -> bool {
        self.private
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.state.is_simulated()
    }

    /// What it gives, by share.
    #[getter]
    fn shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.grants.iter().map(LeasedShare::from))
    }

    /// The id of its share, where it is one.
    #[getter]
    fn share(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.one(py, "its id")?.share.to_string())
    }

    /// The device memory in bytes that the tenant can use at most; None where unknown.
    #[getter]
    fn memory_bytes(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.one(py, "its memory_bytes")?.memory.map(|memory| memory.get()))
    }

    /// The multiprocessors that the tenant can use at most; None where unknown.
    #[getter]
    fn sm_count(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        Ok(self.one(py, "its sm_count")?.sm_count)
    }

    /// The variables that the tenant's environment needs set.
    #[getter]
    fn variables<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let variables = PyDict::new(py);
        for (name, value) in &self.variables {
            variables.set_item(name, value)?;
        }
        Ok(variables)
    }

    /// The names of variables that the tenant's environment must not have.
    #[getter]
    fn unset<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.unset)
    }

    /// The environment of a tenant: a copy of ``base``, by default ``os.environ``, with both done. Of a
    /// lease that lasts.
    #[pyo3(signature = (base=None))]
    fn env<'py>(
        &self,
        py: Python<'py>,
        base: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        self.with(py, "Lease.env", |_| Ok(()))?;
        let environment = PyDict::new(py);
        let base = match base {
            Some(base) => base.clone(),
            None => py.import("os")?.getattr("environ")?,
        };
        arguments::environment("base", &base, &environment)?;
        for name in &self.unset {
            call_method(environment.as_any(), "pop", (name, py.None()))?;
        }
        environment.update(self.variables(py)?.as_mapping())?;
        Ok(environment)
    }

    /// Makes this process its tenant: sets and removes the variables in ``os.environ``. Before CUDA begins,
    /// which reads them once: afterwards it is an InvalidStateError, since they would be ignored.
    ///
    /// CUDA begins at the first call that needs a GPU, not when torch is imported.
    ///
    /// When the lease ends, what is still as this set it is put back in ``os.environ``. A CUDA that has begun
    /// stays on the share all the same, for as long as this process lives.
    fn activate(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, "Lease.activate", |_| Ok(()))?;
        let begun = py.import("gpushare._cuda")?.getattr("begun")?;
        let begun: bool = call(&begun, ())?.extract()?;
        if begun {
            let why = "CUDA has begun in this process and has read its environment: activate the lease before anything uses a GPU, or start a process with lease.env()";
            let error = Error::new(ErrorCode::InvalidState, why);
            return Err(exception(py, &error, Some(self.state.is_simulated())));
        }
        let changes = (self.variables(py)?, self.unset(py)?);
        call_method(self.activation.bind(py), "activate", changes)?;
        Ok(())
    }

    /// The descriptor that holds its share, and hands the lease on: give it to ``pass_fds``, and the lease
    /// lasts until the children that have it are gone, too. It is the lease's own and not to be closed.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.one(py, "a descriptor, with lease.filenos()")?;
        let all = self.with(py, "Lease.fileno", lease::Lease::raw_descriptors)?;
        Ok(all.first().copied().unwrap_or(-1))
    }

    /// The same of a lease of several shares: give all of them to ``pass_fds``.
    fn filenos<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.with(py, "Lease.filenos", lease::Lease::raw_descriptors)?)
    }

    /// Whether a process is inside the lease: on its devices and on no other, and where they are an MPS
    /// daemon's, as its client. Only a true answer is a yes; who does not use CUDA yet is unknown.
    ///
    /// :param pid: the process, by default this one.
    /// :param inside: asks this process's own CUDA as well, which knows its multiprocessors exactly. CUDA
    ///     must have begun.
    #[pyo3(signature = (pid=None, *, inside=false))]
    fn verify(
        &self,
        py: Python<'_>,
        pid: Option<&Bound<'_, PyAny>>,
        inside: bool,
    ) -> PyResult<Verification> {
        if !inside {
            let pid = match pid {
                Some(pid) => arguments::pid("pid", pid)?,
                None => gpushare_core::id::Pid::new(std::process::id()),
            };
            let found = self.with(py, "Lease.verify", |lease| lease.verify(pid))?;
            return Ok(Verification(Arc::new(found)));
        }
        if pid.is_some() {
            return Err(crate::error::refused(py, "pid", "inside is of this process alone"));
        }
        let devices = py.import("gpushare._cuda")?.getattr("devices")?;
        let seen: Option<Vec<(String, u32, u64)>> = call(&devices, ())?.extract()?;
        let seen: Option<Vec<_>> = seen.map(|seen| {
            let device = |(uuid, sm_count, memory)| CudaDevice {
                uuid,
                sm_count,
                memory: Bytes::new(memory),
            };
            seen.into_iter().map(device).collect()
        });
        let found = self.with(py, "Lease.verify", |lease| lease.verify_inside(seen.as_deref()))?;
        Ok(Verification(Arc::new(found)))
    }

    /// Refuses a lease that is void: its GPU was partitioned anew, reset or lost, or it was given back.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, "Lease.check", lease::Lease::check)
    }

    /// Gives it back; again does nothing. Children that have its descriptor keep the share until they are
    /// gone, and a call of another thread that asks the lease something keeps it until that returns. What
    /// was created for it is destroyed where ``give_back`` said so.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give_back(py)
    }

    /// What it says of itself, in dicts, lists and plain values.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        loads(py, &self.document)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().with(slf.py(), "Lease.__enter__", |_| Ok(()))?;
        Ok(slf)
    }

    #[pyo3(signature = (kind, value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (kind, value, traceback);
        self.give_back(py)
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a gpushare.Lease is held by this process and cannot be pickled or copied: start the process that is to use it with env=lease.env() and pass_fds=lease.filenos(), or take the lease there",
        ))
    }

    fn __repr__(&self) -> String {
        let shares: Vec<_> = self.grants.iter().map(|grant| grant.share.to_string()).collect();
        let (released, end) =
            (if self.released() { ", released" } else { "" }, simulated(self.state.is_simulated()));
        format!("<gpushare.Lease {} of {}{released}{end}>", self.name, shares.join(", "))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let lease = self.lease.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(lease) = lease else { return };
        let own = self.state.is_own();
        let name = &self.name;
        let stays = if self.gives_back { ", and what was created for it stays" } else { "" };
        let text =
            format!("lease {name} was not released{stays}: use it with `with`, or call release()");
        // Nothing is said when the interpreter has ended, or is so far that it has no modules any more.
        Python::try_attach(|py| {
            // What is being raised now is not to be lost.
            let raised = PyErr::take(py);
            // It waits for who forks, who waits for the GIL.
            py.detach(|| drop(lease));
            let warned = || -> PyResult<()> {
                if !own {
                    return Ok(());
                }
                call_method(self.activation.bind(py), "put_back", ())?;
                let Ok(warnings) = py.import("warnings") else { return Ok(()) };
                let options = PyDict::new(py);
                options.set_item("category", py.get_type::<PyResourceWarning>())?;
                options.set_item("source", &self.activation)?;
                call_with(&warnings.getattr("warn")?, (text,), Some(&options))?;
                Ok(())
            };
            if let Err(error) = warned() {
                error.write_unraisable(py, None);
            }
            if let Some(raised) = raised {
                raised.restore(py);
            }
        });
    }
}

document_class!(
    /// What a lease gives of one share.
    LeasedShare,
    Grant
);

#[pymethods]
impl LeasedShare {
    /// The id of the share.
    #[getter]
    fn id(&self) -> String {
        self.0.share.to_string()
    }

    /// The uuid of its GPU.
    #[getter]
    fn gpu(&self) -> &str {
        self.0.gpu.as_str()
    }

    /// NVML's index of its GPU, never a CUDA ordinal.
    #[getter]
    fn index(&self) -> Option<u32> {
        self.0.index.map(|index| index.get())
    }

    /// The model of its GPU.
    #[getter]
    fn model(&self) -> &str {
        &self.0.model
    }

    /// How its GPU is shared.
    #[getter]
    fn mode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::mode(py, self.0.mode)
    }

    /// The uuid of the MIG device that it is of.
    #[getter]
    fn mig_device(&self) -> Option<&str> {
        self.0.mig_device.as_ref().map(|device| device.as_str())
    }

    /// The profile of that MIG device.
    #[getter]
    fn profile(&self) -> Option<String> {
        self.0.profile.map(|profile| profile.to_string())
    }

    /// The device memory in bytes that the tenant can use at most; None where unknown.
    #[getter]
    fn memory_bytes(&self) -> Option<u64> {
        self.0.memory.map(|memory| memory.get())
    }

    /// The multiprocessors that the tenant can use at most; None where unknown.
    #[getter]
    fn sm_count(&self) -> Option<u32> {
        self.0.sm_count
    }

    /// Whether the tenant is to be a client of an MPS daemon.
    #[getter]
    fn mps_client(&self) -> bool {
        self.0.is_mps()
    }

    /// What the tenant is held to against its will.
    #[getter]
    fn enforced<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.enforced.iter().map(Term::from))
    }

    /// What it is asked for by environment, or admitted to by gpushare alone.
    #[getter]
    fn declared<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.declared.iter().map(Term::from))
    }

    /// The device nodes that it needs: for containers.
    #[getter]
    fn device_nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.device_nodes.iter().map(DeviceNode::from))
    }
}

document_class!(
    /// What holds a tenant to something, or does not.
    Term,
    lease::Bound
);

#[pymethods]
impl Term {
    /// What: ``memory``, ``threads``, ``priority``, ``alone``, ``admission``, ``isolation``.
    #[getter]
    fn what(&self) -> &str {
        &self.0.what
    }

    /// Who holds the tenant to it; None where it was only asked to.
    #[getter]
    fn by(&self) -> Option<&str> {
        self.0.by.as_deref()
    }

    /// In a sentence.
    #[getter]
    fn says(&self) -> &str {
        &self.0.says
    }
}

document_class!(
    /// A device node that a share needs.
    DeviceNode,
    lease::DeviceNode
);

#[pymethods]
impl DeviceNode {
    /// Where it is, or would be.
    #[getter]
    fn path(&self) -> String {
        self.0.path.display().to_string()
    }

    /// Its major number, where the kernel says.
    #[getter]
    fn major(&self) -> Option<u32> {
        self.0.major
    }

    /// Its minor number, where it is known.
    #[getter]
    fn minor(&self) -> Option<u32> {
        self.0.minor
    }

    /// Where it is not there: what makes it.
    #[getter]
    fn missing(&self) -> Option<&str> {
        self.0.missing.as_deref()
    }
}

document_class!(
    /// Whether a process is inside its lease. True when it is: unknown never passes.
    Verification,
    lease::Verification
);

#[pymethods]
impl Verification {
    /// Attached, not attached or unknown.
    #[getter]
    fn verdict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::verdict(py, self.0.verdict)
    }

    /// Why, in words.
    #[getter]
    fn reasons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.reasons)
    }

    /// What the MPS daemon says of it, where its share is one's.
    #[getter]
    fn attachment(&self) -> Option<Attachment> {
        self.0.attachment.as_ref().map(Attachment::from)
    }

    fn __bool__(&self) -> bool {
        self.0.verdict == Verdict::Attached
    }

    fn __str__(&self) -> String {
        format!("{}: {}", word(&self.0.verdict), self.0.reasons.join("; "))
    }
}
