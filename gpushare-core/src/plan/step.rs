//! Steps: the smallest changes of a GPU, each with its inverse.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ComputeProfileId, ProfileId};
use crate::mig::{Placement, ProfileName};
use crate::mode::{ComputeMode, Interval};
use crate::mps::MpsSetting;
use crate::parameters::MpsConfig;
use crate::snapshot::Record;

/// One change of one GPU.
///
/// Instances are named by where they stand, which is unique on a GPU at any time, and not by ids,
/// which are reused, or uuids, which may change when an instance is created again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Ends an MPS daemon of ours: closes its directory, terminates the clients that may be evicted,
    /// quits.
    StopMps {
        /// What it serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<MigPlace>,
        /// What it gives and to whom; none where nothing is to be brought back: it does not answer, or
        /// its own start was not finished.
        config: Option<MpsConfig>,
    },
    /// Destroys a compute instance.
    DestroyComputeInstance(ComputeInstanceStep),
    /// Destroys a GPU instance, which has no compute instances any more.
    DestroyGpuInstance(GpuInstanceStep),
    /// Creates a GPU instance.
    CreateGpuInstance(GpuInstanceStep),
    /// Creates a compute instance.
    CreateComputeInstance(ComputeInstanceStep),
    /// Sets the compute mode.
    SetComputeMode {
        /// What it is.
        from: ComputeMode,
        /// What it becomes.
        to: ComputeMode,
    },
    /// Sets the time-slice interval.
    SetInterval {
        /// What it is.
        from: Interval,
        /// What it becomes.
        to: Interval,
    },
    /// Turns MIG on or off.
    SetMigMode {
        /// On or off.
        enable: bool,
        /// Whether the change may need a reset of the GPU: before compute capability 9.0.
        may_reset: bool,
    },
    /// Calls off a change of MIG mode that waits for a reset. Nothing makes a change pending again,
    /// so it has no inverse: a rollback over it leaves the mode as it is in force.
    CallOffMigMode {
        /// What MIG mode is and stays.
        enabled: bool,
    },
    /// Resets the GPU so that a pending change of MIG mode comes into force.
    Reset {
        /// What MIG mode is after it.
        enable: bool,
    },
    /// Starts an MPS daemon of ours: in a closed directory, which is opened to its clients when its
    /// limits are set and read back.
    StartMps {
        /// What it serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<MigPlace>,
        /// Its parameters.
        config: MpsConfig,
    },
    /// Sets what an MPS daemon of ours gives the clients of servers that it starts from now on.
    SetMpsDefault {
        /// What it serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<MigPlace>,
        /// The setting.
        #[serde(flatten)]
        setting: MpsSetting,
    },
    /// Sets what the servers that run give clients to come; clients that are there keep what they
    /// came with.
    SetMpsServers {
        /// What their daemon serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<MigPlace>,
        /// The setting.
        #[serde(flatten)]
        setting: MpsSetting,
    },
    /// Writes our record of the GPU.
    WriteRecord {
        /// What it says.
        from: Option<Box<Record>>,
        /// What it will say.
        to: Option<Box<Record>>,
    },
}

/// A GPU instance in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuInstanceStep {
    /// Its profile.
    pub profile: ProfileId,
    /// The name of its profile.
    pub name: ProfileName,
    /// Where it stands.
    pub placement: Placement,
}

/// A MIG device by where it stands: its uuid is not known before it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MigPlace {
    /// Where its GPU instance stands.
    pub gpu_instance: Placement,
    /// Where its compute instance starts, in compute slices of its GPU instance.
    pub start: u8,
}

impl MigPlace {
    /// The MIG device whose compute instance starts there.
    pub const fn new(gpu_instance: Placement, start: u8) -> Self {
        Self { gpu_instance, start }
    }
}

impl fmt::Display for MigPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "compute instance at {} of {}", self.start, self.gpu_instance)
    }
}

/// A compute instance in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComputeInstanceStep {
    /// Where its GPU instance stands.
    pub gpu_instance: Placement,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// The name of its profile.
    pub name: ProfileName,
    /// Where it stands, in compute slices of its GPU instance.
    pub placement: Placement,
    /// Whether profile and placement are the marked assumption, to be checked when the GPU
    /// instance exists.
    pub assumed: bool,
}

impl Step {
    /// The step that undoes it. What a reset brought into force is switched back; that it was
    /// pending before is not brought back, and neither is a change that was called off, or an MPS
    /// daemon that did not answer.
    pub fn inverse(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::StopMps { on, config } => Self::StartMps { on, config: config? },
            Self::StartMps { on, config } => Self::StopMps { on, config: Some(config) },
            Self::SetMpsDefault { on, setting } => {
                Self::SetMpsDefault { on, setting: setting.inverse() }
            }
            Self::SetMpsServers { on, setting } => {
                Self::SetMpsServers { on, setting: setting.inverse() }
            }
            Self::DestroyComputeInstance(ci) => Self::CreateComputeInstance(ci),
            Self::CreateComputeInstance(ci) => Self::DestroyComputeInstance(ci),
            Self::DestroyGpuInstance(gi) => Self::CreateGpuInstance(gi),
            Self::CreateGpuInstance(gi) => Self::DestroyGpuInstance(gi),
            Self::SetComputeMode { from, to } => Self::SetComputeMode { from: to, to: from },
            Self::SetInterval { from, to } => Self::SetInterval { from: to, to: from },
            Self::SetMigMode { enable, may_reset } => {
                Self::SetMigMode { enable: !enable, may_reset }
            }
            Self::WriteRecord { from, to } => Self::WriteRecord { from: to, to: from },
            Self::Reset { enable } => Self::SetMigMode { enable: !enable, may_reset: true },
            Self::CallOffMigMode { .. } => return None,
        })
    }

    /// Whether the driver lets only root do it.
    pub(crate) const fn needs_root(&self) -> bool {
        matches!(
            self,
            Self::SetComputeMode { .. }
                | Self::SetInterval { .. }
                | Self::SetMigMode { .. }
                | Self::CallOffMigMode { .. }
                | Self::Reset { .. }
        )
    }
}

/// Where a daemon serves, where that is not the whole GPU.
struct OnDevice(Option<MigPlace>);

impl fmt::Display for OnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, " of {place}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopMps { on, .. } => write!(f, "stop the MPS daemon{}", OnDevice(*on)),
            Self::StartMps { on, config } => {
                let limit = config.pinned_memory_limit;
                let memory = limit.map(|limit| format!(" and {limit}")).unwrap_or_default();
                write!(
                    f,
                    "start an MPS daemon{} for {}: {} % of the threads{memory} for each client",
                    OnDevice(*on),
                    config.access,
                    config.thread_percentage
                )
            }
            Self::SetMpsDefault { on, setting } => {
                write!(f, "set the MPS daemon's default {setting}{}", OnDevice(*on))
            }
            Self::SetMpsServers { on, setting } => {
                write!(f, "set the MPS servers' {setting} for clients to come{}", OnDevice(*on))
            }
            Self::DestroyComputeInstance(ci) => {
                write!(
                    f,
                    "destroy compute instance {} at {} of {}",
                    ci.name, ci.placement, ci.gpu_instance
                )
            }
            Self::CreateComputeInstance(ci) => {
                write!(
                    f,
                    "create compute instance {} at {} of {}",
                    ci.name, ci.placement, ci.gpu_instance
                )
            }
            Self::DestroyGpuInstance(gi) => {
                write!(f, "destroy GPU instance {} at {}", gi.name, gi.placement)
            }
            Self::CreateGpuInstance(gi) => {
                write!(f, "create GPU instance {} at {}", gi.name, gi.placement)
            }
            Self::SetComputeMode { from, to } => write!(f, "set compute mode {to} (was {from})"),
            Self::SetInterval { from, to } => {
                write!(f, "set time-slice interval {to} (was {from})")
            }
            Self::SetMigMode { enable: true, .. } => f.write_str("turn MIG on"),
            Self::SetMigMode { enable: false, .. } => f.write_str("turn MIG off"),
            Self::CallOffMigMode { enabled } => {
                let mode = if *enabled { "on" } else { "off" };
                write!(f, "call off the pending change of MIG mode, which stays {mode}")
            }
            Self::Reset { enable } => {
                let mode = if *enable { "on" } else { "off" };
                write!(f, "reset the GPU, so that MIG is {mode}")
            }
            Self::WriteRecord { to: Some(_), .. } => f.write_str("write the record"),
            Self::WriteRecord { to: None, .. } => f.write_str("remove the record"),
        }
    }
}
