//! The extension module of the Python package `gpushare`.
//!
//! Nothing is decided here: each function takes Python's arguments apart, calls `gpushare-core`
//! without the GIL, and gives Python's values back. Exceptions and enumerations are Python classes.

mod advise;
mod arguments;
mod call;
mod callback;
mod cdi;
#[cfg(feature = "cli")]
mod command;
mod doctor;
mod document;
mod error;
mod event;
mod handover;
mod hook;
mod lease;
mod leases;
mod log;
mod mps;
mod node;
mod plan;
mod report;
mod request;
mod resolve;
mod snapshot;
mod spec;
mod words;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _gpushare {
    use std::sync::atomic::{AtomicBool, Ordering};

    use gpushare_core::fork;
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use crate::advise::{Advice, Choice};
    use crate::callback;
    #[pymodule_export]
    use crate::callback::_end;
    #[cfg(feature = "cli")]
    #[pymodule_export]
    use crate::command::_command;
    #[pymodule_export]
    use crate::doctor::{Diagnosis, Finding, Unseen};
    #[pymodule_export]
    use crate::event::Event;
    #[pymodule_export]
    use crate::handover::{Exported, Imported, SpecInForce};
    #[pymodule_export]
    use crate::lease::{DeviceNode, Lease, LeasedShare, Term, Verification};
    #[pymodule_export]
    use crate::leases::LeaseList;
    #[pymodule_export]
    use crate::mps::{Attachment, Hazard, Split};
    #[pymodule_export]
    use crate::node::Node;
    #[pymodule_export]
    use crate::plan::{Eviction, GpuPlan, Needs, Plan, Step};
    #[pymodule_export]
    use crate::report::{Evicted, Recovered, Recreated, Report};
    #[pymodule_export]
    use crate::resolve::{Resolution, VisibleDevice};
    #[pymodule_export]
    use crate::snapshot::Snapshot;
    #[pymodule_export]
    use crate::snapshot::gpu::Gpu;
    #[pymodule_export]
    use crate::snapshot::parts::{GpuProcess, MigDevice, MpsDaemon, Share};

    /// Lets no fork come in the middle of something. Who is in the middle may need the GIL to get on: others'
    /// handlers run between this and the fork.
    #[pyfunction]
    fn _before_fork(py: Python<'_>) {
        let _ = py.detach(|| std::panic::catch_unwind(fork::before));
    }

    /// Lets things go on.
    #[pyfunction]
    fn _after_fork_in_parent() {
        let _ = std::panic::catch_unwind(fork::after_in_parent);
    }

    /// Gives up the leases of a parent in its forked child, but for those that were handed on.
    #[pyfunction]
    fn _after_fork_in_child() {
        let _ = std::panic::catch_unwind(fork::after_in_child);
        callback::forked();
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        // Once for the process, however often the module is made anew: nobody can take it back.
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        if REGISTERED.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // A child that only computes would hold its parent's shares, too.
        let hooks = PyDict::new(module.py());
        hooks.set_item("before", wrap_pyfunction!(_before_fork, module)?)?;
        hooks.set_item("after_in_parent", wrap_pyfunction!(_after_fork_in_parent, module)?)?;
        hooks.set_item("after_in_child", wrap_pyfunction!(_after_fork_in_child, module)?)?;
        module.py().import("os")?.getattr("register_at_fork")?.call((), Some(&hooks))?;
        let end = wrap_pyfunction!(_end, module)?;
        module.py().import("atexit")?.getattr("register")?.call1((end,))?;
        Ok(())
    }
}
