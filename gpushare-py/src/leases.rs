//! Who has which share.

use gpushare_core::lease;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::document::{counted, document_class, shows_text, simulated, tuple};
use crate::snapshot::parts::Share;

document_class!(
    /// Who has which share of a node. ``str()`` lists it.
    LeaseList,
    lease::LeaseList,
    |list| {
        let shares = || list.gpus.iter().flat_map(|gpu| &gpu.shares);
        let taken = shares().filter(|share| share.is_leased()).count();
        let all = counted(shares().count(), "share");
        let end = simulated(list.simulated);
        Some(format!("{taken} of {all} leased, {} waiting{end}", list.waiting))
    }
);
shows_text!(LeaseList);

#[pymethods]
impl LeaseList {
    /// All shares of all GPUs.
    #[getter]
    fn shares<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.gpus.iter().flat_map(|gpu| &gpu.shares).map(Share::from))
    }

    /// Leases of shares that are no more.
    #[getter]
    fn void<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.0.void.iter().map(Share::from))
    }

    /// How many wait for a share.
    #[getter]
    fn waiting(&self) -> usize {
        self.0.waiting
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.simulated
    }
}
