//! What a lease gives of one share: the variables of its tenant, its device nodes, and what of it is
//! held by whom. Pure but for the device nodes, which are asked of a port.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::hazard;
use crate::id::{GpuIndex, GpuUuid, MigUuid, ShareId};
use crate::mig::ProfileName;
use crate::mode::{ComputeMode, Priority, SharingMode};
use crate::observe::nodes;
use crate::port::Devices;
use crate::snapshot::{
    DeviceNode, GpuSnapshot, LEASE_VARIABLE, LeaseTerms, MigDevice, MpsStatus, SHARES_VARIABLE,
};
use crate::units::{Bytes, ThreadPercentage};

/// Variables by which CUDA finds an MPS daemon and takes limits: all that are not set are unset, so
/// that nothing of an outer environment counts.
const MPS_VARIABLES: [&str; 8] = [
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_CLIENT_PRIORITY",
    "CUDA_MPS_SM_PARTITION",
    "CUDA_DEVICE_ORDER",
];

/// What holds a tenant to something, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bound {
    /// What: `memory`, `threads`, `priority`, `alone`, `admission`, `isolation`.
    pub what: String,
    /// Who holds the tenant to it; none where it was only asked to.
    pub by: Option<String>,
    /// In a sentence.
    pub says: String,
}

/// What a lease gives of one share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Grant {
    /// The share.
    pub share: ShareId,
    /// Its GPU.
    pub gpu: GpuUuid,
    /// The NVML index of its GPU: never a CUDA ordinal.
    pub index: Option<GpuIndex>,
    /// The model of its GPU.
    pub model: String,
    /// How its GPU is shared.
    pub mode: SharingMode,
    /// The MIG device, where it is one or a share of one.
    pub mig_device: Option<MigUuid>,
    /// The profile of the MIG device.
    pub profile: Option<ProfileName>,
    /// The device memory that the tenant can use at most: of the device, or the limit of its MPS server.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// The multiprocessors that the tenant can use at most: of the device, or the share that its MPS
    /// server gives.
    pub sm_count: Option<u32>,
    /// Variables to set.
    pub variables: BTreeMap<String, String>,
    /// Variables to remove.
    pub unset: BTreeSet<String>,
    /// What the tenant is held to against its will.
    pub enforced: Vec<Bound>,
    /// What it is asked for by environment, or admitted to by gpushare alone.
    pub declared: Vec<Bound>,
    /// The device nodes that it needs.
    pub device_nodes: Vec<DeviceNode>,
}

fn held(what: &str, by: &str, says: String) -> Bound {
    Bound { what: what.to_owned(), by: Some(by.to_owned()), says }
}

fn asked(what: &str, says: String) -> Bound {
    Bound { what: what.to_owned(), by: None, says }
}

/// What a share gives.
///
/// # Errors
/// INVALID_STATE when the GPU has no such share, or the MPS daemon that it rests on does not answer.
pub(crate) fn grant(
    gpu: &GpuSnapshot,
    share: &ShareId,
    terms: &LeaseTerms,
    devices: &dyn Devices,
) -> Result<Grant> {
    let count = gpu.shares.iter().filter(|known| known.id.device() == share.device()).count();
    if !gpu.shares.iter().any(|known| known.id == *share) {
        return Err(Error::new(
            ErrorCode::InvalidState,
            format!("there is no share {share} any more: its GPU is {} now", gpu.mode),
        )
        .of_gpu(&gpu.uuid));
    }
    let device = gpu.mig_device(share);
    let mps = match device {
        Some(device) => device.mps.as_ref(),
        None => gpu.mps.as_ref().filter(|_| gpu.mode == SharingMode::Mps),
    };
    let mut grant = Grant {
        share: share.clone(),
        gpu: gpu.uuid.clone(),
        index: gpu.index,
        model: gpu.model.clone(),
        mode: gpu.mode,
        mig_device: device.map(|device| device.uuid.clone()),
        profile: device.map(|device| device.profile),
        memory: device.map_or(gpu.memory, |device| device.memory),
        sm_count: device.map_or(gpu.sm_count, |device| device.sm_count),
        variables: BTreeMap::new(),
        unset: MPS_VARIABLES.iter().map(|name| (*name).to_owned()).collect(),
        enforced: Vec::new(),
        declared: Vec::new(),
        device_nodes: nodes(gpu, device, devices),
    };
    grant.set("CUDA_VISIBLE_DEVICES", share.device());
    if let Some(device) = device {
        grant.of_mig_device(device);
    }
    match mps.filter(|mps| mps.ours && mps.alive) {
        Some(mps) => grant.of_mps(gpu, mps, terms)?,
        None => grant.of_device(gpu, device, count),
    }
    Ok(grant)
}

impl Grant {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unset.remove(name);
        self.variables.insert(name.to_owned(), value.into());
    }

    fn of_mig_device(&mut self, device: &MigDevice) {
        let memory = device.memory.map_or_else(|| "its memory".to_owned(), |m| m.to_string());
        let sms = device.sm_count.map_or_else(|| "its SMs".to_owned(), |n| format!("{n} SMs"));
        self.enforced.push(held(
            "isolation",
            "hardware",
            format!(
                "MIG device {}: {memory} and {sms} of its own; faults of others stay theirs",
                device.profile
            ),
        ));
    }

    fn of_device(&mut self, gpu: &GpuSnapshot, device: Option<&MigDevice>, count: usize) {
        let noun = if device.is_some() { "MIG device" } else { "GPU" };
        let exclusive = matches!(
            gpu.compute_mode,
            Some(ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread)
        );
        if exclusive && device.is_none() {
            self.enforced.push(held(
                "alone",
                "driver",
                "one process at a time has the GPU (compute mode EXCLUSIVE_PROCESS)".to_owned(),
            ));
            return;
        }
        let others = match count {
            1 => format!(
                "gpushare leases this {noun} to nobody else; a process without a lease is not kept out"
            ),
            count => format!(
                "gpushare leases this {noun} {count} times; the tenants take turns, and nothing limits the memory or time of one"
            ),
        };
        self.declared.push(asked("admission", others));
    }

    fn of_mps(&mut self, gpu: &GpuSnapshot, mps: &MpsStatus, terms: &LeaseTerms) -> Result<()> {
        let (Some(config), Some(directory)) = (&mps.config, &mps.directory) else {
            return Err(Error::new(
                ErrorCode::InvalidState,
                "its MPS daemon does not say where it listens and what it gives",
            )
            .of_gpu(&gpu.uuid));
        };
        self.set("CUDA_MPS_PIPE_DIRECTORY", directory.display().to_string());
        let whole = self.sm_count;
        let sms = |percentage: ThreadPercentage| {
            // Measured on Hopper alone.
            let known = gpu.compute_capability == Some((9, 0));
            whole.filter(|_| known).map(|whole| hazard::sm_count(percentage, whole))
        };
        let says = |percentage: ThreadPercentage, sms: Option<u32>| match (sms, whole) {
            (Some(sms), Some(whole)) => {
                format!("at most {percentage} % of the threads: {sms} of {whole} SMs")
            }
            _ => format!("at most {percentage} % of the threads"),
        };
        let ceiling = config.thread_percentage;
        if ceiling != ThreadPercentage::FULL {
            self.enforced.push(held("threads", "MPS server", says(ceiling, sms(ceiling))));
        }
        if let Some(limit) = config.pinned_memory_limit {
            let says = format!("at most {limit} of device memory, its CUDA context included");
            self.enforced.push(held("memory", "MPS server", says));
        }
        self.sm_count = sms(ceiling).or(whole);
        self.memory = config.pinned_memory_limit.or(self.memory);
        if let Some(own) = terms.thread_percentage.filter(|own| *own != ceiling) {
            self.set("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", own.to_string());
            self.declared.push(asked("threads", says(own, sms(own))));
            self.sm_count = sms(own).or(self.sm_count);
        }
        if let Some(own) =
            terms.pinned_memory_limit.filter(|own| Some(*own) != config.pinned_memory_limit)
        {
            // By uuid, and never of a device that the tenant does not see: one such entry drops all.
            let mebibytes = own.get() >> 20;
            let limit = format!("{}={mebibytes}M", self.share.device());
            self.set("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", limit);
            let says = format!("at most {own} of device memory, its CUDA context included");
            self.declared.push(asked("memory", says));
            self.memory = Some(own);
        }
        if config.priority != Priority::Normal {
            let says = format!("priority {}: a hint to the driver", config.priority);
            self.declared.push(asked("priority", says));
        }
        let admits = "gpushare admits so many leases; the daemon itself takes clients without one"
            .to_owned();
        self.declared.push(asked("admission", admits));
        Ok(())
    }

    /// Whether its tenant is to be a client of an MPS daemon.
    pub fn is_mps(&self) -> bool {
        self.variables.contains_key("CUDA_MPS_PIPE_DIRECTORY")
    }

    /// What a tenant is held to, and what not, as lines for people.
    pub fn terms(&self) -> impl Iterator<Item = String> {
        let enforced = self.enforced.iter().map(|bound| {
            let by = bound.by.as_deref().unwrap_or("the driver");
            format!("enforced by the {}: {}", by.trim_start_matches("the "), bound.says)
        });
        let declared = self.declared.iter().map(|bound| format!("declared: {}", bound.says));
        enforced.chain(declared)
    }
}

/// The variables of a tenant that has all of these.
///
/// # Errors
/// UNSUPPORTED for shares of several MPS daemons, of which a process can be the client of one only.
pub(crate) fn together(
    name: &str,
    grants: &[Grant],
) -> Result<(BTreeMap<String, String>, BTreeSet<String>)> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut unset = BTreeSet::new();
    let mut devices: Vec<&str> = Vec::new();
    for grant in grants {
        unset.extend(grant.unset.iter().cloned());
        for (name, value) in &grant.variables {
            match variables.get(name) {
                _ if name == "CUDA_VISIBLE_DEVICES" => {}
                Some(other) if other != value => {
                    return Err(Error::new(
                        ErrorCode::Unsupported,
                        "these shares are of several MPS daemons, and a process can be the client of one only; take a lease of each",
                    ));
                }
                _ => {
                    variables.insert(name.clone(), value.clone());
                }
            }
        }
        // A device that is named twice leaves CUDA with none at all.
        if !devices.contains(&grant.share.device()) {
            devices.push(grant.share.device());
        }
    }
    variables.insert("CUDA_VISIBLE_DEVICES".to_owned(), devices.join(","));
    variables.insert(LEASE_VARIABLE.to_owned(), name.to_owned());
    let shares: Vec<_> = grants.iter().map(|grant| grant.share.to_string()).collect();
    variables.insert(SHARES_VARIABLE.to_owned(), shares.join(","));
    unset.retain(|name| !variables.contains_key(name));
    Ok((variables, unset))
}
