//! The state of one GPU as steps change it: a pure model of what each step does.
//!
//! Apply and recover hold what they observe against the states that this model predicts. Two
//! states are compared without uuids and ids, which may change when an instance is created again.

use serde::{Deserialize, Serialize};

use crate::id::{ComputeProfileId, ProfileId};
use crate::mig::Placement;
use crate::mode::{ComputeMode, Interval};
use crate::parameters::MpsConfig;
use crate::plan::step::Step;
use crate::snapshot::{GpuSnapshot, Record};

/// The state of one GPU, without uuids and ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuState {
    /// MIG mode: now, and after a reset. None where the GPU has no MIG.
    pub mig: Option<MigModeState>,
    /// The GPU instances, by placement.
    pub gpu_instances: Vec<InstanceState>,
    /// The compute mode; none with MIG on.
    pub compute_mode: Option<ComputeMode>,
    /// The interval; none where it was not asked for.
    pub interval: Option<Interval>,
    /// Our MPS daemon that answers.
    pub mps: Option<MpsConfig>,
    /// Our record.
    pub record: Option<Record>,
}

/// MIG mode, now and after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MigModeState {
    /// Whether it is on.
    pub enabled: bool,
    /// Whether it will be on after a reset.
    pub pending: bool,
}

/// A GPU instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceState {
    /// Where it stands.
    pub placement: Placement,
    /// Its profile.
    pub profile: ProfileId,
    /// Its compute instances, by start.
    pub compute: Vec<ComputeState>,
}

/// A compute instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComputeState {
    /// Where it starts.
    pub start: u8,
    /// Its profile.
    pub profile: ComputeProfileId,
}

impl GpuState {
    /// The state that was observed.
    pub fn of(gpu: &GpuSnapshot) -> Self {
        let mig = gpu.mig.as_ref();
        let instances = mig.map_or(&[][..], |mig| &mig.gpu_instances);
        let mut gpu_instances: Vec<_> = instances
            .iter()
            .map(|gi| {
                let mut compute: Vec<_> = gi
                    .compute_instances
                    .iter()
                    .map(|ci| ComputeState { start: ci.start, profile: ci.profile })
                    .collect();
                compute.sort_unstable_by_key(|ci| ci.start);
                InstanceState { placement: gi.placement, profile: gi.profile, compute }
            })
            .collect();
        gpu_instances.sort_unstable_by_key(|gi| gi.placement);
        Self {
            mig: mig.map(|mig| MigModeState { enabled: mig.enabled, pending: mig.pending }),
            gpu_instances,
            compute_mode: gpu.compute_mode,
            interval: gpu.interval,
            mps: gpu
                .mps
                .as_ref()
                .filter(|mps| mps.ours && mps.alive)
                .and_then(|mps| mps.config.clone()),
            record: gpu.record.clone(),
        }
    }

    /// Whether both are the same state; an interval that was not asked for matches any.
    pub fn matches(&self, other: &Self) -> bool {
        let intervals = match (self.interval, other.interval) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        intervals
            && self.mig == other.mig
            && self.gpu_instances == other.gpu_instances
            && self.compute_mode == other.compute_mode
            && self.mps == other.mps
            && self.record == other.record
    }

    /// The state after a step.
    #[must_use]
    pub fn after(&self, step: &Step) -> Self {
        let mut state = self.clone();
        match step {
            Step::StopMps { .. } => state.mps = None,
            Step::StartMps { config } => state.mps = Some(config.clone()),
            Step::SetComputeMode { to, .. } => state.compute_mode = Some(*to),
            Step::SetInterval { to, .. } => state.interval = Some(*to),
            Step::WriteRecord { to, .. } => state.record = to.as_deref().cloned(),
            Step::CallOffMigMode { enabled } => {
                state.mig = Some(MigModeState { enabled: *enabled, pending: *enabled });
            }
            Step::SetMigMode { enable, .. } | Step::Reset { enable } => {
                state.mig = Some(MigModeState { enabled: *enable, pending: *enable });
                // Enabling MIG sets the compute mode to DEFAULT; with MIG on it is never asked for.
                state.compute_mode = (!enable).then_some(ComputeMode::Default);
                // Without MIG there are no instances; a reset with MIG on loses them too.
                state.gpu_instances.clear();
            }
            Step::CreateGpuInstance(gi) => {
                state.gpu_instances.push(InstanceState {
                    placement: gi.placement,
                    profile: gi.profile,
                    compute: Vec::new(),
                });
                state.gpu_instances.sort_unstable_by_key(|gi| gi.placement);
            }
            Step::DestroyGpuInstance(gi) => {
                state.gpu_instances.retain(|there| there.placement != gi.placement);
            }
            Step::CreateComputeInstance(ci) => {
                if let Some(gi) = state.gpu_instance_mut(ci.gpu_instance) {
                    gi.compute
                        .push(ComputeState { start: ci.placement.start, profile: ci.profile });
                    gi.compute.sort_unstable_by_key(|ci| ci.start);
                }
            }
            Step::DestroyComputeInstance(ci) => {
                if let Some(gi) = state.gpu_instance_mut(ci.gpu_instance) {
                    gi.compute.retain(|there| there.start != ci.placement.start);
                }
            }
        }
        state
    }

    /// The state in which a change of MIG mode can stop half-way, towards that mode: pending.
    pub fn halfway(&self, step: &Step) -> Option<Self> {
        let (Step::SetMigMode { enable, .. } | Step::Reset { enable }) = step else { return None };
        self.pending(*enable)
    }

    /// The state in which undoing such a change can stop half-way, seen from the state after it.
    pub fn half_undone(&self, step: &Step) -> Option<Self> {
        let (Step::SetMigMode { enable, .. } | Step::Reset { enable }) = step else { return None };
        self.after(step).pending(!enable)
    }

    fn pending(&self, enable: bool) -> Option<Self> {
        let mut state = self.clone();
        let mig = state.mig.as_mut()?;
        mig.pending = enable;
        (state.mig != self.mig).then_some(state)
    }

    fn gpu_instance_mut(&mut self, placement: Placement) -> Option<&mut InstanceState> {
        self.gpu_instances.iter_mut().find(|gi| gi.placement == placement)
    }
}
