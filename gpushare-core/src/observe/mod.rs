//! Observation: from the ports to a [`Snapshot`].
//!
//! An [`Observer`] holds the driver open, and with it every device that it has looked at: keep one
//! for as long as you look often, drop it when you are done. What cannot change while it is open
//! (names, addresses, profile tables) it asks once.

mod attach;
mod classify;
mod leases;
mod mig;
mod mps;
mod nodes;
mod occupants;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(crate) use leases::{Witnesses, cordon, expect_reason};
pub(crate) use nodes::{device_nodes, driver_nodes, nodes};
pub(crate) use occupants::lineage;

use self::mps::gone;
use crate::error::Result;
use crate::id::{GpuIndex, GpuUuid, MinorNumber, PciDeviceId, ShareId};
use crate::mig::Geometry;
use crate::mode::SharingMode;
use crate::parameters::Parameters;
use crate::port::{Nvml, NvmlFailure, NvmlResult, NvmlReturn, PciInfo, Ports};
use crate::snapshot::{
    Abilities, Driver, Epoch, GpuSnapshot, Record, SCHEMA, Snapshot, TimeSlicedStatus,
};
use crate::state::journal;
use crate::state::record::{self, Records};
use crate::units::Bytes;

/// What to look at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scope {
    /// These GPUs; none for all of them.
    pub gpus: Option<BTreeSet<GpuUuid>>,
    /// Whether to leave out the uuids of MIG devices, which cost the driver a search: enough to see
    /// whether there is anything to do, not enough for a digest that others compare.
    pub unnamed: bool,
    /// Of which GPUs to read the time-slice interval, which takes an `nvidia-smi` each (22 ms on an H200).
    pub intervals: Intervals,
}

/// Of which GPUs to read the time-slice interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intervals {
    /// Of none.
    #[default]
    None,
    /// Of those whose record speaks of one.
    OnRecord,
    /// Of all.
    All,
}

impl Intervals {
    fn wants(self, gpu: &GpuSnapshot, epoch: &Epoch) -> bool {
        let on_record = |record: &Record| {
            record.prior.interval.is_some()
                || matches!(record.parameters, Parameters::TimeSliced(_))
        };
        match self {
            Self::None => false,
            Self::OnRecord => gpu.current_record(epoch).is_some_and(on_record),
            Self::All => true,
        }
    }
}

impl Scope {
    /// All GPUs.
    pub fn all() -> Self {
        Self::default()
    }

    /// These GPUs.
    pub fn gpus(gpus: impl IntoIterator<Item = GpuUuid>) -> Self {
        Self { gpus: Some(gpus.into_iter().collect()), ..Self::default() }
    }

    /// The same, with the time-slice interval.
    #[must_use]
    pub fn with_intervals(self) -> Self {
        Self { intervals: Intervals::All, ..self }
    }

    /// The same, with the time-slice interval of GPUs whose record speaks of one.
    #[must_use]
    pub fn with_intervals_on_record(self) -> Self {
        Self { intervals: Intervals::OnRecord, ..self }
    }

    /// The same, without the uuids of MIG devices.
    #[must_use]
    pub fn unnamed(self) -> Self {
        Self { unnamed: true, ..self }
    }

    fn contains(&self, gpu: &GpuUuid) -> bool {
        self.gpus.as_ref().is_none_or(|gpus| gpus.contains(gpu))
    }
}

/// Looks at the GPUs of a node, with the driver open.
#[derive(Debug)]
pub struct Observer {
    nvml: Box<dyn Nvml>,
    ports: Ports,
    simulated: bool,
    driver: Driver,
    models: HashMap<(PciDeviceId, u32), Model>,
    addresses: HashMap<GpuUuid, Address>,
    /// Slots that we hold ourselves so that nobody leases them.
    own_slots: BTreeSet<ShareId>,
}

/// What is the same for every GPU of a model.
#[derive(Clone, Debug)]
struct Model {
    name: String,
    compute_capability: Option<(u32, u32)>,
    sm_count: Option<u32>,
    /// Read when a GPU with MIG is first seen.
    geometry: Option<Geometry>,
}

/// What does not change of a GPU between changes of its MIG mode.
#[derive(Clone, Debug)]
struct Address {
    pci: PciInfo,
    minor: Option<MinorNumber>,
    memory: Option<Bytes>,
}

impl Observer {
    /// Opens the driver.
    ///
    /// # Errors
    /// NOT_FOUND without a driver.
    pub fn open(ports: &Ports, simulated: bool) -> Result<Self> {
        let mut nvml = ports.nvml.open()?;
        let driver = nvml.driver()?;
        Ok(Self {
            nvml,
            ports: ports.clone(),
            simulated,
            driver,
            models: HashMap::new(),
            addresses: HashMap::new(),
            own_slots: BTreeSet::new(),
        })
    }

    /// The driver.
    pub(crate) fn nvml(&mut self) -> &mut dyn Nvml {
        self.nvml.as_mut()
    }

    /// Forgets what a change of MIG mode or a reset may have changed of a GPU.
    pub(crate) fn forget(&mut self, gpu: &GpuUuid) {
        self.addresses.remove(gpu);
    }

    /// Which life of machine and driver this is.
    pub(crate) fn epoch(&self) -> Result<Epoch> {
        Ok(Epoch {
            boot_id: self.ports.clock.boot_id()?,
            driver_version: self.driver.version.clone(),
            driver_load: self.ports.clock.driver_load(),
        })
    }

    /// The state of the GPUs now.
    ///
    /// # Errors
    /// DRIVER when the driver fails; IO when the directory of our records cannot be read. A GPU that
    /// does not answer is no error: it is `lost`. Nor is a record that is none: its GPU counts as
    /// not managed, and says why.
    pub fn snapshot(&mut self, scope: &Scope) -> Result<Snapshot> {
        let epoch = self.epoch()?;
        let store = self.ports.store.as_ref();
        let Records { known: mut records, unreadable } = record::read_all(store)?;
        let unsettled = journal::unsettled(store)?;
        // Before the devices: who makes one and starts its daemon meanwhile has left no stray.
        let domains = self.domains(scope)?;
        let mut unidentified = false;
        let mut gpus = Vec::new();
        let mut present = BTreeSet::new();
        for index in 0..self.nvml.device_count()? {
            let uuid = match self.nvml.device(index) {
                Ok(uuid) => uuid,
                // A lost GPU may not even say who it is; our record of it, if any, shows it as lost.
                Err(failure) if is_lost(&failure) => {
                    unidentified = true;
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            present.insert(uuid.clone());
            if !scope.contains(&uuid) {
                continue;
            }
            let mut gpu = GpuSnapshot::new(uuid);
            gpu.index = Some(GpuIndex::new(index));
            gpu.record = records.remove(&gpu.uuid);
            gpu.unsettled = unsettled.get(&gpu.uuid).cloned();
            match self.look_again(&mut gpu, &epoch, scope) {
                Ok(()) => {}
                Err(Failure::Driver(failure)) if is_lost(&failure) => {
                    gpu.mode = SharingMode::Lost;
                    gpu.reason = failure.to_string();
                }
                Err(Failure::Driver(failure)) => {
                    return Err(crate::Error::from(failure).of_gpu(&gpu.uuid));
                }
                Err(Failure::Other(error)) => return Err(error.of_gpu(&gpu.uuid)),
            }
            if let Some(file) = unreadable.get(&gpu.uuid) {
                gpu.reason.push_str(&format!(": its record {file} cannot be read"));
            }
            gpus.push(gpu);
        }
        let strays = if unidentified { Vec::new() } else { gone(domains, &present, &gpus) };
        let strays = self.look_at_strays(strays);
        gpus.extend(vanished(records, &present, scope, &unsettled));
        let void_leases = self.look_at_leases(&mut gpus, scope)?;
        Ok(Snapshot {
            schema: SCHEMA.to_owned(),
            simulated: self.simulated,
            driver: self.driver.clone(),
            epoch,
            abilities: Abilities {
                mps: self.ports.mps.able(),
                interval: self.ports.policy.able(),
                reset: self.ports.reset.able(),
            },
            caller_uid: Some(self.ports.processes.caller_uid()),
            gpus,
            void_leases,
            strays,
        })
    }

    /// Looks at a GPU, and again where something of it went while it was looked at: an instance that
    /// somebody destroys is no lost GPU, and one whose MIG mode somebody turns off has instances no more.
    fn look_again(
        &mut self,
        gpu: &mut GpuSnapshot,
        epoch: &Epoch,
        scope: &Scope,
    ) -> std::result::Result<(), Failure> {
        let unseen = gpu.clone();
        let mut seen = self.look(gpu, epoch, scope);
        for _ in 0..AGAIN {
            match &seen {
                Err(Failure::Driver(failure))
                    if matches!(failure.ret, NvmlReturn::NOT_FOUND | NvmlReturn::NOT_SUPPORTED) =>
                {
                    gpu.clone_from(&unseen);
                    seen = self.look(gpu, epoch, scope);
                }
                _ => break,
            }
        }
        seen
    }

    fn look(
        &mut self,
        gpu: &mut GpuSnapshot,
        epoch: &Epoch,
        scope: &Scope,
    ) -> std::result::Result<(), Failure> {
        let address = self.address(&gpu.uuid)?;
        gpu.pci = Some(address.pci.address);
        gpu.device_id = Some(address.pci.device_id);
        gpu.subsystem_id = Some(PciDeviceId::new(address.pci.subsystem_id));
        gpu.minor = address.minor;
        gpu.memory = address.memory;
        let model = self.model(&gpu.uuid, address.pci)?;
        gpu.model.clone_from(&model.name);
        gpu.compute_capability = model.compute_capability;
        gpu.sm_count = model.sm_count;

        self.look_at_mig(gpu, address.pci, scope.unnamed)?;
        if gpu.mig.as_ref().is_none_or(|mig| !mig.enabled) {
            gpu.compute_mode = optional(self.nvml.compute_mode(&gpu.uuid))?;
        }
        self.look_at_mps(gpu, epoch)?;
        occupants::look(self.nvml.as_mut(), self.ports.processes.as_ref(), gpu)?;
        if scope.intervals.wants(gpu, epoch) && self.ports.policy.able() {
            gpu.interval = match self.ports.policy.interval(&gpu.uuid) {
                Ok(interval) => Some(interval),
                Err(error) if error.code() == crate::ErrorCode::Unsupported => None,
                Err(error) => return Err(Failure::Other(error)),
            };
        }
        let (mode, reason) = classify::classify(gpu, epoch);
        gpu.mode = mode;
        gpu.reason = reason;
        let parameters = gpu.current_record(epoch).map(|record| record.parameters.clone());
        if gpu.mode == SharingMode::TimeSliced {
            let managed = match &parameters {
                Some(Parameters::TimeSliced(parameters)) => Some(parameters),
                _ => None,
            };
            gpu.time_sliced = Some(TimeSlicedStatus::new(managed, gpu.interval));
        }
        gpu.shares = classify::shares(gpu, parameters.as_ref());
        Ok(())
    }

    fn address(&mut self, uuid: &GpuUuid) -> NvmlResult<Address> {
        if let Some(address) = self.addresses.get(uuid) {
            return Ok(address.clone());
        }
        let address = Address {
            pci: self.nvml.pci_info(uuid)?,
            minor: optional(self.nvml.minor_number(uuid))?,
            memory: optional(self.nvml.memory_total(uuid))?,
        };
        self.addresses.insert(uuid.clone(), address.clone());
        Ok(address)
    }

    fn model(&mut self, uuid: &GpuUuid, pci: PciInfo) -> NvmlResult<&Model> {
        let key = (pci.device_id, pci.subsystem_id);
        if !self.models.contains_key(&key) {
            let name = self.nvml.name(uuid)?;
            let compute_capability = optional(self.nvml.compute_capability(uuid))?;
            let cores = optional(self.nvml.core_count(uuid))?;
            let per_sm = compute_capability.and_then(cores_per_sm);
            let model = Model {
                name: name.strip_prefix("NVIDIA ").unwrap_or(&name).to_owned(),
                compute_capability,
                sm_count: cores.zip(per_sm).map(|(cores, per_sm)| cores / per_sm),
                geometry: None,
            };
            self.models.insert(key, model);
        }
        // It is there: either it was, or it was just inserted.
        self.models.get(&key).ok_or(NvmlFailure::new("nvmlDeviceGetName", NvmlReturn::UNKNOWN))
    }
}

/// How often a GPU is looked at again that changes while it is looked at.
const AGAIN: usize = 3;

/// GPUs that our records know and the driver no longer does.
fn vanished(
    records: BTreeMap<GpuUuid, Record>,
    present: &BTreeSet<GpuUuid>,
    scope: &Scope,
    unsettled: &BTreeMap<GpuUuid, String>,
) -> Vec<GpuSnapshot> {
    let gone =
        records.into_iter().filter(|(uuid, _)| !present.contains(uuid) && scope.contains(uuid));
    gone.map(|(uuid, record)| {
        let mut gpu = GpuSnapshot::new(uuid);
        gpu.reason = "gpushare has managed it, and the driver no longer shows it".to_owned();
        gpu.record = Some(record);
        gpu.unsettled = unsettled.get(&gpu.uuid).cloned();
        gpu
    })
    .collect()
}

/// Why looking at a GPU failed.
enum Failure {
    Driver(NvmlFailure),
    Other(crate::Error),
}

impl From<NvmlFailure> for Failure {
    fn from(failure: NvmlFailure) -> Self {
        Self::Driver(failure)
    }
}

fn is_lost(failure: &NvmlFailure) -> bool {
    matches!(
        failure.ret,
        NvmlReturn::GPU_IS_LOST
            | NvmlReturn::GPU_NOT_FOUND
            | NvmlReturn::NOT_FOUND
            | NvmlReturn::RESET_REQUIRED
    )
}

/// What a GPU or an old driver may not have.
fn optional<T>(answer: NvmlResult<T>) -> NvmlResult<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(failure) if is_absent(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn is_absent(failure: &NvmlFailure) -> bool {
    matches!(failure.ret, NvmlReturn::NOT_SUPPORTED | NvmlReturn::FUNCTION_NOT_FOUND)
}

/// CUDA cores of one multiprocessor (CUDA programming guide, compute capabilities).
fn cores_per_sm((major, minor): (u32, u32)) -> Option<u32> {
    match (major, minor) {
        (6, 0) | (7, _) | (8, 0) => Some(64),
        (6, _) | (8, _) | (9, _) | (10, _) | (11, _) | (12, _) => Some(128),
        _ => None,
    }
}
