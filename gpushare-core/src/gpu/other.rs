//! A GPU in a state that only happens.

use super::{Exclusive, Gpu, Layout, Mig, Mps, TimeSliced, TransitionError};
use crate::apply::ApplyOptions;
use crate::id::GpuUuid;
use crate::mode::SharingMode;
use crate::parameters::{MpsConfig, TimeSlicing};
use crate::spec::Want;

/// A GPU in a state that cannot be asked for.
#[derive(Debug)]
#[must_use = "dropping a handle changes nothing"]
pub struct OtherGpu {
    pub(super) gpu: Gpu<TimeSliced>,
    pub(super) mode: SharingMode,
    pub(super) reason: String,
}

impl OtherGpu {
    /// Its uuid.
    pub fn uuid(&self) -> &GpuUuid {
        &self.gpu.uuid
    }

    /// The state that it was seen in.
    pub fn mode(&self) -> SharingMode {
        self.mode
    }

    /// Why it is in this state.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The same handle, whose transitions may do more, as [`Gpu::with_options`] says.
    pub fn with_options(self, options: ApplyOptions) -> Self {
        Self { gpu: self.gpu.with_options(options), ..self }
    }

    /// Brings it to `exclusive`, where there is a way.
    ///
    /// # Errors
    /// As [`Gpu::with_options`].
    pub fn into_exclusive(self) -> Result<Gpu<Exclusive>, TransitionError> {
        self.gpu.unclaimed(Want::Exclusive)
    }

    /// Brings it to `time_sliced`, where there is a way.
    ///
    /// # Errors
    /// As [`Gpu::with_options`].
    pub fn into_time_sliced(
        self,
        parameters: TimeSlicing,
    ) -> Result<Gpu<TimeSliced>, TransitionError> {
        self.gpu.unclaimed(Want::TimeSliced(parameters))
    }

    /// Starts an MPS daemon of ours for it, where there is a way.
    ///
    /// # Errors
    /// As [`Gpu::with_options`].
    pub fn into_mps(self, config: MpsConfig) -> Result<Gpu<Mps>, TransitionError> {
        self.gpu.unclaimed(Want::Mps(config))
    }

    /// Cuts it into exactly these instances, where there is a way.
    ///
    /// # Errors
    /// As [`Gpu::with_options`].
    pub fn into_mig(self, layout: Layout) -> Result<Gpu<Mig>, TransitionError> {
        self.gpu.unclaimed(Want::Mig(Some(layout.instances)))
    }
}
