//! Who stands on a GPU and on which of its instances.

use std::collections::BTreeSet;

use crate::id::Pid;
use crate::mode::MpsHealth;
use crate::observe::{Failure, is_absent};
use crate::port::{ContextKind, Nvml, NvmlReturn, ProcessFacts, ProcessInfo, Processes, ancestry};
use crate::process::{Holder, HolderKind};
use crate::snapshot::{GpuProcess, GpuSnapshot, MpsStatus, Usage};

/// NVIDIA's own services: they hold GPUs and are never evicted.
const SERVICES: [&str; 7] = [
    "nvidia-persistenced",
    "nvidia-persiste", // as the kernel cuts it
    "nv-hostengine",
    "dcgm-exporter",
    "dcgmi",
    "nv-fabricmanager",
    "nvidia-fabricmanager",
];

const MPS_DAEMONS: [&str; 3] =
    ["nvidia-cuda-mps-server", "nvidia-cuda-mps-control", "nvidia-cuda-mps"];

/// Fills in the processes of a GPU and the usage of its instances.
pub(super) fn look(
    nvml: &mut dyn Nvml,
    processes: &dyn Processes,
    gpu: &mut GpuSnapshot,
) -> Result<(), Failure> {
    let mig_on = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
    let Some(compute) = list(nvml, gpu, ContextKind::Compute)? else {
        hide_usage(gpu);
        return Ok(());
    };
    // Without MIG any GPU may draw; with it only +gfx profiles do.
    let graphics =
        if !mig_on || draws(gpu) { list(nvml, gpu, ContextKind::Graphics)? } else { None };
    let ours = Ours::of(gpu);
    let clients =
        if mig_on || compute.is_empty() { None } else { list(nvml, gpu, ContextKind::MpsClient)? };
    let clients: BTreeSet<Pid> =
        clients.unwrap_or_default().iter().map(|process| process.pid).collect();
    // With a server that is not ours there, the driver's list says nothing of ours.
    let foreign_server = compute.iter().any(|info| {
        let facts = processes.facts(info.pid);
        facts
            .is_some_and(|facts| is_mps_program(Some(&facts)) && !ours.has_server(info.pid, &facts))
    });

    let lineage = lineage(processes);
    let mut found: Vec<GpuProcess> = Vec::new();
    let kinds =
        [(compute, HolderKind::Compute), (graphics.unwrap_or_default(), HolderKind::Graphics)];
    for (list, kind) in kinds {
        for info in list {
            let facts = processes.facts(info.pid);
            let command = facts.as_ref().map(|facts| facts.command.as_str()).unwrap_or_default();
            let kind = if ours.clients.contains(&info.pid) {
                // What it calls itself is its own affair.
                HolderKind::MpsClient
            } else if is_mps_program(facts.as_ref()) {
                let own = facts.as_ref().is_some_and(|facts| ours.has_server(info.pid, facts));
                if own || ours.hidden {
                    // The server of our own daemon ends with it and stands in nobody's way. Where this
                    // user may not ask that daemon, nobody says whose server it is.
                    continue;
                }
                HolderKind::ForeignMps
            } else if is_one_of(command, &SERVICES) && is_system(facts.as_ref()) {
                HolderKind::Service
            } else if ours.there && !foreign_server && clients.contains(&info.pid) {
                HolderKind::MpsClient
            } else {
                kind
            };
            let instance = info.instance.map(|instance| instance.0);
            let same = |process: &&mut GpuProcess| {
                process.holder.pid == info.pid && process.gi == instance
            };
            let holder = holder(info.pid, kind, facts, &lineage);
            match found.iter_mut().find(same) {
                // With both kinds of context it is the one that is harder to move.
                Some(process) if process.holder.protected.is_none() => process.holder = holder,
                Some(_) => {}
                None => found.push(GpuProcess::new(holder, info.instance, info.memory)),
            }
        }
    }
    // Who must not go on one instance must not go on another either.
    for position in 0..found.len() {
        let Some(GpuProcess { holder, .. }) = found.get(position) else { continue };
        let other = found
            .iter()
            .find(|other| other.holder.pid == holder.pid && other.holder.protected.is_some());
        let protected = other.and_then(|other| other.holder.protected.clone());
        if let Some(process) = found.get_mut(position).filter(|p| p.holder.protected.is_none()) {
            process.holder.protected = protected;
        }
    }
    found.sort_by(|a, b| a.holder.cmp(&b.holder));
    if let Some(foreign) =
        found.iter().find(|process| process.holder.kind == HolderKind::ForeignMps)
    {
        // Best effort: a daemon without a server yet is not seen.
        let pid = Some(foreign.holder.pid);
        if let (None, Some(pid)) = (&gpu.mps, pid) {
            gpu.mps = Some(MpsStatus::foreign(pid));
        }
    }
    gpu.processes = found;
    mark_usage(gpu);
    Ok(())
}

/// What there is of our daemons on a GPU and its MIG devices.
#[derive(Debug, Default)]
struct Ours {
    daemons: BTreeSet<Pid>,
    servers: BTreeSet<Pid>,
    clients: BTreeSet<Pid>,
    /// Whether one is there, be it that it says nothing.
    there: bool,
    /// Whether one is there that this user may not ask.
    hidden: bool,
}

impl Ours {
    fn of(gpu: &GpuSnapshot) -> Self {
        let on_devices = gpu.mig_devices.iter().filter_map(|device| device.mps.as_ref());
        let mut ours = Self::default();
        for mps in on_devices.chain(&gpu.mps).filter(|mps| mps.ours) {
            ours.daemons.extend(mps.pid);
            ours.there |= mps.health.is_some_and(|health| health != MpsHealth::Gone);
            // One whose process is not known either: nobody says which servers are its own.
            let unasked = mps.health != Some(MpsHealth::Gone) && mps.pid.is_none();
            ours.hidden |= mps.health.is_none() || unasked;
            for server in &mps.servers {
                ours.servers.insert(server.pid);
                ours.clients.extend(&server.clients);
            }
        }
        ours
    }

    /// A server that came since the daemon was asked is its child.
    fn has_server(&self, pid: Pid, facts: &ProcessFacts) -> bool {
        self.servers.contains(&pid)
            || self.daemons.contains(&pid)
            || facts.parent.is_some_and(|parent| self.daemons.contains(&parent))
    }
}

fn list(
    nvml: &mut dyn Nvml,
    gpu: &GpuSnapshot,
    kind: ContextKind,
) -> Result<Option<Vec<ProcessInfo>>, Failure> {
    match nvml.processes(&gpu.uuid, kind) {
        Ok(list) => Ok(Some(list)),
        Err(failure) if is_absent(&failure) || failure.ret == NvmlReturn::NO_PERMISSION => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

fn draws(gpu: &GpuSnapshot) -> bool {
    let profiles = gpu.mig.as_ref().map(|mig| mig.geometry.profiles()).unwrap_or_default();
    profiles.iter().any(|profile| profile.name.attribute == crate::mig::Attribute::Graphics)
}

/// A name alone protects nobody: services run as root or as a system user.
fn is_system(facts: Option<&ProcessFacts>) -> bool {
    facts.is_some_and(|facts| facts.uid < FIRST_USER)
}

/// The first user id of people on every common distribution (`UID_MIN` of login.defs).
const FIRST_USER: u32 = 1000;

/// Whether a process runs one of NVIDIA's MPS programs: by the program itself where that may be seen,
/// since anybody can call themselves so.
fn is_mps_program(facts: Option<&ProcessFacts>) -> bool {
    facts.is_some_and(|facts| match &facts.program {
        Some(program) => is_one_of(program, &MPS_DAEMONS),
        None => is_one_of(&facts.command, &MPS_DAEMONS),
    })
}

fn is_one_of(command: &str, names: &[&str]) -> bool {
    let program = command.split_whitespace().next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    names.contains(&program)
}

/// This process and its ancestors, which an eviction must not end.
pub(crate) fn lineage(processes: &dyn Processes) -> BTreeSet<Pid> {
    ancestry(processes, processes.own_pid()).collect()
}

/// A process as a holder, with why it must not be evicted, if it must not.
pub(super) fn holder(
    pid: Pid,
    kind: HolderKind,
    facts: Option<ProcessFacts>,
    lineage: &BTreeSet<Pid>,
) -> Holder {
    let mut holder = Holder::new(pid, kind);
    let protected = match kind {
        HolderKind::Graphics => Some("it draws on a display"),
        HolderKind::ForeignMps => Some("it belongs to an MPS daemon that is not ours"),
        HolderKind::Service => Some("it is a service of NVIDIA's: stop it by its own means"),
        HolderKind::Compute | HolderKind::MpsClient | HolderKind::Lease => {
            if pid == Pid::new(1) {
                Some("it is pid 1")
            } else if lineage.contains(&pid) {
                Some("it is this process or one that started it")
            } else if facts.is_none() {
                Some("it is in another pid namespace, or gone")
            } else {
                None
            }
        }
    };
    holder.protected = protected.map(str::to_owned);
    if let Some(facts) = facts {
        holder.start_time = Some(facts.start_time);
        holder.uid = Some(facts.uid);
        holder.command = facts.command;
    }
    holder
}

/// Usage per instance. A process whose instance the driver does not name counts on every one.
fn mark_usage(gpu: &mut GpuSnapshot) {
    let Some(mig) = gpu.mig.as_mut() else { return };
    for gi in &mut mig.gpu_instances {
        let on_gi = |process: &&GpuProcess| process.gi.is_none_or(|id| id == gi.id);
        let here: Vec<_> = gpu.processes.iter().filter(on_gi).collect();
        let known = |process: &GpuProcess| {
            process.gi.is_some()
                && process.ci.is_some_and(|id| gi.compute_instances.iter().any(|ci| ci.id == id))
        };
        gi.usage = usage(here.iter().filter(|process| !known(process)).copied());
        for ci in &mut gi.compute_instances {
            let on_ci = |process: &&&GpuProcess| process.ci.is_none_or(|id| id == ci.id);
            ci.usage = usage(here.iter().filter(on_ci).copied());
        }
    }
    for device in &mut gpu.mig_devices {
        let gi = mig.gpu_instances.iter().find(|gi| gi.id == device.gi);
        let ci = gi.and_then(|gi| gi.compute_instances.iter().find(|ci| ci.id == device.ci));
        device.usage = match ci {
            Some(ci) => ci.usage.clone(),
            None => usage(gpu.processes.iter().filter(|process| {
                process.gi.is_none_or(|id| id == device.gi)
                    && process.ci.is_none_or(|id| id == device.ci)
            })),
        };
    }
}

fn usage<'a>(processes: impl Iterator<Item = &'a GpuProcess>) -> Usage {
    let holders: Vec<Holder> = processes.map(|process| process.holder.clone()).collect();
    if holders.is_empty() { Usage::Idle } else { Usage::Busy(holders) }
}

fn hide_usage(gpu: &mut GpuSnapshot) {
    gpu.processes_hidden = true;
    for gi in gpu.mig.iter_mut().flat_map(|mig| &mut mig.gpu_instances) {
        gi.usage = Usage::Unknown;
        for ci in &mut gi.compute_instances {
            ci.usage = Usage::Unknown;
        }
    }
    for device in &mut gpu.mig_devices {
        device.usage = Usage::Unknown;
    }
}
