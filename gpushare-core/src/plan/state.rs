//! The state of one GPU as steps change it: a pure model of what each step does.
//!
//! Apply and recover hold what they observe against the states that this model predicts. Two
//! states are compared without uuids and ids, which may change when an instance is created again.

use serde::{Deserialize, Serialize};

use crate::id::{ComputeProfileId, ProfileId};
use crate::mig::Placement;
use crate::mode::{ComputeMode, Interval};
use crate::mps::{MpsSettings, ServerLimits};
use crate::parameters::{Access, MpsConfig};
use crate::plan::step::{MigPlace, Step};
use crate::snapshot::{ComputeInstance, GpuSnapshot, MpsStatus, Record};

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
    /// Our MPS daemon of the whole GPU.
    pub mps: Option<MpsState>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComputeState {
    /// Where it starts.
    pub start: u8,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// Our MPS daemon of that MIG device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mps: Option<MpsState>,
}

/// An MPS daemon of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MpsState {
    /// Something of it is there, and it serves nobody.
    Unready,
    /// It serves.
    Serving {
        /// Whom.
        access: Access,
        /// What clients of servers to come get.
        defaults: MpsSettings,
        /// What the servers that run give clients to come; none where none runs.
        servers: Option<ServerLimits>,
    },
}

impl MpsState {
    /// The daemon that a configuration asks for.
    pub fn wanted(config: &MpsConfig) -> Self {
        Self::Serving {
            access: config.access.clone(),
            defaults: MpsSettings::from(config),
            servers: None,
        }
    }

    /// What was observed.
    pub fn of(status: &MpsStatus) -> Option<Self> {
        if status.is_unready() {
            return Some(Self::Unready);
        }
        let config = status.config.as_ref().filter(|_| status.ours && status.alive)?;
        let defaults = MpsSettings::from(config);
        let limits = status.servers.iter().filter_map(|server| {
            Some(ServerLimits {
                thread_percentage: server.thread_percentage?,
                pinned_memory_limit: server.pinned_memory_limit,
            })
        });
        let limits: Vec<_> = limits.collect();
        // Where servers differ, one that is not as the defaults say tells more.
        let differing = limits.iter().find(|limits| **limits != ServerLimits::of(&defaults));
        let servers = differing.or(limits.first()).copied();
        Some(Self::Serving { access: config.access.clone(), defaults, servers })
    }

    /// Whether both are the same, as far as daemons show what they hold; servers come and go, and
    /// without one there is nothing to differ.
    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Serving { access, defaults, servers },
                Self::Serving { access: a, defaults: d, servers: s },
            ) => {
                // A server that came since has what the daemon gives by then.
                let same_servers = servers.zip(*s).is_none_or(|(servers, s)| {
                    let new = servers.are_of(defaults) || s.are_of(d);
                    new || servers.is_shown_as(&s) || s.is_shown_as(&servers)
                });
                access == a && (defaults.is_shown_as(d) || d.is_shown_as(defaults)) && same_servers
            }
            (Self::Unready, Self::Unready) => true,
            _ => false,
        }
    }

    /// Whether the servers that run give what the daemon says that it gives.
    pub fn limits_in_force(&self) -> bool {
        match self {
            Self::Serving { defaults, servers: Some(servers), .. } => servers.are_of(defaults),
            _ => true,
        }
    }

    fn same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => one.matches(other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl GpuState {
    /// The state that was observed.
    pub fn of(gpu: &GpuSnapshot) -> Self {
        let mig = gpu.mig.as_ref();
        let instances = mig.map_or(&[][..], |mig| &mig.gpu_instances);
        let mut gpu_instances: Vec<_> = instances
            .iter()
            .map(|gi| {
                let daemon =
                    |ci: &ComputeInstance| MpsState::of(gpu.mig_device_of(ci)?.mps.as_ref()?);
                let mut compute: Vec<_> = gi
                    .compute_instances
                    .iter()
                    .map(|ci| ComputeState {
                        start: ci.start,
                        profile: ci.profile,
                        mps: daemon(ci),
                    })
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
            mps: gpu.mps.as_ref().and_then(MpsState::of),
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
            && self.same_instances(other)
            && self.compute_mode == other.compute_mode
            && MpsState::same(self.mps.as_ref(), other.mps.as_ref())
            && self.record == other.record
    }

    fn same_instances(&self, other: &Self) -> bool {
        let same_compute = |a: &ComputeState, b: &ComputeState| {
            (a.start, a.profile) == (b.start, b.profile)
                && MpsState::same(a.mps.as_ref(), b.mps.as_ref())
        };
        let same = |a: &InstanceState, b: &InstanceState| {
            (a.placement, a.profile) == (b.placement, b.profile)
                && a.compute.len() == b.compute.len()
                && a.compute.iter().zip(&b.compute).all(|(a, b)| same_compute(a, b))
        };
        self.gpu_instances.len() == other.gpu_instances.len()
            && self.gpu_instances.iter().zip(&other.gpu_instances).all(|(a, b)| same(a, b))
    }

    /// Our MPS daemon there.
    pub fn mps_on(&self, on: Option<MigPlace>) -> Option<&MpsState> {
        let Some(place) = on else { return self.mps.as_ref() };
        let gi = self.gpu_instances.iter().find(|gi| gi.placement == place.gpu_instance)?;
        gi.compute.iter().find(|ci| ci.start == place.start)?.mps.as_ref()
    }

    /// The same with another daemon there.
    #[must_use]
    pub fn with_mps(mut self, on: Option<MigPlace>, mps: Option<MpsState>) -> Self {
        let Some(place) = on else { return Self { mps, ..self } };
        let gi = self.gpu_instance_mut(place.gpu_instance);
        let ci = gi.and_then(|gi| gi.compute.iter_mut().find(|ci| ci.start == place.start));
        if let Some(ci) = ci {
            ci.mps = mps;
        }
        self
    }

    /// The state after a step.
    #[must_use]
    pub fn after(&self, step: &Step) -> Self {
        let mut state = self.clone();
        match step {
            Step::StopMps { on, .. } => state = state.with_mps(*on, None),
            Step::StartMps { on, config } => {
                state = state.with_mps(*on, Some(MpsState::wanted(config)));
            }
            Step::SetMpsDefault { on, setting } => {
                let mut mps = state.mps_on(*on).cloned();
                if let Some(MpsState::Serving { defaults, .. }) = &mut mps {
                    *defaults = defaults.with(setting);
                }
                state = state.with_mps(*on, mps);
            }
            Step::SetMpsServers { on, setting } => {
                let mut mps = state.mps_on(*on).cloned();
                if let Some(MpsState::Serving { servers: Some(servers), .. }) = &mut mps {
                    *servers = servers.with(setting);
                }
                state = state.with_mps(*on, mps);
            }
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
                    gi.compute.push(ComputeState {
                        start: ci.placement.start,
                        profile: ci.profile,
                        mps: None,
                    });
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

    /// The state in which a step can stop half-way: a change of MIG mode pending, an MPS daemon that
    /// serves nobody.
    pub fn halfway(&self, step: &Step) -> Option<Self> {
        if let Step::StartMps { on, .. } | Step::StopMps { on, .. } = step {
            return Some(self.clone().with_mps(*on, Some(MpsState::Unready)));
        }
        let (Step::SetMigMode { enable, .. } | Step::Reset { enable }) = step else { return None };
        self.pending(*enable)
    }

    /// The state in which undoing a change of MIG mode can stop half-way, seen from the state after it.
    /// A daemon is undone through the same state as it is made.
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
