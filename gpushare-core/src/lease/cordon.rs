//! Cordons: GPUs of which no new leases are given.

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::node::Node;
use crate::observe::{cordon, expect_reason};

impl Node {
    /// Stops new leases of a GPU, whatever its mode becomes, until [`uncordon`](Self::uncordon). Leases
    /// that are there stay. Needs root; survives a reboot.
    ///
    /// # Errors
    /// NOT_FOUND for a GPU that is not there; INVALID_ARGUMENT for a reason that is no line;
    /// PERMISSION_DENIED; IO.
    pub fn cordon(&self, gpu: &GpuUuid, reason: &str) -> Result<()> {
        expect_reason(reason)?;
        self.call(|node, _| {
            node.expect_known(gpu)?;
            node.ports().store.replace(&cordon(gpu), reason.as_bytes())
        })
    }

    /// Lets a GPU's shares be leased again. Nothing happens to one that was not stopped.
    ///
    /// # Errors
    /// PERMISSION_DENIED; IO.
    pub fn uncordon(&self, gpu: &GpuUuid) -> Result<()> {
        self.ports().store.remove(&cordon(gpu))
    }

    fn expect_known(&self, gpu: &GpuUuid) -> Result<()> {
        if self.snapshot()?.gpu(gpu).is_some() {
            return Ok(());
        }
        Err(Error::new(ErrorCode::NotFound, format!("there is no GPU {gpu}")).of_gpu(gpu))
    }
}
