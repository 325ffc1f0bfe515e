//! MPS daemons on real GPUs: not in this version.

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::parameters::MpsConfig;
use crate::port::{MpsDaemon, MpsHost};

/// A host that starts no MPS daemons, and says so.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoMps;

impl NoMps {
    /// Such a host.
    pub const fn new() -> Self {
        Self
    }

    fn refuse(gpu: &GpuUuid) -> Error {
        Error::new(
            ErrorCode::Unsupported,
            "this version of gpushare starts and stops no MPS daemons on real GPUs yet",
        )
        .of_gpu(gpu)
    }
}

impl MpsHost for NoMps {
    fn able(&self) -> bool {
        false
    }

    fn probe(&self, _: &GpuUuid) -> Result<Option<MpsDaemon>> {
        Ok(None)
    }

    fn start(&self, gpu: &GpuUuid, _: &MpsConfig) -> Result<()> {
        Err(Self::refuse(gpu))
    }

    fn stop(&self, gpu: &GpuUuid) -> Result<()> {
        Err(Self::refuse(gpu))
    }
}
