//! The state of a simulated node: plain data, the same in memory and in a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::control::FaultSpec;
use super::fleet::Fleet;
use super::mps::MpsState;
use super::process::Process;
use super::products::Product;
use super::rules::Rules;
use crate::error::{Error, ErrorCode, Result};
use crate::id::{ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MigUuid, ProfileId};
use crate::mig::Placement;
use crate::mode::{ComputeMode, Interval};
use crate::port::NvmlReturn;

/// The schema that a file with a node's state names.
pub(super) const SCHEMA: &str = "gpushare.sim/v1";

/// Above every pid that Linux gives (4,194,304 at most), so that a simulated process is never
/// mistaken for a real one.
pub(super) const FIRST_PID: u32 = 5_000_001;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeState {
    pub schema: String,
    pub fleet: Fleet,
    pub rules: Rules,
    /// The user that the driver takes its caller for.
    pub acting_uid: u32,
    /// Whether that user may open `mig/config`.
    #[serde(default)]
    pub mig_config: bool,
    /// How often the machine was started.
    pub boots: u64,
    /// How often the driver was loaded.
    pub loads: u64,
    /// How many compute instances were ever created: what makes their uuids differ.
    pub instances_made: u64,
    /// Creations and destructions since the rules were set.
    pub creates: u32,
    pub destroys: u32,
    pub next_pid: u32,
    pub gpus: Vec<GpuState>,
    /// The MPS daemons of MIG devices. Whoever destroys a device does not end its daemon.
    #[serde(default)]
    pub mig_mps: BTreeMap<MigUuid, MpsState>,
    pub processes: Vec<Process>,
    pub faults: Vec<FaultSpec>,
}

/// Whether a GPU is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Presence {
    Present,
    /// Listed, and answers GPU_IS_LOST.
    Lost,
    /// Not listed.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GpuState {
    pub uuid: GpuUuid,
    /// Its place in the fleet. It settles its PCI address and minor number.
    pub position: u32,
    pub presence: Presence,
    pub mig: bool,
    pub mig_pending: bool,
    pub compute_mode: ComputeMode,
    pub interval: Interval,
    pub instances: Vec<GpuInstanceState>,
    pub mps: Option<MpsState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GpuInstanceState {
    pub id: GpuInstanceId,
    pub profile: ProfileId,
    pub placement: Placement,
    pub compute: Vec<ComputeInstanceState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ComputeInstanceState {
    pub id: ComputeInstanceId,
    pub profile: ComputeProfileId,
    pub placement: Placement,
    pub uuid: MigUuid,
}

impl NodeState {
    pub(super) fn new(fleet: Fleet) -> Result<Self> {
        let mut seen: Vec<(&str, u32)> = Vec::new();
        let gpus = fleet.products().zip(0..).map(|(product, position)| {
            let number = seen.iter().filter(|(name, _)| *name == product.name).count();
            seen.push((product.name, position));
            let digits = hash(&format!("GPU {} {number} at {position}", product.name));
            Ok(GpuState::new(format!("GPU-{digits}").parse()?, position))
        });
        Ok(Self {
            schema: SCHEMA.to_owned(),
            gpus: gpus.collect::<Result<_>>()?,
            fleet,
            rules: Rules::default(),
            acting_uid: 0,
            mig_config: false,
            boots: 1,
            loads: 1,
            instances_made: 0,
            creates: 0,
            destroys: 0,
            next_pid: FIRST_PID,
            mig_mps: BTreeMap::new(),
            processes: Vec::new(),
            faults: Vec::new(),
        })
    }

    /// The GPU, as NVML finds it.
    pub(super) fn gpu(&self, uuid: &GpuUuid) -> Result<&GpuState, NvmlReturn> {
        let gpu = self.gpus.iter().find(|gpu| gpu.uuid == *uuid);
        gpu.ok_or(NvmlReturn::NOT_FOUND)?.answering()
    }

    /// The GPU, as NVML finds it, to change it.
    pub(super) fn gpu_mut(&mut self, uuid: &GpuUuid) -> Result<&mut GpuState, NvmlReturn> {
        let gpu = self.gpus.iter_mut().find(|gpu| gpu.uuid == *uuid);
        let gpu = gpu.ok_or(NvmlReturn::NOT_FOUND)?;
        gpu.answering()?;
        Ok(gpu)
    }

    /// The GPU, whether it answers or not.
    pub(super) fn gpu_state(&mut self, uuid: &GpuUuid) -> Option<&mut GpuState> {
        self.gpus.iter_mut().find(|gpu| gpu.uuid == *uuid)
    }

    /// Refuses a GPU that the node never had.
    pub(super) fn known(&self, uuid: &GpuUuid) -> Result<()> {
        if self.gpus.iter().any(|gpu| gpu.uuid == *uuid) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::NotFound, format!("the simulated node has no GPU {uuid}")))
    }

    pub(super) fn mig_device(
        &self,
        uuid: &MigUuid,
    ) -> Option<(GpuUuid, GpuInstanceId, ComputeInstanceId)> {
        self.gpus.iter().find_map(|gpu| {
            gpu.instances.iter().find_map(|gi| {
                let ci = gi.compute.iter().find(|ci| ci.uuid == *uuid)?;
                Some((gpu.uuid.clone(), gi.id, ci.id))
            })
        })
    }

    /// Its minor number: counted against the index, so that nobody mistakes one for the other.
    pub(super) fn minor(&self, gpu: &GpuState) -> u32 {
        let count = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        let moved = if self.rules.minor_follows_mig && gpu.mig { count } else { 0 };
        count.saturating_sub(gpu.position.saturating_add(1)).saturating_add(moved)
    }

    /// Its card.
    pub(super) fn product(&self, gpu: &GpuState) -> Result<&'static Product, NvmlReturn> {
        let position = usize::try_from(gpu.position).map_err(|_| NvmlReturn::UNKNOWN)?;
        self.fleet.products().nth(position).ok_or(NvmlReturn::UNKNOWN)
    }

    /// Refuses a caller who is not root.
    pub(super) fn privileged(&self) -> Result<(), NvmlReturn> {
        if self.acting_uid == 0 { Ok(()) } else { Err(NvmlReturn::NO_PERMISSION) }
    }

    /// Refuses a caller who is not root and may not open `mig/config` either.
    pub(super) fn may_configure_mig(&self) -> Result<(), NvmlReturn> {
        if self.mig_config { Ok(()) } else { self.privileged() }
    }

    /// What every load of the driver begins with.
    pub(super) fn load_driver(&mut self) {
        self.loads += 1;
        self.processes.clear();
        self.mig_mps.clear();
        let products: Vec<_> = self.fleet.products().collect();
        for (gpu, product) in self.gpus.iter_mut().zip(products) {
            let keeps = product.has_mig() && !product.changes_mig_without_reset();
            let mig = keeps && gpu.mig_pending;
            *gpu = GpuState {
                mig,
                mig_pending: mig,
                presence: gpu.presence,
                ..GpuState::new(gpu.uuid.clone(), gpu.position)
            };
        }
    }

    /// The boot id of this life of the machine.
    pub(super) fn boot_id(&self) -> String {
        hash(&format!("boot {} of {}", self.boots, self.fleet))
    }
}

impl GpuState {
    fn new(uuid: GpuUuid, position: u32) -> Self {
        Self {
            uuid,
            position,
            presence: Presence::Present,
            mig: false,
            mig_pending: false,
            compute_mode: ComputeMode::Default,
            interval: Interval::Default,
            instances: Vec::new(),
            mps: None,
        }
    }

    fn answering(&self) -> Result<&Self, NvmlReturn> {
        match self.presence {
            Presence::Present => Ok(self),
            Presence::Lost => Err(NvmlReturn::GPU_IS_LOST),
            Presence::Gone => Err(NvmlReturn::NOT_FOUND),
        }
    }

    /// Puts a change of MIG mode into force: instances are gone, compute mode is DEFAULT. Nobody
    /// ends the daemons of the MIG devices that were there.
    pub(super) fn set_mig(&mut self, enable: bool) {
        self.mig = enable;
        self.mig_pending = enable;
        self.instances.clear();
        self.compute_mode = ComputeMode::Default;
    }
}

/// 32 hexadecimal digits of a text's SHA-256, grouped as a uuid.
pub(super) fn hash(text: &str) -> String {
    let mut digits = String::with_capacity(36);
    for (position, byte) in Sha256::digest(text).iter().take(16).enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            digits.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
