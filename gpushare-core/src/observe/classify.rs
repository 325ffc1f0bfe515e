//! Which mode a GPU is in, of everything that was seen of it. Pure.

use std::num::NonZeroU32;

use crate::mode::{ComputeMode, MpsHealth, SharingMode};
use crate::mps::{MpsSettings, ServerLimits};
use crate::parameters::Parameters;
use crate::process::HolderKind;
use crate::snapshot::shares::{MPS_CLIENTS, clients_of, count_of, ids};
use crate::snapshot::{Epoch, GpuProcess, GpuSnapshot, MpsStatus, Share};
use crate::spec::Sharing;

/// The mode, and why. Where several states apply, the first of [`SharingMode`]'s order counts.
pub(super) fn classify(gpu: &GpuSnapshot, epoch: &Epoch) -> (SharingMode, String) {
    let (mode, reason) = hardware(gpu);
    let management = match (&gpu.record, gpu.current_record(epoch)) {
        (None, _) => ", not managed by gpushare",
        (Some(_), None) => ", and our record is of an earlier boot or driver load",
        (Some(_), Some(record)) => {
            let recorded: SharingMode = record.parameters.mode().into();
            let as_recorded = recorded == mode
                || (recorded == SharingMode::Mps && mode == SharingMode::Degraded)
                || mode == SharingMode::Pending;
            if as_recorded { "" } else { ", which gpushare did not do" }
        }
    };
    (mode, reason + management)
}

fn hardware(gpu: &GpuSnapshot) -> (SharingMode, String) {
    if let Some(mig) = &gpu.mig {
        if mig.enabled != mig.pending {
            let (now, then) = if mig.enabled { ("on", "off") } else { ("off", "on") };
            return (
                SharingMode::Pending,
                format!("MIG is {now} and will be {then} after a reset"),
            );
        }
        if mig.enabled {
            let without = mig.gpu_instances.iter().filter(|gi| gi.compute_instances.is_empty());
            let without: Vec<_> =
                without.map(|gi| format!("{} at {}", gi.name, gi.placement)).collect();
            let reason = if without.is_empty() {
                "MIG is on".to_owned()
            } else {
                format!("MIG is on; without a compute instance: {}", without.join(", "))
            };
            return (SharingMode::Mig, reason);
        }
    }
    if gpu.compute_mode == Some(ComputeMode::Prohibited) {
        return (SharingMode::Closed, "compute mode prohibited: nobody can use the GPU".to_owned());
    }
    let foreign = |process: &&GpuProcess| process.holder.kind == HolderKind::ForeignMps;
    if let Some(process) = gpu.processes.iter().find(foreign) {
        let pid = process.holder.pid;
        let reason = format!("an MPS daemon (pid {pid}) serves it that is not ours");
        return (SharingMode::Foreign, reason);
    }
    if let Some(mps) = gpu.mps.as_ref().filter(|mps| mps.ours) {
        return match mps.alive {
            true if mps.health.is_none() => (
                SharingMode::Mps,
                "our MPS daemon is on record; this user may not ask it".to_owned(),
            ),
            true => (SharingMode::Mps, format!("our MPS daemon serves it{}", drift(gpu, mps))),
            false => (SharingMode::Degraded, degraded(mps)),
        };
    }
    match gpu.compute_mode {
        Some(mode @ (ComputeMode::ExclusiveProcess | ComputeMode::ExclusiveThread)) => {
            (SharingMode::Exclusive, format!("compute mode {mode}"))
        }
        Some(_) => (SharingMode::TimeSliced, "compute mode default".to_owned()),
        None => (SharingMode::TimeSliced, "the driver shows no compute mode".to_owned()),
    }
}

/// What a daemon gives and gpushare did not set. Up to driver 535 whoever it serves can change that.
fn drift(gpu: &GpuSnapshot, mps: &MpsStatus) -> String {
    let recorded = gpu.record.as_ref().and_then(|record| match &record.parameters {
        Parameters::Mps(config) => Some(MpsSettings::from(config)),
        _ => None,
    });
    let (Some(recorded), Some(now)) = (recorded, mps.config.as_ref().map(MpsSettings::from)) else {
        return String::new();
    };
    let changes: Vec<_> = recorded.changes(&now).iter().map(ToString::to_string).collect();
    let servers = mps.servers.iter().filter_map(|server| {
        let limits = ServerLimits::new(server.thread_percentage?, server.pinned_memory_limit);
        (!limits.are_of(&now)).then(|| format!("server {} gives other limits", server.pid))
    });
    let all: Vec<_> = changes.into_iter().chain(servers).collect();
    if all.is_empty() {
        return String::new();
    }
    format!(", not as gpushare set it: {}", all.join(", "))
}

fn degraded(mps: &MpsStatus) -> String {
    let why = match mps.health {
        Some(MpsHealth::Frozen) => "takes connections and says nothing: it is frozen",
        Some(MpsHealth::Unknown) => "answers in a way that gpushare does not know",
        Some(MpsHealth::Answers) => "is closed to its clients: a change of it was not finished",
        Some(MpsHealth::Gone) | None => "is dead",
    };
    format!("our MPS daemon {why}; apply starts it again")
}

/// What can be leased. Counts come from the parameters on record; an unmanaged GPU is one share.
pub(super) fn shares(gpu: &GpuSnapshot, parameters: Option<&Parameters>) -> Vec<Share> {
    let count = match gpu.mode {
        SharingMode::Exclusive => 1,
        SharingMode::TimeSliced => match parameters {
            Some(Parameters::TimeSliced(parameters)) => parameters.replicas.get(),
            _ => 1,
        },
        SharingMode::Mps => match gpu.mps.as_ref().and_then(|mps| mps.config.as_ref()) {
            Some(config) => config.max_clients.map_or(MPS_CLIENTS, NonZeroU32::get),
            None => 0,
        },
        SharingMode::Mig => return shares_of_mig_devices(gpu),
        SharingMode::Lost
        | SharingMode::Pending
        | SharingMode::Closed
        | SharingMode::Foreign
        | SharingMode::Degraded => 0,
    };
    ids(gpu.uuid.as_str(), count).into_iter().map(Share::free).collect()
}

fn shares_of_mig_devices(gpu: &GpuSnapshot) -> Vec<Share> {
    let instances = gpu.record.as_ref().map(|record| &record.instances[..]).unwrap_or_default();
    let shares = gpu.mig_devices.iter().flat_map(|device| {
        let sharing = instances
            .iter()
            .find(|record| Some(record.placement.start) == device.start)
            .and_then(|record| record.sharing.as_ref());
        let count = match (sharing, device.mps.as_ref().filter(|mps| mps.alive)) {
            (Some(Sharing::TimeSliced(_)), _) | (_, None) => match sharing {
                // Without its daemon it serves nobody who asks for a part.
                Some(Sharing::Mps(_)) => 1,
                sharing => count_of(device, sharing),
            },
            (_, Some(mps)) => {
                let most = mps.config.as_ref().and_then(|config| config.max_clients);
                most.map_or_else(|| clients_of(device), NonZeroU32::get)
            }
        };
        ids(device.uuid.as_str(), count)
    });
    shares.map(Share::free).collect()
}
