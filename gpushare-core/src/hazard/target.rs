//! What an MPS configuration applies to.

use crate::id::GpuUuid;
use crate::mode::ComputeMode;
use crate::snapshot::GpuSnapshot;
use crate::units::Bytes;

/// What an MPS configuration applies to: a GPU, or a MIG device that is there or planned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MpsTarget {
    /// The GPU, also where only a MIG device of it is meant.
    pub gpu: GpuUuid,
    /// Whether it is a MIG device of the GPU.
    pub mig_device: bool,
    /// The multiprocessors that the percentage is a share of.
    pub sm_count: Option<u32>,
    /// The compute capability of the GPU.
    pub compute_capability: Option<(u32, u32)>,
    /// The memory that the limit is a part of.
    pub memory: Option<Bytes>,
    /// The compute mode that it has now.
    pub compute_mode: Option<ComputeMode>,
    /// Whether its compute mode can be made EXCLUSIVE_PROCESS.
    pub exclusive_possible: bool,
}

impl MpsTarget {
    /// The whole GPU.
    pub fn of_gpu(gpu: &GpuSnapshot) -> Self {
        Self {
            gpu: gpu.uuid.clone(),
            mig_device: false,
            sm_count: gpu.sm_count,
            compute_capability: gpu.compute_capability,
            memory: gpu.memory,
            compute_mode: gpu.compute_mode,
            exclusive_possible: true,
        }
    }

    /// A MIG device of the GPU with that many multiprocessors and that memory. Compute mode is not set there.
    pub fn of_mig_device(gpu: &GpuSnapshot, sm_count: Option<u32>, memory: Option<Bytes>) -> Self {
        Self {
            gpu: gpu.uuid.clone(),
            mig_device: true,
            sm_count,
            compute_capability: gpu.compute_capability,
            memory,
            compute_mode: None,
            exclusive_possible: false,
        }
    }

    /// What to call it in a message.
    pub(super) fn noun(&self) -> &'static str {
        if self.mig_device { "MIG device" } else { "GPU" }
    }
}
