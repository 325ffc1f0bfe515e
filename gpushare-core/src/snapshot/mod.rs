//! A snapshot: the state of a node's GPUs that was observed, as plain data.
//!
//! It holds everything that planning needs and is the document `gpushare.status/v1` that the
//! command line, C and Python show. Keys are only ever added to it; what is not known is null.

mod device_node;
mod digest;
pub(crate) mod draw;
mod lease;
mod mps;
pub(crate) mod shares;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuIndex, GpuInstanceId, GpuUuid, MigUuid, MinorNumber,
    PciAddress, PciDeviceId, ProfileId, ShareId,
};
use crate::mig::{Geometry, Placement, ProfileName};
use crate::mode::{ComputeMode, Interval, SharingMode};
use crate::parameters::{Parameters, TimeSlicing};
use crate::process::Holder;
use crate::spec::Sharing;
use crate::terminal::Quoted;
use crate::units::Bytes;

pub use device_node::DeviceNode;
pub use digest::digest;
pub(crate) use digest::hash;
pub use lease::{LEASE_VARIABLE, LeaseStatus, LeaseTerms, SHARES_VARIABLE};
pub use mps::{MpsServer, MpsStatus, MpsStray};

/// The schema that a serialised snapshot names.
pub const SCHEMA: &str = "gpushare.status/v1";

/// The GPUs of a node as they were observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// The driver.
    pub driver: Driver,
    /// Which life of machine and driver this is.
    pub epoch: Epoch,
    /// What this node's backend can do beside NVML.
    pub abilities: Abilities,
    /// The user whom `access: caller` means: who looked, and under sudo the user behind that.
    #[serde(default)]
    pub caller_uid: Option<u32>,
    /// The GPUs, by NVML index; those that our records know and the driver does not come last, as `lost`.
    pub gpus: Vec<GpuSnapshot>,
    /// Leases of shares that are no more: their GPU was partitioned anew or is gone, and what their
    /// holders have is void. Only in a snapshot of all GPUs.
    #[serde(default)]
    pub void_leases: Vec<Share>,
    /// MPS daemons of ours whose devices are not on the node any more; empty where not all GPUs and MIG
    /// devices were looked at.
    #[serde(default, rename = "stray_mps")]
    pub strays: Vec<MpsStray>,
}

/// Versions of the driver and its libraries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Driver {
    /// The kernel driver: `580.159.04`.
    pub version: String,
    /// The newest CUDA that it supports: `13.0`.
    pub cuda: Option<String>,
}

/// One life of machine and driver: what is remembered of another life is no longer so.
///
/// A reboot or a reload of the driver loses the MIG layout, MPS, compute mode and interval, and
/// from compute capability 9.0 on MIG mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Epoch {
    /// The kernel's boot id.
    pub boot_id: String,
    /// The version of the driver.
    pub driver_version: String,
    /// Differs for every load of the driver's module, where it can be told.
    pub driver_load: Option<u64>,
}

impl Epoch {
    /// Whether the other is another life for sure. Where one of them could not tell the load of the
    /// module (in a container, say) they may be the same.
    pub fn differs(&self, other: &Self) -> bool {
        let loads = self.driver_load.zip(other.driver_load);
        self.boot_id != other.boot_id
            || self.driver_version != other.driver_version
            || loads.is_some_and(|(a, b)| a != b)
    }
}

/// What a backend can do beside NVML.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Abilities {
    /// It starts and stops MPS daemons.
    pub mps: bool,
    /// It reads and sets the time-slice interval.
    pub interval: bool,
    /// It resets GPUs.
    pub reset: bool,
}

/// How much of a GPU the observer was allowed to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "level")]
#[non_exhaustive]
pub enum Visibility {
    /// Everything.
    #[default]
    Full,
    /// Not all of it: GPU instances, placements and GPU instances without compute instances are
    /// hidden from a caller without the privilege.
    Partial {
        /// What the caller lacks.
        missing: Vec<String>,
    },
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuSnapshot {
    /// Its uuid: the key to it.
    pub uuid: GpuUuid,
    /// NVML's index.
    pub index: Option<GpuIndex>,
    /// The minor number of its device node.
    pub minor: Option<MinorNumber>,
    /// Its PCI address.
    pub pci: Option<PciAddress>,
    /// Its PCI device id.
    pub device_id: Option<PciDeviceId>,
    /// Its PCI subsystem id, the vendor in its low half too: with the device id, the board.
    #[serde(default)]
    pub subsystem_id: Option<PciDeviceId>,
    /// NVML's name without `NVIDIA `.
    pub model: String,
    /// Its memory.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// Its streaming multiprocessors: derived from its cores and its compute capability.
    pub sm_count: Option<u32>,
    /// Major and minor.
    pub compute_capability: Option<(u32, u32)>,
    /// How it is shared.
    pub mode: SharingMode,
    /// Why it counts as that.
    pub reason: String,
    /// How much of it could be seen.
    pub visibility: Visibility,
    /// Its compute mode; with MIG on none, since it is a property of each MIG device there.
    pub compute_mode: Option<ComputeMode>,
    /// Its time-slice interval, where it was asked for.
    pub interval: Option<Interval>,
    /// Mode `time_sliced`: its parameters; replicas are null where the GPU is not managed.
    pub time_sliced: Option<TimeSlicedStatus>,
    /// The MPS daemon that serves it or should.
    pub mps: Option<MpsStatus>,
    /// MIG, where the GPU has it.
    pub mig: Option<MigStatus>,
    /// Its MIG devices, by placement.
    pub mig_devices: Vec<MigDevice>,
    /// What can be leased.
    pub shares: Vec<Share>,
    /// Why no new leases of it are given, where somebody stopped that.
    #[serde(default)]
    pub cordoned: Option<String>,
    /// Who uses it.
    pub processes: Vec<GpuProcess>,
    /// Whether the driver did not show who uses it: then nobody may be taken for idle.
    #[serde(default)]
    pub processes_hidden: bool,
    /// Our record of it.
    pub record: Option<Record>,
    /// A change of it that was not finished: the journal's name.
    pub unsettled: Option<String>,
}

/// What `time_sliced` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeSlicedStatus {
    /// How many leases it admits; none where the GPU is not managed.
    pub replicas: Option<u32>,
    /// The interval, where it was asked for or is on record.
    pub interval: Option<Interval>,
}

/// MIG on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MigStatus {
    /// Whether it is on.
    pub enabled: bool,
    /// Whether it will be on after a reset.
    pub pending: bool,
    /// The profiles and placements that the driver reports.
    #[serde(rename = "profiles")]
    pub geometry: Geometry,
    /// The GPU instances, by placement.
    pub gpu_instances: Vec<GpuInstance>,
}

/// A GPU instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuInstance {
    /// Its id, which is reused.
    pub id: GpuInstanceId,
    /// Its profile.
    pub profile: ProfileId,
    /// The name of its profile.
    pub name: ProfileName,
    /// Where it stands.
    pub placement: Placement,
    /// Who uses it apart from its compute instances.
    pub usage: Usage,
    /// Its compute instances, by start.
    pub compute_instances: Vec<ComputeInstance>,
}

/// A compute instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComputeInstance {
    /// Its id within its GPU instance, which is reused.
    pub id: ComputeInstanceId,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// Its compute slices.
    pub slices: u8,
    /// Where it starts, in compute slices of its GPU instance.
    pub start: u8,
    /// The uuid of the MIG device that it is; none where it was not asked for.
    pub uuid: Option<MigUuid>,
    /// Who uses it.
    pub usage: Usage,
}

/// Who uses something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "holders")]
#[non_exhaustive]
pub enum Usage {
    /// Nobody.
    #[default]
    Idle,
    /// These.
    Busy(Vec<Holder>),
    /// It could not be seen: counts as in use.
    Unknown,
}

impl Usage {
    /// Whether somebody uses it, or may do.
    pub const fn is_busy(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// Who uses it, as far as is known.
    pub fn holders(&self) -> &[Holder] {
        match self {
            Self::Busy(holders) => holders,
            Self::Idle | Self::Unknown => &[],
        }
    }
}

/// A MIG device: a compute instance as programs see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MigDevice {
    /// Its uuid.
    pub uuid: MigUuid,
    /// The name of its profile.
    pub profile: ProfileName,
    /// The id of its GPU instance.
    pub gi: GpuInstanceId,
    /// The id of its compute instance.
    pub ci: ComputeInstanceId,
    /// The first slot of its GPU instance, where it could be seen.
    pub start: Option<u8>,
    /// Its memory, shared with the other compute instances of its GPU instance.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// Its streaming multiprocessors; unknown for a compute instance that does not fill its GPU instance
    /// unless the driver says.
    pub sm_count: Option<u32>,
    /// The name that the spec gave it.
    pub name: Option<String>,
    /// The MPS daemon of ours that serves it or should.
    #[serde(default)]
    pub mps: Option<MpsStatus>,
    /// Who uses it.
    pub usage: Usage,
}

/// What can be leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Share {
    /// Its id.
    pub id: ShareId,
    /// Who holds it: one process of those that do.
    pub holder: Option<Holder>,
    /// The lease by which it is held.
    #[serde(default)]
    pub lease: Option<LeaseStatus>,
}

impl Share {
    /// A share that nobody holds.
    pub fn free(id: ShareId) -> Self {
        Self { id, holder: None, lease: None }
    }

    /// Whether somebody holds it.
    pub const fn is_leased(&self) -> bool {
        self.holder.is_some()
    }
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuProcess {
    /// Who.
    #[serde(flatten)]
    pub holder: Holder,
    /// On which GPU instance.
    pub gi: Option<GpuInstanceId>,
    /// On which compute instance.
    pub ci: Option<ComputeInstanceId>,
    /// Its device memory, where the driver says.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
}

impl GpuProcess {
    /// A process on the whole GPU or on an instance of it.
    pub fn new(
        holder: Holder,
        instance: Option<(GpuInstanceId, ComputeInstanceId)>,
        memory: Option<Bytes>,
    ) -> Self {
        Self { holder, gi: instance.map(|i| i.0), ci: instance.map(|i| i.1), memory }
    }
}

/// What we remember of a GPU that no driver does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The life of machine and driver that it speaks of.
    pub epoch: Epoch,
    /// The mode that was asked for, with its parameters.
    pub parameters: Parameters,
    /// What was there before the first managed change.
    pub prior: Prior,
    /// What the spec said of MIG instances beyond their layout, by placement.
    pub instances: Vec<InstanceRecord>,
}

impl Record {
    /// A record of a managed change.
    pub fn new(epoch: Epoch, parameters: Parameters, prior: Prior) -> Self {
        Self { epoch, parameters, prior, instances: Vec::new() }
    }
}

/// What a GPU was before the first managed change; `mps disable` and `mig disable` return to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prior {
    /// The compute mode.
    pub compute_mode: Option<ComputeMode>,
    /// The interval, where it was known.
    pub interval: Option<Interval>,
}

/// What the spec said of a MIG instance beyond its layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceRecord {
    /// Where it stands.
    pub placement: Placement,
    /// The name that the spec gave it.
    pub name: Option<String>,
    /// How its MIG devices are shared further.
    pub sharing: Option<Sharing>,
}

impl InstanceRecord {
    /// A record of the instance at that placement.
    pub fn new(placement: Placement, name: Option<String>, sharing: Option<Sharing>) -> Self {
        Self { placement, name, sharing }
    }
}

impl Snapshot {
    /// A snapshot in which no GPU was looked at.
    pub(crate) fn empty(simulated: bool) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            simulated,
            driver: Driver::default(),
            epoch: Epoch::default(),
            abilities: Abilities::default(),
            caller_uid: None,
            gpus: Vec::new(),
            void_leases: Vec::new(),
            strays: Vec::new(),
        }
    }

    /// The GPU with that uuid.
    pub fn gpu(&self, uuid: &GpuUuid) -> Option<&GpuSnapshot> {
        self.gpus.iter().find(|gpu| &gpu.uuid == uuid)
    }

    /// SHA-256 over the canonical JSON of the structure of all GPUs, in hexadecimal.
    pub fn digest(&self) -> String {
        digest(self.gpus.iter())
    }
}

impl GpuSnapshot {
    /// A GPU of which only the uuid is known.
    pub fn new(uuid: GpuUuid) -> Self {
        Self {
            uuid,
            index: None,
            minor: None,
            pci: None,
            device_id: None,
            subsystem_id: None,
            model: String::new(),
            memory: None,
            sm_count: None,
            compute_capability: None,
            mode: SharingMode::Lost,
            reason: String::new(),
            visibility: Visibility::Full,
            compute_mode: None,
            interval: None,
            time_sliced: None,
            mps: None,
            mig: None,
            mig_devices: Vec::new(),
            shares: Vec::new(),
            cordoned: None,
            processes: Vec::new(),
            processes_hidden: false,
            record: None,
            unsettled: None,
        }
    }

    /// The device that a share is of, where it is a MIG device of this GPU.
    pub fn mig_device(&self, share: &ShareId) -> Option<&MigDevice> {
        self.mig_devices.iter().find(|device| device.uuid.as_str() == share.device())
    }

    /// Whether our record speaks of this life of machine and driver.
    pub fn current_record(&self, epoch: &Epoch) -> Option<&Record> {
        self.record.as_ref().filter(|record| !record.epoch.differs(epoch))
    }
}

/// Refuses a document that names another schema.
pub(crate) fn expect_schema(found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!("the document is of schema {}, not {expected:?}", Quoted(found)),
    ))
}

impl TimeSlicedStatus {
    /// What is shown of a GPU in mode `time_sliced`.
    pub fn new(parameters: Option<&TimeSlicing>, interval: Option<Interval>) -> Self {
        Self {
            replicas: parameters.map(|p| p.replicas.get()),
            interval: interval.or(parameters.map(|p| p.interval)),
        }
    }
}
